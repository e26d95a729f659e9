"""One embedding matrix with several uses in a step, whose gradients are added up in one buffer.

Autograd by itself makes a dense [V, E] gradient for every use and adds them afterwards: for two look-ups and the
vocabulary head eight passes over the matrix. Here each use hands the matrix on to the next one, so in the backward
pass, which meets them in the opposite order, the last use makes the buffer and the others add to it in place. (A
look-up on a GPU sums its rows in a buffer of its own before: its tokens are added up in float32, whatever the dtype.)

Shape legend: E embedding size, V entries of the padded vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class SharedMatrix:
    """An embedding matrix on its way through one forward pass."""

    def __init__(self, weight: Tensor, padding_id: int) -> None:
        """Args: weight: [V, E]. padding_id: row that gets no gradient from look-ups."""
        self.weight = weight
        """[V, E], as the next use takes it; the use puts what it hands on here."""
        self.padding_id = padding_id

    def look_up(self, ids: Tensor) -> Tensor:
        """Rows [..., E] of int64 `ids` [...]. The gradient is deterministic."""
        rows, self.weight = _LookUp.apply(self.weight, ids, self.padding_id)
        return rows


def look_up(weight: Tensor, ids: Tensor, padding_id: int | None = None) -> Tensor:
    """Rows [..., E] of `weight` [V, E] at int64 `ids` [...], for a matrix with one use.

    `torch.nn.functional.embedding` for 16 bits on a CPU, too: there torch rounds the gradient after every token, and a
    sum of ones ends at 256 in bfloat16, where a token type has all tokens of a step.
    """
    return SharedMatrix(weight, -1 if padding_id is None else padding_id).look_up(ids)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding_id: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.dtype, ctx.padding_id = weight.shape, weight.dtype, padding_id
        ctx.set_materialize_grads(False)
        return weight[ids], weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, handed_on: Tensor | None) -> tuple[Tensor | None, None, None]:
        if gradient is None:
            return handed_on, None, None
        (ids,) = ctx.saved_tensors
        if gradient.device.type != "cpu":
            # By torch's own kernel, which sorts the ids and sums each row in float32; `index_put_` writes a 16-bit row
            # back after every token, one after the other: thousands of [MASK]s round away and take their time.
            buffer = torch.ops.aten.embedding_dense_backward(gradient, ids, ctx.shape[0], ctx.padding_id, False)
            return (buffer if handed_on is None else handed_on.add_(buffer)), None, None
        # Nobody else has the buffer: the uses after this one made it, and hand it on once.
        buffer = gradient.new_zeros(ctx.shape, dtype=ctx.dtype) if handed_on is None else handed_on
        gradient = gradient.masked_fill((ids == ctx.padding_id)[..., None], 0.0).flatten(0, -2)
        # `index_add_` sums each row in float32 on a CPU, where `embedding_dense_backward` rounds after every token.
        return buffer.index_add_(0, ids.flatten(), gradient.to(buffer.dtype)), None, None
