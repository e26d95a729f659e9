"""Running a command on some cores, and what it and the processes below it took: time, CPU time, memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from electra_ds.bench.machine import usable_cores
from electra_ds.errors import UserError

SAMPLE_SECONDS = 0.1
"""Between two looks at the memory of the processes."""


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    seconds: float
    """By the clock, from its start to its end."""
    cpu_seconds: float
    """Of all its processes together."""
    memory: int
    """Largest resident size of the process that was started (bytes)."""
    anonymous: int
    """Largest anonymous resident size of that process, as sampled: without mapped files and page cache (bytes); 0 where
    the system does not tell."""
    worker_memory: int
    """Largest resident size of any process below it (bytes); 0 if there was none, or the system does not tell."""
    curve: list[tuple[float, int]] = field(repr=False)
    """Seconds since the start, and resident bytes of the largest process then."""
    said: str = field(repr=False)
    """What it printed."""

    def numbers(self) -> dict[str, Any]:
        """The figures by name, without curve and text."""
        return {
            name: getattr(self, name) for name in ("seconds", "cpu_seconds", "memory", "anonymous", "worker_memory")
        }


def measure(
    command: Sequence[str],
    cores: int,
    environment: Mapping[str, str] | None = None,
    sample_seconds: float = SAMPLE_SECONDS,
) -> Usage:
    """Run a command, held to the last `cores` cores this process may use.

    Args:
        command: program and arguments.
        cores: how many; with one, libraries are told to use one thread.
        environment: variables beside this process's.
        sample_seconds: between two looks at the memory.

    Raises:
        UserError: it failed; the message is its last line.
    """
    chosen = usable_cores()[-cores:]
    pin = (lambda: os.sched_setaffinity(0, chosen)) if hasattr(os, "sched_setaffinity") else None
    variables = {**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}
    if cores == 1:
        variables |= {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as said:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, env=variables, preexec_fn=pin
        )
        watch = _Watch(process.pid, sample_seconds)
        watch.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            watch.stop()
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().strip()
    if process.returncode:
        words = " ".join(Path(word).name if number == 0 else word for number, word in enumerate(command[:4]))
        raise UserError(f"{words} ... failed: {text.splitlines()[-1] if text else process.returncode}")
    below = [peak for pid, peak in watch.peaks.items() if pid != process.pid]
    # What wait4 tells may begin with the size of this process, which the other was forked from.
    memory = watch.peaks.get(process.pid) or usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    anonymous = watch.anonymous.get(process.pid, 0)
    return Usage(seconds, cpu_seconds, memory, anonymous, max(below, default=0), watch.curve, text)


class _Watch(threading.Thread):
    """Looks at a process and those below it, again and again."""

    def __init__(self, pid: int, pause: float) -> None:
        super().__init__(daemon=True)
        self._pause = pause
        self.anonymous: dict[int, int] = {}
        """Largest anonymous size that was seen, by process (bytes)."""
        self.peaks: dict[int, int] = {}
        """Largest resident size so far, by process (bytes)."""
        self.curve: list[tuple[float, int]] = []
        self._pid = pid
        self._over = threading.Event()

    def run(self) -> None:
        begun = time.perf_counter()
        while not self._over.wait(self._pause):
            now = []
            for pid in _tree(self._pid):
                if sizes := _sizes(pid):
                    # The latest, not the largest: before a new process runs its own program it has its parent's size.
                    self.peaks[pid] = sizes[1]
                    self.anonymous[pid] = max(self.anonymous.get(pid, 0), sizes[2])
                    now.append(sizes[0])
            if now:
                self.curve.append((time.perf_counter() - begun, max(now)))

    def stop(self) -> None:
        self._over.set()
        self.join()


def _tree(pid: int) -> list[int]:
    """A process and all below it; empty where the system does not tell."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        try:
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                waiting += map(int, children.read_text("utf-8").split())
        except OSError:
            continue
    return found


def _sizes(pid: int) -> tuple[int, int, int] | None:
    """Resident size now and at most so far, and what of it is anonymous now (bytes)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        if "VmRSS" not in fields:  # a process that has ended and is not yet forgotten
            return None
        now, most, anonymous = (1024 * int(fields.get(name, "0").split()[0]) for name in ("VmRSS", "VmHWM", "RssAnon"))
        return now, most, anonymous
    except (OSError, KeyError, ValueError):
        return None
