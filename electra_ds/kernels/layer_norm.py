"""LayerNorm(residual + dropout(hidden + bias)): what follows each matrix product of a layer.

Shape legend: B rows, L tokens, F features.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from electra_ds.kernels.dropout import dropout


def dropout_add_layer_norm(
    hidden: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    shift: Tensor,
    eps: float,
    keys: Tensor | None,
    probability: float,
    backend: str = "torch",
) -> Tensor:
    """Add bias, drop, add the residual, normalise over the features.

    Args:
        hidden: [B, L, F], a matrix product without its bias, or with it where `bias` is None.
        bias: [F] of the matrix product, or None.
        residual: [B, L, F].
        weight: [F] of the LayerNorm.
        shift: [F], its bias.
        eps: added to the variance.
        keys: int32 [B, 2] for `dropout.keep_mask`; None drops nothing.
        probability: of being dropped.
        backend: ``torch``, ``triton`` or ``apex``.

    Returns:
        [B, L, F] in the dtype of `hidden`. Statistics are float32. Deterministic, except for the gradients of `bias`,
        `weight` and `shift` under apex.
    """
    if backend == "triton":
        from electra_ds.kernels.triton.layer_norm import dropout_add_layer_norm as fused

        return fused(hidden, bias, residual, weight, shift, eps, keys, probability)
    if bias is not None:
        hidden = hidden + bias
    total = residual + dropout(hidden, keys, probability)
    if backend == "apex":
        from apex.normalization.fused_layer_norm import fused_layer_norm_affine

        return fused_layer_norm_affine(total, weight, shift, (total.shape[-1],), eps)
    return functional.layer_norm(total, (total.shape[-1],), weight, shift, eps)
