"""Projection to the vocabulary, cross-entropy and sample without logits in memory.

Forward, two kernels. The first multiplies one tile of positions by one tile of the vocabulary and keeps, of each group
of 64 logits, the greatest and the sum of exponentials below it: 8 bytes where the logits take 128 to 256 (4 to 8 more
for a temperature or `disallow_correct`, whose sums are others). The second takes one position: logarithm of the sum,
loss, and the draw. Since the draw is the inverse of a cumulative sum over groups, then over one group's 64 logits,
multiplied out again, it does not depend on the tiles, and follows `electra_ds.kernels.sampling` up to rounding.

Backward, a loop over chunks of the vocabulary: a kernel multiplies the chunk's logits out again and writes
(softmax - onehot) * weights * grad, which two matrix products turn into the gradient of hidden (summed in float32) and
the chunk's rows of the gradient of weight. The buffer, [N, chunk] in the inputs' dtype, is sized to stay in the level-2
cache. The bias' gradient comes from float32 partial sums, one row for each block of positions.

Traffic, in elements: forward reads weight once (positions are the fast axis of the grid) and hidden V / columns times
from the level-2 cache, writes and reads N * V / 64 * 8 bytes, and reads 64 E of weight for each position's draw.
Backward reads weight three times and hidden 2 V / chunk + V / columns times, reads and writes the gradient of hidden in
float32 V / chunk times and that of weight once. Products: 2 N V E floating-point operations forward, 6 N V E backward
(a third of them the logits again).

Every sum has a fixed order: deterministic.

Shape legend: N positions, E embedding size, V entries of the padded vocabulary.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, float32
from torch.autograd.function import once_differentiable
from torch.library import custom_op

from electra_ds.kernels.sampling import GROUP
from electra_ds.kernels.triton.checks import ceil_div, check_float, check_shape, next_power_of_2
from electra_ds.kernels.triton.vocabulary_kernels import chunk_gradients, finish, tile_sums
from electra_ds.kernels.vocabulary import VocabularyOutput

_BUFFER = 1 << 24
"""Elements of the backward pass' buffer: 32 MB in 16 bits."""


class Tiles(NamedTuple):
    """Launch shape of the matrix products."""

    rows: int
    """Positions of a tile; 16 at least, as tensor cores ask."""
    columns: int
    """Vocabulary entries of a tile, a multiple of 64."""
    inner: int
    """Embedding entries multiplied at a time."""
    chunk: int
    """Vocabulary entries of the backward pass' buffer, a multiple of `columns`."""
    warps: int = 4
    stages: int = 3
    """Loads in flight."""
    registers: int = 0
    """Of a thread, at most; 0 leaves the number to the assembler."""

    def options(self) -> dict[str, int]:
        """Of a launch."""
        limit = {"maxnreg": self.registers} if self.registers else {}
        return {"num_warps": self.warps, "num_stages": self.stages, **limit}


def choose_tiles(hidden: Tensor, vocabulary: int) -> Tiles:
    """Launch shape for `hidden` [N, E] and a vocabulary of that many entries."""
    count = max(len(hidden), 1)
    rows = min(max(next_power_of_2(count), 16), 128)
    if hidden.dtype == float32:
        rows, columns, inner, warps, stages, registers = min(rows, 64), 64, 32, 4, 3, 0
    else:
        columns, warps = 128, 8 if rows == 128 else 4
        # 128 registers let two programs of 8 warps share a multiprocessor, one's exponentials under the other's
        # products. Tensor cores that read shared memory (Hopper on) leave room for longer loads.
        registers = 128 if warps == 8 else 0
        inner, stages = (64, 3) if _capability(hidden) in (9, 10) else (32, 4)
    chunk = max(_BUFFER // count // columns, 8) * columns
    return Tiles(rows, columns, inner, min(chunk, ceil_div(vocabulary, columns) * columns), warps, stages, registers)


def _capability(hidden: Tensor) -> int:
    """Major compute capability of the device, 0 for a CPU."""
    return torch.cuda.get_device_capability(hidden.device)[0] if hidden.is_cuda else 0


def _precision() -> str:
    """How float32 products are done: as torch's own are set to."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@custom_op("electra_ds::vocabulary_head", mutates_args=())
def _operation(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, weights: Tensor, uniforms: Tensor,
    vocab_size: int, temperature: float, disallow_correct: bool, tiles: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Loss, samples, correct, float32 [N] logarithms of the sums of exponentials, and losses; no tiles: as chosen."""
    shape = Tiles(*tiles) if tiles else choose_tiles(hidden, len(weight))
    count, width = hidden.shape
    groups = ceil_div(vocab_size, GROUP)
    maxima, sums = hidden.new_empty((2, count, groups), dtype=float32)
    draw_maxima = torch.empty_like(maxima) if disallow_correct else maxima
    draw_sums = torch.empty_like(sums) if disallow_correct or temperature != 1.0 else sums
    # A target outside the vocabulary stays NaN, and so does the loss.
    target_logits = hidden.new_full((count,), torch.nan, dtype=float32)
    losses, log_sums = (hidden.new_empty((count,), dtype=float32) for _ in range(2))
    samples, correct = torch.empty_like(targets), hidden.new_empty((count,), dtype=torch.bool)
    if count:
        tile_sums[(ceil_div(count, shape.rows), ceil_div(vocab_size, shape.columns))](
            hidden, weight, bias, targets, maxima, sums, draw_maxima, draw_sums, target_logits,
            count, vocab_size, groups, temperature,
            WIDTH=width, ROWS=shape.rows, COLUMNS=shape.columns, INNER=shape.inner, GROUP=GROUP,
            TEMPERED=temperature != 1.0, DISALLOW=disallow_correct, PRECISION=_precision(),
            **shape.options(),
        )  # fmt: skip
        finish[(count,)](
            hidden, weight, bias, targets, weights, uniforms, maxima, sums, draw_maxima, draw_sums, target_logits,
            losses, log_sums, samples, correct, vocab_size, groups, temperature,
            WIDTH=width, INNER=min(next_power_of_2(width), 128), GROUP=GROUP, GROUPS=next_power_of_2(groups),
            DISALLOW=disallow_correct, num_warps=4,
        )  # fmt: skip
    return losses.sum(), samples, correct, log_sums, losses


@custom_op("electra_ds::vocabulary_head_backward", mutates_args=())
def _operation_backward(
    grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, weights: Tensor, log_sums: Tensor,
    vocab_size: int, tiles: list[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of hidden, weight and bias, each in its dtype."""
    grad_weight = torch.empty_like(weight)
    saved = (hidden, weight, bias, targets, weights, log_sums)
    grad_hidden, grad_bias = _gradients(grad_weight, False, grad, saved, vocab_size, tiles)
    return grad_hidden, grad_weight, grad_bias


def _gradients(
    grad_weight: Tensor, adds: bool, grad: Tensor, saved: tuple[Tensor, ...], vocab_size: int, tiles: list[int]
) -> tuple[Tensor, Tensor]:
    """Write weight's gradient into a buffer, or add it; returns those of hidden and bias, each in its dtype.

    Args:
        grad_weight: [V, E], the buffer.
        adds: to what it holds.
        grad: scalar, of the loss.
        saved: hidden, weight, bias, targets, weights, and the logarithms of the sums of exponentials.
        vocab_size: entries of the vocabulary.
        tiles: launch shape; none: as chosen.
    """
    hidden, weight, bias, targets, weights, log_sums = saved
    shape = Tiles(*tiles) if tiles else choose_tiles(hidden, len(weight))
    count, width = hidden.shape
    blocks = ceil_div(count, shape.rows)
    buffer = hidden.new_empty((count, shape.chunk))
    partial = hidden.new_zeros((blocks, len(weight)), dtype=float32)
    grad_hidden = hidden.new_zeros((count, width), dtype=float32)
    for first in range(0, len(weight), shape.chunk):
        part, into = (matrix[first : first + shape.chunk] for matrix in (weight, grad_weight))
        if not count or first >= vocab_size:
            if not adds:
                into.zero_()
            continue
        chunk_gradients[(blocks, ceil_div(len(part), shape.columns))](
            grad, hidden, weight, bias, targets, weights, log_sums, buffer, partial,
            count, vocab_size, len(weight), first, shape.chunk,
            WIDTH=width, ROWS=shape.rows, COLUMNS=shape.columns, INNER=shape.inner, PRECISION=_precision(),
            **shape.options(),
        )  # fmt: skip
        gradients = buffer[:, : len(part)]
        _add_product(grad_hidden, gradients, part)
        if adds:
            into.addmm_(gradients.t(), hidden)
        else:
            torch.mm(gradients.t(), hidden, out=into)
    return grad_hidden.to(hidden.dtype), partial.sum(0).to(bias.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product to a float32 sum, which torch does for 16-bit factors on GPUs only."""
    if left.dtype == float32:
        total.addmm_(left, right)
    elif left.is_cuda:
        total += torch.mm(left, right, out_dtype=float32)  # addmm takes a sum of another type in some releases only
    else:
        total.addmm_(left.float(), right.float())


@_operation.register_fake
def _(hidden, weight, bias, targets, weights, uniforms, vocab_size, temperature, disallow_correct, tiles):
    count = len(hidden)
    return (
        hidden.new_empty((), dtype=float32),
        torch.empty_like(targets),
        hidden.new_empty((count,), dtype=torch.bool),
        hidden.new_empty((count,), dtype=float32),
        hidden.new_empty((count,), dtype=float32),
    )


@_operation_backward.register_fake
def _(grad, hidden, weight, bias, targets, weights, log_sums, vocab_size, tiles):
    return hidden.new_empty(hidden.shape), torch.empty_like(weight), torch.empty_like(bias)


def _save(ctx, inputs, output) -> None:
    hidden, weight, bias, targets, weights, _, ctx.vocab_size, _, _, ctx.tiles = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(hidden, weight, bias, targets, weights, output[3])


def _differentiate(ctx, grad, *_):
    if grad is None:
        return (None,) * 10
    gradients = _operation_backward(grad, *ctx.saved_tensors, ctx.vocab_size, ctx.tiles)
    return *gradients, *(None,) * 7


_operation.register_autograd(_differentiate, setup_context=_save)


class _HandingOn(torch.autograd.Function):
    """The operation for an embedding matrix that goes on to its next use (`kernels.embedding`)."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, weights, uniforms, vocab_size, temperature, disallow_correct):
        ctx.set_materialize_grads(False)
        inputs = (hidden, weight, bias, targets, weights, uniforms)
        output = _operation(*inputs, vocab_size, temperature, disallow_correct, [])
        loss, samples, correct, log_sums, losses = output
        ctx.vocab_size = vocab_size
        ctx.save_for_backward(hidden, weight, bias, targets, weights, log_sums)
        ctx.mark_non_differentiable(samples, correct, losses)
        return loss, samples, correct, weight.view_as(weight), losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, samples, correct, handed_on, losses):
        rest = (None,) * 6
        if grad is None:
            return None, handed_on, None, *rest
        if handed_on is None or handed_on.dtype != ctx.saved_tensors[1].dtype:
            grad_hidden, grad_weight, grad_bias = _operation_backward(grad, *ctx.saved_tensors, ctx.vocab_size, [])
            return grad_hidden, grad_weight if handed_on is None else handed_on + grad_weight, grad_bias, *rest
        # Nobody else has the buffer that was handed on: later uses of the matrix made it.
        grad_hidden, grad_bias = _gradients(handed_on, True, grad, ctx.saved_tensors, ctx.vocab_size, [])
        return grad_hidden, handed_on, grad_bias, *rest


def vocabulary_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    weights: Tensor,
    uniforms: Tensor,
    vocab_size: int,
    temperature: float = 1.0,
    disallow_correct: bool = False,
    hands_on: bool = False,
    _tiles: Tiles | None = None,
) -> VocabularyOutput:
    """Project onto the vocabulary, compare with the targets, and draw a token; no logits reach memory.

    Args:
        hidden: [N, E], float32, bfloat16 or float16. Under autocast, hidden and weight are cast to its dtype, as a
            linear layer's are.
        weight: [V, E] in the dtype of `hidden`.
        bias: [V], float32, bfloat16 or float16.
        targets: int64 [N], each below `vocab_size` (another one makes the loss NaN or infinite).
        weights: float32 [N]. Where it is 0 the gradient is 0; a loss that is not finite makes the sum NaN all the same.
        uniforms: float32 [N] in [0, 1).
        vocab_size: entries of the vocabulary, at most V.
        temperature: above 0.
        disallow_correct: never draw the target.
        hands_on: return the matrix for its next use too, whose gradient this use's is then added to in place.
        _tiles: launch shape, for tests; not with `hands_on`.

    Logits are summed in float32 and rounded once, to the dtype of `hidden`, as a linear layer of that dtype rounds
    them; everything after is float32. Float32 products follow `torch.set_float32_matmul_precision`.

    Returns:
        Loss, samples, correct, losses, and the matrix, as `electra_ds.kernels.vocabulary` has them. Deterministic,
        gradients included.

    Raises:
        ValueError: a dtype, a shape or a number is not as said.
    """
    kind, matrix = hidden.device.type, weight
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    _check(hidden, weight, bias, targets, weights, uniforms)
    if not 0 < vocab_size <= len(weight):
        raise ValueError(f"vocab_size: {vocab_size}; expected 1 to the {len(weight)} rows of weight")
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature}; expected above 0")
    inputs = [value.contiguous() for value in (hidden, weight, bias, targets, weights, uniforms)]
    if hands_on and weight is matrix:
        return VocabularyOutput(*_HandingOn.apply(*inputs, vocab_size, temperature, disallow_correct))
    loss, samples, correct, _, losses = _operation(
        *inputs, vocab_size, temperature, disallow_correct, list(_tiles or ())
    )
    return VocabularyOutput(loss, samples, correct, matrix if hands_on else None, losses)


def _check(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, weights: Tensor, uniforms: Tensor) -> None:
    """Refuse tensors that `vocabulary_head` does not take."""
    for name, value in {"hidden": hidden, "weight": weight, "bias": bias}.items():
        check_float(name, value)
    if hidden.ndim != 2 or weight.ndim != 2 or not hidden.shape[1]:
        raise ValueError(
            f"hidden: shape {tuple(hidden.shape)}, weight: shape {tuple(weight.shape)}; expected [N, E] and [V, E]: "
            "flatten the positions"
        )
    count, width = hidden.shape
    check_shape("weight", weight, (len(weight), width), hidden)
    if weight.dtype != hidden.dtype:
        raise ValueError(f"weight: dtype {weight.dtype}; expected that of hidden, {hidden.dtype}: cast one of them")
    check_shape("bias", bias, (len(weight),), hidden)
    rest = (("targets", targets, torch.int64), ("weights", weights, float32), ("uniforms", uniforms, float32))
    for name, value, dtype in rest:
        check_shape(name, value, (count,), hidden)
        if value.dtype != dtype:
            raise ValueError(f"{name}: dtype {value.dtype}; expected {dtype}: cast it")
