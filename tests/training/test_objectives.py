"""Every objective through the command: all ZeRO stages, one rank and two, stopped and resumed, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from electra_ds.checkpoint import list_checkpoints, read_state
from electra_ds.errors import UserError
from electra_ds.recipe import parse_recipe
from electra_ds.training.command import prepare_folder
from electra_ds.training.fit import check_fits
from electra_ds.training.loop import Trainer
from electra_ds.training.watchdog import Watchdog
from electra_ds.zero_pieces import read_weights
from tests.conftest import environment, metrics, pretrain_options, run_ranks

pytestmark = pytest.mark.ranks
OTHERS = ("electra_15", "mlm", "replace_mlm", "all_tokens_mlm", "electric")
STAGES = ("zero0", "zero1", "zero2", "zero3")
STEPS = 6
KEYS = ("step", "loss", "gradient_norm")


def options(shards, output, name, **changes):
    common = {
        "objective__name": name,
        "training__steps": STEPS,
        "training__micro_batch_size": 4,
        "validation__rows": 6,
        "model__dropout": 0.1,
        "logging__flush_every": 1,
    }
    return pretrain_options(shards, output, **{**common, **changes})


def train(peers, arguments):
    """What the command does once its ranks have met, in this process; returns the lines of metrics."""
    recipe = parse_recipe(arguments, "test")
    prepare_folder(recipe)
    Trainer(recipe, peers, torch.device("cpu"), None, "life", Watchdog(0, None)).run()
    return metrics(Path(recipe.output))


@pytest.mark.parametrize("name", OTHERS)
def test_every_stage_starts_alike(tiny_shards, tmp_path, alone, name):
    """The same losses and gradient norms in float32; metrics that the objective does not have are not there."""
    found = {}
    for stage in STAGES:
        changes = {"deepspeed": stage, "training__precision": "float32", "training__steps": 3}
        lines = train(alone, options(tiny_shards, tmp_path / stage, name, **changes))
        found[stage] = [[line[key] for key in KEYS] for line in lines]
        assert len(lines) == 3
        assert ("discriminator_loss" in lines[0]) == (name in ("electra_15", "electric"))
        assert ("vocabulary_loss" in lines[0]) == (name not in ("electra_15", "electric"))
        assert ("generator_loss" in lines[0]) == (name != "mlm")
    for stage in STAGES[1:]:
        for mine, other in zip(found[stage], found["zero0"], strict=True):
            assert mine == pytest.approx(other, rel=2e-5)


@pytest.mark.parametrize(("name", "stage"), zip(OTHERS, ("zero1", "zero3", "zero2", "zero3", "zero1"), strict=True))
def test_stopped_and_resumed_is_the_same_run(tiny_shards, tmp_path, alone, name, stage):
    changes = {"deepspeed": stage, "objective__masking": "ngram" if name == "mlm" else "whole_word"}
    whole = train(alone, options(tiny_shards, tmp_path / "whole", name, **changes))
    cut = options(tiny_shards, tmp_path / "cut", name, **changes)
    train(alone, [*cut, "--training.stop_after=3"])
    done = run_ranks(1, ["pretrain", *cut])
    assert "resumed from" in done.stdout
    assert ("cross-entropy" in done.stdout) == (name in ("mlm", "replace_mlm", "all_tokens_mlm"))
    lines = metrics(tmp_path / "cut")
    assert [[line[key] for key in KEYS] for line in lines] == [[line[key] for key in KEYS] for line in whole]
    assert all(math.isfinite(line["loss"]) for line in lines)
    held_out = metrics(tmp_path / "cut", "validation")[-1]
    assert {key for key in lines[-1] if key.endswith(("_loss", "_accuracy"))} <= held_out.keys()
    assert (tmp_path / "cut" / "samples.json").exists() == (name in ("electra_15", "electric"))
    page = (tmp_path / "cut" / "report.html").read_text("utf-8")
    assert ("Full-size network’s loss" in page) == ("vocabulary_loss" in lines[-1])
    assert ("Discriminator loss" in page) == ("discriminator_loss" in lines[-1])

    path = list_checkpoints(tmp_path / "cut" / "checkpoints")[-1]
    state, _ = read_state(path)
    assert state.objective["name"] == name
    assert ("generator_head.bias" in read_weights(path, state)) == (name != "mlm")


TWO = """
import json, sys
from pathlib import Path
import torch
from electra_ds.distributed import find_place
from electra_ds.recipe import parse_recipe
from electra_ds.training.loop import Trainer
from electra_ds.training.peers import Peers, start_process_group
from electra_ds.training.watchdog import Watchdog

place = find_place()
start_process_group(place, torch.device("cpu"), 60.0)
peers = Peers(place, place.local_rank == 0)
for arguments in json.loads(sys.argv[1]):
    recipe = parse_recipe(arguments, "test")
    peers.from_first(lambda: Path(recipe.output).mkdir(parents=True))
    Trainer(recipe, peers, torch.device("cpu"), None, "life", Watchdog(place.rank, None)).run()
peers.barrier()
sys.stdout.flush()
import os
os._exit(0)
"""


def test_two_ranks_train_as_one_does(tiny_shards, tmp_path, alone):
    """Each objective under ZeRO 1: the same masks, random tokens and samples, so the same loss of the global batch."""
    changes = {"training__precision": "float32", "training__steps": 4, "validation__rows": 5}
    script = tmp_path / "two.py"
    script.write_text(TWO, "utf-8")
    runs = [options(tiny_shards, tmp_path / "two" / name, name, **changes) for name in OTHERS]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        [*command, json.dumps(runs)], env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in OTHERS:
        one = train(alone, options(tiny_shards, tmp_path / "one" / name, name, **changes))
        two = metrics(tmp_path / "two" / name)
        shared = [key for key in one[0] if key.endswith(("loss", "accuracy", "rate", "gradient_norm"))]
        for mine, other in zip(one, two, strict=True):
            assert [mine[key] for key in shared] == pytest.approx([other[key] for key in shared], rel=1e-4), name
        held_out = [metrics(tmp_path / kind / name, "validation")[-1] for kind in ("one", "two")]
        assert held_out[0]["loss"] == pytest.approx(held_out[1]["loss"], rel=1e-4)


def test_another_objective_does_not_go_on_with_a_run(tiny_shards, tmp_path, alone):
    run = tmp_path / "run"
    train(alone, options(tiny_shards, run, "mlm", training__stop_after=2))
    with pytest.raises(UserError, match=r"objective\.name: 'mlm' then, 'electra' now"):
        train(alone, options(tiny_shards, run, "electra"))

    path = list_checkpoints(run / "checkpoints")[-1]
    state, _ = read_state(path)
    other = dataclasses.replace(state, objective={**state.objective, "name": "replace_mlm"})
    with pytest.raises(UserError, match=r"objective\.name: 'mlm' there, 'replace_mlm' here"):
        check_fits(path, state, other)
    older = {key: value for key, value in state.objective.items() if key not in ("name", "mlm_masking")}
    with pytest.raises(UserError, match=r"objective\.name: 'electra' there, 'mlm' here"):
        check_fits(path, dataclasses.replace(state, objective=older), state)


def test_what_an_objective_makes_no_use_of_is_said(tiny_shards, tmp_path, capfd, alone):
    train(alone, options(tiny_shards, tmp_path / "run", "mlm", objective__temperature=2.0, training__steps=1))
    said = capfd.readouterr().out
    assert "objective.name=mlm makes no use of objective.temperature=2.0, model.generator_width=0.5" in said


def test_impossible_recipes_are_refused_at_once():
    for name, sharing in (("mlm", "gdes"), ("electric", "all_tied")):
        wrong = [f"--objective.name={name}", f"--model.sharing={sharing}", "--model.generator_width=1.0"]
        with pytest.raises(UserError, match=rf"model\.sharing={sharing}.*objective\.name={name}"):
            parse_recipe(["--config=small", "--data.path=x", "--output=y", *wrong], "test")
