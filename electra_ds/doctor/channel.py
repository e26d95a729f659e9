"""The wire between the first rank and all others: a key-value store over TCP, with an end to every wait."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from electra_ds.distributed import Place
from electra_ds.errors import UserError

RETRY_PAUSE = 0.25
"""Seconds between two tries to connect."""


class Silence(Exception):
    """The time is over and a key is not there."""


class Lost(Exception):
    """The connection to the first rank broke: it ended."""


@dataclass(frozen=True)
class Schedule:
    """How the time is shared out: each wait ends at a share of it, so that the last ends within all of it."""

    timeout: float
    """Seconds in all."""
    start: float = field(default_factory=time.monotonic)
    """By `time.monotonic`."""

    arrive, answer, sign, look, exchange = 0.4, 0.55, 0.72, 0.85, 0.96
    """Shares at which the waits for ranks, their facts, the file systems and the all-reduce end."""

    def left(self, share: float = 1.0) -> float:
        """Seconds until a share of the time has passed; never below a twentieth of a second."""
        return max(0.05, self.start + share * self.timeout - time.monotonic())


def doctor_port(place: Place) -> int:
    """Port of the store: beside the one that training will use, which stays free."""
    return place.master_port + 1 if place.master_port < 65535 else place.master_port - 1


def run_name(place: Place) -> str:
    """Prefix of keys: two runs that meet on one port by mistake do not take each other's answers."""
    job = f"{os.environ.get('SLURM_JOB_ID', '')}.{os.environ.get('SLURM_STEP_ID', '')}"
    return f"electra_ds/doctor/{place.master_addr}:{place.master_port}/{place.world_size}/{job}"


def reach(address: str, port: int, seconds: float, who: str) -> None:
    """Connect once by plain sockets, trying again until the time is over: their errors say what is wrong.

    Raises:
        UserError: names who could not reach which address and port, and why.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=max(0.1, min(5.0, end - time.monotonic()))).close()
            return
        except OSError as error:
            if time.monotonic() + RETRY_PAUSE >= end:
                raise UserError(
                    f"{who} cannot reach the first rank at {address}:{port} within {seconds:.0f} s ({error}); "
                    f"{_what_to_do(error, address)}"
                ) from error
        time.sleep(RETRY_PAUSE)


def _what_to_do(error: OSError, address: str) -> str:
    if isinstance(error, socket.gaierror):
        return f"this node cannot resolve '{address}': export MASTER_ADDR as an address that every node knows"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there: the first rank did not start, has ended, or MASTER_ADDR names another machine"
    return "check that MASTER_ADDR is the first rank's node, and that no firewall lies between the nodes"


class Channel:
    """A connection to the store. Values are JSON. One per thread: a wait occupies it."""

    def __init__(self, store: Any, prefix: str) -> None:
        """Wrap a ``TCPStore``; see `host` and `join`."""
        self.store, self._prefix = store, prefix

    @classmethod
    def host(cls, port: int, prefix: str) -> Channel:
        """Keep the store, on the first rank.

        Raises:
            UserError: the port is taken.
        """
        from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]

        try:
            return cls(TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False), prefix)
        except DistNetworkError as error:
            raise UserError(
                f"port {port} on {socket.gethostname()} cannot be opened ({str(error)[:200]}); "
                f"export another MASTER_PORT (the doctor takes the one after it)"
            ) from error

    @classmethod
    def join(cls, address: str, port: int, prefix: str, seconds: float) -> Channel:
        """Connect to the store that the first rank keeps.

        Raises:
            Silence: it does not answer, though something listens.
        """
        from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

        waiting = timedelta(seconds=seconds)
        try:
            return cls(TCPStore(address, port, is_master=False, timeout=waiting, wait_for_workers=False), prefix)
        except DistError as error:
            raise Silence(f"what listens at {address}:{port} is not the first rank ({str(error)[:200]})") from error

    def put(self, key: str, value: Any) -> None:
        """Set a key."""
        self._guarded(lambda: self.store.set(self._key(key), json.dumps(value)))

    def take(self, key: str, seconds: float) -> Any:
        """Wait for a key and return its value.

        Raises:
            Silence: it did not come in time.
            Lost: the first rank ended.
        """
        self._wait([key], seconds)
        return json.loads(self._guarded(lambda: self.store.get(self._key(key))))

    def gather(self, kind: str, ranks: Sequence[int], seconds: float) -> dict[int, Any]:
        """Wait for ``kind/RANK`` of all `ranks`; return those that came, by rank."""
        if not ranks:
            return {}
        try:
            self._wait([f"{kind}/{rank}" for rank in ranks], seconds)
            there = list(ranks)
        except Silence:
            there = [rank for rank in ranks if self.has(f"{kind}/{rank}")]
        return {rank: self.take(f"{kind}/{rank}", 5.0) for rank in there}

    def has(self, key: str) -> bool:
        """Whether a key is set."""
        return bool(self._guarded(lambda: self.store.check([self._key(key)])))

    def push(self, queue: str, value: str) -> None:
        """Append to a queue."""
        self._guarded(lambda: self.store.queue_push(self._key(queue), value))

    def pop(self, queue: str, seconds: float) -> str:
        """Wait for a queue's next value."""

        def pop() -> str:
            self.store.set_timeout(timedelta(seconds=seconds))
            return str(self.store.queue_pop(self._key(queue), block=True).decode())

        return str(self._guarded(pop))

    def _wait(self, keys: Sequence[str], seconds: float) -> None:
        waiting = timedelta(seconds=max(0.05, seconds))
        self._guarded(lambda: self.store.wait([self._key(key) for key in keys], waiting))

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    @staticmethod
    def _guarded(action: Callable[[], Any]) -> Any:
        from torch.distributed import DistNetworkError, DistStoreError

        try:
            return action()
        except DistStoreError as error:
            raise Silence(str(error)[:200]) from error
        except DistNetworkError as error:
            raise Lost(str(error)[:200]) from error
