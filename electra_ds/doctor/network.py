"""A small all-reduce among all ranks: does it work, how long does it take, is the sum right?"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from electra_ds.distributed import Place
from electra_ds.doctor.channel import Channel

LARGE = 16 << 20
"""Bytes of the message that measures bandwidth; 4 bytes measure latency."""
LONGEST = 0.3
"""Share of the time, at most, for joining the group and for each all-reduce."""
_SHORT_TRIES, _LONG_TRIES = 20, 5


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One rank's part."""

    backend: str
    latency: float = 0.0
    """Seconds of an all-reduce of 4 bytes: the median."""
    bandwidth: float = 0.0
    """Bytes per second of an all-reduce of 16 MiB, by its size over its time: the median."""
    correct: bool = False
    """Whether every sum was what it must be."""
    error: str = ""


def exchange(channel: Channel, place: Place, backend: str, device: int | None, seconds: float) -> Exchange:
    """Join the process group and measure; errors are told, not raised.

    Args:
        channel: its store is the meeting point, so no other port is needed.
        place: who this rank is.
        backend: ``gloo`` or ``nccl``, the same on all ranks.
        device: number of this rank's GPU under nccl.
        seconds: an operation that takes longer has failed.
    """
    # Without it NCCL's own watchdog would abort the process before the rank can say what happened.
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    import torch
    from torch import distributed
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    where = torch.device("cuda", device) if backend == "nccl" and device is not None else torch.device("cpu")
    try:
        if where.type == "cuda":
            torch.cuda.set_device(where)
        distributed.init_process_group(
            backend,
            store=PrefixStore("electra_ds/doctor/group", channel.store),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=seconds),
        )
        latency, right = _measure(1, _SHORT_TRIES, where, place)
        slow, right_too = _measure(LARGE // 4, _LONG_TRIES, where, place)
    except Exception as error:  # torch raises RuntimeError, its own kinds, and ValueError for one thing
        return Exchange(backend=backend, error=f"{type(error).__name__}: {str(error).splitlines()[0][:300]}")
    return Exchange(backend=backend, latency=latency, bandwidth=LARGE / slow, correct=right and right_too)


def _measure(elements: int, tries: int, where: object, place: Place) -> tuple[float, bool]:
    """Median time of an all-reduce (seconds), and whether all sums were right; the first try only warms up."""
    import torch
    from torch import distributed

    device = torch.device(str(where))
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    expected = place.world_size * (place.world_size + 1) / 2  # exact in float32 up to 5,792 ranks
    times, right = [], True
    for _ in range(tries + 1):
        value = torch.full((elements,), float(place.rank + 1), device=device)
        wait()
        before = time.perf_counter()
        distributed.all_reduce(value)
        wait()
        times.append(time.perf_counter() - before)
        right = right and bool((value == expected).all())
    return statistics.median(times[1:]), right
