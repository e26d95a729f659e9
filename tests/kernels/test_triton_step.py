"""Whole steps with interpreted Triton kernels, under the engine, learn what the reference's do."""

import pytest

from tests.conftest import metrics, pretrain_options, run_ranks
from tests.kernels.reference import needs_triton

pytestmark = needs_triton
OPERATIONS = ("layer_norm", "gelu", "vocabulary_head", "discriminator_head")


@pytest.mark.parametrize("stage", ["zero1", "zero3"])
def test_a_run_learns_the_same_as_with_the_reference(tiny_shards, tmp_path, stage):
    """Stage 1 hands the word matrix on from use to use; stage 3 takes it apart between them."""
    lines = []
    for backend in ("torch", "triton"):
        options = {f"kernels__{operation}": backend for operation in OPERATIONS}
        options |= {"deepspeed": stage, "training__precision": "float32", "training__steps": 2, "model__dropout": 0.1}
        options |= {"training__global_batch_size": 2, "model__layers": 1, "validation__rows": 2}
        arguments = pretrain_options(tiny_shards, tmp_path / backend, **options)
        run_ranks(1, ["pretrain", *arguments], TRITON_INTERPRET="1")
        lines.append(metrics(tmp_path / backend))
    assert len(lines[0]) == len(lines[1]) == 2
    for reference, fused in zip(*lines, strict=True):
        for key in ("loss", "generator_loss", "discriminator_loss", "gradient_norm"):
            assert fused[key] == pytest.approx(reference[key], rel=1e-4), key
