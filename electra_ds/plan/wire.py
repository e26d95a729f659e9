"""Bytes on the wire in a step: which collectives DeepSpeed 0.19.8 and the loop call, and what a ring makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from electra_ds.model.statistics import HISTOGRAM_BINS, STATISTICS
from electra_ds.plan.zero import Zero

COUNTS_BYTES = 12 * 8
"""Five counts and seven flags, added up by the loop before every step (float64; `training.loop.Trainer`)."""
LINE_BYTES = 8 * (len(STATISTICS) + 2 * HISTOGRAM_BINS)
"""Sums of a line of metrics (float64), added up when lines are written."""


@dataclass(frozen=True)
class Exchange:
    """A collective of a step."""

    name: str
    """``all_reduce``, ``all_gather``, ``reduce_scatter`` or ``reduce``."""
    what: str
    """For people."""
    size: float
    """Bytes of the whole: what each rank gives to an all-reduce or a reduce-scatter, or has after an all-gather."""
    calls: int = 1
    """Calls that the size is spread over."""

    def sent(self, ranks: int, gloo: bool = False) -> float:
        """Bytes that one rank sends in a ring.

        A reduce-scatter and an all-gather send (N - 1) / N of the whole, as do reductions to each rank in turn, and an
        all-reduce is one after the other (Patarasuk and Yuan 2009; NCCL's and gloo's ring). torch 2.13 makes gloo's
        reduce-scatter out of an all-reduce.
        """
        double = self.name == "all_reduce" or (gloo and self.name == "reduce_scatter")
        return (2 if double else 1) * (ranks - 1) / ranks * self.size

    def waits(self, ranks: int) -> int:
        """Messages that follow one another, in a tree: what a call costs in latencies however small it is."""
        return self.calls * (2 if self.name == "all_reduce" else 1) * math.ceil(math.log2(max(ranks, 1)))


def step_exchanges(zero: Zero, accumulation: int, line_every: float = math.inf) -> list[Exchange]:
    """The collectives of one optimizer step.

    - Stage 0: gradients all-reduced in their own type, once a step (engine.py: buffered_allreduce_fallback).
    - Stage 1: the same bucket by bucket, although a rank needs its part only (zero/stage_1_and_2.py: average_tensor,
      with use_multi_rank_bucket_allreduce, which is on unless turned off: then a reduction to each rank of its part),
      then updated weights all-gathered.
    - Stage 2: likewise, but after every micro-batch (engine.py: allreduce_gradients).
    - Stage 3: weights all-gathered for every micro-batch's forward pass and kept for its backward pass while everything
      lies within stage3_max_reuse_distance (else gathered again); gradients reduce-scattered after every micro-batch;
      small parameters all-gathered after the update.

    Args:
        zero: the rank's share of the state.
        accumulation: micro-batches of a step.
        line_every: steps between two lines of metrics.
    """
    s, whole = zero.element, zero.parameters
    buckets = max(1, math.ceil(whole / max(1, min(zero.bucket, whole))))
    found = [Exchange("all_reduce", "counts", COUNTS_BYTES)]
    if zero.stage == 0:
        found.append(Exchange("all_reduce", "gradients", s * whole))
    elif zero.stage < 3:
        times = accumulation if zero.stage == 2 else 1
        if zero.all_reduces:
            found.append(Exchange("all_reduce", "gradients", s * whole * times, buckets * times))
        else:
            found.append(Exchange("reduce", "gradients", s * whole * times, buckets * times * zero.ranks))
        padded = sum(part * zero.ranks for part in zero.partitions)
        found.append(Exchange("all_gather", "weights", s * padded, len(zero.partitions)))
        found.append(Exchange("all_reduce", "gradient norm, overflow", 4 * len(zero.partitions) + 1, 3))
    else:
        padded = sum(part * zero.ranks for part in zero.partitions)
        passes = 1 if 2 * whole <= zero.reuse else 2
        gathered = s * (padded - zero.persistent) * accumulation * passes
        gathers = accumulation * passes * max(1, math.ceil(whole / max(1, min(zero.prefetch, whole))))
        found.append(Exchange("all_gather", "weights", gathered, gathers))
        found.append(Exchange("reduce_scatter", "gradients", s * padded * accumulation, buckets * accumulation))
        found.append(Exchange("all_gather", "small weights", s * zero.persistent))
        found.append(Exchange("all_reduce", "gradient norm", 16, 2))
    if math.isfinite(line_every):
        found.append(Exchange("all_reduce", "metrics", LINE_BYTES / line_every))
    return found


def sent_bytes(exchanges: list[Exchange], ranks: int, gloo: bool = False) -> float:
    """Bytes that one rank sends in a step."""
    return sum(exchange.sent(ranks, gloo) for exchange in exchanges) if ranks > 1 else 0.0


def wire_seconds(exchanges: list[Exchange], ranks: int, bytes_per_second: float, latency: float) -> float:
    """Time that the collectives take if nothing overlaps: bytes over the link, and latencies (s) one after another."""
    if ranks == 1:
        return 0.0
    waiting = latency * sum(exchange.waits(ranks) for exchange in exchanges)
    return sent_bytes(exchanges, ranks) / bytes_per_second + waiting
