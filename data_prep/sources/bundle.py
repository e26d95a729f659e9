"""Many small files as one input: a piece for each would cost more than its text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from data_prep.sources.base import Document, Piece, Source, all_pieces
from data_prep.sources.files import FileSource

SHARE = 8
"""A file of less than one part in so many of a piece is read together with its neighbours."""


class Bundle(Source):
    """Consecutive small files; one piece, read by one process."""

    def __init__(self, sources: Sequence[Source], piece_bytes: int) -> None:
        """`sources`: at least one."""
        self.sources = list(sources)
        self.name = f"{sources[0].name} and {len(sources) - 1} more"
        self.size = sum(source.size for source in sources)
        self.pairs = sources[0].pairs
        self._piece_bytes = piece_bytes

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """Yield the one piece (see `Source.pieces`)."""
        yield Piece(0, None)
        self.position = self.size

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """Yield the documents of all files (see `Source.documents`)."""
        for source in self.sources:
            for inner in source.pieces(self._piece_bytes):
                dropped.update(inner.dropped)
                yield from source.documents(inner, dropped)

    def version(self) -> str:
        """Return the files' versions."""
        return " ".join(source.version() for source in self.sources)


def bundle(sources: Sequence[Source], piece_bytes: int) -> list[Source]:
    """Join neighbours that are small files, up to a piece's bytes; leave the others as they are."""
    result: list[Source] = []
    held: list[Source] = []

    def release() -> None:
        if held:
            result.append(held[0] if len(held) == 1 else Bundle(held, piece_bytes))
            held.clear()

    for source in sources:
        small = isinstance(source, FileSource) and 0 < source.size * SHARE < piece_bytes
        if not small or sum(one.size for one in held) + source.size > piece_bytes:
            release()
        if small:
            held.append(source)
        else:
            result.append(source)
    release()
    return result
