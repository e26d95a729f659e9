"""Decompression in bounded memory, in which damage is an error and never a short read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

CHUNK = 1 << 20
"""Bytes of a chunk, decompressed."""


def _open_zstd(file: IO[bytes]) -> Any:
    # pyarrow tells a frame without its end from the end of the file, which zstandard's stream_reader does not, and
    # bounds what one call gives, which zstandard's decompressobj does not: a gigabyte of one letter is 32 kB.
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")


COMPRESSIONS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".zst": _open_zstd,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
"""File name ending: how to read it."""


def decompressed(file: IO[bytes], ending: str) -> Iterator[bytes]:
    """Yield the content of an open file in chunks; `ending` is a key of `COMPRESSIONS`, or anything else if plain.

    Raises:
        EOFError: the data is cut short or corrupt.
    """
    reader = COMPRESSIONS[ending](file) if ending in COMPRESSIONS else file
    try:
        while chunk := reader.read(CHUNK):
            yield chunk
    except (EOFError, zlib.error, lzma.LZMAError, ValueError, OSError) as error:
        if ending in COMPRESSIONS or isinstance(error, EOFError):
            raise EOFError(str(error)) from error
        raise
