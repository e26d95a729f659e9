"""GELU(hidden + bias), exact, in one pass each way.

Traffic per element, of 2 bytes each in bfloat16: forward reads 1 and writes 1; backward reads 2 and writes 1. The
backward pass computes the sum and the error function again from hidden and bias, so the sum is never written.

The bias' gradient is summed over rows in registers and written as float32 partial sums, at most `_PROGRAMS` tiles of
them, which torch adds up: deterministic.

Shape legend: F features.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, float32
from torch.library import custom_op

from electra_ds.kernels.triton.checks import ceil_div, check_float, check_shape, next_power_of_2

_TILE = 2048
"""Elements: 16 a thread, two 16-byte loads of 16-bit values in flight."""
_PROGRAMS = 1024
_INVERSE_ROOT_2 = tl.constexpr(0.7071067811865476)
_INVERSE_ROOT_2_PI = tl.constexpr(0.3989422804014327)


@triton.jit
def gelu(value):
    """GELU of float32 values: x * Phi(x)."""
    return 0.5 * value * (1.0 + tl.math.erf(value * _INVERSE_ROOT_2))


@triton.jit
def gelu_slope(value):
    """Its derivative: Phi(x) + x * phi(x)."""
    density = tl.exp(-0.5 * value * value) * _INVERSE_ROOT_2_PI
    # Where the density is 0 an infinite x would make a NaN of it.
    tail = tl.where(density > 0.0, value * density, density)
    return 0.5 * (1.0 + tl.math.erf(value * _INVERSE_ROOT_2)) + tail


@triton.jit
def _forward(
    hidden, bias, output, rows,
    FEATURES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    feature = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (feature < FEATURES)[None, :]
    at = row.to(tl.int64)[:, None] * FEATURES + feature[None, :]
    value = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + feature, mask=feature < FEATURES, other=0.0).to(tl.float32)[None, :]
    tl.store(output + at, gelu(value).to(output.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad, hidden, bias, grad_hidden, partial, rows,
    FEATURES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    feature = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    bias_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (feature < FEATURES)[None, :]
        at = row.to(tl.int64)[:, None] * FEATURES + feature[None, :]
        upper = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            value += tl.load(bias + feature, mask=feature < FEATURES, other=0.0).to(tl.float32)[None, :]
        inner = upper * gelu_slope(value)
        tl.store(grad_hidden + at, inner.to(grad_hidden.dtype.element_ty), mask=inside)
        if HAS_BIAS:
            bias_sum += tl.where(inside, inner, 0.0)
    if HAS_BIAS:
        at = partial + tl.program_id(0).to(tl.int64) * FEATURES + feature
        tl.store(at, tl.sum(bias_sum, 0), mask=feature < FEATURES)


def _tile(features: int) -> tuple[int, int]:
    """Rows and columns of a tile: 256 columns divide most feature counts."""
    columns = min(max(next_power_of_2(features), 16), 256)
    return _TILE // columns, columns


@custom_op("electra_ds::bias_gelu", mutates_args=())
def _operation(hidden: Tensor, bias: Tensor | None) -> Tensor:
    hidden = hidden.contiguous()
    features = hidden.shape[-1]
    count = hidden.numel() // features
    output = hidden.new_empty(hidden.shape)
    rows, columns = _tile(features)
    if count:
        _forward[(ceil_div(count, rows), ceil_div(features, columns))](
            hidden, bias, output, count,
            FEATURES=features, ROWS=rows, COLUMNS=columns, HAS_BIAS=bias is not None, num_warps=4,
        )  # fmt: skip
    return output


@custom_op("electra_ds::bias_gelu_backward", mutates_args=())
def _operation_backward(grad: Tensor, hidden: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradients of hidden and of bias, the latter float32 (empty without one)."""
    grad, hidden = grad.contiguous(), hidden.contiguous()
    features = hidden.shape[-1]
    count = hidden.numel() // features
    rows, columns = _tile(features)
    across = ceil_div(features, columns)
    programs = ceil_div(count, rows)
    if bias is not None:
        programs = min(programs, max(_PROGRAMS // across, 1))
    grad_hidden = hidden.new_empty(hidden.shape)
    partial = hidden.new_empty((programs, 0 if bias is None else features), dtype=float32)
    if count:
        _backward[(programs, across)](
            grad, hidden, bias, grad_hidden, partial, count,
            FEATURES=features, ROWS=rows, COLUMNS=columns, HAS_BIAS=bias is not None, num_warps=4,
        )  # fmt: skip
    return grad_hidden, partial.sum(0)


@_operation.register_fake
def _(hidden, bias):
    return hidden.new_empty(hidden.shape)


@_operation_backward.register_fake
def _(grad, hidden, bias):
    features = 0 if bias is None else hidden.shape[-1]
    return hidden.new_empty(hidden.shape), hidden.new_empty((features,), dtype=float32)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad):
    hidden, bias = ctx.saved_tensors
    grad_hidden, grad_bias = _operation_backward(grad, hidden, bias)
    return grad_hidden, None if bias is None else grad_bias.to(bias.dtype)


_operation.register_autograd(_differentiate, setup_context=_save)


def bias_gelu(hidden: Tensor, bias: Tensor | None) -> Tensor:
    """Add the bias of a matrix product and apply x * Phi(x), in one kernel.

    Args:
        hidden: [..., F], float32, bfloat16 or float16.
        bias: [F] of any of these dtypes, or None.

    Returns:
        [..., F] in the dtype of `hidden`. The sum is not rounded before the GELU: backend torch rounds it to the
        dtype of the inputs. Deterministic, gradients included.

    Raises:
        ValueError: a dtype or shape is not as said.
    """
    check_float("hidden", hidden)
    if bias is not None:
        check_float("bias", bias)
        check_shape("bias", bias, (hidden.shape[-1],), hidden)
        bias = bias.contiguous()
    return _operation(hidden, bias)
