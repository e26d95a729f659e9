"""What the interpreter and the CPU cannot show, on a GPU: compiled kernels, packed attention, graphs, no waiting.

The cases and bounds are those of the tests beside this one.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from electra_ds.distributed import Place, _free_port
from electra_ds.kernels.attention import attention, attention_layout, count_segments, segment_slots
from electra_ds.kernels.limits import interprets
from electra_ds.model.config import ObjectiveConfig
from tests.conftest import environment, pretrain_options
from tests.kernels import (
    test_attention,
    test_embedding,
    test_triton_discriminator,
    test_triton_gelu,
    test_triton_layer_norm,
    test_triton_vocabulary,
)
from tests.kernels.reference import ROOT, on_gpu
from tests.model.conftest import make_batch, make_model, packed_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available() or interprets(), reason="needs a GPU")
ONE = torch.tensor(1.0)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Matrix products summed in float32 throughout, as the bounds have them."""
    for name in ("allow_tf32", "allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction"):
        monkeypatch.setattr(torch.backends.cuda.matmul, name, False)


@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 5, 48), (2, 3, 768), (2, 1, 1500), (8, 128, 256), (1, 2, 4096)])
@pytest.mark.parametrize(("bias", "probability"), [(True, 0.1), (False, 0.0)])
def test_layer_norm(shape, dtype, bias, probability):
    case, grad = test_triton_layer_norm.make(shape, dtype, bias, probability)
    result = on_gpu("dropout_add_layer_norm", {"output": grad}, **case)
    test_triton_layer_norm.compare(case, grad, result)
    again = on_gpu("dropout_add_layer_norm", {"output": grad}, **case)
    assert all(torch.equal(result[name], again[name]) for name in result)


@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 3, 48), (5, 300), (2, 9, 257), (64, 1024)])
def test_gelu(shape, dtype):
    case, grad = test_triton_gelu.make(shape, dtype)
    test_triton_gelu.compare(case, grad, on_gpu("bias_gelu", {"output": grad}, **case))


@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 5, 48), (2, 3, 768), (1, 2, 1500)])
def test_discriminator_loss(shape, dtype):
    case = test_triton_discriminator.make(shape, dtype)
    test_triton_discriminator.compare(case, on_gpu("discriminator_loss", {"loss": ONE}, **case))


@dtypes
@pytest.mark.parametrize(
    ("count", "width", "vocabulary", "vocab_size"),
    [(1, 16, 64, 64), (5, 40, 100, 91), (17, 48, 320, 300), (20, 128, 192, 192), (130, 64, 2000, 1990)],
)
def test_vocabulary_head(count, width, vocabulary, vocab_size, dtype):
    case = test_triton_vocabulary.make(count, width, vocabulary, vocab_size, dtype, seed=width)
    result = on_gpu("vocabulary_head", {"loss": ONE}, **case)
    test_triton_vocabulary.compare(case, result)
    assert test_triton_vocabulary.draws_agree(case, result["samples"]) >= 0.9 * count


PACKED = [
    "varlen",
    pytest.param("flash_attn", marks=pytest.mark.skipif(not importlib.util.find_spec("flash_attn"), reason="absent")),
]


def packed(backend, projected, segments, probability=0.0):
    """Attention by a kernel for packed segments, with room for more than there are."""
    slots = segment_slots(int(count_segments(segments).sum()))
    layout = attention_layout(segments.cuda(), projected.dtype, backend, slots)
    keys = torch.zeros(len(segments), 2, dtype=torch.int32, device="cuda")
    return attention(projected, layout, probability, keys if probability else None, backend)


@pytest.mark.parametrize("backend", PACKED)
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("features", [32, 64])
def test_packed_attention_is_each_segment_on_its_own(backend, dtype, features):
    torch.manual_seed(features)
    segments = packed_rows(rows=3, length=96)[1]
    projected = torch.randn(3, 96, 3, 2, features, device="cuda").to(dtype).requires_grad_()
    exact = projected.detach().cpu().double().requires_grad_()
    ours, theirs = packed(backend, projected, segments), test_attention.segment_by_segment(exact, segments)
    gradient = torch.randn(theirs.shape).to(dtype)
    (found,) = torch.autograd.grad(ours, projected, gradient.cuda())
    (expected,) = torch.autograd.grad(theirs, exact, gradient.double())
    # A handful of roundings to 16 bits (probabilities, their slopes, the output): half a percent of the whole.
    for actual, reference in ((ours, theirs), (found, expected)):
        error = (actual.detach().cpu().double() - reference).norm() / reference.norm()
        assert error < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("backend", PACKED)
def test_packed_attention_drops_and_scales_what_it_keeps(backend):
    segments = packed_rows(rows=8, length=96)[1]
    projected = torch.randn(8, 96, 3, 2, 64, device="cuda").bfloat16()
    projected[:, :, 2] = 1.0
    projected.requires_grad_()
    output = packed(backend, projected, segments, 0.25)
    assert output.std() > 0.05 and abs(output.float().mean() - 1) < 0.02
    output.sum().backward()
    assert projected.grad.isfinite().all()


@dtypes
def test_look_ups_sum_in_float32(dtype):
    """As on a CPU: thousands of [MASK]s, after another use and before one."""
    many = (torch.full((5000,), 7, device="cuda"), torch.ones(5000, 64, dtype=dtype, device="cuda"))
    other = (torch.tensor([7, 2, test_embedding.PADDING], device="cuda"), torch.ones(3, 64, dtype=dtype, device="cuda"))
    weight = torch.zeros(10, 64, dtype=dtype, device="cuda", requires_grad=True)
    for uses in ([many, other], [other, many]):
        found = test_embedding.gradient_of_uses(weight, uses).cpu().float()
        torch.testing.assert_close(found[7], torch.full((64,), 5001.0), rtol=torch.finfo(dtype).eps, atol=0)
        assert (found[2] == 1).all() and found.count_nonzero() == 128
        assert torch.equal(found, test_embedding.gradient_of_uses(weight, uses).cpu().float())


def test_recorded_encoders_take_the_same_step_and_other_shapes_the_plain_one():
    from electra_ds.training.graphs import record_encoders

    objective, told = ObjectiveConfig(mask_fraction=0.25), []
    plain, recorded = (make_model(objective).train().cuda() for _ in range(2))

    def batch(seed, rows=3):
        made = vars(make_batch(objective, rows=rows, seed=seed))
        moved = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in made.items()}
        return dataclasses.replace(make_batch(objective, rows=rows, seed=seed), **moved)

    record_encoders(recorded, batch(0), told.append)
    for seed, rows in ((1, 3), (2, 3), (3, 2), (4, 2)):
        outputs = []
        for model in (plain, recorded):
            model.zero_grad()
            outputs.append(model(batch(seed, rows)))
            outputs[-1]["loss"].backward()
        assert torch.equal(outputs[0]["samples"], outputs[1]["samples"])
        torch.testing.assert_close(outputs[1]["loss"], outputs[0]["loss"], rtol=1e-5, atol=0)
        for (name, one), other in zip(plain.named_parameters(), recorded.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5, msg=name)
        assert len(told) == (rows != 3)


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_a_step_does_not_make_the_host_wait(tiny_shards, tmp_path, compiled):
    """In a process of its own: an engine needs a process group, and other tests have theirs."""
    command = [sys.executable, "-m", "tests.kernels.test_on_device", str(tiny_shards), str(tmp_path / "run"), compiled]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def quiet_steps(shards: str, output: str, compiled: str) -> None:
    """Steps in which torch raises an error where the host waits for the GPU; the first ones compile and take memory."""
    from electra_ds.recipe import parse_recipe
    from electra_ds.training.loop import Trainer
    from electra_ds.training.peers import Peers, start_process_group
    from electra_ds.training.watchdog import Watchdog

    device, place = torch.device("cuda", 0), Place(0, 1, 0, "127.0.0.1", _free_port(), "single")
    torch.cuda.set_device(device)
    start_process_group(place, device, 60.0)
    options = {"training__precision": "bf16", "deepspeed": "zero1", "model__dropout": 0.1, "kernels__compile": compiled}
    recipe = parse_recipe(pretrain_options(Path(shards), Path(output), training__device="cuda", **options), "test")
    Path(recipe.output).mkdir(parents=True)
    trainer = Trainer(recipe, Peers(place, first_of_node=True), device, None, "life", Watchdog(0, None))
    plan = trainer.plans[0]
    prepare = trainer.supply.preparer(rows_of := trainer.supply.rows_of_step(plan, 0), device)
    rows = [prepare(step) for step in range(6)]
    rows_of.close()
    for step, prepared in enumerate(rows, 1):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if step > 3 else "default")
        trainer._step(plan, step, prepared, prepared.counts)
        torch.cuda.set_sync_debug_mode("default")


if __name__ == "__main__":
    quiet_steps(*sys.argv[1:])
