"""Part files: what one piece of an input became, between the stages.

A part file is a header (JSON: names, dtypes, shapes, offsets and checksums of arrays, and small facts) and raw arrays,
so that a stage reads only the arrays, or the slices, that it needs.

Shape legend: D documents of the part, T tokens, S sentences, B bands of a signature.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from electra_ds.errors import DataError
from electra_ds.files import atomic_write

_MAGIC = b"EDSPART1"
_ALIGNMENT = 64
_DTYPES = frozenset(("|u1", "<u2", "<u4", "<u8", "<i8"))


def write_part(path: Path, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write a part atomically; `facts` is JSON."""
    layout: dict[str, Any] = {}
    offset = 0
    flat = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in flat.items():
        layout[name] = [array.dtype.str, list(array.shape), offset, zlib.crc32(array.data)]
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps({"arrays": layout, "facts": facts, "bytes": offset}).encode("utf-8", "replace")
    header += b" " * (-(len(header) + 20) % _ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(_MAGIC + len(header).to_bytes(8, "little") + zlib.crc32(header).to_bytes(4, "little") + header)
        for array in flat.values():
            file.write(array.data)
            file.write(bytes(-array.nbytes % _ALIGNMENT))


class PartFile:
    """A part opened for reading."""

    facts: dict[str, Any]

    def __init__(self, path: Path) -> None:
        """Open and check the header.

        Raises:
            DataError: missing, cut short or damaged.
        """
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._damaged(error.strerror or str(error)) from error
        try:
            start = os.pread(self._descriptor, 20, 0)
            length = int.from_bytes(start[8:16], "little")
            size = os.fstat(self._descriptor).st_size
            if start[:8] != _MAGIC or length > size:
                raise self._damaged("no part file of this version")
            header = os.pread(self._descriptor, length, 20)
            if zlib.crc32(header) != int.from_bytes(start[16:20], "little"):
                raise self._damaged("its header's checksum does not match")
            value = json.loads(header)
            self.facts, self._layout, self._begin = value["facts"], value["arrays"], 20 + length
            if size != self._begin + value["bytes"]:
                raise self._damaged(f"{size} bytes, expected {self._begin + value['bytes']}")
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def __contains__(self, name: str) -> bool:
        return name in self._layout

    def array(self, name: str) -> np.ndarray:
        """Read a whole array and check its CRC-32."""
        dtype, shape, offset, checksum = self._layout[name]
        array = self._read(dtype, shape, offset, name)
        if zlib.crc32(array.data) != checksum:
            raise self._damaged(f"the checksum of its {name} does not match")
        return array

    def slice(self, name: str, begin: int, end: int) -> np.ndarray:
        """Read entries [begin, end) of the first dimension."""
        dtype, shape, offset, _ = self._layout[name]
        width = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
        return self._read(dtype, [end - begin, *shape[1:]], offset + begin * width, name)

    def _read(self, dtype: str, shape: list[int], offset: int, name: str) -> np.ndarray:
        if dtype not in _DTYPES:
            raise self._damaged(f"{name} has dtype {dtype}")
        array = np.empty(shape, dtype)
        view, done = memoryview(array.data).cast("B") if array.size else memoryview(b""), 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done : done + (1 << 30)]], self._begin + offset + done)
            if count == 0:
                raise self._damaged(f"cut short in {name}")
            done += count
        return array

    def _damaged(self, problem: str) -> DataError:
        return DataError(f"{self._path}: damaged ({problem}); delete this file and run the same command again")
