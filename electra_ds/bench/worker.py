"""One side of a benchmark in a process of its own, on one core: what it imports and keeps is no other's affair.

The parent writes one JSON object a line, and reads one back. Run as ``python -m electra_ds.bench.worker``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from electra_ds.bench.machine import ONE_THREAD, usable_cores
from electra_ds.errors import UserError


class Worker:
    """The parent's handle on a side."""

    def __init__(self, side: str, spec: dict[str, Any]) -> None:
        """Start the process and let it import what it needs.

        Raises:
            UserError: it failed; the message is its own.
        """
        environment = {**os.environ, **ONE_THREAD, "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "electra_ds.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment,
        )
        try:
            self.start_memory = int(self.ask("open", side=side, spec=spec)["memory"])
        except UserError:
            self.close()
            raise

    def ask(self, request: str, **details: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            UserError: the side raised an error, or the process ended.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"request": request, **details}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._said.seek(0)
            said = self._said.read().strip().splitlines()
            raise UserError(said[-1] if said else f"the process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise UserError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            if pipe:
                with contextlib.suppress(BrokenPipeError):  # a request that was never read
                    pipe.close()


def is_installed(package: str | None) -> bool:
    """Whether a side's package can be imported."""
    return package is None or importlib.util.find_spec(package) is not None


def measure_epoch(side: Any) -> dict[str, Any]:
    """Read one epoch; count rows, tokens, time and what was asked of the system."""
    before, cpu, begun = _reads(), time.process_time(), time.perf_counter()
    rows = tokens = 0
    for ids in side.epoch():
        rows, tokens = rows + len(ids), tokens + ids.size
    seconds, cpu, after = time.perf_counter() - begun, time.process_time() - cpu, _reads()
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "rows": rows,
        "tokens": tokens,
        "bytes_read": None if before is None or after is None else after[0] - before[0],
        "reads": None if before is None or after is None else after[1] - before[1],
        "memory": peak_memory(),
    }


def sum_up(side: Any) -> dict[str, Any]:
    """Read one epoch without a clock: rows, and the sum of all ids, alike for all sides if they deliver the same."""
    rows = total = 0
    for ids in side.epoch():
        rows, total = rows + len(ids), total + int(ids.sum())
    return {"rows": rows, "sum_of_ids": total}


def measure_cold(side: Any, files: list[Path]) -> dict[str, Any]:
    """Time to the first batch, the files dropped from the page cache before."""
    dropped = forget(files)
    begun = time.perf_counter()
    batches = side.epoch()
    next(batches)
    seconds = time.perf_counter() - begun
    if hasattr(batches, "close"):
        batches.close()
    return {"seconds": seconds, "dropped": dropped}


def forget(files: Iterable[Path]) -> bool:
    """Ask the system to drop files from its page cache; whether it could be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True


def _reads() -> tuple[int, int] | None:
    """Bytes and calls of this process's read system calls, None where the system does not tell."""
    try:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text("utf-8").splitlines())
        return int(fields["rchar"]), int(fields["syscr"])
    except (OSError, KeyError, ValueError):
        return None


def peak_memory() -> int:
    """Largest resident size of this process so far (bytes)."""
    try:
        # What getrusage tells begins with the size of the process that this one was forked from.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
        return 1024 * int(status["VmHWM"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _serve() -> None:
    """Answer requests until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {usable_cores()[-1]})
    from electra_ds.bench.sides import SIDES, Spec

    side: Any = None
    files: list[Path] = []
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["request"] == "open":
                side = SIDES[request["side"]](Spec(**request["spec"]))
                answer: dict[str, Any] = {"memory": peak_memory()}
            elif request["request"] == "prepare":
                files = list(side.prepare())
                answer = {"bytes": sum(path.stat().st_size for path in files)}
            elif request["request"] == "cold":
                answer = measure_cold(side, files)
            elif request["request"] == "sum":
                answer = sum_up(side)
            else:
                answer = measure_epoch(side)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
