"""Worker processes of one machine or one MPI rank."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from data_prep.work import Job, Worker
from electra_ds.errors import UserError


class Task(NamedTuple):
    """A call of one of `Worker`'s methods."""

    method: str
    arguments: tuple[Any, ...]


class Workers:
    """Does tasks in some processes; with one, in this one. A context manager."""

    def __init__(self, job: Job, count: int) -> None:
        """`count`: processes."""
        self._job, self._count = job, count
        self._here: Worker | None = None
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=kind is not None)

    def run(self, tasks: Iterable[Task]) -> Iterator[Any]:
        """Do tasks and yield their results in order; tasks are taken no further ahead than keeps the processes busy.

        Raises:
            UserError: what a worker raised, or a worker was killed.
        """
        if self._count == 1:
            for task in tasks:
                self._here = self._here or _new_worker(self._job)
                yield getattr(self._here, task.method)(*task.arguments)
            return
        waiting: deque[Future[Any]] = deque()
        for task in tasks:
            waiting.append(self._submit(task))
            while len(waiting) > self._count + 1:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())

    def _submit(self, task: Task) -> Future[Any]:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._count, context, _start, (self._job,))
        try:
            return self._executor.submit(_do, task)
        except BrokenProcessPool as error:
            raise _killed() from error


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _killed() from error


def _killed() -> UserError:
    return UserError(
        "a worker process was killed, most often for want of memory; "
        "run the same command with fewer --workers: what is done will be kept"
    )


_worker: Worker | None = None


def _new_worker(job: Job) -> Worker:
    # The processes are the parallelism; more threads than cores only take turns.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return Worker(job)


def _start(job: Job) -> None:
    global _worker
    _worker = _new_worker(job)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed main process must not leave workers waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(task: Task) -> Any:
    assert _worker is not None
    return getattr(_worker, task.method)(*task.arguments)
