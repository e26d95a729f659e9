"""The generator's output over the vocabulary: projection, cross-entropy and sample at the selected positions.

Shape legend: N positions, E embedding size, V entries of the padded vocabulary, G groups of 64 entries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from electra_ds.kernels.compiling import compile_static
from electra_ds.kernels.sampling import draw, group_sums, sample_tokens

CHUNK_ENTRIES = 1 << 26
"""Logits that the reference holds at once (count): beyond it goes over the positions in portions."""


class VocabularyOutput(NamedTuple):
    """What `vocabulary_head` returns."""

    loss: Tensor
    """float32 scalar, sum of the weighted cross-entropies."""
    samples: Tensor
    """int64 [N], tokens drawn from softmax(logits / temperature)."""
    correct: Tensor
    """bool [N], whether no entry has a greater logit than the target."""
    weight: Tensor | None = None
    """[V, E], the embedding matrix for its next use (`kernels.embedding`)."""
    losses: Tensor | None = None
    """float32 [N], the weighted cross-entropies that `loss` sums up, without gradient."""


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
    backend: str = "torch",
    compiled: bool = False,
) -> VocabularyOutput:
    """Project onto the vocabulary, compare with the targets, and draw a token.

    The reference has the logits (in the dtype of `hidden`) for a moment only: the gradient of the loss is worked out in
    the forward pass, while they are at hand, and scaled in the backward pass.

    Args:
        hidden: [N, E], the last transform's output.
        weight: [V, E], the embedding matrix.
        bias: [V].
        targets: int64 [N], the original tokens.
        weights: float32 [N], of each position in the loss; 0 leaves it out (its sample is drawn all the same).
        uniforms: float32 [N] in [0, 1), one for each draw.
        vocab_size: columns from here on are padding: probability 0, gradient 0.
        temperature: divides the logits for the draw; the loss has temperature 1.
        disallow_correct: never draw the target.
        backend: ``torch`` or ``triton``.
        compiled: torch only: let the compiler fuse the passes over the logits.

    Returns:
        Loss, samples, correct, the matrix and the losses. Only loss and matrix carry a gradient. Softmax and sums are
        float32.
        Deterministic. A sample follows from the position's own uniform, whatever else is in the batch; where a uniform
        falls within rounding of the border between two tokens, backends may draw either.
    """
    draws = (uniforms, temperature, disallow_correct)
    if backend == "triton":
        from electra_ds.kernels.triton.vocabulary import vocabulary_head as fused

        arguments = (hidden, weight, bias, targets, weights, uniforms, vocab_size, temperature, disallow_correct)
        return fused(*arguments, hands_on=True)
    learned = without_gradients(hidden, weight, bias)
    return VocabularyOutput(*_Head.apply(*learned, targets, weights, draws, vocab_size, compiled))


class _Head(torch.autograd.Function):
    """Loss, samples and hits; the gradients for a loss of weight 1 are made along the way."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        weights: Tensor,
        draws: tuple[Tensor, float, bool],
        vocab_size: int,
        compiled: bool,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        closed = closed_bias(bias, vocab_size)
        gradients = Gradients(hidden, weight, bias) if any(ctx.needs_input_grad[:3]) else None
        parts = []
        for here in portions(len(hidden), len(weight)):
            uniforms = (draws[0][here], *draws[1:])
            parts.append(
                _chunk(hidden[here], weight, closed, targets[here], weights[here], uniforms, compiled, gradients)
            )
        if gradients is not None:
            ctx.save_for_backward(*gradients.finished())
        losses, samples, correct = (torch.cat(list(column)) for column in zip(*parts, strict=True))
        ctx.mark_non_differentiable(samples, correct, losses)
        return losses.sum(), samples, correct, weight.view_as(weight), losses

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor | None, samples: None, correct: None, handed_on: Tensor | None, losses: None
    ) -> tuple[Tensor | None, ...]:
        return (*scaled_gradients(ctx.saved_tensors, gradient, handed_on), *(None,) * 5)


def without_gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors; detached where nothing is to be learned, as a function of autograd's is not told so."""
    return tensors if torch.is_grad_enabled() else tuple(tensor.detach() for tensor in tensors)


def closed_bias(bias: Tensor, vocab_size: int) -> Tensor:
    """The bias [V] with -inf at the columns of padding, which saves a pass over the logits."""
    return bias.masked_fill(torch.arange(len(bias), device=bias.device) >= vocab_size, -torch.inf)


def portions(count: int, padded: int) -> Iterator[slice]:
    """Cut `count` positions so that the logits of one portion, with `padded` columns, are at most `CHUNK_ENTRIES`."""
    step = max(1, CHUNK_ENTRIES // padded)
    for begin in range(0, max(count, 1), step):
        yield slice(begin, begin + step)


def scaled_gradients(
    saved: tuple[Tensor, ...], gradient: Tensor | None, handed_on: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden, weight and bias in a backward pass.

    Args:
        saved: what `Gradients.finished` returned: for a loss of weight 1.
        gradient: scalar, of the loss.
        handed_on: [V, E], gradient that later uses of the matrix made.
    """
    if gradient is None:
        return None, handed_on, None
    hidden, weight, bias = saved
    # Nobody else has the buffer that was handed on: later uses of the matrix made it.
    weight = weight * gradient if handed_on is None else handed_on.addcmul_(weight, gradient.to(weight.dtype))
    return hidden * gradient, weight, bias * gradient


class Gradients:
    """Sums over portions of positions, for a loss of weight 1."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight, bias
        self._hidden_parts: list[Tensor] = []
        self._sums: tuple[Tensor, Tensor] | None = None

    def add(self, hidden: Tensor, logits_gradient: Tensor) -> None:
        """Take in a portion: hidden [n, E] and the gradient of its logits [n, V]."""
        self._hidden_parts.append(logits_gradient @ self._weight)
        bias = torch.ones(1, len(hidden), dtype=hidden.dtype, device=hidden.device) @ logits_gradient
        if self._sums is None:
            self._sums = logits_gradient.t() @ hidden, bias[0]
        else:
            self._sums = self._sums[0].addmm_(logits_gradient.t(), hidden), self._sums[1] + bias[0]

    def finished(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of hidden states, weight and bias."""
        assert self._sums is not None
        return torch.cat(self._hidden_parts), self._sums[0], self._sums[1].to(self._bias.dtype)


def _chunk(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    weights: Tensor,
    draws: tuple[Tensor, float, bool],
    compiled: bool,
    gradients: Gradients | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, samples and hits of some positions; adds their gradients up."""
    logits = torch.addmm(bias, hidden, weight.t())
    uniforms, temperature, disallow_correct = draws
    target = logits.gather(1, targets[:, None]).float()[:, 0]
    highest, normaliser, groups = call(softmax_sums, compiled)(logits)
    losses = (normaliser - target) * weights
    if disallow_correct or temperature != 1:
        samples = sample_tokens(logits, uniforms, temperature, targets if disallow_correct else None)
    else:
        samples = draw(logits, highest, groups, uniforms)
    if gradients is not None:
        gradients.add(hidden, loss_gradient(logits, normaliser, targets, weights, compiled))
    return losses, samples, target >= highest


def softmax_sums(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Highest logit [n], log of the sum of exponentials [n], and `group_sums` [n, G]."""
    values = logits.float()
    highest = values.amax(-1)
    groups = group_sums(values, highest)
    return highest, highest + groups.sum(-1).log(), groups


def loss_gradient(logits: Tensor, normaliser: Tensor, targets: Tensor, weights: Tensor, compiled: bool) -> Tensor:
    """(softmax - onehot) * weights, [n, V] in the dtype of the logits; `normaliser` from `softmax_sums`."""
    slope: Tensor = call(_weighted_softmax, compiled)(logits, normaliser, weights)
    at = targets[:, None]
    return slope.scatter_(1, at, slope.gather(1, at) - weights[:, None].to(slope.dtype))


def _weighted_softmax(logits: Tensor, normaliser: Tensor, weights: Tensor) -> Tensor:
    """Weighted softmax [n, V]."""
    return ((logits.float() - normaliser[:, None]).exp() * weights[:, None]).to(logits.dtype)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return compile_static(function)


def call(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    """The function, or what the compiler makes of it."""
    return _compiled(function) if compiled else function
