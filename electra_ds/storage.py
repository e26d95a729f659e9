"""One folder of files, local or behind a URL, read the same way.

Standard library only until a URL is opened.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from electra_ds.errors import DataError
from electra_ds.remote import Missing, RemoteFolder, Retry, is_url, location

OPEN_FILES = 128
"""Local files kept open at a time."""
_PIECE = 1 << 23


class Storage(Protocol):
    """What `LocalFolder` and `RemoteFolder` have in common; `DataError` is all they raise."""

    def path(self, name: str) -> str:
        """How messages call a file."""

    def read_file(self, name: str, at_most: int) -> bytes:
        """A whole file of `at_most` bytes."""

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset` on."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where that cannot be told."""

    def exists(self, name: str) -> bool:
        """Whether a file is there."""

    def sizes(self, folder: str = "") -> dict[str, int | None] | None:
        """Files right inside a folder with their bytes; None where that cannot be told."""

    def close(self) -> None:
        """Let go of what is open."""


def open_folder(path: str | os.PathLike[str], retry: Retry | None = None) -> Storage:
    """Open a local folder or a URL.

    Raises:
        UserError: a URL of a kind that cannot be read here.
    """
    return RemoteFolder(location(path), retry) if is_url(path) else LocalFolder(location(path))


def sha256_in(storage: Storage, name: str, advance: Callable[[int], None] = lambda _: None) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces of 8 MiB.

    Raises:
        DataError: missing or cannot be read.
    """
    digest, offset, size = hashlib.sha256(), 0, storage.size(name)
    if size is None:
        return hashlib.sha256(storage.read_file(name, 1 << 40)).hexdigest()
    while offset < size:
        piece = storage.read_range(name, offset, min(_PIECE, size - offset))
        if not piece:
            raise DataError(f"{storage.path(name)}: ends at byte {offset:,} of {size:,}; it changes while it is read")
        digest.update(piece)
        offset += len(piece)
        advance(len(piece))
    return digest.hexdigest()


class LocalFolder:
    """Files of a local folder, read at positions; the ones used last stay open. Safe to use from several threads."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open nothing yet."""
        self.folder = Path(folder)
        self._text = str(self.folder)
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()

    def path(self, name: str) -> str:
        """How messages call a file."""
        return f"{self._text}/{name}"

    def read_file(self, name: str, at_most: int) -> bytes:
        """Read a whole file, without keeping it open.

        Raises:
            DataError: it is larger than `at_most` bytes, or cannot be read; `Missing` if it is not there.
        """
        try:
            file = _Descriptor(self.path(name))
            if file.size > at_most:
                raise DataError(f"{self.path(name)}: {file.size:,} bytes, where at most {at_most:,} can be right")
            return _pread(file.number, 0, file.size)
        except OSError as error:
            raise self._refuse(name, error) from error

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Read `size` bytes from byte `offset` on; fewer where the file ends before.

        Raises:
            DataError: missing or cannot be read.
        """
        try:
            return _pread(self._descriptor(name).number, offset, size)
        except OSError as error:
            raise self._refuse(name, error, f" ({size:,} bytes at offset {offset:,})") from error

    def will_need(self, name: str, offset: int, size: int) -> None:
        """Ask the kernel to read ahead; a hint, so nothing goes wrong where it cannot be given."""
        try:
            os.posix_fadvise(self._descriptor(name).number, offset, size, os.POSIX_FADV_WILLNEED)
        except (OSError, AttributeError):  # macOS has no posix_fadvise
            return

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            DataError: missing, or no plain file.
        """
        try:
            found = os.stat(f"{self._text}/{name}")
        except OSError as error:
            raise self._refuse(name, error) from error
        return found.st_size

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        return os.path.isfile(self.path(name))

    def sizes(self, folder: str = "") -> dict[str, int | None]:
        """Plain files right inside a folder with their bytes; empty if there is no such folder."""
        try:
            with os.scandir(self.path(folder)) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise self._refuse(folder, error) from error

    def close(self) -> None:
        """Close the files; one that another thread is reading closes when it is done."""
        with self._lock:
            self._open.clear()

    def _descriptor(self, name: str) -> _Descriptor:
        with self._lock:
            found = self._open.get(name)
            if found is None:
                found = self._open[name] = _Descriptor(self.path(name))
                if len(self._open) > OPEN_FILES:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(name)
            return found

    def _refuse(self, name: str, error: OSError, where: str = "") -> DataError:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return Missing(f"{self.path(name)}{where}: missing; restore it, or rerun prep to rebuild it")
        problem = error.strerror or error
        return DataError(
            f"{self.path(name)}{where}: cannot be read ({problem}); restore it, or rerun prep to rebuild it"
        )


class _Descriptor:
    """An open file that closes when its last user lets go of it, so that none reads from a number used anew."""

    __slots__ = ("number", "size")

    def __init__(self, path: str) -> None:
        self.number = -1
        # A pipe in the place of a file must not hang the run: O_NONBLOCK opens it at once, and then it is refused.
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        found = os.fstat(self.number)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is no plain file")
        self.size = found.st_size

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


def _pread(descriptor: int, offset: int, size: int) -> bytes:
    """Read until `size` bytes or the end of the file: one call may give fewer (signals, network file systems)."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more
    return data
