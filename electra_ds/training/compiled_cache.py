"""Where compiled blocks are kept between lives, so that a life killed while it compiles harms none that come after.

torch's compiler lets the C++ compiler write into its cache under the final name. What a killed life leaves half-written
there fails every later start with "file too short", or worse. So each process leaves a mark in the folder that it uses,
and takes it away when it ends well; a mark whose process is gone makes the next one turn to a new folder.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Names the parent folder, if set; torch is then pointed at one folder inside it."""
_PREFIX = "electra_ds-"


class CompiledCache:
    """This process's folder of compiled code; `release` it at the end."""

    def __init__(self) -> None:
        """Choose the folder, mark it, and point torch at it."""
        # Not inside a folder that an earlier one of this process has chosen.
        given = Path(os.environ.get(VARIABLE) or Path(tempfile.gettempdir()) / f"torchinductor_{_user()}")
        parent = given.parent if given.name.startswith(_PREFIX) else given
        numbers = sorted(_numbers(parent))
        number = numbers[-1] if numbers else 0
        if _is_left_behind(parent / f"{_PREFIX}{number}"):
            number += 1
        self.folder = parent / f"{_PREFIX}{number}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mark = self.folder / f"used-by-{_host()}-{os.getpid()}"
        self._mark.touch()
        os.environ[VARIABLE] = str(self.folder)
        for old in numbers:
            if old < number - 1 and not _alive(parent / f"{_PREFIX}{old}"):
                shutil.rmtree(parent / f"{_PREFIX}{old}", ignore_errors=True)

    def release(self) -> None:
        """Take the mark away: what this process wrote is whole."""
        self._mark.unlink(missing_ok=True)


def _numbers(parent: Path) -> list[int]:
    names = [path.name.removeprefix(_PREFIX) for path in parent.glob(f"{_PREFIX}*")]
    return [int(name) for name in names if name.isdigit()]


def _marks(folder: Path) -> list[tuple[Path, bool]]:
    """Marks in a folder, and whether their process lives; on another host (a shared folder) it is taken to."""
    found = []
    for path in folder.glob("used-by-*"):
        host, _, process = path.name.removeprefix("used-by-").rpartition("-")
        found.append((path, host != _host() or Path(f"/proc/{process}").exists()))
    return found


def _is_left_behind(folder: Path) -> bool:
    return any(not lives for _, lives in _marks(folder))


def _alive(folder: Path) -> bool:
    return any(lives for _, lives in _marks(folder))


def _host() -> str:
    return os.uname().nodename


def _user() -> str:
    with contextlib.suppress(KeyError, OSError):  # a container may know no name for its user
        return getpass.getuser()
    return str(os.getuid())
