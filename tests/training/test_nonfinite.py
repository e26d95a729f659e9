"""A step that is not finite is told with its rows, and left out or stopped at: never averaged away, never saved."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from electra_ds.checkpoint import list_checkpoints, read_state
from electra_ds.errors import UserError
from electra_ds.training.batches import PreparedRows
from electra_ds.training.config import TrainingConfig
from electra_ds.training.nonfinite import NonfiniteWatch, telling_loss
from electra_ds.zero_pieces import KINDS, ZeroPieces
from tests.conftest import metrics, pretrain_options, run_ranks
from tests.training.by_hand import Ranks

POISON = os.pathsep.join([str(Path(__file__).parent / "poison"), str(Path(__file__).parents[2])])
STEPS = 7


def poisoned(what="activations", steps=(4,)):
    """Environment of a run in which rank 1's second micro-batch of some steps goes wrong."""
    return {"PYTHONPATH": POISON, "POISON": json.dumps({"steps": steps, "rank": 1, "micro": 1, "what": what})}


def options(shards, output, **changes):
    common = {
        "training__steps": STEPS,
        "training__micro_batch_size": 2,
        "checkpoint__every": 1,
        "checkpoint__keep_last": STEPS,
        "data__audit": "true",
    }
    return ["pretrain", *pretrain_options(shards, output, **{**common, **changes})]


def reported(run):
    return [json.loads(line) for line in (run / "nonfinite.jsonl").read_text().splitlines()]


def pieces_of(run):
    """Weights and moments after each step."""
    return [ZeroPieces(path, read_state(path)[0]) for path in list_checkpoints(run / "checkpoints")]


def same(left, right, kind):
    return all(torch.equal(left.read(name, kind), right.read(name, kind)) for name in left.shapes)


def rows_of(run, rank, step):
    lines = [json.loads(text) for text in (run / "audit" / f"rank-{rank:05d}.jsonl").read_text().splitlines()]
    line = next(one for one in lines if one["step"] == step)
    return [list(pair) for pair in zip(line["epochs"], line["rows"], strict=True)]


STAGES = ("zero0", "zero1", "zero2", "zero3")
CASES = [(stage, precision, "activations") for stage in STAGES for precision in ("bf16", "float32")]
CASES += [("zero0", "float32", "infinite"), ("zero0", "float32", "gradient")]
CASES += [("zero1", "bf16", "infinite"), ("zero1", "bf16", "gradient")]


@pytest.mark.ranks
@pytest.mark.parametrize(("stage", "precision", "what"), CASES)
def test_skip_leaves_the_step_out_and_nothing_else(tiny_shards, tmp_path, stage, precision, what):
    run = tmp_path / "run"
    arguments = options(tiny_shards, run, deepspeed=stage, training__precision=precision, training__on_nonfinite="skip")
    done = run_ranks(2, arguments, **poisoned(what))
    after = pieces_of(run)
    assert [piece.updates for piece in after] == [1, 2, 3, 3, 4, 5, 6]
    for kind in KINDS:
        assert same(after[2], after[3], kind)
        assert not same(after[3], after[4], kind)
    assert all(torch.isfinite(after[-1].read(name, kind)).all() for name in after[-1].shapes for kind in KINDS)

    lines = metrics(run)
    assert [line["rows_consumed"] for line in lines] == [8 * step for step in range(1, STEPS + 1)]
    assert (lines[3]["loss"] is None) == (what != "gradient")
    assert lines[3]["gradient_norm"] is None
    assert all(line["loss"] and line["gradient_norm"] for line in lines if line["step"] != 4)

    told = reported(run)
    if what == "gradient":  # whose rows made it cannot be told: all that were read are
        assert {one["rank"]: one["rows"] for one in told} == {rank: rows_of(run, rank, 4) for rank in (0, 1)}
        assert all(one["what"] == ["gradient_norm"] and one["step"] == 4 for one in told)
    else:
        (one,) = told
        assert (one["step"], one["rank"], one["action"]) == (4, 1, "skip")
        assert one["rows"] == rows_of(run, 1, 4)[2:]
        bad = {"activations": ["generator_loss", "discriminator_loss"], "infinite": ["discriminator_loss"]}[what]
        assert one["what"] == [*bad, "loss", "gradient_norm"]
        assert all(one[name] == {"activations": "nan", "infinite": "inf"}[what] for name in bad)
        assert what == "activations" or math.isfinite(one["generator_loss"])
    assert "step 4: " in done.stdout and "the step was left out" in done.stdout
    (event,) = [line for line in metrics(run, "event") if line["event"] == "nonfinite"]
    assert (event["step"], event["action"]) == (4, "skip")


@pytest.mark.ranks
@pytest.mark.parametrize(("stage", "precision"), [("zero1", "bf16"), ("zero0", "float32")])
def test_a_run_that_left_a_step_out_resumes_exactly(tiny_shards, tmp_path, stage, precision):
    common = {"deepspeed": stage, "training__precision": precision, "training__on_nonfinite": "skip"}
    run_ranks(2, options(tiny_shards, tmp_path / "whole", **common), **poisoned())
    run_ranks(2, options(tiny_shards, tmp_path / "cut", **common, training__stop_after=6), **poisoned())
    run_ranks(2, options(tiny_shards, tmp_path / "cut", **common))
    for left, right in zip(pieces_of(tmp_path / "whole"), pieces_of(tmp_path / "cut"), strict=True):
        assert left.counters == right.counters
        assert all(same(left, right, kind) for kind in KINDS)


STOPS = [
    ("zero0", "float32", 4, "activations"),
    ("zero0", "float32", 5, "gradient"),
    ("zero1", "bf16", 4, "gradient"),
    ("zero1", "bf16", 5, "activations"),
    ("zero2", "bf16", 5, "infinite"),
    ("zero3", "bf16", 4, "activations"),
]


@pytest.mark.ranks
@pytest.mark.parametrize(("stage", "precision", "step", "what"), STOPS)
def test_stop_names_the_rows_saves_nothing_after_them_and_the_next_life_goes_on(
    tiny_shards, tmp_path, stage, precision, step, what
):
    run = tmp_path / "run"
    arguments = options(tiny_shards, run, deepspeed=stage, training__precision=precision, checkpoint__every=2)
    with Ranks(2, tmp_path / "logs") as ranks:
        for rank in range(2):
            ranks.start(rank, arguments, **poisoned(what, [step]))
        assert ranks.wait() == {0: 2, 1: 2}
        log = ranks.logs
    rows = rows_of(run, 1, step)[2:]
    assert f"step {step}: " in log and all(f"{epoch}/{row}" in log for epoch, row in rows)
    assert "training.on_nonfinite=skip" in log
    assert reported(run)[-1]["action"] == "stop"
    assert step in [line["step"] for line in metrics(run)]
    last_good = step - 1 - (step - 1) % 2
    assert [path.name for path in list_checkpoints(run / "checkpoints")][-1] == f"step-{last_good:08d}"
    assert [line["event"] for line in metrics(run, "event")].count("nonfinite") == 1

    done = run_ranks(2, arguments)
    assert f"at step {last_good}" in done.stdout
    assert all(line["loss"] for line in metrics(run))
    assert metrics(run)[-1]["step"] == STEPS


@pytest.mark.ranks
def test_too_many_in_a_row_stop_a_run_that_skips(tiny_shards, tmp_path):
    run = tmp_path / "run"
    arguments = options(tiny_shards, run, training__on_nonfinite="skip", training__nonfinite_limit=2)
    done = run_ranks(2, arguments, check=False, **poisoned(steps=[2, 4, 5, 6]))
    assert json.loads((run / "outcome.json").read_text())["status"] == 2
    assert "2 in a row reach training.nonfinite_limit=2" in done.stdout
    assert [(one["step"], one["action"]) for one in reported(run)] == [(2, "skip"), (4, "skip"), (5, "stop")]


def prepared(rows=4):
    return PreparedRows({}, torch.zeros(3), np.arange(rows) + 100, np.zeros(rows, np.int64))


def numbers(*losses):
    return [torch.tensor([value, 1.0, value + 1.0], dtype=torch.float64) for value in losses]


def test_a_loss_scale_that_still_falls_is_no_incident(alone, tmp_path):
    """fp16 finds its scale by overflowing: only what the scale cannot explain is told."""
    events = []
    watch = NonfiniteWatch(TrainingConfig(), alone, tmp_path, lambda *args, **more: events.append(more), list)
    watch.note(1, prepared(), numbers(1.0, 2.0), float("inf"), scale_falls=True)
    watch.settle()
    assert not events
    watch.note(2, prepared(), numbers(1.0, 2.0), float("inf"), scale_falls=False)
    with pytest.raises(UserError, match=r"step 2: gradient_norm not finite .* 0/100, 0/101, 0/102, 0/103"):
        watch.settle()
    watch.note(3, prepared(), numbers(1.0, float("nan")), float("inf"), scale_falls=True)
    with pytest.raises(UserError, match=r"step 3: generator_loss and loss not .* rows \(epoch/row\) 0/102, 0/103;"):
        watch.settle()


def test_numbers_are_looked_at_one_step_later(alone, tmp_path):
    watch = NonfiniteWatch(TrainingConfig(on_nonfinite="skip"), alone, tmp_path, lambda *args, **more: None, list)
    watch.note(1, prepared(), numbers(float("inf")), 1.0, scale_falls=False)
    assert not watch.look()
    watch.note(2, prepared(), numbers(1.0), 1.0, scale_falls=False)
    assert watch.look()
    watch.report()
    assert not watch.look()
    assert [one["rows"] for one in reported(tmp_path)] == [[[0, 100], [0, 101], [0, 102], [0, 103]]]


@pytest.mark.parametrize("value", [0.0, 1.5, -3.0, 3e38])
def test_a_finite_loss_and_its_gradient_are_untouched(value):
    loss = torch.tensor(value, requires_grad=True)
    told = telling_loss(loss)
    told.backward()
    assert told.item() == loss.item() and loss.grad.item() == 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_has_no_finite_gradient(value):
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    telling_loss(weight.sum() + value).backward()
    assert not torch.isfinite(weight.grad).any()
