"""The unit of work: about 4 MB of text in, one part file out.

The borders of units depend on the documents alone, so any number of processes makes the same parts, and a rerun
redoes only those that are missing. Shape legend: T tokens, D documents, S sentences of a part.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.documents import apply_steps, is_validation
from data_prep.sources.base import Document
from data_prep.tokenizer import Encoder
from electra_ds.errors import DataError
from electra_ds.files import atomic_write

UNIT_BYTES = 4_000_000
"""UTF-8 bytes of text at which a unit is closed."""

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Unit:
    """Consecutive documents of the stream."""

    number: int
    documents: list[Document]
    bytes: int
    digest: str
    """Of the documents' content."""

    @property
    def part_name(self) -> str:
        """File name of the part made from this unit; it tells changed input apart."""
        return f"part-{self.number:08d}-{self.digest}.npz"


@dataclass(frozen=True)
class Part:
    """A tokenized unit."""

    tokens: np.ndarray
    """[T] uint16 or uint32."""
    documents: np.ndarray
    """[D] int64, first token of each document."""
    sentences: np.ndarray
    """[S] int64, first token of each sentence, in tokens of the part."""
    splits: np.ndarray
    """[D] uint8, number in `SPLITS`."""
    labels: np.ndarray
    """[D] int64, number in `label_names`."""
    label_names: list[list[str]]
    """Source, language and file of documents."""
    counts: dict[str, Any] = field(default_factory=dict)
    """``read``, ``bytes``, ``unknown`` (tokens), ``dropped`` (by reason), ``sources`` (documents, bytes, tokens)."""


def form_units(documents: Iterable[Document]) -> Iterator[Unit]:
    """Group a stream of documents."""
    number, size = 0, 0
    held: list[Document] = []
    digest = hashlib.blake2b(digest_size=10)
    for document in documents:
        data = document.text.encode()
        held.append(document)
        size += len(data)
        for label in document[1:]:
            digest.update(label.encode("utf-8", "replace") + b"\0")
        digest.update(len(data).to_bytes(8) + data)
        if size >= UNIT_BYTES:
            yield Unit(number, held, size, digest.hexdigest())
            number, size, held = number + 1, 0, []
            digest = hashlib.blake2b(digest_size=10)
    if held:
        yield Unit(number, held, size, digest.hexdigest())


def tokenize_unit(unit: Unit, encoder: Encoder, validation_fraction: float, seed: int) -> Part:
    """Apply the steps, split, and tokenize."""
    dropped: dict[str, int] = {}
    kept = [result for document in unit.documents if (result := apply_steps(document, dropped)) is not None]
    label_numbers: dict[tuple[str, ...], int] = {}
    tokens, sentences, starts, splits, labels = [], [], [], [], []
    sources: dict[str, list[int]] = {}
    position = 0
    for document, (ids, cuts) in zip(kept, encoder.encode([document.text for document in kept]), strict=True):
        if not len(ids):
            dropped["without a token"] = dropped.get("without a token", 0) + 1
            continue
        starts.append(position)
        tokens.append(ids)
        sentences.append(cuts.astype(np.int64) + position)
        position += len(ids)
        splits.append(int(is_validation(document.text, validation_fraction, seed)))
        labels.append(label_numbers.setdefault(document[1:], len(label_numbers)))
        entry = sources.setdefault(document.source, [0, 0, 0])
        for index, count in enumerate((1, len(document.text.encode()), len(ids))):
            entry[index] += count
    all_tokens = np.concatenate(tokens) if tokens else np.zeros(0, np.uint16)
    unknown = int(np.count_nonzero(all_tokens == encoder.special_ids["unk_id"]))
    return Part(
        tokens=all_tokens,
        documents=np.array(starts, np.int64),
        sentences=np.concatenate(sentences) if sentences else np.zeros(0, np.int64),
        splits=np.array(splits, np.uint8),
        labels=np.array(labels, np.int64),
        label_names=[list(label) for label in label_numbers],
        counts={
            "read": len(unit.documents),
            "bytes": unit.bytes,
            "unknown": unknown,
            "dropped": dropped,
            "sources": sources,
        },
    )


_ARRAYS = ("tokens", "documents", "sentences", "splits", "labels")


def write_part(path: Path, part: Part) -> None:
    """Write a part atomically."""
    text = json.dumps([part.label_names, part.counts]).encode()
    with atomic_write(path) as file:
        np.savez(file, json=np.frombuffer(text, np.uint8), **{name: getattr(part, name) for name in _ARRAYS})


def read_part(path: Path) -> Part:
    """Read a part.

    Raises:
        DataError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels, counts = json.loads(arrays["json"].tobytes())
            return Part(**{name: arrays[name] for name in _ARRAYS}, label_names=labels, counts=counts)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged ({error}); delete this file and run the same command again") from error
