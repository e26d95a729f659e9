"""Being told to stop or to save: signals to any rank, files in the run folder.

Nothing here acts: a rank remembers what it was told, and all ranks agree on it once a step.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

STOP_NAME, SAVE_NAME = "STOP", "SAVE"
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
_SECONDS_BETWEEN_LOOKS = 1.0

_told: dict[int, float] = {}


def listen() -> None:
    """Remember SIGUSR2 and SIGTERM from now on instead of dying of them; called before the slow imports.

    A second signal, while the first is being followed, changes nothing.
    """
    for number in SIGNALS:
        signal.signal(number, _remember)


def _remember(number: int, frame: Any) -> None:
    _told.setdefault(number, time.time())


def signalled() -> str | None:
    """Name of the first signal that came, or None."""
    return signal.Signals(min(_told, key=lambda number: _told[number])).name if _told else None


class RequestFiles:
    """The files STOP and SAVE in the run folder; only rank 0 looks, at most once a second."""

    def __init__(self, folder: Path, looks: bool) -> None:
        """Args: folder: of the run. looks: whether this rank does."""
        self._folder, self._looks, self._next = folder, looks, 0.0

    def read(self) -> tuple[bool, bool]:
        """Whether (STOP, SAVE) lie there."""
        if not self._looks or time.monotonic() < self._next:
            return False, False
        self._next = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        return (self._folder / STOP_NAME).exists(), (self._folder / SAVE_NAME).exists()

    def remove(self, name: str) -> None:
        """Take a request away: it was followed."""
        if self._looks:
            (self._folder / name).unlink(missing_ok=True)
