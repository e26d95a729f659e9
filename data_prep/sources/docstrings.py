"""The built-in source ``docstrings``: documentation strings of installed packages, one document each."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

from data_prep.config import CorpusConfig, PrepConfig
from data_prep.docstrings import Docstring, Package, docstrings_of, find_packages, is_held_out
from data_prep.sources.base import Document, Piece, Source, all_pieces

MIN_WORDS = 8
"""Shorter ones are dropped: they are "Return the name." a thousand times over."""

OPENING_WORDS = 80
"""Words that tell whether a held-out module has the same text."""


class DocstringsSource(Source):
    """``docstrings`` (everything installed) or ``docstrings:numpy,scipy,python``; `source` is the package's name.

    Dropped and counted: strings of fewer than `MIN_WORDS` words, exact duplicates, and with a holdout
    every string that begins (`OPENING_WORDS`) like one of a held-out module: a test text may be cut there.
    """

    streamed = True

    def __init__(self, rest: str, corpus: CorpusConfig, config: PrepConfig) -> None:
        """`rest`: comma-separated import names; empty for all."""
        super().__init__()
        self.name = f"docstrings:{rest}" if rest else "docstrings"
        self._language = corpus.language or "en"
        self._holdout, self._workers = config.docstrings_holdout, config.worker_count()
        self._limit = config.max_document_bytes
        self.packages = find_packages(name.strip() for name in rest.split(",") if name.strip())
        self.size = sum(package.size for package in self.packages)

    def identity(self) -> dict[str, Any]:
        """Return a digest of each package's files."""
        return {"name": self.name, "packages": {package.name: package.identity() for package in self.packages}}

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """See `Source.pieces`; the payload is a list of documents."""
        number = size = 0
        held: list[Document] = []
        dropped: Counter[str] = Counter()
        for document in self._documents(dropped):
            # A full piece waits for the next document, to know whether it is the last.
            if size >= piece_bytes:
                if wanted(number):
                    yield Piece(number, held, dict(dropped))
                number, size, held = number + 1, 0, []
                dropped.clear()
            held.append(document)
            size += len(document.text.encode())
        yield Piece(number, held if wanted(number) else None, dict(dropped))

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`."""
        yield from piece.payload or ()

    def _documents(self, dropped: Counter[str]) -> Iterator[Document]:
        """Yield the documents, package by package; a document's `dropped` are counted before it."""
        seen: set[bytes] = set()
        held_out: set[bytes] = set()
        self.position = 0
        for _, docstring in self._docstrings() if self._holdout else ():
            if is_held_out(docstring.module, self._holdout):
                held_out.add(_opening(docstring.text))
        self.position = 0
        for package, docstring in self._docstrings():
            key = _key(docstring.text)
            if held_out and _opening(docstring.text) in held_out:
                dropped["docstring held out"] += 1
            elif len(docstring.text.split()) < MIN_WORDS:
                dropped["docstring too short"] += 1
            elif key in seen:
                dropped["docstring duplicate"] += 1
            elif len(docstring.text.encode()) > self._limit:
                dropped["too long"] += 1
            else:
                seen.add(key)
                yield Document(docstring.text, package.name, self._language, docstring.module)

    def _docstrings(self) -> Iterator[tuple[Package, Docstring]]:
        with ExitStack() as stack:
            executor = None
            missing = sum(package.size for package in self.packages if not package.cache_path().is_file())
            if missing > 4_000_000 and self._workers > 1:
                context = multiprocessing.get_context("spawn")
                executor = stack.enter_context(ProcessPoolExecutor(self._workers, context))
            for package in self.packages:
                for docstring in docstrings_of(package, executor):
                    yield package, docstring
                self.position += package.size


def _opening(text: str) -> bytes:
    return _key(" ".join(text.split(maxsplit=OPENING_WORDS)[:OPENING_WORDS]))


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
