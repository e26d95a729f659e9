"""Rows on their way to the GPU while it computes.

The thread that makes batches ahead also sends them: on a stream of its own, from page-locked memory, so that neither
the thread nor the GPU's computing waits for the copy. The step that trains on them makes its own stream wait for the
copy's event, which has long passed. On a CPU nothing is sent.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Sender:
    """Copies tensors to one GPU, in order."""

    def __init__(self, device: torch.device) -> None:
        """Args: device: a GPU."""
        self._device, self._stream = device, torch.cuda.Stream(device)

    def send(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], torch.cuda.Event]:
        """Begin to copy page-locked tensors; returns their copies, and the event that passes when all have arrived."""
        with torch.cuda.stream(self._stream):
            copies = {name: tensor.to(self._device, non_blocking=True) for name, tensor in tensors.items()}
            sent = torch.cuda.Event()
            sent.record(self._stream)
        return copies, sent


def received(tensors: dict[str, Tensor], sent: torch.cuda.Event | None) -> dict[str, Tensor]:
    """Let the current stream wait for what was sent; the host does not wait. Tensors that were not sent pass through.

    The allocator is told that this stream uses memory of the sender's: else a later copy could take it while a kernel
    still reads it.
    """
    if sent is not None:
        stream = torch.cuda.current_stream(next(iter(tensors.values())).device)
        stream.wait_event(sent)
        for tensor in tensors.values():
            tensor.record_stream(stream)
    return tensors
