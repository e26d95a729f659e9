"""Ranks that do not find each other, or do not belong together: one error, with the node that is at fault."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest

import electra_ds
from electra_ds import lives, resources
from electra_ds.checkpoint import list_checkpoints
from electra_ds.cli import main
from electra_ds.distributed import _free_port
from tests.conftest import metrics, pretrain_options, run_ranks
from tests.training.by_hand import Ranks

pytestmark = pytest.mark.ranks


def one_error(ranks: Ranks, *fragments: str) -> None:
    assert ranks.logs.count("electra-ds: error:") == 1, ranks.logs
    assert "Traceback" not in ranks.logs
    for fragment in fragments:
        assert fragment in ranks.logs, ranks.logs


def test_ranks_that_do_not_come_are_named_by_rank_0(tiny_shards, tmp_path):
    options = ["pretrain", *pretrain_options(tiny_shards, tmp_path / "run", training__start_seconds=4)]
    with Ranks(4, tmp_path / "logs") as ranks:
        for rank in (0, 1, 3):
            ranks.start(rank, options)
        assert ranks.processes[0].wait(60) == lives.FAILED
        one_error(ranks, "1 of 4 ranks did not reach MASTER_ADDR=127.0.0.1", "rank 2", "rank 0 is on node0")
    assert not (tmp_path / "run").exists()


def test_nobody_at_the_address(tiny_shards, tmp_path):
    options = ["pretrain", *pretrain_options(tiny_shards, tmp_path / "run", training__start_seconds=1)]
    with Ranks(2, tmp_path / "logs", port=_free_port()) as ranks:
        ranks.start(1, options)
        assert ranks.wait(60) == {1: lives.FAILED}
        one_error(ranks, "rank 1 of 2 on node1 cannot meet the others at MASTER_ADDR=127.0.0.1")


def test_a_port_that_is_taken(tiny_shards, tmp_path):
    import socket

    options = ["pretrain", *pretrain_options(tiny_shards, tmp_path / "run", training__start_seconds=2)]
    with socket.socket() as taken, Ranks(2, tmp_path / "logs") as ranks:
        taken.bind(("0.0.0.0", int(ranks.rendezvous["MASTER_PORT"])))
        taken.listen()
        ranks.start(0, options)
        assert ranks.wait(60) == {0: lives.FAILED}
        one_error(ranks, "rank 0 of 2 on node0", "port is free")


@pytest.mark.parametrize("difference", ["recipe", "source", "shards", "no shards"])
def test_ranks_that_differ_are_named_with_what_differs(difference, tiny_shards, corpus, tmp_path):
    for node in ("one", "two"):
        (tmp_path / node).mkdir()
        shutil.copytree(tiny_shards, tmp_path / node / "shards")
    options = [["pretrain", *pretrain_options("shards", tmp_path / "run")] for _ in range(2)]
    extra: dict[str, str] = {}
    fragments = ["node1"]
    if difference == "recipe":
        options[1].append("--optimizer.learning_rate=0.5")
        fragments += ["rank 1 on node1 has another recipe"]
    elif difference == "source":
        package = shutil.copytree(electra_ds.__path__[0], tmp_path / "edited" / "electra_ds")
        if not (package / "ds_configs").exists():  # in a clone it stands beside the package
            shutil.copytree(resources.folder("ds_configs"), package / "ds_configs")
        (package / "errors.py").write_text((package / "errors.py").read_text() + "\n# edited\n")
        extra["PYTHONPATH"] = str(tmp_path / "edited")
        fragments += ["rank 1 on node1 has another source code"]
    elif difference == "shards":
        shutil.rmtree(tmp_path / "two" / "shards")
        prep = {"inputs": corpus, "output": tmp_path / "two" / "shards", "tokenizer.vocab_size": 1000, "seed": 1}
        assert main(["prep", *(f"--{key}={value}" for key, value in prep.items())]) == 0
        fragments += ["sees another shard set at data.path=shards"]
    else:
        shutil.rmtree(tmp_path / "two" / "shards")
        fragments += ["does not see the shard set that rank 0 reads", "manifest.json"]
    with Ranks(2, tmp_path / "logs") as ranks:
        ranks.start(0, options[0], cwd=tmp_path / "one")
        ranks.start(1, options[1], cwd=tmp_path / "two", **extra)
        statuses = ranks.wait()
        assert statuses == {0: lives.USER_ERROR, 1: lives.USER_ERROR}, ranks.logs
        one_error(ranks, *fragments)


def test_a_run_folder_that_another_node_does_not_see(tiny_shards, tmp_path, monkeypatch):
    with Ranks(2, tmp_path / "logs") as ranks:
        for rank, node in enumerate(("one", "two")):
            (tmp_path / node).mkdir()
            ranks.start(rank, ["pretrain", *pretrain_options(tiny_shards, "run")], cwd=tmp_path / node)
        assert set(ranks.wait().values()) == {lives.USER_ERROR}
        one_error(ranks, "node node1 does not see what rank 0 writes into --output run", "all nodes share")


def test_more_ranks_than_the_batch_has_rows(tiny_shards, tmp_path):
    options = ["pretrain", *pretrain_options(tiny_shards, tmp_path / "run", training__global_batch_size=1)]
    with Ranks(2, tmp_path / "logs") as ranks:
        for rank in range(2):
            ranks.start(rank, options)
        assert set(ranks.wait().values()) == {lives.USER_ERROR}
        one_error(ranks, "cannot be divided among 2 ranks")


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_to_one_rank_saves_on_all_and_the_run_goes_on_exactly(number, tiny_shards, tmp_path):
    common = {"training__steps": 40, "training__micro_batch_size": 2, "data__audit": "true", "logging__flush_every": 1}
    run_ranks(2, ["pretrain", *pretrain_options(tiny_shards, tmp_path / "whole", **common)])
    run = tmp_path / "run"
    options = ["pretrain", *pretrain_options(tiny_shards, run, **common)]
    with Ranks(2, tmp_path / "logs") as ranks:
        for rank in range(2):
            ranks.start(rank, options)
        while not (run / "metrics.jsonl").exists() or not metrics(run):
            time.sleep(0.02)
        ranks.processes[1].send_signal(number)
        ranks.processes[1].send_signal(number)
        assert ranks.wait() == {0: lives.REQUEUE, 1: lives.REQUEUE}, ranks.logs
    outcome = json.loads((run / "outcome.json").read_text())
    assert outcome["status"] == lives.REQUEUE
    stopped = metrics(run)[-1]["step"]
    assert list_checkpoints(run / "checkpoints")[-1].name == f"step-{stopped:08d}"
    assert stopped < 40
    run_ranks(2, options)
    assert [(line["step"], line["loss"]) for line in metrics(run)] == [
        (line["step"], line["loss"]) for line in metrics(tmp_path / "whole")
    ]
    assert not (run / "lock.json").exists()


def test_a_second_process_in_the_run_folder_refuses_and_the_first_goes_on(tiny_shards, tmp_path):
    options = ["pretrain", *pretrain_options(tiny_shards, tmp_path / "run", training__steps=300)]
    with Ranks(1, tmp_path / "logs") as first:
        first.start(0, options)
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            time.sleep(0.05)
        done = run_ranks(1, options, check=False)
        assert done.returncode == lives.USER_ERROR
        assert "trains in it" in done.stdout
        assert first.wait() == {0: lives.DONE}, first.logs
