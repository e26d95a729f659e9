"""Self-attention confined to packed segments.

Shape legend: B rows, L tokens, H heads, D features of a head, S slots for segments.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from electra_ds.kernels.dropout import dropout


class Layout(NamedTuple):
    """Where segments lie, in the form that the backend takes; made once for a batch and used by every layer."""

    bias: Tensor | None
    """[B, 1, L, L], 0 within a segment and the most negative finite number elsewhere; backend ``torch``."""
    borders: Tensor | None
    """int32 [S + 1], where each segment begins among the B x L tokens, the unused slots at the end empty."""
    longest: int
    """Most tokens that a segment may have: L."""


def attention_layout(segments: Tensor, dtype: torch.dtype, backend: str = "torch", slots: int | None = None) -> Layout:
    """Describe the segments of a batch.

    Args:
        segments: int [B, L], number of each token's segment within its row, 0 at padding (padding attends to padding:
            nothing reads the result, and no row of the softmax is empty).
        dtype: of the queries.
        backend: of `attention`.
        slots: see `segment_borders`.
    """
    length = segments.shape[1]
    if backend == "torch":
        return Layout(segment_bias(segments, dtype), None, length)
    return Layout(None, segment_borders(segments, slots), length)


def causal_layout(segments: Tensor, dtype: torch.dtype, forwards: bool = True) -> Layout:
    """As `attention_layout` for backend ``torch``, but a token attends to itself and its segment's earlier tokens only.

    A dense mask, whatever the device: slower than the kernels for packed segments, which are given no such mask.

    Args:
        segments: int [B, L].
        dtype: of the queries.
        forwards: false lets a token attend to the later tokens instead of the earlier ones.
    """
    length = segments.shape[1]
    unseen = torch.ones(length, length, dtype=torch.bool, device=segments.device).triu(1)
    bias = segment_bias(segments, dtype).masked_fill_(unseen if forwards else unseen.t(), torch.finfo(dtype).min)
    return Layout(bias, None, length)


def segment_bias(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, L, L] in `dtype` that confines attention to a segment of int [B, L]."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    bias = torch.zeros(same.shape, dtype=dtype, device=segments.device)
    return bias.masked_fill_(~same, torch.finfo(dtype).min)


def segment_borders(segments: Tensor, slots: int | None = None) -> Tensor:
    """Begins of segments (and of each row's padding) among all tokens, int32 [S + 1], without a look at the device.

    Args:
        segments: int [B, L].
        slots: S, at least the sum of `count_segments`, so that the shape is the same for every batch: slots that are
            left over begin and end at the last token. None takes as many as there are tokens. A kernel starts a block
            for each slot and head, used or not, so S should not be many times what is needed.

    Raises:
        ValueError: too few slots. Looked at on a CPU only: on a GPU the host would wait for the answer, so who counts
            the segments checks there (`check_slots`).
    """
    rows, length = segments.shape
    slots = rows * length if slots is None else slots
    begins = _begins(segments).flatten()
    if segments.device.type == "cpu":
        check_slots(int(begins.sum()), slots)
    # One slot more than is returned takes the writes of tokens that begin nothing.
    slot = torch.where(begins, begins.cumsum(0) - 1, slots + 1)
    places = torch.arange(rows * length, dtype=torch.int32, device=segments.device)
    borders = torch.full((slots + 2,), rows * length, dtype=torch.int32, device=segments.device)
    return borders.scatter_(0, slot, places)[: slots + 1]


def count_segments(segments: Tensor) -> Tensor:
    """Segments of each row of int [B, L], its padding counted as one more: int64 [B]."""
    return _begins(segments).sum(1)


def check_slots(count: int, slots: int) -> None:
    """Refuse too few slots: a segment without one would move the end of the last, or be written past the borders.

    Raises:
        ValueError: `count` segments do not fit into `slots`.
    """
    if count > slots:
        raise ValueError(
            f"slots: {slots}; the batch holds {count} segments, the padding of each row counted as one more: give at "
            "least as many slots (segment_slots), or None for as many as there are tokens"
        )


def segment_slots(count: int) -> int:
    """Slots for `count` segments: a power of two with a quarter to spare, so that few shapes serve all batches."""
    return 1 << (count + count // 4 - 1).bit_length()


def _begins(segments: Tensor) -> Tensor:
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return begins


def attention(
    projected: Tensor, layout: Layout, probability: float, keys: Tensor | None, backend: str = "torch"
) -> Tensor:
    """Softmax(q k^T / sqrt(D)) v within each segment, with dropout on the probabilities.

    Args:
        projected: [B, L, 3, H, D], queries, keys and values.
        layout: from `attention_layout`, for the same backend.
        probability: of a probability being dropped; 0 when not training.
        keys: int32 [B, 2] for `dropout.keep_mask`; the kernels for packed segments draw from torch's generator instead.
        backend: ``torch``: products written out under a mask on a CPU (about four times as fast as torch's fused
            attention at L = 128, equal at 512; the mask costs nothing), torch's fused attention under a mask elsewhere.
            ``varlen``: torch's kernel for packed segments, which needs no mask; ``flash_attn``: that package's.

    Returns:
        [B, L, H x D] in the dtype of the queries. The written-out form is deterministic; the kernels' backward passes
        add the queries' gradients up by atomics (not deterministic in the last bits).
    """
    if backend == "torch":
        return _masked(projected, layout, probability, keys)
    return _packed(projected, layout, probability if keys is not None else 0.0, backend)


def _masked(projected: Tensor, layout: Layout, probability: float, keys: Tensor | None) -> Tensor:
    rows, length, _, heads, features = projected.shape
    query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
    if query.device.type != "cpu":
        drops = probability if keys is not None else 0.0
        context = functional.scaled_dot_product_attention(query, key, value, layout.bias, dropout_p=drops)
    else:
        context = _written_out(query, key, value, layout.bias, probability, keys)
    return context.transpose(1, 2).reshape(rows, length, heads * features)


def _written_out(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, probability: float, keys: Tensor | None
) -> Tensor:
    assert bias is not None
    rows, heads, length, features = query.shape
    query = query.reshape(rows * heads, length, features)
    key = key.reshape(rows * heads, length, features).transpose(1, 2)
    scale = 1.0 / math.sqrt(features)
    if torch.compiler.is_compiling():  # scale and mask become part of the softmax's own pass
        scores = torch.bmm(query, key).view(rows, heads, length, length) * scale + bias
    else:
        mask = bias.expand(rows, heads, length, length).reshape(rows * heads, length, length)
        scores = torch.baddbmm(mask, query, key, alpha=scale).view(rows, heads, length, length)
    probabilities = dropout(scores.softmax(-1), keys, probability)
    context = torch.bmm(probabilities.view(rows * heads, length, length), value.reshape(rows * heads, length, features))
    return context.view(rows, heads, length, features)


def _packed(projected: Tensor, layout: Layout, probability: float, backend: str) -> Tensor:
    rows, length, _, heads, features = projected.shape
    query, key, value = projected.reshape(rows * length, 3, heads, features).unbind(1)
    borders, longest = layout.borders, layout.longest
    assert borders is not None
    if backend == "flash_attn":
        from flash_attn import flash_attn_varlen_func

        context = flash_attn_varlen_func(
            query, key, value, borders, borders, longest, longest, dropout_p=probability, causal=False
        )
    elif probability:
        # torch.nn.attention.varlen calls the same operation, with a dropout of 0 written into it.
        context = torch.ops.aten._flash_attention_forward(
            query, key, value, borders, borders, longest, longest, probability, False, False
        )[0]
    else:
        from torch.nn.attention.varlen import varlen_attn

        context = varlen_attn(query, key, value, borders, borders, longest, longest)
    return context.reshape(rows, length, heads * features)
