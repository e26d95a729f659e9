"""What every rank does, the first one too: in a thread, so that a file system that hangs does not hang the rank."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from electra_ds.distributed import Place
from electra_ds.doctor.channel import Channel, Lost, Schedule, Silence, doctor_port, reach, run_name
from electra_ds.doctor.clock import measure_clock
from electra_ds.doctor.config import DoctorConfig
from electra_ds.doctor.facts import Facts, collect_facts
from electra_ds.doctor.folders import Looker, tidy_later
from electra_ds.doctor.network import LONGEST, exchange
from electra_ds.errors import UserError
from electra_ds.lives import DONE, node_name


class Participant:
    """One rank, from reaching the first rank to its goodbye."""

    def __init__(self, config: DoctorConfig, place: Place, schedule: Schedule) -> None:
        """Start nothing yet."""
        self._config, self._place, self._schedule = config, place, schedule
        self.problem = ""
        """Why this rank did not come to the end; empty while it has not met a problem."""
        self.verdict = DONE
        """Exit status that the first rank told all."""
        self.stage = "starting"
        """What it is doing."""
        self._channel: Channel | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def who(self) -> str:
        """How messages call this rank."""
        return f"rank {self._place.rank} on {node_name()}"

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, seconds: float) -> str:
        """Wait for the end; return the problem it met, empty if none."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            return f"{self.who} did not end within {self._config.timeout:g} s; it hung while {self.stage}"
        return self.problem

    def _run(self) -> None:
        try:
            self._take_part()
        except UserError as error:
            self.problem = str(error)
        except Silence as error:
            self.problem = f"{self.who}: the first rank does not answer while {self.stage} ({error})"
        except Lost:
            self.problem = f"{self.who}: the first rank, at {self._address}, ended while {self.stage}"
        except Exception as error:
            self.problem = f"{self.who}: {type(error).__name__} while {self.stage}: {error}"

    @property
    def _address(self) -> str:
        return f"{self._place.master_addr}:{doctor_port(self._place)}"

    def _take_part(self) -> None:
        rank, schedule = self._place.rank, self._schedule
        channel = self._channel = self._join()
        channel.put(f"arrived/{rank}", node_name())
        self._say("collecting this rank's facts")
        facts = self._try(f"facts/{rank}", lambda: self._facts(channel))
        self._say("waiting for the other ranks' facts")
        roster = channel.take("roster", schedule.left(schedule.look))
        if rank not in roster["ranks"]:
            raise UserError(f"{self.who} came too late: the first rank had stopped waiting")
        if rank in roster["looking"]:
            looker = Looker(self._config, channel, schedule, self._say)
            given = (rank, roster["looking"], roster["nonce"])
            try:
                self._try(f"sight/{rank}", lambda: looker.look(*given))
            finally:
                tidy_later(looker, *given, channel, schedule.left(schedule.look))
        self._say("waiting for the other nodes")
        network = channel.take("network", schedule.left(schedule.exchange))
        if network["backend"]:
            self._say("exchanging data with all ranks (all-reduce)")
            seconds = max(1.0, min(LONGEST * schedule.timeout, schedule.left(schedule.exchange) - 1.0))
            device = facts.device if facts else None
            self._try(f"exchange/{rank}", lambda: exchange(channel, self._place, network["backend"], device, seconds))
        self._say("waiting for the end")
        self.verdict = int(channel.take("end", schedule.left()))
        channel.put(f"bye/{rank}", True)

    def _join(self) -> Channel:
        place, port, prefix = self._place, doctor_port(self._place), run_name(self._place)
        self._reach(port)
        self._say("importing torch")
        import torch  # noqa: F401 (takes seconds, long ones where all nodes read it from one file system)

        self._reach(port)  # still there
        self._say(
            f"waiting for an answer from what listens at {self._address} (if that is another program, export another "
            "MASTER_PORT, the same on all ranks)"
        )
        try:
            channel = Channel.join(place.master_addr, port, prefix, self._schedule.left(self._schedule.look))
            channel.take("hello", self._schedule.left(self._schedule.arrive))
        except (Silence, Lost) as error:
            raise UserError(
                f"{self.who}: something listens at {self._address}, but it is not this run's first rank ({error}); "
                "export another MASTER_PORT, the same on all ranks"
            ) from error
        return channel

    def _reach(self, port: int) -> None:
        self._say(f"connecting to {self._address}")
        # The first rank tries its own address as long as it waits for others: then its error is still heard.
        share = 0.9 * self._schedule.arrive if self._place.is_first else 0.95
        reach(self._place.master_addr, port, self._schedule.left(share), self.who)

    def _facts(self, channel: Channel) -> Facts:
        facts = collect_facts(self._place)
        self._say("comparing clocks")
        try:
            ahead, round_trip = measure_clock(channel, self._place.rank, 5.0)
        except Silence:
            return facts
        return replace(facts, ahead=ahead, round_trip=round_trip)

    def _say(self, stage: str) -> None:
        self.stage = stage
        if self._channel is not None:
            self._channel.put(f"stage/{self._place.rank}", stage)

    def _try(self, key: str, action: Callable[[], Any]) -> Any:
        """Do something and tell the first rank what came of it, or which error; return it, None after an error."""
        assert self._channel is not None
        try:
            value = action()
        except (Silence, Lost):
            raise
        except Exception as error:
            self._channel.put(key, {"error": f"{type(error).__name__} while {self.stage}: {error}"})
            return None
        self._channel.put(key, asdict(value))
        return value
