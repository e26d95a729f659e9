"""Ends a rank that makes no progress: a peer that hangs would otherwise let all others wait for hours."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from typing import Any

from electra_ds.lives import HUNG, node_name, record_failure

_BACKSTOP = 60.0
"""Seconds after which the C side ends a process whose interpreter is stuck, so that no Python thread can."""


class Watchdog:
    """A thread that wants to hear of progress; without it, it writes all stacks and ends the process by `HUNG`.

    Every rank has its own, and each waits for the slowest: all of them end, each with its stacks in its own log.
    """

    def __init__(self, rank: int, seconds: float | None) -> None:
        """Args: rank: of this process. seconds: longest time between two beats; None: never ends anything."""
        self._rank, self._seconds = rank, seconds
        self._last: tuple[float, str, int | None] = (time.monotonic(), "starting", None)
        self._ends = threading.Event()
        self._pause = min(5.0, (seconds or 0) / 4)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if seconds is not None:
            self._thread.start()

    def beat(self, doing: str, step: int | None = None) -> None:
        """Progress was made.

        Args:
            doing: what begins now, for the message.
            step: updates made so far.
        """
        self._last = (time.monotonic(), doing, step)

    def close(self) -> None:
        """Stop watching."""
        self._ends.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        assert self._seconds is not None
        while not self._ends.is_set():
            faulthandler.dump_traceback_later(self._seconds + _BACKSTOP, exit=True)
            if self._ends.wait(self._pause):
                break
            since, doing, step = self._last
            if time.monotonic() - since > self._seconds:
                self._end(time.monotonic() - since, doing, step)
        faulthandler.cancel_dump_traceback_later()

    def _end(self, waited: float, doing: str, step: Any) -> None:
        after = "" if step is None else f" after step {step}"
        message = (
            f"no progress for {waited:.0f} s{after}, while {doing} (training.watchdog_seconds={self._seconds:g}); "
            "a rank or a node hangs"
        )
        record_failure(self._rank, "hang", message, step)
        sys.stderr.write(f"rank {self._rank} on {node_name()}: {message}. Stacks of all threads:\n")
        sys.stderr.flush()
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        sys.stderr.flush()
        time.sleep(2 * self._pause)  # the first to leave makes Slurm end the others, which have their stacks to write
        os._exit(HUNG)
