"""The built-in source ``docstrings``: documentation strings of installed packages, one document each."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

from data_prep.config import PrepConfig
from data_prep.docstrings import Docstring, Package, docstrings_of, find_packages, is_held_out
from data_prep.sources.base import Document, Source

MIN_WORDS = 8
"""Shorter ones are dropped: they are "Return the name." a thousand times over."""

OPENING_WORDS = 80
"""Words that tell whether a held-out module has the same text."""


class DocstringsSource(Source):
    """``docstrings`` (everything installed) or ``docstrings:numpy,scipy,python``; `source` is the package's name.

    Dropped and counted: strings of fewer than `MIN_WORDS` words, exact duplicates, and with a holdout
    every string that begins (`OPENING_WORDS`) like one of a held-out module: a test text may be cut there.
    """

    def __init__(self, rest: str, config: PrepConfig) -> None:
        """`rest`: comma-separated import names; empty for all."""
        super().__init__()
        self.name = f"docstrings:{rest}" if rest else "docstrings"
        self._config = config
        self.packages = find_packages(name.strip() for name in rest.split(",") if name.strip())
        self.size = sum(package.size for package in self.packages)

    def identity(self) -> dict[str, Any]:
        """Return a digest of each package's files."""
        return {"name": self.name, "packages": {package.name: package.identity() for package in self.packages}}

    def documents(self) -> Iterator[Document]:
        """Yield the documents, package by package."""
        share = self._config.docstrings_holdout
        seen: set[bytes] = set()
        held_out: set[bytes] = set()
        self.position = 0
        self.dropped = {"docstring too short": 0, "docstring duplicate": 0, "docstring held out": 0}
        for _, docstring in self._docstrings() if share else ():
            if is_held_out(docstring.module, share):
                held_out.add(_opening(docstring.text))
        self.position = 0
        for package, docstring in self._docstrings():
            key = _key(docstring.text)
            if held_out and _opening(docstring.text) in held_out:
                self.dropped["docstring held out"] += 1
            elif len(docstring.text.split()) < MIN_WORDS:
                self.dropped["docstring too short"] += 1
            elif key in seen:
                self.dropped["docstring duplicate"] += 1
            else:
                seen.add(key)
                yield Document(docstring.text, package.name, self._config.language or "en", docstring.module)

    def _docstrings(self) -> Iterator[tuple[Package, Docstring]]:
        with ExitStack() as stack:
            executor = None
            missing = sum(package.size for package in self.packages if not package.cache_path().is_file())
            if missing > 4_000_000 and self._config.worker_count() > 1:
                context = multiprocessing.get_context("spawn")
                executor = stack.enter_context(ProcessPoolExecutor(self._config.worker_count(), context))
            for package in self.packages:
                for docstring in docstrings_of(package, executor):
                    yield package, docstring
                self.position += package.size


def _opening(text: str) -> bytes:
    return _key(" ".join(text.split(maxsplit=OPENING_WORDS)[:OPENING_WORDS]))


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
