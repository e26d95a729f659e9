"""Cutting bytes at the borders of documents: a stream into pieces, or one range out of a file.

A border is found by looking at the bytes around it alone, so that a process that starts in the middle of a file finds
the same borders as one that read all of it. Of a document that is too long no more than the limit is ever held.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

from data_prep.sources.base import Piece

LONGEST_BLANK_LINE = 1000
"""Bytes of white space up to which a line is blank; beyond, it is text (a border must be found without reading on)."""

BLANK_LINE = rb"(?:[ \t\r\f\v]{0,%d}\n)" % LONGEST_BLANK_LINE
"""Regular expression: one blank line with its end."""

_SLACK = 2 * LONGEST_BLANK_LINE + 100
"""White space that may stand before and after a document's bytes: beyond limit and slack it is surely too long."""

Buffer = bytes | bytearray


class Border(ABC):
    """Where documents may be cut apart."""

    reach: int
    """A border at place p is recognised by bytes from p - `reach` on."""

    @abstractmethod
    def first(self, buffer: Buffer, start: int) -> tuple[int, int]:
        """Find the first border that is recognised by bytes from index `start` on.

        Returns:
            Its index, or -1; and in that case the index from which to seek when more bytes are there.
        """

    @abstractmethod
    def last(self, buffer: Buffer) -> int:
        """Return the index of the last border in a buffer, 0 if there is none."""


class MarkerBorder(Border):
    """A border after each of a marker: a line's end, a page's closing tag."""

    def __init__(self, marker: bytes) -> None:
        """`marker`: what a document ends with."""
        self.marker, self.reach = marker, len(marker)

    def first(self, buffer: Buffer, start: int) -> tuple[int, int]:
        """See `Border.first`."""
        found = buffer.find(self.marker, start)
        if found < 0:
            return -1, max(start, len(buffer) - self.reach + 1)
        return found + self.reach, 0

    def last(self, buffer: Buffer) -> int:
        """See `Border.last`."""
        found = buffer.rfind(self.marker)
        return 0 if found < 0 else found + self.reach


class ParagraphBorder(Border):
    """A border after each line that a blank line follows."""

    reach = 1
    _pattern = re.compile(rb"\n(?=" + BLANK_LINE + rb")")

    def first(self, buffer: Buffer, start: int) -> tuple[int, int]:
        """See `Border.first`."""
        found = self._pattern.search(buffer, start)
        if found is None:
            return -1, max(start, len(buffer) - LONGEST_BLANK_LINE - 2)
        return found.end(), 0

    def last(self, buffer: Buffer) -> int:
        """See `Border.last`."""
        end = 0
        for found in self._pattern.finditer(buffer):
            end = found.end()
        return end


LINES = MarkerBorder(b"\n")
PARAGRAPHS = ParagraphBorder()


class Cut(NamedTuple):
    """What lies between two borders."""

    data: bytes
    too_long: int
    """Documents (the last one, or none) that were left out for their length."""


class Cutter:
    """Reads a stream from border to border."""

    def __init__(self, chunks: Iterator[bytes], border: Border, limit: int, offset: int = 0) -> None:
        """`limit`: bytes of the longest document; `offset`: where in the file the chunks begin, which is a border."""
        self.offset = offset
        self._chunks, self._border, self._limit = chunks, border, limit
        self._buffer = bytearray()

    def take(self, until: int, keep: bool = True, stop: int | None = None) -> Cut:
        """Pass to the first border at or after offset `until`.

        Args:
            until: offset in the file.
            keep: return what was passed; otherwise nothing is held.
            stop: give up where no border before this offset is found; `offset` is then `stop` or more.
        """
        buffer, border = self._buffer, self._border
        base = self.offset
        seek = max(until - border.reach, base)
        kept: bytes | None = None
        while True:
            if base + len(buffer) > seek:
                found, resume = border.first(buffer, seek - base)
                if found >= 0:
                    break
                seek = base + resume
            if stop is not None and seek >= stop - border.reach:
                self.offset = max(stop, base)
                return Cut(b"", 0)
            if keep and kept is None and base + len(buffer) - until > self._limit + _SLACK:
                with memoryview(buffer) as view:
                    kept = bytes(view[: border.last(buffer)])
            if not keep or kept is not None:
                passed = min(seek - base, len(buffer))
                del buffer[:passed]
                base += passed
            chunk = next(self._chunks, None)
            if chunk is None:
                found = len(buffer)
                break
            buffer += chunk
        too_long = int(kept is not None)
        if kept is None:
            with memoryview(buffer) as view:
                kept = bytes(view[:found]) if keep else b""
        del buffer[:found]
        self.offset = base + found
        return Cut(kept, too_long)

    def at_end(self) -> bool:
        """Tell whether nothing is left."""
        while not self._buffer:
            chunk = next(self._chunks, None)
            if chunk is None:
                return True
            self._buffer += chunk
        return False


def cut_stream(cutter: Cutter, piece_bytes: int, wanted: Callable[[int], bool]) -> Iterator[Piece]:
    """Yield pieces of a stream whose payload is the offset of their first byte, and their bytes."""
    number, last = 0, False
    while not last:
        keep, offset = wanted(number), cutter.offset
        data, too_long = cutter.take(offset + piece_bytes, keep)
        last = cutter.at_end()
        if keep or last:
            yield Piece(number, (offset, data) if keep else None, {"too long": too_long} if too_long else {})
        number += 1


def cut_range(chunks: Iterator[bytes], border: Border, limit: int, start: int, end: int) -> tuple[int, Cut]:
    """Return what lies between the first borders at or after two offsets, and the offset at which it begins.

    Args:
        chunks: the file's bytes from `range_start(border, start)` on.
        border: where documents may be cut.
        limit: bytes of the longest document.
        start: offset in the file.
        end: offset in the file.
    """
    cutter = Cutter(chunks, border, limit, range_start(border, start))
    if start:
        cutter.take(start, keep=False, stop=end)
    if cutter.offset >= end:
        return end, Cut(b"", 0)
    offset = cutter.offset
    return offset, cutter.take(end)


def range_start(border: Border, start: int) -> int:
    """Return where to begin reading to find the first border at or after `start`."""
    return max(start - border.reach, 0)
