"""The loader process: reads and packs one rank's rows, and writes them to its standard output.

Started by `prefetch.LoaderProcess` as ``python -m electra_ds.data.worker``, with a pickled `Job` on standard input.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from typing import IO

from electra_ds.data.loader import RowSource, StepRows, open_shards
from electra_ds.data.prefetch import FRAME, IGNORED_SIGNALS, Job


def main() -> None:
    """Make rows until the trainer closes the pipe or is gone."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they were blocked when this process was started, and stay so
    job: Job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_leave_with_the_trainer, daemon=True).start()
    # Rows have the pipe to themselves: whatever a library prints goes to the job's log.
    with os.fdopen(os.dup(1), "wb", buffering=0) as output:
        os.dup2(2, 1)
        try:
            _serve(job, output)
        except BrokenPipeError:
            os._exit(0)


def _serve(job: Job, output: IO[bytes]) -> None:
    rows_of: StepRows | None = None
    step = job.begin
    while True:
        try:
            if rows_of is None:
                shards = open_shards(job.config, job.split, job.fingerprint)
                rows_of = StepRows(RowSource(shards, job.config, job.length, job.seed), job.portion)
            rows = rows_of(step)
        except Exception as error:
            _send(output, -1, [_pickled(error)], list(rows_of.counters().values()) if rows_of else [])
            return
        arrays = [rows.records, rows.row_ids, rows.epochs, rows.skipped, rows.pair_rows]
        pieces = [array.tobytes() for array in arrays if array is not None]
        _send(output, len(rows.row_ids), pieces, list(rows_of.counters().values()))
        step += 1


def _send(output: IO[bytes], rows: int, pieces: list[bytes], counters: list[int]) -> None:
    padded = counters + [0] * (FRAME.size // 8 - 2 - len(counters))
    for piece in (FRAME.pack(rows, sum(map(len, pieces)), *padded), *pieces):
        view = memoryview(piece)
        while view:
            view = view[output.write(view) :]


def _pickled(error: Exception) -> bytes:
    """The error as the trainer shall raise it; one that cannot travel becomes a RuntimeError with its text."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return pickle.dumps(RuntimeError("".join(traceback.format_exception(error))))
    return data


def _leave_with_the_trainer() -> None:
    """End this process when its input closes: the trainer closed it, or is gone, be it by SIGKILL."""
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
