"""Counting what a rank gives to collectives, where torch hands them to the backend."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WHOLE = {
    "allreduce_": "tensors",
    "broadcast_": "tensors",
    "reduce_": "tensors",
    "_allgather_base_": "output",
    "allgather_": "output",
    "_reduce_scatter_base_": "input",
    "reduce_scatter_": "input",
    "alltoall_base_": "input",
}
"""Which argument of a c10d operation is the whole of what the ranks have before or after it."""
_ALIKE = {"_allgather_base_": "all_gather", "allgather_": "all_gather", "allreduce_": "all_reduce"}
_ALIKE |= {"_reduce_scatter_base_": "reduce_scatter", "reduce_scatter_": "reduce_scatter", "broadcast_": "broadcast"}
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
"""Flags of unshare(2)."""
_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41
"""SIOCSIFFLAGS, IFF_UP | IFF_RUNNING."""


class Collectives(TorchDispatchMode):
    """While entered, keeps ``(name, bytes of the whole tensor, dtype)`` of each collective.

    Every front end (torch.distributed, DeepSpeed's wrappers of it, functions that were looked up before) ends in these
    operations, so none is missed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the operation if it is a collective, and let it run."""
        if func.namespace == "c10d" and func._opname in _WHOLE:
            names = [argument.name for argument in func._schema.arguments]
            wanted = next((name for name in names if name.startswith(_WHOLE[func._opname][:5])), names[0])
            whole = dict(zip(names, args, strict=False)) | (kwargs or {})
            tensors = [leaf for leaf in tree_leaves(whole[wanted]) if isinstance(leaf, Tensor)]
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            dtype = str(tensors[0].dtype).removeprefix("torch.")
            self.calls.append((_ALIKE.get(func._opname, func._opname.strip("_")), size, dtype))
        return func(*args, **(kwargs or {}))


def loopback_bytes() -> int:
    """Bytes that this network namespace has sent to itself, headers included."""
    for line in Path("/proc/net/dev").read_text("ascii").splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


def network() -> str:
    """Name of the network namespace of this process."""
    return os.readlink("/proc/self/ns/net")


def own_network() -> None:
    """Give this process and its children a network of their own, of which only the loopback interface is up.

    So that nothing else on the machine is counted. Where that is not allowed, all stays as it is.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_NEW_USER | _NEW_NETWORK) == 0:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            fcntl.ioctl(probe, _SET_FLAGS, struct.pack("16sh", b"lo", _UP_AND_RUNNING))
