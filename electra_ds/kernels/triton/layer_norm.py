"""LayerNorm(residual + dropout(hidden + bias)) in one pass each way.

Traffic per element, of 2 bytes each in bfloat16: forward reads 2 and writes 1; backward reads 3 and writes 2 (1 where
nothing is dropped, since both inputs then have the same gradient). Per row: 8 bytes of float32 mean and reciprocal
deviation, written once and read once, and 8 of keys. The dropout mask is never stored.

The backward pass adds hidden, bias and residual again. Saving their sum instead would move as many bytes (one write
more forward, one read less backward) and hold as many (the residual is alive anyhow, as the input of the layer's matrix
products), but would round it to the inputs' dtype first.

The gradients of bias, weight and shift are summed over rows in the registers of at most `_PROGRAMS` programs, which
write one float32 row each (12 bytes per feature and program: a hundredth of the rest from 50,000 rows on) and torch
adds them up: deterministic.

Shape legend: B rows of the batch, F features.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, float32, int32
from torch.library import custom_op

from electra_ds.kernels import dropout
from electra_ds.kernels.limits import MOST_FEATURES
from electra_ds.kernels.triton.checks import ceil_div, check_features, check_float, check_shape, whole_rows
from electra_ds.kernels.triton.hashing import keeps

_PROGRAMS = 512
"""Of the backward pass: about four on each multiprocessor, enough loads in flight to saturate the memory."""


@triton.jit
def _total(
    hidden, bias, residual, keys, row, feature, inside, length, threshold, scale,
    FEATURES: tl.constexpr, HAS_BIAS: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Pre-norm sum of a tile in float32, and which of its elements dropout keeps."""
    at = row.to(tl.int64)[:, None] * FEATURES + feature[None, :]
    value = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + feature, mask=feature < FEATURES, other=0.0).to(tl.float32)[None, :]
    kept = inside
    if DROP:
        key = keys + 2 * (row // length)
        counter = (row % length)[:, None] * FEATURES + feature[None, :]
        key_0 = tl.load(key)
        key_1 = tl.load(key + 1)
        kept = keeps(counter, key_0[:, None], key_1[:, None], threshold)
        value = tl.where(kept, value * scale, 0.0)
    return value + tl.load(residual + at, mask=inside, other=0.0).to(tl.float32), kept


@triton.jit
def _forward(
    hidden, bias, residual, weight, shift, keys, output, means, deviations, rows, length, eps, threshold, scale,
    FEATURES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present = row < rows
    row = tl.minimum(row, rows - 1)
    feature = tl.arange(0, COLUMNS)
    inside = present[:, None] & (feature < FEATURES)[None, :]
    total, _ = _total(
        hidden, bias, residual, keys, row, feature, inside, length, threshold, scale, FEATURES, HAS_BIAS, DROP
    )
    mean = tl.sum(tl.where(inside, total, 0.0), 1) / FEATURES
    centred = tl.where(inside, total - mean[:, None], 0.0)
    deviation = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / FEATURES + eps)
    scaled = tl.load(weight + feature, mask=feature < FEATURES, other=0.0).to(tl.float32)
    shifted = tl.load(shift + feature, mask=feature < FEATURES, other=0.0).to(tl.float32)
    value = centred * deviation[:, None] * scaled[None, :] + shifted[None, :]
    at = row.to(tl.int64)[:, None] * FEATURES + feature[None, :]
    tl.store(output + at, value.to(output.dtype.element_ty), mask=inside)
    tl.store(means + row, mean, mask=present)
    tl.store(deviations + row, deviation, mask=present)


@triton.jit
def _backward(
    grad, hidden, bias, residual, weight, keys, means, deviations, grad_hidden, grad_residual, partial,
    rows, length, threshold, scale,
    FEATURES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HAS_BIAS: tl.constexpr, DROP: tl.constexpr, TWO: tl.constexpr,
):  # fmt: skip
    feature = tl.arange(0, COLUMNS)
    scaled = tl.load(weight + feature, mask=feature < FEATURES, other=0.0).to(tl.float32)[None, :]
    bias_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    weight_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    shift_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        present = row < rows
        row = tl.minimum(row, rows - 1)
        inside = present[:, None] & (feature < FEATURES)[None, :]
        at = row.to(tl.int64)[:, None] * FEATURES + feature[None, :]
        upper = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        total, kept = _total(
            hidden, bias, residual, keys, row, feature, inside, length, threshold, scale, FEATURES, HAS_BIAS, DROP
        )
        deviation = tl.load(deviations + row)[:, None]
        normal = tl.where(inside, (total - tl.load(means + row)[:, None]) * deviation, 0.0)
        inner = upper * scaled
        along = tl.sum(inner * normal, 1) / FEATURES
        level = tl.sum(inner, 1) / FEATURES
        inner = (inner - level[:, None] - normal * along[:, None]) * deviation
        tl.store(grad_residual + at, inner.to(grad_residual.dtype.element_ty), mask=inside)
        if DROP:
            inner = tl.where(kept, inner * scale, 0.0)
        if TWO:
            tl.store(grad_hidden + at, inner.to(grad_hidden.dtype.element_ty), mask=inside)
        if HAS_BIAS:
            bias_sum += tl.where(inside, inner, 0.0)
        weight_sum += upper * normal
        shift_sum += upper
    program = partial + tl.program_id(0).to(tl.int64) * FEATURES + feature
    stride = tl.num_programs(0).to(tl.int64) * FEATURES
    tl.store(program, tl.sum(weight_sum, 0), mask=feature < FEATURES)
    tl.store(program + stride, tl.sum(shift_sum, 0), mask=feature < FEATURES)
    if HAS_BIAS:
        tl.store(program + 2 * stride, tl.sum(bias_sum, 0), mask=feature < FEATURES)


@custom_op("electra_ds::dropout_add_layer_norm", mutates_args=())
def _operation(
    hidden: Tensor, bias: Tensor | None, residual: Tensor, weight: Tensor, shift: Tensor, keys: Tensor | None,
    eps: float, probability: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    hidden, residual = hidden.contiguous(), residual.contiguous()
    features = hidden.shape[-1]
    count = hidden.numel() // features
    output = hidden.new_empty(hidden.shape)
    means, deviations = (hidden.new_empty(count, dtype=float32) for _ in range(2))
    rows, columns, warps = whole_rows(features)
    if count:
        _forward[(ceil_div(count, rows),)](
            hidden, bias, residual, weight, shift, keys, output, means, deviations,
            count, max(count // max(len(hidden), 1), 1), eps, *_dropping(probability),
            FEATURES=features, ROWS=rows, COLUMNS=columns, HAS_BIAS=bias is not None, DROP=keys is not None,
            num_warps=warps,
        )  # fmt: skip
    return output, means, deviations


@custom_op("electra_ds::dropout_add_layer_norm_backward", mutates_args=())
def _operation_backward(
    grad: Tensor, hidden: Tensor, bias: Tensor | None, residual: Tensor, weight: Tensor, keys: Tensor | None,
    means: Tensor, deviations: Tensor, probability: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of hidden (empty where it equals the residual's), of residual, and float32 [3, F] of the vectors."""
    grad, hidden, residual = grad.contiguous(), hidden.contiguous(), residual.contiguous()
    features, count = hidden.shape[-1], means.shape[0]
    two = _two_gradients(hidden, residual, keys)
    grad_residual = residual.new_empty(residual.shape)
    grad_hidden = hidden.new_empty(hidden.shape if two else (0,))
    rows, columns, warps = whole_rows(features)
    programs = min(ceil_div(count, rows), _PROGRAMS)
    partial = hidden.new_empty((2 if bias is None else 3, programs, features), dtype=float32)
    if count:
        _backward[(programs,)](
            grad, hidden, bias, residual, weight, keys, means, deviations,
            grad_hidden, grad_residual, partial,
            count, max(count // max(len(hidden), 1), 1), *_dropping(probability),
            FEATURES=features, ROWS=rows, COLUMNS=columns, HAS_BIAS=bias is not None, DROP=keys is not None, TWO=two,
            num_warps=warps,
        )  # fmt: skip
    return grad_hidden, grad_residual, partial.sum(1)


def _dropping(probability: float) -> tuple[int, float]:
    """Threshold of the hash and scale of what stays."""
    return dropout.threshold(probability), 1.0 / (1.0 - probability)


def _two_gradients(hidden: Tensor, residual: Tensor, keys: Tensor | None) -> bool:
    """Whether hidden's gradient differs from residual's."""
    return keys is not None or hidden.dtype != residual.dtype


@_operation.register_fake
def _(hidden, bias, residual, weight, shift, keys, eps, probability):
    count = hidden.numel() // hidden.shape[-1]
    return hidden.new_empty(hidden.shape), *(hidden.new_empty(count, dtype=float32) for _ in range(2))


@_operation_backward.register_fake
def _(grad, hidden, bias, residual, weight, keys, means, deviations, probability):
    grad_hidden = hidden.new_empty(hidden.shape if _two_gradients(hidden, residual, keys) else (0,))
    vectors = hidden.new_empty((2 if bias is None else 3, hidden.shape[-1]), dtype=float32)
    return grad_hidden, residual.new_empty(residual.shape), vectors


def _save(ctx, inputs, output) -> None:
    hidden, bias, residual, weight, shift, keys, _, ctx.probability = inputs
    ctx.shift_dtype = shift.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(hidden, bias, residual, weight, keys, output[1], output[2])


def _differentiate(ctx, grad, *_):
    if grad is None:
        return (None,) * 8
    hidden, bias, residual, weight, *_ = ctx.saved_tensors
    grad_hidden, grad_residual, vectors = _operation_backward(grad, *ctx.saved_tensors, ctx.probability)
    if not _two_gradients(hidden, residual, ctx.saved_tensors[4]):
        grad_hidden = grad_residual
    grad_bias = None if bias is None else vectors[2].to(bias.dtype)
    return (
        grad_hidden, grad_bias, grad_residual, vectors[0].to(weight.dtype), vectors[1].to(ctx.shift_dtype),
        None, None, None,
    )  # fmt: skip


_operation.register_autograd(_differentiate, setup_context=_save)


def dropout_add_layer_norm(
    hidden: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    shift: Tensor,
    eps: float,
    keys: Tensor | None,
    probability: float,
) -> Tensor:
    """Add bias, drop, add the residual, normalise over the features, in one kernel.

    Args:
        hidden: [B, ..., F], F up to 8192.
        bias: [F] or None.
        residual: the shape of `hidden`.
        weight: [F] of the LayerNorm.
        shift: [F], its bias.
        eps: added to the variance.
        keys: int32 [B, 2]; None drops nothing. The mask is that of `dropout.keep_mask`, bit for bit.
        probability: of being dropped.

    Each tensor may be float32, bfloat16 or float16, whatever the others are. Nothing is rounded before the output is:
    backend torch rounds after each step.

    Returns:
        [B, ..., F] in the dtype of `hidden`. Deterministic, gradients included.

    Raises:
        ValueError: a dtype or shape is not as said, or `probability` is not in [0, 1).
    """
    features = hidden.shape[-1]
    check_features(features, MOST_FEATURES["layer_norm"])
    check_float("hidden", hidden)
    vectors = {"bias": bias, "weight": weight, "shift": shift}
    for name, vector in vectors.items():
        if vector is not None:
            check_float(name, vector)
            check_shape(name, vector, (features,), hidden)
    check_float("residual", residual)
    check_shape("residual", residual, tuple(hidden.shape), hidden)
    if not 0.0 <= probability < 1.0:
        raise ValueError(f"probability: {probability}; of being dropped, expected 0 to below 1")
    if keys is not None and probability:
        if keys.dtype != int32:
            raise ValueError(f"keys: dtype {keys.dtype}; the hash is over int32: cast them")
        check_shape("keys", keys, (hidden.shape[0], 2), hidden)
        keys = keys.contiguous()
    else:
        keys, probability = None, 0.0
    bias = None if bias is None else bias.contiguous()
    return _operation(hidden, bias, residual, weight.contiguous(), shift.contiguous(), keys, eps, probability)[0]
