"""What the ranks tell each other besides gradients: small sums, agreements, and who is there at all.

These travel over gloo on the CPU whatever the device, so that agreeing waits for no kernel; under NCCL that is a group
of its own.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from electra_ds.backend import import_deepspeed
from electra_ds.distributed import Place
from electra_ds.errors import DataError, MachineError, UserError
from electra_ds.lives import node_name

Value = TypeVar("Value")

ARRIVED, EVERYBODY = "electra_ds/arrived/", "electra_ds/everybody"
GRACE = 20.0
"""Seconds that the other ranks wait longer than rank 0, which knows who is missing and speaks."""
_LOST_PEER = re.compile(
    r"connection (?:was )?(?:closed|reset|refused)|broken pipe|remote process (?:exited|has exited)|"
    r"socket (?:closed|timeout)|ncclRemoteError|Connection closed by peer|Timed out waiting",
    re.IGNORECASE,
)


class Peers:
    """All ranks of the run, as one of them sees them; the process group must be up."""

    def __init__(self, place: Place, first_of_node: bool) -> None:
        """Make a group of its own unless the default one is gloo's; collective.

        Args:
            place: of this rank.
            first_of_node: whether this rank looks at what all ranks of its node see.
        """
        self.place, self.first_of_node = place, first_of_node
        self._group = None
        if torch.distributed.get_backend() != "gloo":
            self._group = torch.distributed.new_group(backend="gloo")

    def sum(self, value: Tensor) -> Tensor:
        """Add a small CPU tensor up over all ranks; returns a new one."""
        total = value.clone()
        if self.place.world_size > 1:
            torch.distributed.all_reduce(total, group=self._group)
        return total

    def gather(self, value: Any) -> list[Any]:
        """One object of each rank, by rank, on every rank."""
        if self.place.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.place.world_size
        torch.distributed.all_gather_object(gathered, value, group=self._group)
        return gathered

    def from_first(self, action: Callable[[], Value]) -> Value:
        """Let rank 0 act and share the result; a user's error there is raised on every rank."""
        outcome: list[Any] = [None, None]
        if self.place.is_first:
            try:
                outcome[0] = action()
            except UserError as error:
                outcome[1] = (isinstance(error, DataError), str(error))
        if self.place.world_size > 1:
            torch.distributed.broadcast_object_list(outcome, group=self._group)
        if outcome[1] is not None:
            raise (DataError if outcome[1][0] else UserError)(outcome[1][1])
        result: Value = outcome[0]
        return result

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum(torch.zeros(1))


def start_process_group(place: Place, device: torch.device, seconds: float) -> None:
    """Set the five rendezvous variables and join the others.

    Rank 0 waits for the others to arrive and names those that do not; they wait for it a little longer, so that in a
    job that dies with its first rank one message is left.

    Args:
        place: of this rank.
        device: decides the backend.
        seconds: how long to wait for all ranks.

    Raises:
        MachineError: the address cannot be reached, or a rank is missing.
    """
    place.export()
    deepspeed = import_deepspeed()
    patience = seconds if place.is_first else seconds + GRACE
    address = f"MASTER_ADDR={place.master_addr} MASTER_PORT={place.master_port}"
    try:
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            place.master_addr,
            place.master_port,
            place.world_size,
            # torchrun keeps the store in a process of its own, and says so as torch itself reads it.
            is_master=place.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True),
            timeout=timedelta(seconds=patience),
            wait_for_workers=False,
        )
        store.set(f"{ARRIVED}{place.rank}", node_name())
        if not place.is_first:
            _wait_for_word(store, patience)
    except ConnectionError:
        raise
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"rank {place.rank} of {place.world_size} on {node_name()} cannot meet the others at {address} within "
            f"{patience:g} s ({_first_line(error)}); check that the address is that of rank 0's node, that its port is "
            "free and no firewall closes it, and that rank 0 is still there"
        ) from error
    if place.is_first:
        _wait_for_all(store, place, seconds, address)
        store.set(EVERYBODY, "here")
    store.set_timeout(timedelta(minutes=30))
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        torch.distributed.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size)
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"rank {place.rank} of {place.world_size} on {node_name()}: the ranks met at {address}, but cannot connect "
            f"to each other ({_first_line(error)}); name the network interface that joins the nodes in "
            f"{'NCCL' if backend == 'nccl' else 'GLOO'}_SOCKET_IFNAME"
        ) from error
    deepspeed.init_distributed(dist_backend=backend, verbose=False, auto_mpi_discovery=False)


def _wait_for_word(store: Any, patience: float) -> None:
    """Wait until rank 0 has seen everybody.

    Raises:
        ConnectionError: rank 0 has left; it said why.
        RuntimeError: nothing was heard of it.
    """
    begun = time.monotonic()
    try:
        store.wait([EVERYBODY], timedelta(seconds=patience))
    except RuntimeError as error:
        if time.monotonic() - begun < patience - 1:
            raise ConnectionError("connection closed by rank 0 before all ranks were there") from error
        raise


def _wait_for_all(store: Any, place: Place, seconds: float, address: str) -> None:
    ranks = range(place.world_size)
    try:
        store.wait([f"{ARRIVED}{rank}" for rank in ranks], timedelta(seconds=seconds))
    except RuntimeError as error:
        missing = [rank for rank in ranks if not store.check([f"{ARRIVED}{rank}"])]
        nodes = sorted({store.get(f"{ARRIVED}{rank}").decode() for rank in ranks if rank not in missing})
        shown = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
        raise MachineError(
            f"{len(missing)} of {place.world_size} ranks did not reach {address} within {seconds:g} s: rank {shown} "
            f"(rank 0 is on {node_name()}; here are ranks of {', '.join(nodes[:20])}); look into their logs, and see "
            "that every node can reach that address"
        ) from error


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error is but the echo of another rank's end: a connection that it closed."""
    return isinstance(error, (RuntimeError, ConnectionError)) and bool(_LOST_PEER.search(str(error)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
