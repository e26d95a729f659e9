"""Processes that turn units into part files."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from data_prep.tokenizer import Encoder, load_encoder
from data_prep.units import Unit, tokenize_unit, write_part
from electra_ds.errors import UserError


@dataclass(frozen=True)
class Job:
    """What every unit is done with."""

    tokenizer: Path
    parts: Path
    validation_fraction: float
    seed: int


class _Worker:
    """The encoder that a process keeps from unit to unit."""

    def __init__(self, job: Job) -> None:
        # The processes are the parallelism; more threads than cores only take turns.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._job = job
        self._encoder: Encoder = load_encoder(job.tokenizer)

    def make(self, unit: Unit) -> int:
        part = tokenize_unit(unit, self._encoder, self._job.validation_fraction, self._job.seed)
        write_part(self._job.parts / unit.part_name, part)
        return unit.bytes


_worker: _Worker | None = None


def _start(job: Job) -> None:
    global _worker
    _worker = _Worker(job)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed main process must not leave workers waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(unit: Unit) -> int:
    assert _worker is not None
    return _worker.make(unit)


def make_parts(units: Iterable[Unit], job: Job, workers: int) -> Iterator[tuple[Unit, bool]]:
    """Make the part of every unit that has none; yield units as they are done, in order.

    Args:
        units: in order; taken no further ahead than keeps the processes busy.
        job: what to do.
        workers: processes; 1 works in this one.

    Yields:
        The unit, its documents left out, and whether its part had to be made.

    Raises:
        UserError: what a worker raised, or a worker was killed.
    """
    with ExitStack() as stack:
        executor: ProcessPoolExecutor | None = None
        here: _Worker | None = None
        waiting: deque[tuple[Unit, Future[int] | None]] = deque()

        def first_done() -> tuple[Unit, bool]:
            unit, future = waiting.popleft()
            if future is not None:
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise UserError(
                        "a worker process was killed, most often for want of memory; "
                        "run the same command with fewer --workers: what is done will be kept"
                    ) from error
            return unit, future is not None

        try:
            for unit in units:
                light = Unit(unit.number, [], unit.bytes, unit.digest)
                if (job.parts / unit.part_name).is_file():
                    waiting.append((light, None))
                elif workers == 1:
                    here = here or _Worker(job)
                    here.make(unit)
                    yield light, True
                else:
                    if executor is None:
                        context = multiprocessing.get_context("spawn")
                        executor = stack.enter_context(ProcessPoolExecutor(workers, context, _start, (job,)))
                    waiting.append((light, executor.submit(_make, unit)))
                while waiting and (workers == 1 or len(waiting) > 2 * workers):
                    yield first_done()
            while waiting:
                yield first_done()
        except BaseException:
            if executor is not None:
                executor.shutdown(wait=True, cancel_futures=True)
            raise
