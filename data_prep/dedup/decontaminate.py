"""Decontamination: documents that share n-grams of words with evaluation texts (Brown et al. 2020, appendix C)."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.clean.base import Rejection
from data_prep.dedup.config import DecontaminationConfig
from data_prep.dedup.words import hashes_at, rolling, word_hashes, word_list
from data_prep.sources.base import Document
from electra_ds.errors import DataError, UserError
from electra_ds.files import sha256_of

SHORTEST = 5
"""Words of the shortest evaluation text that is looked for: shorter ones occur everywhere."""
_SIEVE = 32
"""Slots of the sieve per n-gram: one place in so many passes it by chance and is looked up in vain."""


class Decontamination:
    """The n-grams of evaluation files, and whether documents contain them.

    An evaluation text of at least ``ngram`` words counts with all its n-grams, a shorter one (from `SHORTEST` words on)
    as a whole: a document contains it where all its words stand one after the other.
    """

    def __init__(self, config: DecontaminationConfig) -> None:
        """Read the files.

        Raises:
            UserError: a pattern matches no file, or a file's ending is none of those that can be read.
            DataError: a file is not what its ending says, or the files hold no text of `SHORTEST` words.
        """
        self.ngram, self.share = config.ngram, config.share
        self._shortest = min(SHORTEST, self.ngram)
        texts = [text for path in _paths(config.files) for text in _texts(path)]
        words, counts = word_hashes(texts)
        lengths = np.repeat(np.where(counts < self._shortest, 0, np.minimum(counts, self.ngram)), counts)
        left = np.repeat(np.cumsum(counts), counts) - np.arange(len(words))
        # Words of the n-gram or short text that begins at each word, 0 for none.
        wanted = np.where(left >= lengths, lengths, 0)
        self._lengths = frozenset(np.unique(wanted[wanted > 0]).tolist())
        if not self._lengths:
            raise DataError(
                f"decontaminate.files: no text of {self._shortest} words in {', '.join(config.files)}; "
                "expected the texts of an evaluation set"
            )
        hashes = [found[wanted[: len(found)] == length] for length, found in rolling(words, self._lengths)]
        self._hashes = np.unique(np.concatenate(hashes))
        # Every one of them begins with its first words: places where none of these beginnings stands are done with.
        ((_, beginnings),) = rolling(words, (self._shortest,))
        slots = 1 << (_SIEVE * len(self._hashes) - 1).bit_length()
        self._sieve = np.zeros(slots, bool)
        self._sieve[beginnings[wanted[: len(beginnings)] > 0] & np.uint64(slots - 1)] = True

    @property
    def size(self) -> int:
        """Number of different n-grams and short texts."""
        return len(self._hashes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the n-grams' hashes, for the manifest: equal texts give equal ones wherever the files lie."""
        return hashlib.sha256(self._hashes.astype("<u8").tobytes()).hexdigest()

    def hits(self, text: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Look for the n-grams in a text.

        Returns:
            int64 [H], words of the text at which one begins, ascending; int64 [H], how many words it has (the longest
            if several begin there); and the number of n-grams of the text, 1 if it has fewer words than one.
        """
        words, _ = word_hashes([text])
        ((_, beginnings),) = rolling(words, (self._shortest,))
        places = np.flatnonzero(self._sieve[beginnings & np.uint64(len(self._sieve) - 1)])
        found = np.zeros(len(places), np.int64)
        for length, hashes in hashes_at(words, places, self._lengths) if len(places) else ():
            nearest = np.minimum(self._hashes.searchsorted(hashes), self.size - 1)
            found[: len(hashes)][self._hashes[nearest] == hashes] = length
        return places[found > 0], found[found > 0], max(1, len(words) - self.ngram + 1)

    def step(self, document: Document) -> Document | Rejection:
        """Drop a document if more than ``share`` of its n-grams occur in the files; a cleaning step.

        A place where a short text begins counts as an n-gram that occurs.
        """
        places, lengths, total = self.hits(document.text)
        if min(1.0, len(places) / total) <= self.share:
            return document
        words = " ".join(word_list(document.text)[places[0] : places[0] + lengths[0]])
        return Rejection(detail=f"{len(places)} of {total} n-grams, first: {words}")


def evaluation_files(config: DecontaminationConfig) -> list[dict[str, Any]]:
    """Return what the manifest records of the files: other texts make another set.

    Raises:
        UserError: see `Decontamination`.
    """
    return [
        {"name": Path(path).name, "bytes": Path(path).stat().st_size, "sha256": sha256_of(Path(path))}
        for path in _paths(config.files)
    ]


def _paths(patterns: list[str]) -> list[str]:
    paths: list[str] = []
    for pattern in patterns:
        matches = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
        found = sorted(path for path in matches if Path(path).is_file())
        if not found:
            raise UserError(f"decontaminate.files: no file matches {pattern}; expected evaluation files")
        for path in found:
            if Path(path).suffix.lower() not in _READERS:
                raise UserError(
                    f"decontaminate.files: {path} ends in none of {', '.join(_READERS)}; rename or convert it"
                )
        paths += found
    return paths


def _texts(path: str) -> Iterator[str]:
    try:
        yield from _READERS[Path(path).suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from error
    except (csv.Error, RecursionError) as error:
        raise DataError(f"{path}: {error}; expected a valid {Path(path).suffix} file") from error


def _text_lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8-sig") as file:
        yield from file


def _json_lines(path: str) -> Iterator[str]:
    for number, line in enumerate(_text_lines(path), 1):
        if line.strip():
            yield from _strings(_parse(line, f"{path}, line {number}"))


def _json(path: str) -> Iterator[str]:
    yield from _strings(_parse(Path(path).read_text("utf-8-sig"), path))


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); expected an evaluation file that can be read") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _csv(path: str) -> Iterator[str]:
    csv.field_size_limit(1 << 30)
    with open(path, encoding="utf-8-sig", newline="") as file:
        for row in csv.reader(file):
            yield from row


def _tsv(path: str) -> Iterator[str]:
    # Quotation marks in .tsv files of evaluation sets (GLUE) are part of the text.
    for line in _text_lines(path):
        yield from line.split("\t")


_READERS: dict[str, Callable[[str], Iterator[str]]] = {
    ".txt": _text_lines,
    ".jsonl": _json_lines,
    ".json": _json,
    ".tsv": _tsv,
    ".csv": _csv,
}
