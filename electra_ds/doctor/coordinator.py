"""What the first rank does beside its own part: keep the store, wait for the others, but never for long."""

from __future__ import annotations

import math
import os
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from electra_ds.distributed import Place
from electra_ds.doctor.channel import Channel, Schedule, doctor_port, run_name
from electra_ds.doctor.clock import answer_clocks
from electra_ds.doctor.config import DoctorConfig
from electra_ds.doctor.facts import Facts
from electra_ds.doctor.folders import Sight
from electra_ds.doctor.network import LONGEST, Exchange
from electra_ds.doctor.nodes import expected_nodes
from electra_ds.lives import node_name

Answer = TypeVar("Answer")

_GOODBYE = 2.0
"""Seconds that the store stays for ranks that have not yet heard that it is over."""


@dataclass(kw_only=True)
class Gathered:
    """Everything the ranks told."""

    world_size: int
    launcher: str
    address: str
    """Where the ranks meet, with its port."""
    first_node: str
    """Node of the first rank."""
    expected: dict[str, int] = field(default_factory=dict)
    """Ranks each node should bring; empty where the launcher does not tell."""
    node_of: dict[int, str] = field(default_factory=dict)
    """Node of each rank that came."""
    facts: dict[int, Facts] = field(default_factory=dict)
    looking: list[int] = field(default_factory=list)
    """Ranks that look at the file systems, one of each node; the first wrote what the others must see."""
    sights: dict[int, Sight] = field(default_factory=dict)
    exchanges: dict[int, Exchange] = field(default_factory=dict)
    not_exchanged: str = ""
    """Why there was no all-reduce; empty if there was one."""
    silent: dict[int, str] = field(default_factory=dict)
    """What a rank that came was doing when it stopped answering."""
    errors: dict[int, str] = field(default_factory=dict)
    """Unexpected errors by rank."""
    port_taken: str = ""
    """Why the port that training will use is not free; empty if it is."""
    output: str | None = None
    data: str | None = None


class Coordinator:
    """The first rank's view."""

    def __init__(self, config: DoctorConfig, place: Place, schedule: Schedule) -> None:
        """Open the store.

        Raises:
            UserError: its port is taken.
        """
        self._place, self._schedule = place, schedule
        port, prefix = doctor_port(place), run_name(place)
        self._channel = Channel.host(port, prefix)
        clocks = Channel.join("127.0.0.1", port, prefix, schedule.left())
        threading.Thread(target=answer_clocks, args=(clocks, schedule.left()), daemon=True).start()
        self.gathered = Gathered(
            world_size=place.world_size,
            launcher=place.launcher,
            address=f"{place.master_addr}:{port}",
            first_node=node_name(),
            expected=expected_nodes(os.environ, place.launcher),
            port_taken=_port_taken(place),
            output=config.output,
            data=config.data.path,
        )
        self._channel.put("hello", True)

    def gather(self) -> Gathered:
        """Lead the ranks through all checks; ends within the schedule, whoever does not answer."""
        got, channel, schedule = self.gathered, self._channel, self._schedule
        got.node_of = channel.gather("arrived", range(got.world_size), schedule.left(schedule.arrive))
        got.facts = self._answers("facts", sorted(got.node_of), schedule.answer, Facts.from_json)
        ranks = sorted(got.facts)
        first_of_node: dict[str, int] = {}
        for rank in ranks:
            first_of_node.setdefault(got.facts[rank].node, rank)
        got.looking = sorted(first_of_node.values())
        channel.put("roster", {"ranks": ranks, "looking": got.looking, "nonce": secrets.token_hex(8)})
        self._look()
        self._exchange()
        return got

    def end(self, status: int) -> None:
        """Tell the ranks that it is over, and how, and let them go first: the store ends with this process."""
        self._channel.put("end", status)
        there = sorted(set(self.gathered.facts) - set(self.gathered.silent))
        self._channel.gather("bye", there, min(_GOODBYE, self._schedule.left()))

    def _look(self) -> None:
        got, schedule = self.gathered, self._schedule
        if got.output is not None:
            signed = self._channel.gather("signed", got.looking, schedule.left(schedule.sign))
            self._channel.put("signed", sorted(signed))
        got.sights = self._answers("sight", got.looking, schedule.look, Sight.from_json)
        self._channel.put("looked", True)

    def _exchange(self) -> None:
        got, schedule = self.gathered, self._schedule
        got.not_exchanged = self._why_not()
        self._channel.put("network", {"backend": "" if got.not_exchanged else self._backend()})
        if not got.not_exchanged:
            ranks = sorted(got.facts)
            got.exchanges = self._answers("exchange", ranks, schedule.exchange, lambda value: Exchange(**value))

    def _why_not(self) -> str:
        got = self.gathered
        if got.world_size == 1:
            return "one rank has nobody to exchange with"
        if len(got.facts) < got.world_size or got.silent or got.errors:
            return "not tried, because not all ranks answer"
        return ""

    def _backend(self) -> str:
        own = [(facts.host, facts.gpus[facts.device].uuid) for facts in self.gathered.facts.values()
               if facts.device is not None]  # fmt: skip
        return "nccl" if len(set(own)) == self.gathered.world_size else "gloo"

    def _answers(
        self, kind: str, ranks: list[int], share: float, read: Callable[[dict[str, Any]], Answer]
    ) -> dict[int, Answer]:
        """Wait for what `ranks` have to say, and note who does not."""
        got = self.gathered
        asked = [rank for rank in ranks if rank not in got.silent and rank not in got.errors]
        longest = LONGEST * self._schedule.timeout + 2.0 if kind == "exchange" else math.inf
        found = self._channel.gather(kind, asked, min(longest, self._schedule.left(share)))
        silent = [rank for rank in asked if rank not in found]
        stages = self._channel.gather("stage", silent, 0.05)
        got.silent |= {rank: stages.get(rank, "starting") for rank in silent}
        failed = {rank: value["error"] for rank, value in found.items() if set(value) == {"error"}}
        got.errors |= failed
        return {rank: read(value) for rank, value in found.items() if rank not in failed}


def _port_taken(place: Place) -> str:
    """Try the port that training will open on this node; torchrun holds it itself."""
    if place.launcher == "torchrun" or place.world_size == 1:
        return ""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", place.master_port))
        except OSError as error:
            return f"{error.strerror or error}"
    return ""
