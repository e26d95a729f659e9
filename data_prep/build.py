"""From the documents of a piece to its part files: the text part (before a vocabulary is there) and the token part.

Shape legend: D documents of the part, T tokens, S sentences, B bands of a signature.

A text part has ``text`` (all documents' UTF-8, one after another, zstd), ``ends`` [D] <u8, ``numbers`` [D] <u4 (in the
piece, as read), ``labels`` [D] <u4, ``hashes`` [D, 2] <u8, ``bands`` [D, B] <u8 where near-duplicates are looked for.

A token part has its documents sorted by *section* (group and split) and there by place in the shuffle, so that any
number of cells takes contiguous slices: ``tokens`` [T], ``sentences`` [S] <u4 (in tokens of the document), and per
document ``numbers`` (in the piece), ``keys`` (place), ``token_counts``, ``sentence_counts``, ``byte_counts``,
``unknown_counts``, ``labels``, ``hashes``, ``bands``. Its facts hold ``sections``: [group, split, documents].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.config import PrepConfig
from data_prep.documents import SPLITS, shuffle_keys, validation_mask
from data_prep.part import PartFile, write_part
from data_prep.plan import PartId
from data_prep.tokenizer import Encoder

TEXT, TOKENS, DROPS = ".text", ".tokens", ".drop"
"""Endings of the part files of a piece."""

UNKNOWN_GROUP = "unknown"
"""Of documents without a language or source, where shards are kept apart by those."""


@dataclass(frozen=True)
class Batch:
    """Some cleaned documents.

    Attributes:
        texts: UTF-8 [D]. numbers: uint32 [D], in the piece, as read. labels: uint32 [D], numbers of labels.
        hashes: uint64 [D, 2], of their content. bands: uint64 [D, B] where near-duplicates are looked for.
    """

    texts: list[bytes]
    numbers: np.ndarray
    labels: np.ndarray
    hashes: np.ndarray
    bands: np.ndarray | None = None

    def select(self, kept: np.ndarray) -> Batch:
        """The documents where `kept`, bool [D]."""
        texts = [self.texts[row] for row in np.flatnonzero(kept).tolist()]
        bands = None if self.bands is None else self.bands[kept]
        return Batch(texts, self.numbers[kept], self.labels[kept], self.hashes[kept], bands)


class TextPart:
    """Collects the cleaned text of a piece."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []

    def add(self, batch: Batch) -> None:
        """Append documents."""
        self._batches.append(batch)

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        """Write ``PATH.text``."""
        import zstandard

        compressor = zstandard.ZstdCompressor(level=1).compressobj()
        packed = [compressor.compress(text) for batch in self._batches for text in batch.texts] + [compressor.flush()]
        sizes = [len(text) for batch in self._batches for text in batch.texts]
        arrays = {
            "text": np.frombuffer(b"".join(packed), np.uint8),
            "ends": np.cumsum(sizes, dtype="<u8"),
            "numbers": _join([batch.numbers for batch in self._batches], "<u4"),
            "labels": _join([batch.labels for batch in self._batches], "<u4"),
            "hashes": _join([batch.hashes for batch in self._batches], "<u8").reshape(-1, 2),
        }
        if self._batches and self._batches[0].bands is not None:
            arrays["bands"] = np.concatenate([batch.bands for batch in self._batches if batch.bands is not None])
        write_part(path.with_suffix(TEXT), facts, arrays)


def read_batches(part: PartFile, size: int, together: int = 1) -> Iterator[Batch]:
    """Go through a text part in batches of about `size` bytes; so many documents each stay together."""
    import zstandard

    ends = part.array("ends").astype(np.int64)
    numbers, labels, hashes = part.array("numbers"), part.array("labels"), part.array("hashes")
    bands = part.array("bands") if "bands" in part else None
    packed = part.array("text").tobytes()
    text = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    first = 0
    while first < len(ends):
        begin = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, begin + size, "right")))
        last += (first - last) % together
        stops = ends[first:last].tolist()
        rows = slice(first, last)
        yield Batch(
            [text[start:stop] for start, stop in zip([begin, *stops], stops, strict=False)],
            numbers[rows],
            labels[rows],
            hashes[rows],
            None if bands is None else bands[rows],
        )
        first = last


def dropped_numbers(path: Path) -> np.ndarray:
    """Numbers (in the piece) of the copies among a part's documents, uint32."""
    drops = path.with_suffix(DROPS)
    if not drops.exists():
        return np.zeros(0, "<u4")
    with PartFile(drops) as part:
        return part.array("numbers")


class TokenPart:
    """Collects the tokens of a piece."""

    def __init__(self, config: PrepConfig, corpus: str, part: PartId, encoder: Encoder, pairs: bool = False) -> None:
        """`corpus`: name of the piece's corpus; `pairs`: each two of its documents are translations of each other."""
        self._config, self._corpus, self._part, self._encoder = config, corpus, part, encoder
        self._pairs = pairs
        self._columns: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
        self._tokens: list[np.ndarray] = []
        self._sentences: list[np.ndarray] = []
        self.without_tokens = 0

    def add(self, batch: Batch) -> None:
        """Tokenize documents."""
        encoded = self._encoder.encode(batch.texts)
        unknown = np.flatnonzero(encoded.tokens == self._encoder.special_ids["unk_id"])
        ends = np.cumsum(encoded.token_counts, dtype=np.int64)
        owners = np.searchsorted(ends, unknown, "right")
        kept = encoded.token_counts > 0
        tokens, sentences = encoded.tokens, encoded.sentences
        if self._pairs and not kept.all():
            kept = kept.reshape(-1, 2).all(1).repeat(2)
            tokens = tokens[np.repeat(kept, encoded.token_counts)]
            sentences = sentences[np.repeat(kept, encoded.sentence_counts)]
        self.without_tokens += int(len(kept) - kept.sum())
        columns = {
            "numbers": batch.numbers,
            "token_counts": encoded.token_counts,
            "sentence_counts": encoded.sentence_counts,
            "byte_counts": np.array([len(text) for text in batch.texts]),
            "unknown_counts": np.bincount(owners, minlength=len(kept)),
            "labels": batch.labels,
            "hashes": batch.hashes,
            **({} if batch.bands is None else {"bands": batch.bands}),
        }
        for name, column in columns.items():
            self._columns[name].append(column[kept])
        self._tokens.append(tokens)
        self._sentences.append(sentences)

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        """Write ``PATH.tokens``; `facts` has ``labels``."""
        columns = {
            name: _join(found, _COLUMNS[name]) for name, found in self._columns.items() if name != "bands" or found
        }
        columns["hashes"] = columns["hashes"].reshape(-1, 2)
        groups, splits = self._sections(columns, facts["labels"])
        numbers = columns["numbers"].astype(np.uint64) + np.uint64(self._part.first_document)
        together = 2 if self._pairs else 1  # they have one place, in the order of their numbers
        hashes, firsts = columns["hashes"][::together], numbers[::together]
        keys = shuffle_keys(hashes, firsts, self._config.seed) if self._config.shuffle else firsts
        columns["keys"] = np.repeat(keys, together).astype("<u8")
        names = sorted(set(groups))
        section = np.array([names.index(group) for group in groups], np.int64) * len(SPLITS) + splits
        order = np.lexsort((columns["numbers"], columns["keys"], section))
        tokens = _reorder(self._tokens, columns["token_counts"], order)
        sentences = _reorder(self._sentences, columns["sentence_counts"], order)
        counts = np.bincount(section, minlength=len(names) * len(SPLITS)).tolist()
        sections = [
            [names[number // len(SPLITS)], SPLITS[number % len(SPLITS)], count]
            for number, count in enumerate(counts)
            if count
        ]
        arrays = {"tokens": tokens, "sentences": sentences, **{name: column[order] for name, column in columns.items()}}
        write_part(path.with_suffix(TOKENS), {**facts, "sections": sections}, arrays)

    def _sections(self, columns: dict[str, np.ndarray], labels: list[list[str]]) -> tuple[list[str], np.ndarray]:
        by = self._config.group_by
        if by == "corpus":
            groups = [self._corpus] * len(columns["labels"])
        else:
            names = [label[0 if by == "source" else 1] or UNKNOWN_GROUP for label in labels]
            groups = [names[label] for label in columns["labels"].tolist()]
            if self._pairs:
                both = zip(groups[::2], groups[1::2], strict=True)
                joined = [a if by == "source" else "-".join(sorted((a, b))) for a, b in both]
                groups = [group for group in joined for _ in range(2)]
        held_out = validation_mask(columns["hashes"], self._config.validation_fraction, self._config.seed)
        return groups, held_out.astype(np.int64)


_COLUMNS = {
    "numbers": "<u4",
    "token_counts": "<u4",
    "sentence_counts": "<u4",
    "byte_counts": "<u4",
    "unknown_counts": "<u4",
    "labels": "<u4",
    "hashes": "<u8",
    "bands": "<u8",
}


def _join(arrays: list[np.ndarray], dtype: str) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.zeros(0, dtype)


def _reorder(pieces: list[np.ndarray], counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Join ragged rows (of `counts` entries each) in another order."""
    flat = np.concatenate(pieces) if pieces else np.zeros(0, "<u4")
    if np.array_equal(order, np.arange(len(order))):
        return flat
    ends = np.cumsum(counts, dtype=np.int64)
    begins = (ends - counts).tolist()
    stops = ends.tolist()
    return np.concatenate([flat[begins[row] : stops[row]] for row in order.tolist()]) if len(order) else flat
