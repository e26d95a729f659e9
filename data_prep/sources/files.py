"""Opening plain and compressed files so that damage is an error that names the file, never a short read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from data_prep.sources.base import Source
from electra_ds.errors import DataError

_CHUNK = 1 << 20


class _ZstdReader(io.RawIOBase):
    """Decompress zstd, frame after frame; a frame without its end raises EOFError (stream_reader would just stop)."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._file = file
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._compressed = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain:
            if not self._compressed:
                self._compressed = self._file.read(_CHUNK)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("the compressed data ends in the middle of a frame")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._plain = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count


def _open_zstd(file: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(_ZstdReader(file), _CHUNK)


COMPRESSIONS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda file: io.BufferedReader(gzip.GzipFile(fileobj=file), _CHUNK),
    ".zst": _open_zstd,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
"""File name ending: how to read it."""


class FileSource(Source):
    """A source that is one local file, perhaps compressed."""

    def __init__(self, path: str) -> None:
        """`path`: an existing file."""
        super().__init__()
        self.path = path
        self.name = path
        self.origin = Path(path).name
        self.size = os.path.getsize(path)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open for reading decompressed bytes.

        Raises:
            DataError: empty, cut short or corrupt.
        """
        if self.size == 0:
            raise DataError(f"{self.path}: is empty (0 bytes); remove it from the inputs or replace it")
        import zstandard

        with open(self.path, "rb") as raw:
            self._raw = raw
            reader = COMPRESSIONS.get(Path(self.path).suffix.lower(), lambda file: file)(raw)
            try:
                yield reader
            except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError) as error:
                raise DataError(
                    f"{self.path}: corrupt or cut short ({error}); fetch or write the file again"
                ) from error

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield line number (from 1) and text without its line end.

        Raises:
            DataError: as `open`, or a line is not UTF-8.
        """
        with self.open() as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{self.path}:{number}: not UTF-8 ({error.reason} at byte {error.start} of the line); "
                        "convert the file to UTF-8, for example with iconv"
                    ) from error
                if number == 1:
                    text = text.removeprefix("\ufeff")
                yield number, text.rstrip("\r\n")
                if number % 64 == 0:
                    self.position = self._raw.tell()
        self.position = self.size
