"""The discriminator's verdict and its loss, from the dense layer's product, without a copy of the hidden states.

Shape legend: B rows, L tokens, F features.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from electra_ds.kernels.gelu import bias_gelu


class DiscriminatorOutput(NamedTuple):
    """What `discriminator_loss` returns."""

    loss: Tensor
    """float32 scalar, sum of the weighted binary cross-entropies."""
    logits: Tensor
    """float32 [B, L], detached; above 0 means "replaced"."""


def discriminator_loss(
    hidden: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    replaced: Tensor,
    weights: Tensor,
    backend: str = "torch",
) -> DiscriminatorOutput:
    """Verdict and loss in one go.

    Args:
        hidden: [B, L, F], the dense layer's product.
        bias: [F], its bias, or None where the product has it already.
        weight: [F], of the last dense layer.
        shift: [1], its bias.
        replaced: bool [B, L], the labels.
        weights: float32 [B, L], of each position in the loss; 0 leaves it out.
        backend: ``torch`` or ``triton``.

    Returns:
        Loss and logits. Deterministic.
    """
    if backend == "triton":
        from electra_ds.kernels.triton.discriminator import discriminator_loss as fused

        return fused(hidden, bias, weight, shift, replaced, weights)
    expanded = bias_gelu(hidden, bias)
    # A product with one column: a sum that fuses with the GELU, in float32 throughout.
    logits = (expanded.float() * weight.float()).sum(-1) + shift.float()
    return binary_loss(logits, replaced, weights)


def binary_loss(logits: Tensor, replaced: Tensor, weights: Tensor) -> DiscriminatorOutput:
    """Weighted binary cross-entropy of float32 logits [B, L] against bool labels [B, L]."""
    losses = functional.binary_cross_entropy_with_logits(logits, replaced.to(logits.dtype), reduction="none")
    return DiscriminatorOutput((losses * weights).sum(), logits.detach())
