"""The kernels of `electra_ds.kernels.triton.vocabulary`."""

# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile_logits(
    hidden, weight, bias, row, column, rows, vocab_size,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
    ROUND: tl.constexpr,
):  # fmt: skip
    """Logits of a tile, float32 [ROWS, COLUMNS]; -inf from `vocab_size` on, 0 or a bias in rows that are not there."""
    inner = tl.arange(0, INNER)
    left = hidden + row.to(tl.int64)[:, None] * WIDTH + inner[None, :]
    right = weight + column.to(tl.int64)[None, :] * WIDTH + inner[:, None]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, WIDTH, INNER):
        there = inner < WIDTH - start
        total = tl.dot(
            tl.load(left + start, mask=(row < rows)[:, None] & there[None, :], other=0.0),
            tl.load(right + start, mask=(column < vocab_size)[None, :] & there[:, None], other=0.0),
            total,
            input_precision=PRECISION,
        )
    total += tl.load(bias + column, mask=column < vocab_size, other=0.0).to(tl.float32)[None, :]
    if ROUND:
        total = total.to(hidden.dtype.element_ty).to(tl.float32)
    return tl.where((column < vocab_size)[None, :], total, float("-inf"))


@triton.jit
def _group_sums(logits, temperature, TEMPERED: tl.constexpr):
    """Greatest of each group of the last axis, and sum of exp((logit - greatest) / temperature).

    A group of -inf alone sums to 0; a NaN or +inf makes the sum NaN, also where the maximum passes over it.
    """
    greatest = tl.max(logits, 2)
    below = logits - tl.where(greatest == float("-inf"), 0.0, greatest)[:, :, None]
    if TEMPERED:
        below = below / temperature
    return greatest, tl.sum(tl.exp(below), 2)


@triton.jit
def tile_sums(
    hidden, weight, bias, targets, maxima, sums, draw_maxima, draw_sums, target_logits,
    rows, vocab_size, groups, temperature,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr,
    TEMPERED: tl.constexpr, DISALLOW: tl.constexpr, PRECISION: tl.constexpr, ROUND: tl.constexpr = True,
):  # fmt: skip
    """Sums of one tile's groups, and the logits of the targets that lie in it.

    Reads hidden [rows, WIDTH], weight [>= vocab_size, WIDTH], bias [>= vocab_size] and targets, int64 [rows]. Writes
    float32: maxima and sums [rows, groups]; draw_maxima and draw_sums, their like for the draw, where DISALLOW and
    TEMPERED make them differ; target_logits [rows] where the target is in this tile. ROUND rounds the logits to the
    dtype of hidden.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    logits = _tile_logits(
        hidden, weight, bias, row, column, rows, vocab_size, WIDTH, ROWS, COLUMNS, INNER, PRECISION, ROUND
    )
    present = row < rows
    target = tl.load(targets + row, mask=present, other=-1)
    at_target = column[None, :] == target[:, None]
    target_logit = tl.sum(tl.where(at_target, logits, 0.0), 1)
    tl.store(target_logits + row, target_logit, mask=present & (target >= first) & (target < first + COLUMNS))

    group = first // GROUP + tl.arange(0, COLUMNS // GROUP)
    at = row.to(tl.int64)[:, None] * groups + group[None, :]
    inside = present[:, None] & (group < groups)[None, :]
    grouped = tl.reshape(logits, [ROWS, COLUMNS // GROUP, GROUP])
    greatest, total = _group_sums(grouped, temperature, False)
    tl.store(maxima + at, greatest, mask=inside)
    tl.store(sums + at, total, mask=inside)
    if DISALLOW or TEMPERED:
        if DISALLOW:
            allowed = tl.where(at_target, float("-inf"), logits)
            grouped = tl.reshape(allowed, [ROWS, COLUMNS // GROUP, GROUP])
        greatest, total = _group_sums(grouped, temperature, TEMPERED)
        if DISALLOW:
            tl.store(draw_maxima + at, greatest, mask=inside)
        tl.store(draw_sums + at, total, mask=inside)


@triton.jit
def _first_above(cumulative, share, threshold, index, COUNT: tl.constexpr):
    """First index whose cumulative sum is above the threshold, at most the last with any share.

    Entries without a share are passed over by name: a parallel running sum may step up between two of them by rounding.
    """
    above = tl.min(tl.where((cumulative > threshold) & (share > 0.0), index, COUNT), 0)
    return tl.minimum(above, tl.max(tl.where(share > 0.0, index, 0), 0))


@triton.jit
def finish(
    hidden, weight, bias, targets, weights, uniforms, maxima, sums, draw_maxima, draw_sums, target_logits,
    losses, log_sums, samples, correct, vocab_size, groups, temperature,
    WIDTH: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, DISALLOW: tl.constexpr,
    ROUND: tl.constexpr = True,
):  # fmt: skip
    """One position's loss and draw from the sums of its groups.

    Reads what `tile_sums` wrote, and float32 weights and uniforms [rows]. Writes float32 losses (weighted) and log_sums
    (logarithms of the sums of exponentials) [rows], int64 samples [rows] and bool correct [rows].
    """
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUPS)
    there = group < groups
    at = row * groups + group
    maximum = tl.load(maxima + at, mask=there, other=float("-inf"))
    greatest = tl.max(maximum, 0)
    origin = tl.where(greatest == float("-inf"), 0.0, greatest)
    log_sum = origin + tl.log(tl.sum(tl.load(sums + at, mask=there, other=0.0) * tl.exp(maximum - origin), 0))
    target = tl.load(targets + row)
    target_logit = tl.load(target_logits + row)
    tl.store(log_sums + row, log_sum)
    tl.store(losses + row, (log_sum - target_logit) * tl.load(weights + row))
    tl.store(correct + row, target_logit >= greatest)

    maximum = tl.load(draw_maxima + at, mask=there, other=float("-inf"))
    greatest = tl.max(maximum, 0)
    origin = tl.where(greatest == float("-inf"), 0.0, greatest)
    share = tl.load(draw_sums + at, mask=there, other=0.0) * tl.exp((maximum - origin) / temperature)
    upto = tl.cumsum(share, 0)
    threshold = tl.load(uniforms + row) * tl.sum(tl.where(group == GROUPS - 1, upto, 0.0), 0)
    drawn = _first_above(upto, share, threshold, group, GROUPS)
    chosen = tl.sum(tl.where(group == drawn, share, 0.0), 0)
    before = tl.sum(tl.where(group == drawn, upto, 0.0), 0) - chosen

    column = drawn * GROUP + tl.arange(0, GROUP)
    logits = _group_logits(hidden, weight, bias, row, column, vocab_size, WIDTH, INNER, GROUP, ROUND)
    if DISALLOW:
        logits = tl.where(column == target, float("-inf"), logits)
    greatest = tl.max(logits, 0)
    share = tl.exp((logits - tl.where(greatest == float("-inf"), 0.0, greatest)) / temperature)
    entry = tl.arange(0, GROUP)
    upto = tl.cumsum(share, 0)
    # As a fraction of the group: the logits may be rounded otherwise than in the first kernel, and the whole group is
    # kept in range whatever the rounding of `before`.
    threshold = tl.maximum((threshold - before) / chosen, 0.0) * tl.sum(tl.where(entry == GROUP - 1, upto, 0.0), 0)
    tl.store(samples + row, drawn.to(tl.int64) * GROUP + _first_above(upto, share, threshold, entry, GROUP))


@triton.jit
def _group_logits(
    hidden, weight, bias, row, column, vocab_size,
    WIDTH: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """Float32 logits [GROUP] of one position."""
    inner = tl.arange(0, INNER)
    right = weight + column.to(tl.int64)[:, None] * WIDTH + inner[None, :]
    total = tl.zeros([GROUP], tl.float32)
    for start in range(0, WIDTH, INNER):
        there = inner < WIDTH - start
        left = tl.load(hidden + row * WIDTH + start + inner, mask=there, other=0.0).to(tl.float32)
        tile = tl.load(right + start, mask=(column < vocab_size)[:, None] & there[None, :], other=0.0)
        total += tl.sum(tile.to(tl.float32) * left[None, :], 1)
    total += tl.load(bias + column, mask=column < vocab_size, other=0.0).to(tl.float32)
    if ROUND:
        total = total.to(hidden.dtype.element_ty).to(tl.float32)
    return tl.where(column < vocab_size, total, float("-inf"))


@triton.jit
def chunk_gradients(
    grad, hidden, weight, bias, targets, weights, log_sums, gradients, partial,
    rows, vocab_size, padded_size, begin, chunk,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
    ROUND: tl.constexpr = True,
):  # fmt: skip
    """Gradients of the logits of entries begin to begin + chunk: (softmax - onehot) * weights * grad.

    Reads grad, the scalar gradient of the loss, and log_sums from `finish`. Writes gradients [rows, chunk], 0 from
    vocab_size on and where the weight is 0, and partial, float32 [blocks of rows, padded_size], their sums over each
    block's rows.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = begin + tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    logits = _tile_logits(
        hidden, weight, bias, row, column, rows, vocab_size, WIDTH, ROWS, COLUMNS, INNER, PRECISION, ROUND
    )
    present = row < rows
    target = tl.load(targets + row, mask=present, other=-1)
    factor = tl.load(weights + row, mask=present, other=0.0) * tl.load(grad).to(tl.float32)
    log_sum = tl.load(log_sums + row, mask=present, other=0.0)
    value = tl.exp(logits - log_sum[:, None]) - tl.where(column[None, :] == target[:, None], 1.0, 0.0)
    counts = (factor != 0.0)[:, None] & (column < vocab_size)[None, :]
    value = tl.where(counts, value * factor[:, None], 0.0)
    real = column < padded_size
    at = gradients + row.to(tl.int64)[:, None] * chunk + (column - begin)[None, :]
    tl.store(at, value.to(gradients.dtype.element_ty), mask=present[:, None] & real[None, :])
    tl.store(partial + tl.program_id(0).to(tl.int64) * padded_size + column, tl.sum(value, 0), mask=real)
