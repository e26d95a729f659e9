"""The discriminator's verdict and loss in one pass over the dense layer's product, each way.

Traffic per element, of 2 bytes each in bfloat16: forward reads 1; backward reads 1 and writes 1. GELU(hidden + bias) is
never written. Per row: forward reads label and weight (1 + 4 bytes) and writes logit and loss (4 + 4); backward reads
label, weight and logit (9).

Losses are added up by torch. The gradients of bias, weight and shift are summed over rows in the registers of at most
`_PROGRAMS` programs, which write one float32 row each, and torch adds them up: deterministic.

Shape legend: B rows of the batch, L tokens, F features.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, float32
from torch.library import custom_op

from electra_ds.kernels.discriminator import DiscriminatorOutput
from electra_ds.kernels.limits import MOST_FEATURES
from electra_ds.kernels.triton.checks import ceil_div, check_features, check_float, check_shape, whole_rows
from electra_ds.kernels.triton.gelu import gelu, gelu_slope

_PROGRAMS = 512


@triton.jit
def _summed(hidden, bias, at, feature, inside, FEATURES: tl.constexpr, HAS_BIAS: tl.constexpr):
    """A tile of hidden + bias in float32."""
    value = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + feature, mask=feature < FEATURES, other=0.0).to(tl.float32)[None, :]
    return value


@triton.jit
def _log1p(value):
    """log(1 + x) for x in [0, 1]: the logarithm of the rounded sum, times what the rounding cost (Goldberg 1991)."""
    above = 1.0 + value
    return tl.where(above == 1.0, value, tl.log(above) * (value / (above - 1.0)))


@triton.jit
def _forward(
    hidden, bias, weight, shift, replaced, weights, logits, losses, rows,
    FEATURES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    feature = tl.arange(0, COLUMNS)
    present = row < rows
    inside = present[:, None] & (feature < FEATURES)[None, :]
    at = row.to(tl.int64)[:, None] * FEATURES + feature[None, :]
    value = gelu(_summed(hidden, bias, at, feature, inside, FEATURES, HAS_BIAS))
    last = tl.load(weight + feature, mask=feature < FEATURES, other=0.0).to(tl.float32)
    logit = tl.sum(tl.where(inside, value * last[None, :], 0.0), 1) + tl.load(shift).to(tl.float32)
    label = tl.load(replaced + row, mask=present, other=0).to(tl.float32)
    # max(l, 0) - l y + log1p(exp(-|l|)); a comparison instead of max, which would lose a NaN.
    loss = tl.where(logit < 0.0, 0.0, logit) - logit * label + _log1p(tl.exp(-tl.abs(logit)))
    tl.store(logits + row, logit, mask=present)
    tl.store(losses + row, loss * tl.load(weights + row, mask=present, other=0.0), mask=present)


@triton.jit
def _backward(
    grad, hidden, bias, weight, replaced, weights, logits, grad_hidden, partial, shift_partial, rows,
    FEATURES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    feature = tl.arange(0, COLUMNS)
    last = tl.load(weight + feature, mask=feature < FEATURES, other=0.0).to(tl.float32)[None, :]
    upper = tl.load(grad).to(tl.float32)
    bias_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    weight_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    shift_sum = tl.zeros([ROWS], tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        present = row < rows
        inside = present[:, None] & (feature < FEATURES)[None, :]
        at = row.to(tl.int64)[:, None] * FEATURES + feature[None, :]
        value = _summed(hidden, bias, at, feature, inside, FEATURES, HAS_BIAS)
        logit = tl.load(logits + row, mask=present, other=0.0)
        label = tl.load(replaced + row, mask=present, other=0).to(tl.float32)
        share = upper * tl.load(weights + row, mask=present, other=0.0)
        share = tl.where(share == 0.0, 0.0, share * (1.0 / (1.0 + tl.exp(-logit)) - label))
        inner = tl.where(inside, share[:, None] * last * gelu_slope(value), 0.0)
        tl.store(grad_hidden + at, inner.to(grad_hidden.dtype.element_ty), mask=inside)
        weight_sum += tl.where(inside, share[:, None] * gelu(value), 0.0)
        shift_sum += share
        if HAS_BIAS:
            bias_sum += inner
    at = partial + tl.program_id(0).to(tl.int64) * FEATURES + feature
    tl.store(at, tl.sum(weight_sum, 0), mask=feature < FEATURES)
    if HAS_BIAS:
        stride = tl.num_programs(0).to(tl.int64) * FEATURES
        tl.store(at + stride, tl.sum(bias_sum, 0), mask=feature < FEATURES)
    tl.store(shift_partial + tl.program_id(0), tl.sum(shift_sum, 0))


@custom_op("electra_ds::discriminator_loss", mutates_args=())
def _operation(
    hidden: Tensor, bias: Tensor | None, weight: Tensor, shift: Tensor, replaced: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    features, count = hidden.shape[-1], replaced.numel()
    logits = hidden.new_empty(replaced.shape, dtype=float32)
    losses = torch.empty_like(logits)
    rows, columns, warps = whole_rows(features)
    if count:
        _forward[(ceil_div(count, rows),)](
            hidden.contiguous(), bias, weight, shift, replaced.contiguous(), weights.contiguous(), logits, losses,
            count, FEATURES=features, ROWS=rows, COLUMNS=columns, HAS_BIAS=bias is not None, num_warps=warps,
        )  # fmt: skip
    return losses.sum(), logits


@custom_op("electra_ds::discriminator_loss_backward", mutates_args=())
def _operation_backward(
    grad: Tensor, hidden: Tensor, bias: Tensor | None, weight: Tensor, replaced: Tensor, weights: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of hidden, and float32 gradients [1 or 2, F] of weight (and bias) and [1] of shift."""
    features, count = hidden.shape[-1], replaced.numel()
    rows, columns, warps = whole_rows(features)
    programs = min(ceil_div(count, rows), _PROGRAMS)
    grad_hidden = hidden.new_empty(hidden.shape)
    partial = hidden.new_empty((1 if bias is None else 2, programs, features), dtype=float32)
    shift_partial = hidden.new_empty((1, programs), dtype=float32)
    if count:
        _backward[(programs,)](
            grad, hidden.contiguous(), bias, weight, replaced.contiguous(), weights.contiguous(), logits,
            grad_hidden, partial, shift_partial, count,
            FEATURES=features, ROWS=rows, COLUMNS=columns, HAS_BIAS=bias is not None, num_warps=warps,
        )  # fmt: skip
    return grad_hidden, partial.sum(1), shift_partial.sum(1)


@_operation.register_fake
def _(hidden, bias, weight, shift, replaced, weights):
    return hidden.new_empty((), dtype=float32), hidden.new_empty(replaced.shape, dtype=float32)


@_operation_backward.register_fake
def _(grad, hidden, bias, weight, replaced, weights, logits):
    vectors = hidden.new_empty((1 if bias is None else 2, hidden.shape[-1]), dtype=float32)
    return hidden.new_empty(hidden.shape), vectors, hidden.new_empty((1,), dtype=float32)


def _save(ctx, inputs, output) -> None:
    hidden, bias, weight, shift, replaced, weights = inputs
    ctx.shift_dtype = shift.dtype
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(hidden, bias, weight, replaced, weights, output[1])


def _differentiate(ctx, grad, _):
    if grad is None:
        return (None,) * 6
    _, bias, weight, *_ = ctx.saved_tensors
    grad_hidden, vectors, grad_shift = _operation_backward(grad, *ctx.saved_tensors)
    grad_bias = None if bias is None else vectors[1].to(bias.dtype)
    return grad_hidden, grad_bias, vectors[0].to(weight.dtype), grad_shift.to(ctx.shift_dtype), None, None


_operation.register_autograd(_differentiate, setup_context=_save)


def discriminator_loss(
    hidden: Tensor, bias: Tensor | None, weight: Tensor, shift: Tensor, replaced: Tensor, weights: Tensor
) -> DiscriminatorOutput:
    """Weighted binary cross-entropy of GELU(hidden + bias) . weight + shift, in one kernel.

    Args:
        hidden: [B, L, F], F up to 8192.
        bias: [F] or None.
        weight: [F].
        shift: [1].
        replaced: bool [B, L], the labels.
        weights: float32 [B, L], of each position in the loss. Where it is 0 the gradient is 0; a loss that is not
            finite makes the sum NaN all the same.

    Hidden, bias, weight and shift may be float32, bfloat16 or float16, each for itself. The logits are not rounded:
    backend torch rounds them to the dtype of the inputs.

    Returns:
        Loss, float32 scalar, and logits, float32 [B, L], detached. Only hidden, bias, weight and shift get gradients.
        Deterministic, gradients included.

    Raises:
        ValueError: a dtype or shape is not as said.
    """
    features = hidden.shape[-1]
    check_features(features, MOST_FEATURES["discriminator_head"])
    shapes = {"bias": (features,), "weight": (features,), "shift": (1,)}
    check_float("hidden", hidden)
    for name, value in {"bias": bias, "weight": weight, "shift": shift}.items():
        if value is not None:
            check_float(name, value)
            check_shape(name, value, shapes[name], hidden)
    for name, value, dtype in (("replaced", replaced, torch.bool), ("weights", weights, float32)):
        check_shape(name, value, tuple(hidden.shape[:-1]), hidden)
        if value.dtype != dtype:
            raise ValueError(f"{name}: dtype {value.dtype}; expected {dtype}: cast it")
    bias = None if bias is None else bias.contiguous()
    loss, logits = _operation(hidden, bias, weight.contiguous(), shift, replaced, weights)
    return DiscriminatorOutput(loss, logits.detach())
