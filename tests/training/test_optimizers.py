"""torch's and DeepSpeed's AdamW make the same updates, at every ZeRO stage, and go on from each other's checkpoints."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from electra_ds.backend import import_deepspeed
from electra_ds.checkpoint import list_checkpoints, read_state
from electra_ds.errors import UserError
from electra_ds.training.config import OptimizerConfig
from electra_ds.training.optimizers import build_optimizer, leave_out_unless_finite, set_hyperparameters, set_updates
from electra_ds.zero_pieces import KINDS, ZeroPieces
from tests.conftest import metrics, pretrain_options, run_ranks

STEPS = 40
BETA2_SHARE = 2.0**-25 / (1 - 0.999) / 2
"""Share by which steps of torch and DeepSpeed differ: DeepSpeed keeps beta2 in float32, so its 1 - beta2 is off by half
a unit in the last place of beta2, and the root of the second moment by half of that."""
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="DeepSpeed compiles its Adam: no C++ compiler")


@pytest.fixture(scope="module", autouse=True)
def deepspeed():
    return import_deepspeed()


def network():
    torch.manual_seed(0)
    layers = {"dense": torch.nn.Linear(33, 17), "norm": torch.nn.LayerNorm(17), "last": torch.nn.Linear(17, 5)}
    return torch.nn.ModuleDict(layers)


def gradients(model):
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        scale = 10.0 ** (step % 5 - 3)
        yield [scale * torch.randn(parameter.shape, generator=generator) for parameter in model.parameters()]


def train(backend, config, resume_at=None):
    """Weights after `STEPS` updates; with `resume_at`, state and weights go through a new optimizer there."""
    model = network()
    optimizer = build_optimizer(model, backend)
    for update, grads in enumerate(gradients(model), start=1):
        set_hyperparameters(types.SimpleNamespace(optimizer=optimizer), config, 1e-2 * update / STEPS, update)
        for parameter, gradient in zip(model.parameters(), grads, strict=True):
            parameter.grad = gradient
        optimizer.step()
        if update == resume_at:
            weights, state = model.state_dict(), optimizer.state_dict()
            model = network()
            model.load_state_dict(weights)
            optimizer = build_optimizer(model, backend)
            optimizer.load_state_dict(state)
            set_updates(optimizer, update)
    return [parameter.detach() for parameter in model.parameters()]


def expected(config):
    """The same in float64, written out (arXiv 1711.05101, algorithm 2), and how far each weight went in all."""
    model = network()
    weights = [parameter.detach().double() for parameter in model.parameters()]
    decayed = [not ("bias" in name or "norm" in name) for name, _ in model.named_parameters()]
    first, second, path = ([torch.zeros_like(weight) for weight in weights] for _ in range(3))
    for update, grads in enumerate(gradients(model), start=1):
        rate = 1e-2 * update / STEPS
        for number, gradient in enumerate(grads):
            gradient = gradient.double()
            first[number] = config.beta1 * first[number] + (1 - config.beta1) * gradient
            second[number] = config.beta2 * second[number] + (1 - config.beta2) * gradient**2
            b1, b2 = (1 - config.beta1**update, 1 - config.beta2**update) if config.bias_correction else (1.0, 1.0)
            step = rate * (first[number] / b1) / ((second[number] / b2).sqrt() + config.eps)
            if decayed[number]:
                step = step + rate * config.weight_decay * weights[number]
            weights[number] = weights[number] - step
            path[number] += step.abs()
    return weights, path


@needs_compiler
@pytest.mark.parametrize("correction", [False, True])
def test_all_make_the_update_of_the_paper(correction):
    config = OptimizerConfig(bias_correction=correction, weight_decay=0.1)
    weights, paths = expected(config)
    half = 2.0**-25
    # A weight is rounded twice in each update, and so is what goes into a step some 20 times.
    of_steps = {"torch": 40 * half, "deepspeed": 40 * half + BETA2_SHARE}
    for backend, share in of_steps.items():
        for mine, weight, path in zip(train(backend, config), weights, paths, strict=True):
            allowed = 2 * STEPS * half * float(weight.abs().max()) + share * path
            assert bool(((mine - weight).abs() <= allowed).all()), backend


@needs_compiler
@pytest.mark.parametrize("backend", ["torch", "deepspeed"])
@pytest.mark.parametrize("correction", [False, True])
def test_a_late_resume_is_exact(backend, correction):
    config = OptimizerConfig(bias_correction=correction)
    for left, right in zip(train(backend, config), train(backend, config, resume_at=38), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_torchs_changes_nothing_where_the_norm_is_not_finite(norm):
    model = network()
    optimizer = build_optimizer(model)
    engine = types.SimpleNamespace(optimizer=optimizer)
    snapshots = []
    for update, (value, grads) in enumerate(zip((1.0, norm, 1.0), gradients(model), strict=False), start=1):
        set_hyperparameters(engine, OptimizerConfig(), 1e-2, update)
        for parameter, gradient in zip(model.parameters(), grads, strict=True):
            parameter.grad = gradient * value
        leave_out_unless_finite(optimizer, torch.tensor(value))
        optimizer.step()
        entries = [value for entry in optimizer.state.values() for value in entry.values()]
        snapshots.append([value.detach().clone() for value in (*model.parameters(), *entries)])
    first, second, third = snapshots
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(second, third, strict=True))


def test_without_a_compiler_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="without no-such-compiler \\(install a C\\+\\+ compiler\\)"):
        build_optimizer(network(), "deepspeed")


@needs_compiler
def test_the_lock_of_a_killed_build_hangs_no_later_one(tmp_path):
    """The op is there already, and torch would wait for the builder that is gone before it loads it."""
    from torch.utils.cpp_extension import _get_build_directory

    build_optimizer(network(), "deepspeed")
    built = Path(_get_build_directory("cpu_adam", False))
    copy = tmp_path / "cpu_adam"
    shutil.copytree(built, copy)
    (copy / "lock").touch()
    script = (
        "from electra_ds.backend import import_deepspeed; import_deepspeed(); import torch;"
        "from electra_ds.training.optimizers import build_optimizer;"
        "print(type(build_optimizer(torch.nn.Linear(2, 2), 'deepspeed')).__name__)"
    )
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=600)
    assert "DeepSpeedCPUAdam" in done.stdout, done.stderr
    assert not (copy / "lock").exists()


def options(shards, output, **changes):
    common = {"training__steps": STEPS, "training__precision": "float32"}
    return ["pretrain", *pretrain_options(shards, output, **{**common, **changes})]


def opened(run):
    path = list_checkpoints(run / "checkpoints")[-1]
    return ZeroPieces(path, read_state(path)[0])


@needs_compiler
@pytest.mark.ranks
@pytest.mark.parametrize(
    ("stage", "precision"), [(stage, "bf16") for stage in ("zero0", "zero1", "zero2", "zero3")] + [("zero0", "float32")]
)
def test_deepspeeds_own_resumes_bit_for_bit_at_every_stage(tiny_shards, tmp_path, stage, precision):
    common = {"deepspeed": stage, "training__precision": precision, "kernels__optimizer": "deepspeed"}
    run_ranks(2, options(tiny_shards, tmp_path / "whole", **common))
    run_ranks(2, options(tiny_shards, tmp_path / "cut", **common, training__stop_after=33))
    run_ranks(2, options(tiny_shards, tmp_path / "cut", **common))
    left, right = opened(tmp_path / "whole"), opened(tmp_path / "cut")
    assert left.updates == right.updates == STEPS
    for name, kind in itertools.product(left.shapes, KINDS):
        assert torch.equal(left.read(name, kind), right.read(name, kind)), (name, kind)


@needs_compiler
@pytest.mark.ranks
@pytest.mark.parametrize(
    ("before", "after", "stage"),
    [
        ("torch", "deepspeed", "zero0"),
        ("deepspeed", "torch", "zero0"),
        ("deepspeed", "torch", "zero1"),
        ("torch", "deepspeed", "zero3"),
    ],
)
def test_one_goes_on_from_the_others_checkpoint(tiny_shards, tmp_path, before, after, stage):
    common = {"deepspeed": stage, "training__steps": 12}
    run_ranks(2, options(tiny_shards, tmp_path / "whole", **common))
    changed = tmp_path / "changed"
    run_ranks(2, options(tiny_shards, changed, **common, training__stop_after=6, kernels__optimizer=before))
    run_ranks(2, options(tiny_shards, changed, **common, kernels__optimizer=after))
    ours, theirs = ([line["loss"] for line in metrics(run)] for run in (changed, tmp_path / "whole"))
    for mine, other in zip(ours, theirs, strict=True):
        # Their steps differ by a share (BETA2_SHARE), and so does, to first order, what the loss fell by.
        assert mine == pytest.approx(other, rel=2e-6, abs=BETA2_SHARE * (theirs[0] - other))
    left, right = opened(tmp_path / "whole"), opened(changed)
    assert left.updates == right.updates == 12
