"""Which inputs there are, how they are numbered, and which rank reads which piece.

A document's number in the whole preparation is (input, piece, document in the piece) in one 64-bit word: it depends on
the input alone, orders documents as they stand there, and is known without counting what comes before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_prep.config import CorpusConfig, PrepConfig
from data_prep.sources import Source, open_sources
from data_prep.sources.bundle import Bundle, bundle
from electra_ds.errors import UserError

PIECE_BITS, DOCUMENT_BITS = 16, 26
MAX_INPUTS, MAX_PIECES, MAX_DOCUMENTS = 1 << (64 - PIECE_BITS - DOCUMENT_BITS), 1 << PIECE_BITS, 1 << DOCUMENT_BITS

PIECE_BYTES = 4_000_000
"""Bytes of text in a piece, at least; four thousand pieces share a large corpus, up to `MAX_PIECE_BYTES`."""
MAX_PIECE_BYTES = 32_000_000

_GOLDEN = (5**0.5 - 1) / 2


class PartId(NamedTuple):
    """A piece of an input: names its part files."""

    input: int
    piece: int

    @property
    def stem(self) -> str:
        """Path below the work folder, without ending."""
        return f"parts/{self.input:07d}/{self.piece:05d}"

    @property
    def first_document(self) -> int:
        """Number of the piece's first document."""
        return (self.input << PIECE_BITS | self.piece) << DOCUMENT_BITS


def part_of(documents: np.ndarray) -> np.ndarray:
    """Numbers of documents, uint64, to numbers of parts (input << PIECE_BITS | piece), uint64."""
    return documents >> np.uint64(DOCUMENT_BITS)


def part_id(number: int) -> PartId:
    """Inverse of the numbers that `part_of` gives."""
    return PartId(number >> PIECE_BITS, number & (MAX_PIECES - 1))


@dataclass(frozen=True)
class Input:
    """One source and the corpus it belongs to."""

    number: int
    corpus: str
    source: Source


@dataclass(frozen=True)
class Plan:
    """All inputs, in order."""

    inputs: list[Input]
    corpora: dict[str, CorpusConfig]
    piece_bytes: int
    paired: frozenset[str] = frozenset()
    """Corpora whose documents are translation pairs."""

    def identity(self) -> list[dict[str, Any]]:
        """What the manifest records of the inputs."""
        named = bool(self.corpora.keys() - {""})
        return [
            {**({"corpus": one.corpus} if named else {}), **source.identity()}
            for one in self.inputs
            for source in (one.source.sources if isinstance(one.source, Bundle) else [one.source])
        ]

    def versions(self) -> list[str]:
        """What tells that an input was written anew."""
        return [one.source.version() for one in self.inputs]


class Shares:
    """Which rank makes which piece.

    The inputs lie end to end on a line, by their sizes, and every rank takes an equal stretch of it. The pieces of an
    input fall on points spread evenly over its stretch (multiples of the golden ratio), since the number of pieces of a
    compressed file is not known before it was read.
    """

    def __init__(self, plan: Plan, ranks: int) -> None:
        """`ranks`: how many there are."""
        sizes = np.array([max(one.source.size, 1) for one in plan.inputs], np.float64)
        ends = np.cumsum(sizes)
        self._begins, self._sizes, self._total, self._ranks = ends - sizes, sizes, float(ends[-1]), ranks

    def owner(self, number: int, piece: int) -> int:
        """Rank that makes a piece of an input."""
        return self._at(self._begins[number] + self._sizes[number] * ((0.5 + piece * _GOLDEN) % 1.0))

    def reads(self, number: int, rank: int) -> bool:
        """Whether any piece of an input may belong to a rank."""
        begin = self._begins[number]
        return self._at(begin) <= rank <= self._at(begin + self._sizes[number])

    def _at(self, point: float) -> int:
        return min(self._ranks - 1, int(point / self._total * self._ranks))


def make_plan(config: PrepConfig) -> Plan:
    """Find the inputs of all corpora.

    Raises:
        UserError: a pattern matches nothing, a file is of no known kind, or there are too many.
    """
    corpora = config.resolved_corpora()
    found = [(name, open_sources(corpus, config)) for name, corpus in corpora.items()]
    paired = frozenset(name for name, sources in found if _paired(corpora[name], sources))
    total = sum(source.size for _, sources in found for source in sources)
    piece_bytes = min(max(PIECE_BYTES, total // 4096), MAX_PIECE_BYTES)
    inputs: list[Input] = []
    for name, sources in found:
        inputs += [
            Input(len(inputs) + offset, name, source) for offset, source in enumerate(bundle(sources, piece_bytes))
        ]
    if len(inputs) > MAX_INPUTS:
        raise UserError(
            f"inputs: {len(inputs)} files, at most {MAX_INPUTS} can be numbered; join small files into larger ones"
        )
    return Plan(inputs, corpora, piece_bytes, paired)


def _paired(corpus: CorpusConfig, sources: Sequence[Source]) -> bool:
    """Whether a corpus consists of translation pairs.

    Raises:
        UserError: some of its sources have translations and some have none.
    """
    single = [source for source in sources if not source.pairs]
    if single and corpus.parallel and corpus.parallel.text_field:
        raise UserError(
            f"parallel.text_field: {single[0].name} is not of JSON lines, from which translations are read; name the "
            "other inputs in a corpus of their own"
        )
    if single and len(single) < len(sources):
        pair = next(source for source in sources if source.pairs)
        raise UserError(
            f"inputs: {pair.name} has translations, {single[0].name} has none; make each a corpus of its own (corpora)"
        )
    return not single
