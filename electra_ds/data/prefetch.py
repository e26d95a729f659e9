"""Batches made ahead: by a thread, and by a process beside the trainer that only reads and packs.

What was made but not consumed is simply made again after a resume: nothing is lost, since position decides content.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from electra_ds.data.config import DataConfig
from electra_ds.data.loader import COUNTERS, Portion, Rows
from electra_ds.data.rows import row_dtype
from electra_ds.errors import UserError

Item = TypeVar("Item")

IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Signals that schedulers and terminals send to a whole job; they are meant for the trainer."""
FRAME = struct.Struct("<qq" + "q" * len(COUNTERS))
"""What precedes each answer of the process: rows (-1 for an error), bytes that follow, and its counters."""
_PIPE_BYTES = 1 << 20
_PATIENCE_SECONDS = 2.0


class Prefetcher(Generic[Item]):
    """Runs a function of consecutive numbers in a background thread, some results ahead."""

    def __init__(self, make: Callable[[int], Item], begin: int, ahead: int) -> None:
        """Args: make: called with begin, begin + 1, ...; begin: first number; ahead: results kept ready."""
        self._make, self._begin = make, begin
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()
        self.waited_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """Return the next result; an error in the thread is raised here."""
        before = time.perf_counter()
        item = self._queue.get()
        self.waited_seconds += time.perf_counter() - before
        if isinstance(item, _Failure):
            raise item.error
        result: Item = item
        return result

    def close(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _run(self) -> None:
        number = self._begin
        while not self._stopped.is_set():
            try:
                item: Any = self._make(number)
            except BaseException as error:
                item = _Failure(error)
            self._queue.put(item)
            if isinstance(item, _Failure):
                return
            number += 1


@dataclass(frozen=True)
class _Failure:
    error: BaseException


@dataclass(frozen=True)
class Job:
    """What a loader process is told: everything that decides its rows."""

    config: DataConfig
    split: str
    length: int
    """L, tokens of a row."""
    seed: int
    portion: Portion
    begin: int
    """Updates made before the first step it makes rows for."""
    fingerprint: str | None = None
    """Of the manifest that the run began with, as the process opens the set anew; None: not compared."""


class LoaderProcess:
    """A process that makes this rank's rows of one step after another, as far ahead as a pipe holds.

    It imports numpy but no torch, ignores the signals that schedulers send to a job, and ends by itself as soon as the
    trainer is gone, however that ended.
    """

    def __init__(self, job: Job, token_dtype: str, pairs: bool = False) -> None:
        """Start it.

        Args:
            job: what to make.
            token_dtype: of the shard set (``uint16`` or ``uint32``).
            pairs: the set has translation pairs, so that each answer says which rows are of them.
        """
        self._dtype = row_dtype(job.length, np.dtype(token_dtype).newbyteorder("<"))
        self._pairs = pairs
        self._next = job.begin
        self._counters = dict.fromkeys(COUNTERS, 0)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # A new process inherits the mask of blocked signals: none can hit it before it has said that it ignores them,
        # and those that arrive here meanwhile are kept for the trainer.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED_SIGNALS)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "electra_ds.data.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                pipesize=_PIPE_BYTES,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # it is gone already: the first call says so
            pickle.dump(job, self._input)
            self._input.flush()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __call__(self, step: int) -> Rows:
        """Rows of the update after `step` finished ones; steps must be asked for in order.

        Raises:
            UserError: the process ended. Whatever it met itself (`DataError`, ...) is raised as it was.
        """
        if step != self._next:
            raise ValueError(f"step {step}: the loader process makes step {self._next} next")
        self._next += 1
        header = np.empty(FRAME.size, np.uint8)
        self._fill(header)
        rows, size, *counts = FRAME.unpack(header.tobytes())
        self._counters = dict(zip(COUNTERS, counts, strict=True))
        if rows < 0:
            content = np.empty(size, np.uint8)
            self._fill(content)
            raise pickle.loads(content.tobytes())
        found = Rows(
            np.empty(rows, self._dtype),
            np.empty(rows, np.int64),
            np.empty(rows, np.int64),
            np.empty(rows, bool),
            np.empty(rows, bool) if self._pairs else None,
        )
        for array in (found.records, found.row_ids, found.epochs, found.skipped, found.pair_rows):
            if array is not None:
                self._fill(array)
        return found

    def counters(self) -> dict[str, int]:
        """What the process counted up to the rows taken last."""
        return self._counters

    def close(self) -> None:
        """End the process: its input is closed, and what does not heed that is killed."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _fill(self, array: np.ndarray) -> None:
        """Read one array, whole."""
        view = memoryview(array.view(np.uint8).data)
        filled = 0
        while filled < len(view):
            count = self._output.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                raise UserError(self._obituary())
            filled += count

    def _obituary(self) -> str:
        status = self._process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return (
            f"the loader process {self._process.pid} {how} (out of memory, if nobody did that: lower data.cache_bytes, "
            "or set data.prefetch_process to false); the same command goes on from the newest checkpoint"
        )
