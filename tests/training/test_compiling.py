"""Compiled blocks: the same numbers, one graph a network, nothing compiled again after the first step."""

import shutil
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from electra_ds.errors import UserError
from electra_ds.kernels.compiling import compile_static
from electra_ds.kernels.config import Backends, KernelsConfig
from electra_ds.model.config import ObjectiveConfig
from electra_ds.training.compiling import compile_blocks, compiles, kept_share
from tests.conftest import metrics, pretrain_options, run_ranks
from tests.model.conftest import make_batch, make_model
from tests.model.objectives.reference import batch_of, make

CPU = torch.device("cpu")


def gradients(model, batch):
    model.zero_grad()
    output = model(batch)
    output["loss"].backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("recomputes", "kept"), [(False, 1.0), (False, 0.3), (True, 1.0)])
@pytest.mark.parametrize("sharing", ["tied", "gdes"])
def test_compiled_and_not_are_the_same_step(sharing, recomputes, kept):
    objective = ObjectiveConfig(mask_fraction=0.25)
    plain, compiled = (make_model(objective, sharing=sharing, dropout=0.1).train() for _ in range(2))
    compiled.use(Backends(compiled=True))
    compiled.recompute_layers(recomputes)
    compile_blocks(compiled, kept=kept)
    batch = make_batch(objective)
    (expected, slopes), (found, own) = gradients(plain, batch), gradients(compiled, batch)
    assert torch.equal(found["samples"], expected["samples"])
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-5, atol=0)
    for name, slope in slopes.items():
        torch.testing.assert_close(own[name], slope, rtol=1e-4, atol=1e-4 * float(slope.abs().max()), msg=name)


@pytest.mark.usefixtures("fresh_compiler")
def test_a_smaller_share_keeps_fewer_bytes_for_the_backward_pass():
    objective = ObjectiveConfig(mask_fraction=0.25)
    batch, kept_bytes = make_batch(objective), []
    for kept in (1.0, 0.3):
        torch._dynamo.reset()
        model = make_model(objective, dropout=0.1).train()
        model.use(Backends(compiled=True))
        compile_blocks(model, kept=kept)
        model(batch)
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        stored = {}

        def note(tensor, own=own, stored=stored):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                stored[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = model(batch)
        kept_bytes.append(sum(stored.values()))
        del output
    assert kept_bytes[1] < 0.75 * kept_bytes[0]


def test_what_is_kept_by_default_and_where_less_is_refused():
    cuda = torch.device("cuda")
    assert kept_share(KernelsConfig(), Backends(), CPU) == 0.5
    assert kept_share(KernelsConfig(), Backends(attention="varlen"), cuda) == 1
    assert kept_share(KernelsConfig(activation_memory=0.7), Backends(), cuda, drops=False) == 0.7
    assert kept_share(KernelsConfig(activation_memory=0.7), Backends(), CPU) == 0.7
    with pytest.raises(UserError, match=r"kernels.activation_memory=0.7: on a cuda device attention draws its own"):
        kept_share(KernelsConfig(activation_memory=0.7), Backends(), cuda)
    with pytest.raises(UserError, match=r"kernels.activation_memory=0.5: kernels.attention=varlen cannot be"):
        kept_share(KernelsConfig(activation_memory=0.5), Backends(attention="varlen"), cuda)
    with pytest.raises(ValueError, match=r"kernels.activation_memory=1.5: must lie in \[0, 1\]"):
        KernelsConfig(activation_memory=1.5)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_electric_is_the_same_step():
    """Its towers' layers take another mask, its verdicts are shifted, and its vocabulary head runs everywhere."""
    objective = ObjectiveConfig(name="electric")
    plain, compiled = (make(objective, dropout=0.1).float() for _ in range(2))
    compiled.use(Backends(compiled=True))
    compile_blocks(compiled)
    batch = batch_of(objective, rows=2, length=48)
    (expected, slopes), (found, own) = gradients(plain, batch), gradients(compiled, batch)
    assert torch.equal(found["samples"], expected["samples"])
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-5, atol=0)
    for name, slope in slopes.items():
        torch.testing.assert_close(own[name], slope, rtol=1e-4, atol=1e-4 * float(slope.abs().max()), msg=name)


@pytest.mark.usefixtures("fresh_compiler")
def test_nothing_is_compiled_again_after_the_first_step():
    objective = ObjectiveConfig(mask_fraction=0.25)
    model = make_model(objective, layers=3, dropout=0.1).train()
    model.use(Backends(compiled=True))
    compile_blocks(model)
    gradients(model, make_batch(objective))
    graphs = counters["stats"]["unique_graphs"]
    # A layer of each network, the discriminator's head, and two passes over the vocabulary.
    assert graphs == 5
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(1, 4):
            gradients(model, make_batch(objective, seed=seed))
    model.eval()
    with torch.no_grad():  # other shapes, as in validation, run as written
        model(make_batch(objective, rows=2))
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.ranks
@pytest.mark.parametrize("stage", ["zero1", "zero3"])
def test_a_run_of_two_ranks_compiles_and_resumes_bit_for_bit(tiny_shards, tmp_path, stage):
    options = {"deepspeed": stage, "kernels__compile": "true", "model__dropout": 0.1, "training__steps": 8}
    whole = pretrain_options(tiny_shards, tmp_path / "whole", **options)
    cut = pretrain_options(tiny_shards, tmp_path / "cut", **options)
    run_ranks(2, ["pretrain", *whole])
    run_ranks(2, ["pretrain", *cut, "--training.stop_after=5"])
    run_ranks(2, ["pretrain", *cut])
    keys = ("step", "loss", "gradient_norm", "discriminator_auc")
    lines = [[tuple(line[key] for key in keys) for line in metrics(tmp_path / name)] for name in ("whole", "cut")]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 8


def test_without_a_compiler_blocks_run_as_written_unless_it_was_asked_for(monkeypatch, tmp_path):
    assert compiles(None, CPU) == bool(shutil.which("g++"))
    assert compiles(False, CPU) is False
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiles(None, CPU) is False
    with pytest.raises(UserError, match=r"kernels.compile=true cannot run here: no C\+\+ compiler"):
        compiles(True, CPU)
    Path(tmp_path / "g++").touch(mode=0o755)
    assert compiles(True, CPU) is True


def test_graphs_that_cannot_be_recorded_are_refused_with_every_reason(tiny_shards, tmp_path):
    options = {"kernels__cuda_graphs": "true", "kernels__activation_checkpointing": "true", "deepspeed": "zero3"}
    arguments = pretrain_options(tiny_shards, tmp_path / "run", training__micro_batch_size=2, **options)
    done = run_ranks(1, ["pretrain", *arguments], check=False)
    assert done.returncode == 2
    for reason in ("training.device is cpu", "ZeRO stage 3", "cannot be accumulated", "activation_checkpointing"):
        assert reason in done.stdout


@pytest.mark.usefixtures("fresh_compiler")
def test_more_shapes_than_the_compilers_own_limit_are_taken():
    """Phases of several row lengths share a layer's code; the ninth shape would otherwise end the run."""
    double = compile_static(lambda values: 2 * values)
    for length in range(2, 12):
        assert torch.equal(double(torch.ones(length)), torch.full((length,), 2.0))
    assert counters["stats"]["unique_graphs"] == 10
