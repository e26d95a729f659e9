"""A cache of remote bytes on local disk, shared by the processes of a node.

    blocks/KEY        one entry, written under another name and renamed
    partial/NAME      the entry being written
    locks/NNNN        one process fetches an entry while the others wait (flock, which a dead process lets go of)
    bytes             the sum of all entries; locked by who writes or deletes one

Entries carry no checksum of their own: the reader knows what they must hold, and drops one that does not. Nothing
here decides by a clock what is right; times only order what is deleted first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

CACHE_VARIABLE = "ELECTRA_DS_CACHE"
"""Environment variable: folder of the cache where none is configured."""
LOCK_FILES = 1024
"""Entries share this many locks."""
KEPT_AFTER_EVICTION = 0.9
"""Share of the limit that deleting stops at, so that it is not done again for the next entry."""
LONGEST_COUNTING = 30.0
"""How long to wait for another process to write or delete entries (seconds)."""
_COUNT = struct.Struct("<q")


def default_folder() -> Path:
    """``$ELECTRA_DS_CACHE``, or a folder of this user among the temporary files."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path(tempfile.gettempdir()) / f"electra_ds-{os.getuid()}")


class DiskCache:
    """Entries of bytes under names, bounded in sum. Safe among processes and threads; an error costs speed alone.

    A full or read-only disk makes the cache go on without storing, after one warning.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int, longest_wait: float = 300.0) -> None:
        """Create the folders and sweep up what dead processes left.

        Args:
            folder: on a local disk; made if missing.
            limit: most bytes of all entries; 0 turns the cache off.
            longest_wait: how long to wait for another process that fetches the same entry (seconds).
        """
        self.folder, self.limit, self.longest_wait = Path(folder), limit, longest_wait
        self._readable = self._writable = limit > 0
        if not self._readable:
            return
        try:
            self._open_folders()
            with self._counting() as descriptor:
                self._evict(descriptor, 0)
        except OSError as error:
            self._give_up(error)
            self._readable = (self.folder / "blocks").is_dir() and not isinstance(error, PermissionError)

    @property
    def is_on(self) -> bool:
        """Whether entries may be found."""
        return self._readable

    def read(self, key: str, size: int) -> bytes | None:
        """An entry of exactly `size` bytes, None if there is none; reading makes it the one used last."""
        if not self._readable:
            return None
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                data = file.read(size + 1)
            if len(data) == size:
                with contextlib.suppress(OSError):
                    os.utime(path)
                return data
        except OSError:
            return None
        self.drop(key)
        return None

    def drop(self, key: str) -> None:
        """Delete an entry that does not hold what it should."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    @contextlib.contextmanager
    def fetching(self, key: str) -> Iterator[None]:
        """Hold the lock of an entry while it is fetched; after `longest_wait` go on without it."""
        if not self._writable:
            yield
            return
        descriptor = -1
        try:
            descriptor = self._open_lock(zlib.crc32(key.encode()) % LOCK_FILES)
            _lock(descriptor, self.longest_wait)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                self._give_up(error)
        try:
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def store(self, key: str, data: bytes) -> None:
        """Keep an entry; others are deleted, least recently used first, where the limit asks for it."""
        if not self._writable or len(data) > self.limit:
            return
        temporary = ""
        try:
            with self._counting() as counter:
                self._reserve(counter, len(data))
                descriptor, temporary = tempfile.mkstemp(dir=self.folder / "partial")
                with open(descriptor, "wb", buffering=0) as file:
                    written = 0
                    while written < len(data):
                        written += file.write(memoryview(data)[written:])
                os.rename(temporary, self._path(key))
        except FileNotFoundError:
            with contextlib.suppress(OSError):  # the cache was deleted by hand
                self._open_folders()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            self._give_up(error)

    def _path(self, key: str) -> Path:
        return self.folder / "blocks" / key

    def _open_lock(self, number: int) -> int:
        path, flags = self.folder / "locks" / f"{number:04d}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:  # the cache was deleted by hand
            self._open_folders()
            return os.open(path, flags, 0o666)

    def _open_folders(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder == Path(tempfile.gettempdir()) / f"electra_ds-{os.getuid()}":
            found = self.folder.lstat()
            if found.st_uid != os.getuid() or self.folder.is_symlink():
                raise PermissionError(errno.EPERM, "it belongs to another user", str(self.folder))
        for name in ("blocks", "partial", "locks"):
            (self.folder / name).mkdir(exist_ok=True)

    def _reserve(self, counter: int, size: int) -> None:
        """Count an entry before it is there: a process that dies in between leaves the sum too large."""
        content = os.pread(counter, _COUNT.size, 0)
        total = _COUNT.unpack(content)[0] if len(content) == _COUNT.size else -1
        if total < 0 or total + size > self.limit:
            self._evict(counter, size)
        else:
            os.pwrite(counter, _COUNT.pack(total + size), 0)

    def _evict(self, counter: int, coming: int) -> None:
        """Count all entries anew, delete the least recently used ones until `coming` bytes fit, and write the sum."""
        # Who writes an entry holds the lock that we hold, so what is not finished will never be.
        with os.scandir(self.folder / "partial") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)
        found = []
        with os.scandir(self.folder / "blocks") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, entry.path, status.st_size))
        total = sum(size for _, _, size in found)
        if total + coming > self.limit:
            found.sort()
            for _, path, size in found:
                if total + coming <= self.limit * KEPT_AFTER_EVICTION:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                total -= size
        os.pwrite(counter, _COUNT.pack(total + coming), 0)

    @contextlib.contextmanager
    def _counting(self) -> Iterator[int]:
        """Descriptor of the file with the sum, locked.

        Raises:
            OSError: another process, stopped perhaps, holds the lock for long.
        """
        descriptor = os.open(self.folder / "bytes", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor, LONGEST_COUNTING)
            yield descriptor
        finally:
            os.close(descriptor)

    def _give_up(self, error: OSError) -> None:
        if self._writable:
            self._writable = False
            warnings.warn(
                f"cache {self.folder}: nothing more is stored in it by this process ({error}); reading goes on without "
                f"it. Free some space there, or set data.cache_folder or ${CACHE_VARIABLE} to another local disk",
                RuntimeWarning,
                stacklevel=2,
            )


def _lock(descriptor: int, longest_wait: float) -> None:
    """Take an exclusive flock, asking again and again: a lock call that blocks could wait for ever.

    A file system without locks goes without: entries may be fetched twice, and the sum be off until it is counted anew.

    Raises:
        OSError: not in time (EAGAIN).
    """
    deadline, pause = time.monotonic() + longest_wait, 0.002
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                return
            if error.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
