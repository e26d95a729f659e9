"""GELU(hidden + bias), exact (erf), as the original has it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def bias_gelu(hidden: Tensor, bias: Tensor | None, backend: str = "torch") -> Tensor:
    """Add the bias of a matrix product and apply x * Phi(x).

    Args:
        hidden: [..., F].
        bias: [F], or None where the product has it already.
        backend: ``torch`` or ``triton``.

    Returns:
        [..., F] in the dtype of `hidden`; computed in float32. Deterministic.
    """
    if backend == "triton":
        from electra_ds.kernels.triton.gelu import bias_gelu as fused

        return fused(hidden, bias)
    return functional.gelu(hidden if bias is None else hidden + bias)
