"""What a step holds at its highest moment, counted from outside the code that runs it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from electra_ds.bench.plan_worker import MARK, allocator_peak, resident_pages
from electra_ds.plan.ledger import storage_bytes


class Memory:
    """Counts a process's memory from the moment this is made; nothing of the side may exist before."""

    def __init__(self, device: torch.device) -> None:
        """Args: device: that computes."""
        self._cuda = device.type == "cuda"
        self._before = 0 if self._cuda else resident_pages()

    def of_a_step(self, step: Callable[[], Any]) -> dict[str, int]:
        """Make two steps, one for each way of counting.

        Args:
            step: makes one; steps before it have left all that stays.

        Returns:
            On a GPU ``between`` and ``peak``: bytes that torch's allocator had given out before and at most. On a CPU
            ``pages_between`` and ``pages_peak``: resident bytes more than when this object was made; and ``between``
            and ``peak``: bytes of live tensors before the step, and with what the allocator gave out meanwhile.
        """
        gc.collect()
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            between = torch.cuda.memory_allocated()
            step()
            torch.cuda.synchronize()
            return {"between": between, "peak": torch.cuda.max_memory_allocated()}
        pages = {"pages_between": resident_pages() - self._before}
        step()
        pages["pages_peak"] = resident_pages("VmHWM") - self._before
        gc.collect()
        between = live_bytes()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, record_function(MARK):
            step()
        given_out = allocator_peak(profiler)
        return {"between": between, "peak": between + given_out["peak"] - given_out["between"], **pages}


def live_bytes() -> int:
    """Bytes of all tensors that Python knows of, their gradients included, each storage once."""
    # Exactly these types: the compiler keeps tensors without memory.
    tensors = [found for found in gc.get_objects() if type(found) in (Tensor, nn.Parameter)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    return storage_bytes(tensor for tensor in tensors if tensor.device.type == "cpu" and not tensor.is_sparse)
