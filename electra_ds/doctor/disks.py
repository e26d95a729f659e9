"""Space, write speed and kind of a folder's file system."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITTEN = 8 << 20
"""Bytes written and synced to measure a folder's speed."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """A folder, as one node finds it."""

    path: str
    total: int = 0
    """Bytes."""
    free: int = 0
    """Bytes."""
    speed: float | None = None
    """Bytes per second of a small synced file; None where it was not measured."""
    file_system: str = ""
    """Kind and source, for example ``nfs4 server:/home``."""
    error: str = ""

    @classmethod
    def from_json(cls, value: dict[str, Any] | None) -> Space | None:
        """Back from what `dataclasses.asdict` made of it."""
        return None if value is None else cls(**value)


def measure(folder: str | os.PathLike[str], name: str | None) -> Space:
    """Measure a folder; with a `name`, also write, sync and remove a file of that name in it."""
    path = str(folder)
    try:
        usage = shutil.disk_usage(folder)
        speed = None if name is None else _write(Path(folder) / name)
    except OSError as error:
        return Space(path=path, file_system=file_system(folder), error=f"{error.strerror or error}")
    return Space(path=path, total=usage.total, free=usage.free, speed=speed, file_system=file_system(folder))


def _write(path: Path) -> float:
    piece = os.urandom(1 << 20)  # not zeros: some file systems store those as nothing
    try:
        before = time.perf_counter()
        with open(path, "wb") as file:
            for _ in range(WRITTEN >> 20):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        return WRITTEN / (time.perf_counter() - before)
    finally:
        path.unlink(missing_ok=True)


def file_system(folder: str | os.PathLike[str]) -> str:
    """Kind and source of the mount that a path lies on, empty where the system does not tell."""
    path = os.path.realpath(folder)
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    found, length = "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= length:  # of two mounts on one point the later one is seen
            kind, source = after.split()[:2]
            found, length = f"{kind} {source}", len(point)
    return found
