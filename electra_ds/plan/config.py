"""What `electra-ds plan` is asked: a recipe, and the machines it is to run on. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from electra_ds.errors import did_you_mean
from electra_ds.recipe import Recipe

GPUS = {
    "h200": (139.8, "H200"),
    "h100": (79.1, "H100"),
    "a100": (79.1, "A100"),
    "a100-40": (39.4, "A100"),
    "l40s": (44.4, "L40S"),
    "v100": (31.7, "V100"),
    "v100-16": (15.8, "V100"),
}
"""Name: (memory as the driver reports it, GiB; name in `model.flops.PEAK_BF16`)."""
DEFAULT_GPU = "h100"
DEFAULT_VOCABULARY = 30_522
"""Entries of the paper's vocabulary, taken where neither a shard set nor the recipe says."""
NO_SHARDS = "(no shard set given)"


@dataclass(frozen=True, kw_only=True)
class PlanConfig(Recipe):
    """Will it fit, how long will it take, what will it cost: memory, traffic and time of a run before it is queued.

    Every field of `electra-ds pretrain` may be given too, and decides what is planned; data.path and output are
    optional here. Nothing is trained, no process group is started, and no memory of the model's size is taken: the
    model runs on tensors without memory, and what DeepSpeed holds beside it follows from its source, stage by stage.
    """

    output: str = "planned"
    """Run folder of the planned run; not touched."""
    ranks: int | None = None
    """Ranks, one a GPU (count); null takes nodes x gpus_per_node."""
    nodes: int | None = None
    """Nodes (count); null takes what ranks and gpus_per_node make."""
    gpus_per_node: int = 8
    """GPUs, and ranks, of a node (count)."""
    gpu: str | None = None
    """h200, h100, a100, a100-40, l40s, v100 or v100-16; null takes the GPU of this machine, else h100."""
    memory_gb: float | None = None
    """Memory of a GPU (10^9 bytes); null takes that of `gpu`."""
    reserved_gb: float = 3.0
    """Of it, what is not for tensors: CUDA's context, libraries' workspaces, NCCL, fragmentation (10^9 bytes)."""
    tokens_per_second: float | None = None
    """Rate of one rank without communication (real tokens a second); null estimates it from `mfu`."""
    mfu: float = 0.4
    """Share of the GPU's peak that is assumed where no rate is known (model FLOPs utilization)."""
    like: Path | None = None
    """A run folder of the same model and row length whose rate, communication included, is taken from metrics.jsonl."""
    link_gb_per_second: float = 25.0
    """What one rank can send, at the narrowest place of the ring (10^9 bytes a second): with one 400 Gbit/s adapter for
    each GPU about 45, with one for a node of eight about 6."""
    latency_us: float = 10.0
    """Of one message (microseconds)."""
    json: Path | None = None
    """Write every number to this file, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ranks", "nodes", "gpus_per_node"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if self.ranks and self.nodes and self.ranks != self.nodes * self.gpus_per_node:
            raise ValueError(
                f"ranks={self.ranks}, but nodes={self.nodes} times gpus_per_node={self.gpus_per_node} makes "
                f"{self.nodes * self.gpus_per_node}; leave one of them out"
            )
        if self.gpu is not None and self.gpu not in GPUS:
            raise ValueError(
                f"gpu={self.gpu}: known are {', '.join(GPUS)}{did_you_mean(self.gpu, GPUS)}; for another one give its "
                "memory_gb, training.peak_flops or tokens_per_second"
            )
        for name in ("memory_gb", "tokens_per_second", "mfu", "link_gb_per_second"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}: must be above 0")
        if self.mfu > 1:
            raise ValueError(f"mfu={self.mfu}: must lie in (0, 1]")
        if self.reserved_gb < 0 or self.latency_us < 0:
            raise ValueError(f"reserved_gb={self.reserved_gb}, latency_us={self.latency_us}: must be at least 0")
        if self.tokens_per_second is not None and self.like is not None:
            raise ValueError(f"tokens_per_second={self.tokens_per_second} and like={self.like}: give one of them")

    @property
    def world_size(self) -> int:
        """Ranks (count)."""
        return self.ranks or (self.nodes or 1) * (self.gpus_per_node if self.nodes else 1)

    @property
    def node_count(self) -> int:
        """Nodes (count)."""
        return self.nodes or -(-self.world_size // self.gpus_per_node)
