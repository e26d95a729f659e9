"""Do all nodes see the same output folder and the same data? One rank of each node looks."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_ds.doctor.channel import Channel, Lost, Schedule, Silence
from electra_ds.doctor.config import DoctorConfig
from electra_ds.doctor.disks import Space, file_system, measure
from electra_ds.errors import UserError

PATIENCE = 35.0
"""Seconds, at most, that a file may take to be seen elsewhere: network file systems remember folders for up to 30."""
LEFT_OVER = 3600.0
"""Seconds after which a file of ours is one that a killed doctor left."""
_MARK = ".electra-ds-doctor-"


@dataclass(frozen=True, kw_only=True)
class FolderSight:
    """The output folder, as one node finds it."""

    seen: bool
    """Whether the file that the writer put there is there, with its content."""
    wrote: bool = False
    """Whether this node could put its own file there."""
    sees: tuple[int, ...] = ()
    """Ranks whose files are there; asked of the writer, and of nodes that do not see the writer's."""
    file_system: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What one node finds on its file systems."""

    rank: int
    spaces: dict[str, Space]
    """``output``, ``temporary`` and ``shm``, as far as they are there."""
    fingerprint: str | None = None
    """Of the manifest; None where it was not asked for or cannot be read."""
    data_error: str = ""
    folder: FolderSight | None = None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Sight:
        """Back from what `dataclasses.asdict` made of it."""
        folder = value["folder"] and FolderSight(**{**value["folder"], "sees": tuple(value["folder"]["sees"])})
        spaces = {name: Space(**space) for name, space in value["spaces"].items()}
        return cls(**{**value, "spaces": spaces, "folder": folder})


class Looker:
    """One node's look, in step with the other nodes'."""

    def __init__(self, config: DoctorConfig, channel: Channel, schedule: Schedule, say: Callable[[str], None]) -> None:
        """`say` is told what is about to be touched, so that a file system that hangs has a name."""
        self._config, self._channel, self._schedule, self._say = config, channel, schedule, say
        self._made: list[Path] = []

    def look(self, rank: int, looking: Sequence[int], nonce: str) -> Sight:
        """Look at everything; the files written stay until `tidy`.

        Args:
            rank: of this process.
            looking: ranks that look, one of each node; the first puts the file that the others must see.
            nonce: name of this run's files, drawn anew every time.
        """
        folder = self._sign(rank, looking, nonce) if self._config.output is not None else None
        fingerprint, data_error = self._read_data()
        spaces = {}
        self._say(f"writing to the temporary folder {tempfile.gettempdir()}")
        spaces["temporary"] = measure(tempfile.gettempdir(), f"{_MARK}{nonce}-{rank}.speed")
        if os.path.isdir("/dev/shm"):
            spaces["shm"] = measure("/dev/shm", None)
        if folder is not None and folder.wrote:
            self._say(f"writing to the output folder {self._config.output}")
            spaces["output"] = measure(str(self._config.output), f"{_MARK}{nonce}-{rank}.speed")
        return Sight(rank=rank, spaces=spaces, fingerprint=fingerprint, data_error=data_error, folder=folder)

    def tidy(self, rank: int, looking: Sequence[int], nonce: str) -> None:
        """Remove the files; the writer all that it sees, and the folders it made, if nothing else is in them."""
        if self._config.output is None:
            return
        self._say(f"removing our files from {self._config.output}")
        try:
            for other in looking if rank == looking[0] else [rank]:
                _signature(self._config.output, nonce, other).unlink(missing_ok=True)
            for made in reversed(self._made):
                made.rmdir()
        except OSError:
            return  # another's file, or no such folder on this node

    def _sign(self, rank: int, looking: Sequence[int], nonce: str) -> FolderSight:
        folder, error, seen = Path(str(self._config.output)), "", True
        self._say(f"looking at the output folder {folder}")
        if rank != looking[0]:
            try:
                self._channel.take("token", self._schedule.left(self._schedule.answer + 0.05))
            except Silence:
                return FolderSight(seen=False, error="the first rank put no file there in time")
            seen = bool(self._find(folder, [looking[0]], nonce))
        try:
            if rank == looking[0]:
                self._make(folder)
            _signature(folder, nonce, rank).write_text(nonce, "utf-8")
        except OSError as problem:
            error = f"{problem.strerror or problem}"
        if rank == looking[0]:
            self._channel.put("token", True)
        self._channel.put(f"signed/{rank}", True)
        signed = self._channel.take("signed", self._schedule.left(self._schedule.look))
        sees: tuple[int, ...] = ()
        if rank == looking[0]:
            sees = self._find(folder, signed, nonce)
        elif not seen:
            sees = tuple(other for other in signed if _holds(_signature(folder, nonce, other), nonce))
        return FolderSight(seen=seen, wrote=not error, sees=sees, file_system=file_system(folder), error=error)

    def _find(self, folder: Path, ranks: Sequence[int], nonce: str) -> tuple[int, ...]:
        """Look for files that other nodes wrote; a network file system may take its time to show them."""
        end = time.monotonic() + min(PATIENCE, 0.1 * self._config.timeout)
        end = min(end, time.monotonic() + self._schedule.left(self._schedule.look) - 1)
        found: set[int] = set()
        while True:
            found |= {rank for rank in ranks if rank not in found and _holds(_signature(folder, nonce, rank), nonce)}
            if len(found) == len(ranks) or time.monotonic() > end:
                return tuple(sorted(found))
            time.sleep(0.2)

    def _make(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._made = missing[::-1]
        for path in folder.glob(f"{_MARK}*"):
            if time.time() - path.stat().st_mtime > LEFT_OVER:
                path.unlink(missing_ok=True)

    def _read_data(self) -> tuple[str | None, str]:
        if self._config.data.path is None:
            return None, ""
        from electra_ds.data.format.manifest import read_manifest_in
        from electra_ds.remote import Retry
        from electra_ds.storage import open_folder

        path = self._config.data.path
        self._say(f"reading the manifest of {path}")
        retry = Retry(retries=1, timeout=max(2.0, self._schedule.left(self._schedule.look) / 3))
        try:
            return read_manifest_in(open_folder(path, retry), path).fingerprint, ""
        except UserError as error:
            return None, str(error)


def tidy_later(looker: Looker, rank: int, looking: Sequence[int], nonce: str, channel: Channel, seconds: float) -> None:
    """Tidy once all have looked, or when that is not to be waited for any longer."""
    try:
        channel.take("looked", seconds)
    except (Silence, Lost):
        pass
    finally:
        looker.tidy(rank, looking, nonce)


def _signature(folder: str | os.PathLike[str], nonce: str, rank: int) -> Path:
    return Path(folder) / f"{_MARK}{nonce}-{rank}"


def _holds(path: Path, nonce: str) -> bool:
    try:
        return path.read_text("utf-8") == nonce
    except (OSError, UnicodeDecodeError):
        return False
