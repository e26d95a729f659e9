"""A checkpoint of any stage and world size goes on under any other: the same weights, moments, rows and losses."""

from __future__ import annotations

import shutil

import pytest
import torch

from electra_ds.checkpoint import list_checkpoints, read_state
from electra_ds.zero_pieces import KINDS, ZeroPieces
from tests.conftest import metrics, pretrain_options, run_ranks

pytestmark = pytest.mark.ranks
STEPS, STOP = 12, 6


def options(shards, output, **changes):
    common = {"training__precision": "float32", "training__steps": STEPS, "data__audit": "true"}
    return ["pretrain", *pretrain_options(shards, output, **{**common, **changes})]


@pytest.fixture(scope="module")
def undisturbed(tiny_shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    run_ranks(2, options(tiny_shards, run))
    return run


@pytest.fixture(scope="module")
def stopped(tiny_shards, tmp_path_factory):
    """A run that two ranks stopped half-way, by ZeRO stage."""
    made = {}

    def get(stage):
        if stage not in made:
            made[stage] = tmp_path_factory.mktemp("stopped") / stage
            run_ranks(2, options(tiny_shards, made[stage], deepspeed=stage, training__stop_after=STOP))
        return made[stage]

    return get


def opened(run):
    path = list_checkpoints(run / "checkpoints")[-1]
    return ZeroPieces(path, read_state(path)[0])


@pytest.mark.parametrize(
    ("before", "ranks", "stage", "micro"),
    [
        ("zero0", 4, "zero3", 1),
        ("zero0", 1, "zero1", 4),
        ("zero1", 1, "zero3", 8),
        ("zero1", 4, "zero1", 2),
        ("zero2", 4, "zero0", 2),
        ("zero3", 1, "zero0", 2),
        ("zero3", 4, "zero2", 1),
        ("zero3", 4, "zero3", 2),
    ],
)
def test_it_goes_on_as_if_nothing_had_changed(before, ranks, stage, micro, stopped, undisturbed, tiny_shards, tmp_path):
    run = shutil.copytree(stopped(before), tmp_path / "run")
    done = run_ranks(ranks, options(tiny_shards, run, deepspeed=stage, training__micro_batch_size=micro))
    assert f"saved by 2 rank(s) at ZeRO stage {before[-1]}" in done.stdout
    ours, wanted = metrics(run), metrics(undisturbed)
    assert [line["step"] for line in ours] == [line["step"] for line in wanted]
    for mine, other in zip(ours, wanted, strict=True):
        for key in ("loss", "generator_loss", "discriminator_loss", "gradient_norm", "rows_consumed"):
            assert mine[key] == pytest.approx(other[key], rel=2e-6), (mine["step"], key)
    left, right = opened(run), opened(undisturbed)
    assert left.updates == right.updates == STEPS
    assert left.counters == right.counters
    assert set(left.shapes) == set(right.shapes)
    for name, shape in right.shapes.items():
        assert left.shapes[name] == shape
        for kind in KINDS:
            mine, other = left.read(name, kind), right.read(name, kind)
            scale = float(other.abs().max()) + 1e-12
            assert float((mine - other).abs().max()) <= 2e-4 * scale, (name, kind)


def test_parts_of_a_parameter_are_parts_of_the_whole(stopped):
    for stage in ("zero0", "zero1", "zero2", "zero3"):
        pieces = opened(stopped(stage))
        name = max(pieces.shapes, key=lambda one: pieces.shapes[one].numel())
        whole = pieces.read(name, "exp_avg")
        assert whole.dtype == torch.float32 and whole.numel() == pieces.shapes[name].numel()
        middle = whole.numel() // 2
        for begin, end in ((0, 1), (middle - 3, middle + 3), (whole.numel() - 1, whole.numel()), (5, 5)):
            assert torch.equal(pieces.read(name, "exp_avg", begin, end), whole[begin:end])


def test_a_count_of_ranks_that_does_not_divide_the_batch_says_which_do_and_changes_nothing(stopped, tiny_shards):
    run = stopped("zero1")
    before = (run / "recipe.yaml").read_bytes()
    done = run_ranks(3, options(tiny_shards, run), check=False, launcher="mpirun")
    assert done.returncode == 2
    assert "global_batch_size=8 cannot be divided among 3 ranks" in done.stdout
    assert "1, 2, 4, 8" in done.stdout
    assert (run / "recipe.yaml").read_bytes() == before
