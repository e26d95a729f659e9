"""A file as it is stored, here or behind a URL: its size, its bytes by range, and a way to read it from the start."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import IO, Any

from data_prep.sources import remote
from electra_ds.errors import DataError

CHUNK = 1 << 20
"""Bytes that are read at a time."""

_LARGEST_REQUEST = 16 << 20


class StoredFile(ABC):
    """One file. Picklable; holds nothing open."""

    name: str
    """Path or URL, as messages and the manifest name it."""
    size: int
    """Bytes."""
    written: str
    """Changes when the file is written anew: a time of change or an etag."""

    @property
    def base_name(self) -> str:
        """Name without folder, and without a URL's query."""
        return remote.path_of(self.name).rpartition("/")[2]

    @abstractmethod
    def read(self, start: int, end: int) -> bytes:
        """Return a range of bytes, all of it.

        Raises:
            DataError: it cannot be read, or has fewer bytes than its size says.
        """

    @abstractmethod
    def open(self) -> IO[bytes]:
        """Open for reading, from the start or anywhere; errors are OSError or `DataError`."""

    @abstractmethod
    def for_arrow(self) -> Any:
        """Return what pyarrow opens: a path or a file object."""

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Yield bytes from `start` on; `end` tells about how far they will be wanted.

        Raises:
            DataError: as `read`.
        """
        while start < self.size:
            stop = min(max(end, start + CHUNK), start + self._largest_read(), self.size)
            yield self.read(start, stop)
            start = stop

    def _largest_read(self) -> int:
        return CHUNK


class LocalFile(StoredFile):
    """A file of this machine's file systems."""

    def __init__(self, path: str) -> None:
        """`path`: an existing file."""
        self.name = path
        status = os.stat(path)
        self.size, self.written = status.st_size, str(status.st_mtime_ns)

    def read(self, start: int, end: int) -> bytes:
        """See `StoredFile.read`."""
        try:
            with open(self.name, "rb", buffering=0) as file:
                file.seek(start)
                data = b""
                while len(data) < end - start and (more := file.read(end - start - len(data))):
                    data = data + more if data else more
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({error.strerror or error})") from error
        if len(data) != end - start:
            raise DataError(
                f"{self.name}: ends at byte {start + len(data):,} of {self.size:,}; it was cut while it was read: "
                "write it again and rerun"
            )
        return data

    def open(self) -> IO[bytes]:
        """See `StoredFile.open`."""
        return open(self.name, "rb")

    def for_arrow(self) -> Any:
        """See `StoredFile.for_arrow`."""
        return self.name


class RemoteFile(StoredFile):
    """A file behind a URL that fsspec knows."""

    def __init__(self, url: str, size: int, written: str) -> None:
        """`size` and `written`: what the server tells of it."""
        self.name, self.size, self.written = url, size, written

    def read(self, start: int, end: int) -> bytes:
        """See `StoredFile.read`."""
        return remote.fetch(self.name, start, end, self.size)

    def open(self) -> IO[bytes]:
        """See `StoredFile.open`."""
        return remote.open_reader(self.name, self.size)

    def for_arrow(self) -> Any:
        """See `StoredFile.for_arrow`."""
        return self.open()

    def _largest_read(self) -> int:
        return _LARGEST_REQUEST
