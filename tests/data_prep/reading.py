"""What the tests of sources share: reading all pieces, and the promises that every kind of source keeps."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

from data_prep.config import PrepConfig
from data_prep.sources import Document, Source, open_sources

ROWS = [
    {"text": "The first document.\nIts second line.", "source": "books", "language": "en"},
    {"text": "Ein zweites Dokument.", "source": "zeitung", "language": "de"},
    {"text": "Третий документ.", "source": "books", "language": "ru"},
]


def opened(inputs: object, **given: object) -> list[Source]:
    """Open the sources of one corpus without a name."""
    config = PrepConfig(inputs=inputs, output=Path("unused"), **given)
    return open_sources(config.resolved_corpora()[""], config)


def read(
    source: Source, piece_bytes: int = 1 << 22, dropped: Counter[str] | None = None, **given: object
) -> list[Document]:
    """Read all pieces as a worker does: from a pickled copy of the source and of each piece."""
    dropped = Counter() if dropped is None else dropped
    worker = pickle.loads(pickle.dumps(source))
    found = []
    for number, piece in enumerate(source.pieces(piece_bytes, **given)):
        assert piece.number == number
        dropped.update(piece.dropped)
        found += worker.documents(pickle.loads(pickle.dumps(piece)), dropped)
    return found


def documents(inputs: object, **given: object) -> list[Document]:
    """Read all sources of `inputs`."""
    return [document for source in opened(inputs, **given) for document in read(source)]


def labelled(origin: str) -> list[Document]:
    """Return what `ROWS` are as documents."""
    return [Document(row["text"], row["source"], row["language"], origin) for row in ROWS]


def keeps_its_promises(source: Source, sizes: tuple[int, ...] = (1, 7, 40, 1000, 1 << 22)) -> list[Document]:
    """Check what holds for every source: the documents do not depend on the size of pieces, nor pieces on the wish.

    Returns:
        The documents.
    """
    whole_dropped: Counter[str] = Counter()
    whole = read(source, sizes[-1], whole_dropped)
    for size in sizes:
        dropped: Counter[str] = Counter()
        assert read(source, size, dropped) == whole, size
        assert +dropped == +whole_dropped, size
        pieces = list(source.pieces(size))
        assert [piece.number for piece in pieces] == list(range(len(pieces)))
        for remainder in (0, 1):
            some = list(source.pieces(size, lambda number, remainder=remainder: number % 2 == remainder))
            wanted = [piece for piece in pieces if piece.number % 2 == remainder]
            assert [piece for piece in some if piece.number % 2 == remainder] == wanted
            assert some[-1].number == pieces[-1].number
            assert len(some) <= len(wanted) + 1
        [only_last] = source.pieces(size, lambda number: False)
        assert only_last.number == pieces[-1].number
    assert source.position == source.size
    return whole
