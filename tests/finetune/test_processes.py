"""Several processes train on the same batches as one, and one of them writes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ds.cli import main
from electra_ds.finetune.trainer import GlobalBatches
from tests.finetune.test_kinds import QUICK, questions

ROOT = Path(__file__).resolve().parents[2]


@given(
    examples=st.integers(1, 70), micro=st.integers(1, 4), steps=st.integers(1, 4), world=st.integers(1, 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_processes_together_read_the_batches_of_one(examples, micro, steps, world, seed):
    batch = micro * steps * world
    alone = GlobalBatches(examples, batch, batch, seed)
    ranks = [GlobalBatches(examples, batch, micro, seed, rank, world) for rank in range(world)]
    for _ in range(2):  # two epochs
        parts = [list(rank) for rank in ranks]
        assert {len(part) for part in parts} == {len(ranks[0])}, "in step, and as many as announced"
        together = [[index for part in parts for index in part[step] if index >= 0] for step in range(len(parts[0]))]
        expected = list(alone)
        assert sorted(index for found in expected for index in found) == list(range(examples))
        for number, whole in enumerate(expected):
            here = together[number * steps : number * steps + -(-len(whole) // (micro * world))]
            assert [index for step in here for index in step] == whole
    again = GlobalBatches(examples, batch, batch, seed, skip_epochs=2)
    assert list(again) == list(alone), "the third epoch, as a resumed seed reads it"
    assert all(index < 0 for rank in parts for step in rank if min(step) < 0 for index in step), "fillers stand alone"


def launch(count, *arguments):
    """Words and environment of a run on several processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return [*command, "-m", "electra_ds", "finetune", *arguments], environment


def torchrun(count, *arguments):
    words, environment = launch(count, *arguments)
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.ranks
def test_two_processes_give_the_result_of_one(discriminator, tmp_path):
    # 43 questions in batches of 16: the last has 11, of which the second process has 3.
    train, dev = (
        questions(tmp_path / f"{name}.json", count, count, 0.3) for name, count in (("train", 43), ("dev", 9))
    )
    given = {
        **QUICK, "model": discriminator, "train": train, "validation": dev, "task": "question_answering", "epochs": 2,
        "head": "original", "evaluations_per_epoch": 1,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in given.items()]
    assert main(["finetune", *words, f"--output={tmp_path / 'one'}"]) == 0
    done = torchrun(2, *words, f"--output={tmp_path / 'two'}", "--micro_batch_size=4")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote ") == 1, "one process speaks"
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    ours, theirs = one["runs"][0], two["runs"][0]
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
    assert theirs["updates"] == ours["updates"] == 6 and len(theirs["evaluations"]) == 2
    assert theirs["scores"]["validation"]["best_f1"] == pytest.approx(ours["scores"]["validation"]["best_f1"], abs=0.12)
    odds = [json.loads((tmp_path / name / "seed-0" / "null-odds.json").read_text()) for name in ("one", "two")]
    assert odds[1] == pytest.approx(odds[0], abs=1e-2), "every question once, by the same network"


@pytest.mark.ranks
def test_two_killed_processes_go_on_within_the_seed(discriminator, train_file, validation_file, tmp_path):
    given = {
        **QUICK, "model": discriminator, "train": train_file, "validation": validation_file, "epochs": 20,
        "dropout": 0.1, "evaluations_per_epoch": 1, "save_steps": 5,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in given.items()]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    command, environment = launch(2, *words, f"--output={cut}")
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list((cut / "seed-0" / "checkpoints").glob("*/progress.pt")):
            time.sleep(0.005)
        for worker in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(worker), signal.SIGKILL)
    assert not list(cut.rglob("run.json")), "killed in the middle"
    done = torchrun(2, *words, f"--output={cut}")
    assert done.returncode == 0 and "went on after update" in done.stdout, done.stderr[-3000:]
    assert torchrun(2, *words, f"--output={whole}").returncode == 0
    ours, theirs = (json.loads((folder / "results.json").read_text())["runs"][0] for folder in (cut, whole))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    for name in ("scores", "updates", "evaluations", "best_update"):
        assert ours[name] == theirs[name], name


def test_a_batch_that_does_not_split_is_refused(discriminator, train_file, tmp_path, capsys, monkeypatch):
    for name, value in {
        "RANK": 0,
        "WORLD_SIZE": 3,
        "LOCAL_RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 29500,
    }.items():
        monkeypatch.setenv(name, str(value))
    words = [
        f"--model={discriminator}",
        f"--train={train_file}",
        f"--validation={train_file}",
        f"--output={tmp_path / 'o'}",
    ]
    assert main(["finetune", *words]) == 2
    assert "batch_size: 32 does not split over 3 processes" in capsys.readouterr().err
