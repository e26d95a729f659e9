"""Which backend runs which operation. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class KernelsConfig:
    """Backends of the fused operations; auto takes the fastest measured on the device, and what else is there."""

    attention: Literal["auto", "torch", "varlen", "flash_attn"] = "auto"
    """torch: a mask (CPU: matrix products written out). varlen: torch's kernel for packed segments; flash_attn: that
    package's (both need a GPU of compute capability 8.0)."""
    layer_norm: Literal["auto", "torch", "triton", "apex"] = "auto"
    """Bias, dropout, residual and LayerNorm in one pass; apex fuses the LayerNorm alone."""
    gelu: Literal["auto", "torch", "triton"] = "auto"
    """Bias and GELU in one pass."""
    vocabulary_head: Literal["auto", "torch", "triton"] = "auto"
    """Projection to the vocabulary, cross-entropy and sample; triton never writes the logits out."""
    discriminator_head: Literal["auto", "torch", "triton"] = "auto"
    """GELU, last dense and binary cross-entropy in one pass."""
    optimizer: Literal["auto", "torch", "deepspeed", "apex"] = "auto"
    """Fused AdamW of torch, DeepSpeed (FusedAdam; on a CPU DeepSpeedCPUAdam) or apex."""
    compile: bool | None = None
    """torch.compile on each block; null: where it can (a C++ compiler on a CPU, triton on a GPU)."""
    cuda_graphs: bool = False
    """Replay each network's launches as one CUDA graph: for small networks, whose kernels are shorter than a launch."""
    activation_checkpointing: bool = False
    """Keep each layer's input only and compute the rest again in the backward pass: less memory, a third more time."""
    activation_memory: float | None = None
    """Share of what compiled blocks would keep for the backward pass; the compiler computes again what saves the most
    bytes for the fewest FLOPs. null: 0.5 on a CPU, else 1; below 1 needs the torch attention."""

    def __post_init__(self) -> None:
        if self.activation_memory is not None and not 0 <= self.activation_memory <= 1:
            raise ValueError(f"kernels.activation_memory={self.activation_memory}: must lie in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Backends:
    """Backends as chosen for a device; the defaults are the references, which run everywhere."""

    attention: str = "torch"
    layer_norm: str = "torch"
    gelu: str = "torch"
    vocabulary_head: str = "torch"
    discriminator_head: str = "torch"
    optimizer: str = "torch"
    compiled: bool = False
    """Blocks go through torch.compile: the reference operations are then fused by it."""

    def takes_bias(self, operation: str) -> bool:
        """Whether an operation is better given the bias of the matrix product before it than the biased product."""
        return self.compiled or getattr(self, operation) in ("triton", "apex")
