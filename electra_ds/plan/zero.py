"""What DeepSpeed 0.19.8 holds beside the model's activations, stage by stage, read from its source.

P stands for parameters (elements), N for ranks, s for bytes of a parameter (2 in bf16 and fp16, 4 in float32). File
names are those of ``deepspeed/runtime``; `bench plan` holds all of it against real runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from electra_ds.model.config import decays
from electra_ds.plan.trace import Timeline

FALLBACK_BUCKET = 500_000_000
"""Elements of stage 0's all-reduce buffer (engine.py: MEMORY_OPT_ALLREDUCE_SIZE)."""


@dataclass(frozen=True)
class Held:
    """Bytes by what they are for, on one rank, at one moment (or, as arrays, at each operation of a micro-batch)."""

    parameters: Any = 0
    gradients: Any = 0
    optimizer: Any = 0
    """Float32 masters and both moments; a moving average of the masters, if the recipe keeps one."""
    buckets: Any = 0
    """What collectives read and write."""
    activations: Any = 0
    """Batch, what is saved for the backward pass, and intermediate results."""

    def __add__(self, other: Held) -> Held:
        """Part by part."""
        return Held(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def total(self) -> Any:
        """Of all parts."""
        return sum(vars(self).values())

    def at(self, place: int) -> Held:
        """Of arrays, the values at one operation; a number is the same at all."""
        return Held(**{name: float(value[place] if np.ndim(value) else value) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Zero:
    """One rank's share of the training state."""

    sizes: list[tuple[str, int]] = field(repr=False)
    """Name and elements of each parameter, in the module's order."""
    stage: int
    """ZeRO stage."""
    ranks: int
    """N."""
    element: int = 2
    """s (bytes)."""
    bucket: int = 500_000_000
    """reduce_bucket_size (elements)."""
    overlaps: bool = False
    """overlap_comm: a second bucket at stages 1 and 2."""
    all_reduces: bool = True
    """use_multi_rank_bucket_allreduce: stages 1 and 2 add whole buckets up on all ranks, not each rank's part."""
    prefetch: int = 50_000_000
    """stage3_prefetch_bucket_size (elements)."""
    persistence: int = 100_000
    """stage3_param_persistence_threshold (elements): parameters up to this size stay whole on every rank."""
    live: int = 1_000_000_000
    """stage3_max_live_parameters (elements)."""
    reuse: int = 1_000_000_000
    """stage3_max_reuse_distance (elements): parameters used again within so many are not given back meanwhile."""
    offloads: bool = False
    """offload_optimizer: masters, moments and gradient partitions lie in the host's memory."""
    averages: bool = False
    """training.ema_decay: a moving average lies beside the masters (4 bytes an element)."""

    @classmethod
    def read(cls, config: dict[str, Any], sizes: list[tuple[str, int]], ranks: int, element: int) -> Zero:
        """From a completed DeepSpeed config (`training.engine.complete_config`); zero/config.py has the defaults."""
        zero = config.get("zero_optimization", {})
        names = {
            "bucket": "reduce_bucket_size",
            "prefetch": "stage3_prefetch_bucket_size",
            "persistence": "stage3_param_persistence_threshold",
            "live": "stage3_max_live_parameters",
            "reuse": "stage3_max_reuse_distance",
        }
        given: dict[str, Any] = {name: int(zero[key]) for name, key in names.items() if key in zero}
        stage = int(zero.get("stage", 0))
        device = (zero.get("offload_optimizer") or {}).get("device", "none")
        overlaps = bool(zero.get("overlap_comm", stage == 3))
        given["all_reduces"] = bool(zero.get("use_multi_rank_bucket_allreduce", True))
        held = cls(sizes=sizes, stage=stage, ranks=ranks, element=element, overlaps=overlaps, offloads=device != "none")
        return replace(held, **given)

    @cached_property
    def parameters(self) -> int:
        """P."""
        return sum(size for _, size in self.sizes)

    @cached_property
    def persistent(self) -> int:
        """Elements that stage 3 keeps whole (zero/parameter_offload.py: mark_persistent_parameters)."""
        return sum(size for _, size in self.sizes if size <= self.persistence)

    @cached_property
    def groups(self) -> list[list[int]]:
        """Sizes of the two parameter groups (`training.engine.parameter_groups`)."""
        return [[size for name, size in self.sizes if decays(name) is decayed] for decayed in (True, False)]

    @cached_property
    def partitions(self) -> list[int]:
        """Elements of a rank's part of each group, padding included.

        Stages 1 and 2 pad a flat group to a multiple of 2N (zero/stage_1_and_2.py: nccl_start_alignment_factor), stage
        3 each parameter to a multiple of N.
        """
        if self.stage == 3:
            return [sum(-(-size // self.ranks) for size in group) for group in self.groups]
        if self.stage == 0:
            return [sum(group) for group in self.groups]
        return [2 * -(-sum(group) // (2 * self.ranks)) for group in self.groups]

    @cached_property
    def _touched(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each rank at stages 1 and 2: elements of all parameters that its part touches, and its largest slice."""
        whole, largest = np.zeros(self.ranks, np.int64), np.zeros(self.ranks, np.int64)
        for group, part in zip(self.groups, self.partitions, strict=True):
            ends = np.cumsum(group)
            begins = ends - group
            for rank in range(self.ranks):
                low, high = rank * part, (rank + 1) * part
                first, last = np.searchsorted(ends, low, "right"), np.searchsorted(begins, high, "left")
                if last > first:
                    inside = np.minimum(ends[first:last], high) - np.maximum(begins[first:last], low)
                    whole[rank] += ends[last - 1] - begins[first]
                    largest[rank] = max(largest[rank], int(inside.max()))
        return whole, largest

    @cached_property
    def whole_in_partition(self) -> int:
        """Elements whose reduced gradients a rank keeps whole at stages 1 and 2 (copy_grads_in_partition), at most."""
        return int(self._touched[0].max())

    def _norm(self) -> Held:
        """While a gradient's norm is taken, on the rank that then holds most.

        One gradient at a time is copied to float64 (zero/utils.py: get_norm_dtype), at stage 0 to float32
        (utils.py: get_weight_norm).
        """
        s, largest = self.element, max(size for _, size in self.sizes)
        if self.stage == 0:
            return Held(gradients=s * self.parameters, buckets=4 * largest if s < 4 else 0)
        if self.stage == 3:
            return Held(buckets=8 * -(-largest // self.ranks))
        whole, slices = self._touched
        most = int(np.argmax(s * whole + 8 * slices))
        return Held(gradients=s * int(whole[most]), buckets=8 * int(slices[most]))

    def between_steps(self) -> Held:
        """What stays from step to step.

        Stage 0 in bf16 or fp16: weights, masters and moments per parameter (fp16/unfused_optimizer.py), 14P bytes; in
        float32 torch's AdamW on the weights themselves, 12P. Stages 1, 2: the flat weights sP whole, masters and
        moments 12P/N. Stage 3: weights sP/N, masters and moments 12P/N, gradients sP/N and the bucket for good
        (zero/stage3.py: _setup_for_real_optimizer), and parameters below the threshold whole on every rank.
        """
        part, s, average = sum(self.partitions), self.element, 4 if self.averages else 0
        if self.stage == 0:
            return Held(parameters=s * part, optimizer=(average + (8 if s == 4 else 12)) * part)
        optimizer = 0 if self.offloads else (average + 12) * part
        if self.stage < 3:
            whole = sum(size * self.ranks for size in self.partitions)
            return Held(parameters=s * whole, optimizer=optimizer)
        kept = s * self.persistent if self.ranks > 1 else 0
        gradients = 0 if self.offloads else s * part
        return Held(parameters=s * part + kept, gradients=gradients, optimizer=optimizer, buckets=s * self.bucket)

    def on_host(self) -> int:
        """Bytes in the host's memory with offload_optimizer: masters, moments, their gradients, and partitions."""
        average = 4 if self.averages else 0
        return (average + 16 + self.element) * sum(self.partitions) if self.offloads else 0

    def during(self, timeline: Timeline, later: bool) -> Held:
        """What comes on top in a micro-batch, operation by operation.

        Stages 0 and 1 keep each gradient where autograd made it; stages 1 and 2 take their bucket at the first gradient
        (setup_buckets), and stage 2 moves each gradient into it at once. Stage 3 has gathered everything soon after the
        forward pass begins, as the prefetch bucket holds all parameters, into one flat buffer that lives until the last
        of them is used and from which each is copied (zero/partition_parameters.py: AllGatherCoalescedHandle.wait); it
        gives a parameter back after its last use, in the backward pass.

        Args:
            timeline: of the micro-batch.
            later: not the first of its step: what the ones before accumulated is there.
        """
        s, ready = self.element, timeline.ready
        begun = ready > 0
        if self.stage == 0:
            return Held(gradients=s * self.parameters if later else s * ready, activations=timeline.held)
        bucket = s * self.bucket * (2 if self.overlaps else 1)
        if self.stage == 1:
            gradients = s * self.parameters if later else s * ready
            return Held(gradients=gradients, buckets=bucket * (begun | later), activations=timeline.held)
        if self.stage == 2:
            kept = s * self.whole_in_partition if later else 0
            return Held(gradients=kept, buckets=bucket * begun, activations=timeline.held)
        if self.ranks == 1:
            return Held(activations=timeline.held)
        forward = np.arange(len(ready)) < timeline.forward
        gathered = min(self.parameters - self.persistent, self.live)
        flat = s * min(self.prefetch, gathered) * forward
        whole = s * np.minimum(gathered, np.maximum(0, self.parameters - self.persistent - ready))
        return Held(parameters=whole, buckets=flat, activations=timeline.held)

    def afterwards(self, accumulates: bool) -> dict[str, Held]:
        """The moments after the backward pass, by name: reduction, norm, update.

        A bucket that goes to several ranks is cut into slices and joined again for the collective, a copy of its size
        (allreduce_bucket: flatten); stage 3 joins the ranks' pieces likewise (reduce_scatter_coalesced). For the update
        a group's gradient partition is flattened and copied to float32 while the reduced gradients are still there.
        """
        s, P = self.element, self.parameters
        group, inside = max(self.partitions), self.whole_in_partition
        if self.stage == 0:
            exact = 4 * P if s < 4 else 0
            return {
                "reduction": Held(gradients=s * P, buckets=s * min(P, FALLBACK_BUCKET)),
                "norm": self._norm(),
                "update": Held(gradients=s * P + exact),
            }
        to_float = s * group + (4 * group if s < 4 else 0)
        if self.stage == 3:
            return {
                "reduction": Held(buckets=s * min(P, self.bucket)),
                "norm": self._norm(),
                "update": Held(gradients=0 if self.offloads else to_float),
            }
        left = s * max(0, P - self.bucket) if self.stage == 1 else 0
        kept = s * inside if accumulates and self.stage == 2 else 0
        bucket = s * self.bucket * (2 if self.overlaps else 1)
        joined = s * min(P, self.bucket) // (1 if self.all_reduces else self.ranks) if self.ranks > 1 else 0
        return {
            "reduction": Held(gradients=left + kept, buckets=bucket + joined),
            "partition": Held(gradients=left + kept + s * inside, buckets=bucket),
            "norm": self._norm(),
            "update": Held(gradients=s * inside + to_float),
        }
