"""Real ranks on mixed, damaged and prefetched data."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from electra_ds.checkpoint import list_checkpoints, read_state
from electra_ds.data.config import DataConfig
from electra_ds.data.format import read_manifest
from electra_ds.data.loader import RowSource
from electra_ds.data.shards import ShardSet
from tests.conftest import consumed, environment, metrics, pretrain_options, run_ranks
from tests.data.sets import make_corpora
from tests.data.test_loader import damage

pytestmark = pytest.mark.ranks
STEPS = 12
MIXED = {"data__mixing": "weights", "data__audit": "true", "training__steps": STEPS}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """Sixty blocks of one corpus and two of another, mixed three to one."""
    return make_corpora(tmp_path_factory.mktemp("corpora") / "set", {"large": 60, "tiny": 2}, {"large": 3, "tiny": 1})


def figures(run: Path, *keys: str) -> list[tuple]:
    return [tuple(line[key] for key in keys) for line in metrics(run)]


@pytest.fixture(scope="module")
def mixed(corpora, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("mixed") / "run"
    run_ranks(1, ["pretrain", *pretrain_options(corpora, run, **MIXED)])
    return run


def test_a_mixed_run_counts_each_corpuss_own_epochs(corpora, mixed):
    source = RowSource(ShardSet(corpora), DataConfig(path="x", mixing="weights"), 32, seed=0)
    border = source.first_row_id[60]
    rows = [row for _, step in sorted(consumed(mixed).items()) for _, row in step]
    tiny = sum(row >= border for row in rows)
    epochs = metrics(mixed)[-1]["epochs"]
    assert epochs == pytest.approx({"large": (len(rows) - tiny) / border, "tiny": tiny / (len(source) - border)})
    assert tiny / len(rows) == pytest.approx(0.25, abs=0.1)
    assert read_state(list_checkpoints(mixed / "checkpoints")[-1])[0].mixture == {"large": 0.75, "tiny": 0.25}


def test_a_mixed_run_resumes_on_more_ranks_with_the_same_rows(corpora, mixed, tmp_path):
    options = pretrain_options(corpora, tmp_path / "run", **MIXED, deepspeed="zero0")
    run_ranks(1, ["pretrain", *options, "--training.stop_after=5", "--data.prefetch_process=true"])
    run_ranks(2, ["pretrain", *options])
    assert consumed(tmp_path / "run") == consumed(mixed)
    assert figures(tmp_path / "run", "step", "epochs", "tokens_consumed") == figures(
        mixed, "step", "epochs", "tokens_consumed"
    )


def test_another_mixture_is_another_run(corpora, mixed):
    options = pretrain_options(corpora, mixed, **MIXED)
    refused = run_ranks(1, ["pretrain", *options, '--data.weights={"large": 1, "tiny": 1}'], check=False)
    assert refused.returncode == 2
    assert "data.weights" in refused.stdout
    manifest = read_manifest(corpora)
    try:  # weights are no part of the set's fingerprint
        dataclasses.replace(manifest, weights={"large": 7.0, "tiny": 1.0}).write(corpora)
        refused = run_ranks(1, ["pretrain", *options], check=False)
    finally:
        manifest.write(corpora)
    assert refused.returncode == 2
    assert "another mixture of the corpora (large 0.7500, tiny 0.2500 there, large 0.8750" in refused.stdout


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """Forty blocks of which three are altered."""
    folder = make_corpora(tmp_path_factory.mktemp("damaged") / "set", {"": 40})
    for block in (5, 17, 30):
        damage(folder, block)
    return folder


@pytest.mark.parametrize("ranks", [1, 2])
def test_skipped_rows_are_counted_and_the_same_on_every_number_of_ranks(damaged, tmp_path, ranks):
    """Three of forty blocks; a global batch of 8 rows, some of them nothing but padding."""
    skip = {"data__on_corrupt": "skip", "data__corrupt_share": 0.5, "data__audit": "true", "training__steps": 40}
    done = run_ranks(ranks, ["pretrain", *pretrain_options(damaged, tmp_path / "run", **skip)])
    source = RowSource(ShardSet(damaged), DataConfig(path="x"), 32, seed=0)
    lost = {row for block in (5, 17, 30) for row in range(source.first_row_id[block], source.first_row_id[block + 1])}
    total = 0
    for line, (step, rows) in zip(metrics(tmp_path / "run"), sorted(consumed(tmp_path / "run").items()), strict=True):
        assert line["step"] == step
        total += sum(row in lost for _, row in rows)
        assert line["rows_skipped"] == total
        assert line["loss"] is not None
    assert total > 10
    for block in (5, 17, 30):
        assert f"train-000000.tar block {block}:" in done.stdout
    assert read_state(list_checkpoints(tmp_path / "run/checkpoints")[-1])[0].rows_skipped == total


def test_a_run_stops_at_a_corrupt_block_and_may_go_on_without_it_up_to_a_share(damaged, tmp_path):
    options = pretrain_options(damaged, tmp_path / "run", training__steps=40, checkpoint__every=1)
    stopped = run_ranks(2, ["pretrain", *options], check=False)
    assert stopped.returncode != 0
    assert stopped.stdout.count("electra-ds: error:") == 1
    assert "train-000000.tar block " in stopped.stdout
    assert "CRC-32" in stopped.stdout
    refused = run_ranks(2, ["pretrain", *options, "--data.on_corrupt=skip"], check=False)
    assert refused.returncode != 0
    assert refused.stdout.count("electra-ds: error:") == 1
    assert "rows were in blocks that cannot be read: more than data.corrupt_share=0.001" in refused.stdout
    one_block = RowSource(ShardSet(damaged), DataConfig(path="x"), 32, seed=0).rows.max()
    assert metrics(tmp_path / "run")[-1]["rows_skipped"] <= one_block
    run_ranks(2, ["pretrain", *options, "--data.on_corrupt=skip", "--data.corrupt_share=0.2"])
    assert metrics(tmp_path / "run")[-1]["step"] == 40


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_loader_process_ends_the_run_with_one_clear_error(corpora, tmp_path):
    options = pretrain_options(
        corpora, tmp_path / "run", training__steps=100_000, checkpoint__every=10, data__prefetch_process="true"
    )
    with open(tmp_path / "log", "w") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "electra_ds", "pretrain", *options], env=environment(), stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 120
        while not list_checkpoints(tmp_path / "run/checkpoints") and time.monotonic() < deadline:
            time.sleep(0.1)
        loaders = [
            pid for pid in children(running.pid) if "electra_ds.data.worker" in Path(f"/proc/{pid}/cmdline").read_text()
        ]
        assert len(loaders) == 1
        os.kill(loaders[0], signal.SIGKILL)
        assert running.wait(60) == 2
    finally:
        running.kill()
    text = (tmp_path / "log").read_text()
    assert text.count("electra-ds: error:") == 1
    assert "was killed by SIGKILL" in text
