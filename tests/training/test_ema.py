"""The moving average is that of the float32 weights, at every stage, and goes on under any other."""

from __future__ import annotations

import json
import shutil
import types

import pytest
import torch

from electra_ds.checkpoint import list_checkpoints, read_state, step_of
from electra_ds.training.ema import MovingAverage
from electra_ds.training.optimizers import leave_out_unless_finite
from electra_ds.zero_pieces import ZeroPieces
from tests.conftest import pretrain_options, run_ranks

STEPS, DECAY = 8, 0.6


def options(shards, output, **changes):
    common = {
        "training__precision": "float32",
        "training__steps": STEPS,
        "training__ema_decay": DECAY,
        "checkpoint__every": 1,
        "checkpoint__keep_last": STEPS,
    }
    return ["pretrain", *pretrain_options(shards, output, **{**common, **changes})]


def opened(run):
    paths = list_checkpoints(run / "checkpoints")
    return {step_of(path): ZeroPieces(path, read_state(path)[0]) for path in paths}


def share(update):
    return 1 - min(DECAY, (1 + update) / (10 + update))


@pytest.fixture(scope="module")
def undisturbed(tiny_shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("ema") / "run"
    run_ranks(2, options(tiny_shards, run, deepspeed="zero1"))
    return run


@pytest.mark.ranks
@pytest.mark.parametrize("stage", ["zero0", "zero1", "zero3"])
def test_it_is_that_of_the_masters(stage, undisturbed, tiny_shards, tmp_path):
    """At stages 0 and 3 with weights in bf16 beside them."""
    run = undisturbed
    if stage != "zero1":
        run = tmp_path / "run"
        run_ranks(2, options(tiny_shards, run, deepspeed=stage, training__precision="bf16"))
    steps = opened(run)
    for name in ("embeddings.word.weight", "discriminator.layers.1.qkv.weight", "generator_head.bias"):
        average = steps[1].read(name, "ema").double()
        for step in range(2, STEPS + 1):
            average += share(step) * (steps[step].read(name, "master").double() - average)
            stored = steps[step].read(name, "ema").double()
            assert steps[step].ema_updates == step and steps[step].ema_decay == DECAY
            assert float((stored - average).abs().max()) <= 1e-6 * float(average.abs().max()), (name, step)
        assert float((average - steps[STEPS].read(name, "master").double()).abs().max()) > 1e-5
    described = read_state(list_checkpoints(run / "checkpoints")[-1])[1]
    assert len([file for file in described if file.startswith("ema_rank_")]) == (1 if stage == "zero0" else 2)


def cut_at(run, last):
    """Forget the checkpoints after a step."""
    for path in list_checkpoints(run / "checkpoints"):
        if step_of(path) > last:
            shutil.rmtree(path)
    return list_checkpoints(run / "checkpoints")[-1]


@pytest.mark.ranks
@pytest.mark.parametrize(("stage", "ranks"), [("zero1", 2), ("zero3", 1)])
def test_a_resumed_run_goes_on_with_it(undisturbed, tiny_shards, tmp_path, stage, ranks):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    cut_at(run, 4)
    run_ranks(ranks, options(tiny_shards, run, deepspeed=stage))
    ours, wanted = opened(run)[STEPS], opened(undisturbed)[STEPS]
    assert ours.ema_updates == wanted.ema_updates == STEPS
    for name in wanted.shapes:
        mine, theirs = ours.read(name, "ema"), wanted.read(name, "ema")
        if (stage, ranks) == ("zero1", 2):
            assert torch.equal(mine, theirs), name
        assert float((mine - theirs).abs().max()) <= 1e-5 * (float(theirs.abs().max()) + 1e-3), name


@pytest.mark.ranks
def test_it_may_begin_in_the_middle_of_a_run(undisturbed, tiny_shards, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    path = cut_at(run, 7)
    described = json.loads((path / "checkpoint.json").read_text())
    for name in [name for name in described["files"] if name.startswith("ema_rank_")]:
        del described["files"][name]
        (path / name).unlink()
    (path / "checkpoint.json").write_text(json.dumps(described))
    done = run_ranks(1, options(tiny_shards, run, deepspeed="zero0"))
    assert "step-00000007 holds no moving average (training.ema_decay): it begins here" in done.stdout
    steps, name = opened(run), "discriminator_head.dense.weight"
    before, after = steps[7].read(name, "master"), steps[8].read(name, "master")
    torch.testing.assert_close(steps[8].read(name, "ema"), before.lerp(after, share(1)))


@pytest.fixture
def single(monkeypatch):
    """An engine's place in float32 without ZeRO: a module, torch's AdamW, and the counts that DeepSpeed keeps."""
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    torch.manual_seed(0)
    module = torch.nn.Linear(5, 3)
    adam = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    names = {parameter: name for name, parameter in module.named_parameters()}
    return types.SimpleNamespace(module=module, optimizer=adam, param_names=names, skipped_steps=0)


def step(engine, average, norm=1.0):
    for parameter in engine.module.parameters():
        parameter.grad = torch.full_like(parameter, norm)
    leave_out_unless_finite(engine.optimizer, torch.tensor(norm))
    engine.optimizer.step()
    average.update()


def test_a_step_that_was_left_out_is_none(single):
    average = MovingAverage(single, 0, DECAY)
    step(single, average)
    step(single, average)
    before = [vector.clone() for vector in average.stored["vectors"]]
    weights = [parameter.detach().clone() for parameter in single.module.parameters()]
    assert not any(torch.equal(vector, weight.view(-1)) for vector, weight in zip(before, weights, strict=True))
    single.skipped_steps += 1  # as DeepSpeed counts one that it left out
    average.update()
    assert all(torch.equal(one, other) for one, other in zip(before, average.stored["vectors"], strict=True))
    assert average.stored["updates"] == 2
    step(single, average, float("inf"))  # as torch's AdamW leaves one out on the device, and nobody is told
    assert all(torch.equal(one, other) for one, other in zip(before, average.stored["vectors"], strict=True))
    step(single, average)
    assert not any(torch.equal(one, other) for one, other in zip(before, average.stored["vectors"], strict=True))
