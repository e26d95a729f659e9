"""Vocabulary heads that run at every position, in portions, so that their logits never lie in memory together.

`copy_head`: a softmax mixed with a copy of the input (all-tokens MLM, arXiv 2003.10555, section 3.4). `cloze_head`:
cross-entropy, samples, and the log probability of what is put in (Electric, arXiv 2012.08561). Both are plain torch on
any device and make their gradients in the forward pass, as the reference of `kernels.vocabulary` does.

Shape legend: N positions, E embedding size, V entries of the padded vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from electra_ds.kernels.sampling import draw, sample_tokens
from electra_ds.kernels.vocabulary import (
    Gradients,
    call,
    closed_bias,
    loss_gradient,
    portions,
    scaled_gradients,
    softmax_sums,
    without_gradients,
)


class CopyOutput(NamedTuple):
    """What `copy_head` returns."""

    loss: Tensor
    """float32 scalar, sum of the weighted negative log probabilities."""
    correct: Tensor
    """bool [N], whether no entry is more probable than the target."""
    losses: Tensor
    """float32 [N], what `loss` sums up, without gradient."""
    weight: Tensor
    """[V, E], the embedding matrix for its next use (`kernels.embedding`)."""


class ClozeOutput(NamedTuple):
    """What `cloze_head` returns."""

    loss: Tensor
    """float32 scalar, sum of the weighted cross-entropies."""
    tokens: Tensor
    """int64 [N], the target, or a sample where one was asked for."""
    log_q: Tensor
    """float32 [N], log probability of `tokens` under softmax(logits / temperature), without gradient."""
    correct: Tensor
    """bool [N], whether no entry has a greater logit than the target."""
    losses: Tensor
    """float32 [N], what `loss` sums up, without gradient."""
    weight: Tensor
    """[V, E], the embedding matrix for its next use."""


def copy_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    gate: Tensor,
    inputs: Tensor,
    targets: Tensor,
    weights: Tensor,
    vocab_size: int,
    compiled: bool = False,
) -> CopyOutput:
    """Negative log of p(target) = D [target = input] + (1 - D) softmax(logits)[target], with D = sigmoid(gate).

    Worked out from log D and log(1 - D) by a log of a sum of exponentials: neither a closed nor an open gate, nor a
    target that the softmax gives no weight, makes it infinite while the other way is open.

    Args:
        hidden: [N, E], the last transform's output.
        weight: [V, E], the embedding matrix.
        bias: [V].
        gate: float32 [N], logit of copying.
        inputs: int64 [N], the tokens that would be copied.
        targets: int64 [N], the original tokens.
        weights: float32 [N], of each position in the loss; 0 leaves it out.
        vocab_size: columns from here on are padding: probability 0, gradient 0.
        compiled: let the compiler fuse the passes over the logits.

    Returns:
        Only loss and matrix carry a gradient, to hidden, weight, bias and gate. Softmax and sums are float32.
        Deterministic.
    """
    arguments = without_gradients(hidden, weight, bias, gate)
    return CopyOutput(*_Copy.apply(*arguments, inputs, targets, weights, vocab_size, compiled))


def cloze_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    weights: Tensor,
    uniforms: Tensor,
    sampled: Tensor,
    vocab_size: int,
    temperature: float = 1.0,
    disallow_correct: bool = False,
    compiled: bool = False,
) -> ClozeOutput:
    """Cross-entropy of the targets, samples at some positions, and the log probability of what then stands there.

    Args:
        hidden: [N, E], the last transform's output.
        weight: [V, E], the embedding matrix.
        bias: [V].
        targets: int64 [N], the original tokens.
        weights: float32 [N], of each position in the loss; 0 leaves it out.
        uniforms: float32 [N] in [0, 1), one for each draw.
        sampled: bool [N], where a token is drawn.
        vocab_size: columns from here on are padding: probability 0, gradient 0.
        temperature: divides the logits for draws and `log_q`; the loss has temperature 1.
        disallow_correct: never draw the target; `log_q` stays that of the whole distribution.
        compiled: let the compiler fuse the passes over the logits.

    Returns:
        Only loss and matrix carry a gradient, to hidden, weight and bias. Softmax and sums are float32. Deterministic.
    """
    draws = (uniforms, sampled, temperature, disallow_correct)
    arguments = without_gradients(hidden, weight, bias)
    return ClozeOutput(*_Cloze.apply(*arguments, targets, weights, draws, vocab_size, compiled))


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        gate: Tensor,
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        vocab_size: int,
        compiled: bool,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        closed = closed_bias(bias, vocab_size)
        gradients = Gradients(hidden, weight, bias) if any(ctx.needs_input_grad[:4]) else None
        open_, shut = functional.logsigmoid(gate.float()), functional.logsigmoid(-gate.float())
        parts = []
        for here in portions(len(hidden), len(weight)):
            logits = torch.addmm(closed, hidden[here], weight.t())
            highest, normaliser, _ = call(softmax_sums, compiled)(logits)
            copied, filled = open_[here], shut[here] - normaliser
            own = torch.logaddexp(copied, filled + _logits_of(logits, inputs[here]))
            by_softmax = filled + _logits_of(logits, targets[here])
            chosen = torch.where(inputs[here] == targets[here], own, by_softmax)
            # What the softmax has of the target's probability; the copy has the rest.
            share = (by_softmax - chosen).exp()
            if gradients is not None:
                scaled = weights[here] * share
                gradients.add(hidden[here], loss_gradient(logits, normaliser, targets[here], scaled, compiled))
            slope = (copied.exp() - (1.0 - share)) * weights[here]
            parts.append((-chosen * weights[here], chosen >= torch.maximum(own, filled + highest), slope))
        losses, correct, slopes = (torch.cat(list(column)) for column in zip(*parts, strict=True))
        if gradients is not None:
            ctx.save_for_backward(*gradients.finished(), slopes)
        ctx.gate_dtype = gate.dtype
        ctx.mark_non_differentiable(correct, losses)
        return losses.sum(), correct, losses, weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor | None, correct: None, losses: None, handed_on: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *saved, slopes = ctx.saved_tensors
        gate = None if gradient is None else (slopes * gradient).to(ctx.gate_dtype)
        return (*scaled_gradients(tuple(saved), gradient, handed_on), gate, *(None,) * 5)


class _Cloze(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        weights: Tensor,
        draws: tuple[Tensor, Tensor, float, bool],
        vocab_size: int,
        compiled: bool,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        closed = closed_bias(bias, vocab_size)
        gradients = Gradients(hidden, weight, bias) if any(ctx.needs_input_grad[:3]) else None
        uniforms, sampled, temperature, disallow_correct = draws
        parts = []
        for here in portions(len(hidden), len(weight)):
            logits, target = torch.addmm(closed, hidden[here], weight.t()), targets[here]
            highest, normaliser, groups = call(softmax_sums, compiled)(logits)
            if disallow_correct or temperature != 1:
                forbidden = target if disallow_correct else None
                samples = sample_tokens(logits, uniforms[here], temperature, forbidden)
            else:
                samples = draw(logits, highest, groups, uniforms[here])
            tokens = torch.where(sampled[here], samples, target)
            cooled = normaliser if temperature == 1 else (logits.float() / temperature).logsumexp(-1)
            log_q = _logits_of(logits, tokens) / temperature - cooled
            own = _logits_of(logits, target)
            if gradients is not None:
                slope = loss_gradient(logits, normaliser, target, weights[here], compiled)
                gradients.add(hidden[here], slope)
            parts.append(((normaliser - own) * weights[here], tokens, log_q, own >= highest))
        losses, tokens, log_q, correct = (torch.cat(list(column)) for column in zip(*parts, strict=True))
        if gradients is not None:
            ctx.save_for_backward(*gradients.finished())
        ctx.mark_non_differentiable(tokens, log_q, correct, losses)
        return losses.sum(), tokens, log_q, correct, losses, weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        gradient: Tensor | None,
        tokens: None,
        log_q: None,
        correct: None,
        losses: None,
        handed_on: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        return (*scaled_gradients(ctx.saved_tensors, gradient, handed_on), *(None,) * 5)


def _logits_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """float32 [n] out of [n, V]."""
    return logits.gather(1, tokens[:, None]).float()[:, 0]
