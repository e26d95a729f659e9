"""The manifest: what a shard set holds, and the checksums that prove it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from electra_ds.data.format.block import PAIRS, TEXT, strict_json
from electra_ds.data.format.checks import check_manifest
from electra_ds.data.format.index import ShardIndex
from electra_ds.data.format.tokenizer_files import tokenizer_fingerprint as tokenizer_fingerprint
from electra_ds.errors import DataError
from electra_ds.files import atomic_write
from electra_ds.remote import Missing
from electra_ds.storage import Storage, open_folder

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 2
PAIRS_VERSION = 3
"""Of sets with translation pairs: a release that knows none refuses them. Other sets stay as they were."""
LARGEST_MANIFEST = 1 << 28
"""Bytes; a trillion tokens take some two million."""


@dataclass(frozen=True)
class TokenizerInfo:
    """What training must know of the tokenizer without loading it."""

    type: str
    """``wordpiece``, ``unigram``, ``bpe`` or ``existing``."""
    fingerprint: str
    """SHA-256 over the tokenizer's files (see `tokenizer_fingerprint`)."""
    vocab_size: int
    """Number of ids, special tokens included."""
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int


@dataclass(frozen=True)
class ShardInfo:
    """One shard: `name`.tar and `name`.idx."""

    name: str
    bytes: int
    sha256: str
    index_sha256: str
    blocks: int
    documents: int
    sentences: int
    tokens: int
    corpus: str = ""
    """Group that the shard belongs to, mixed by weight in training; empty if there is only one."""
    kind: str = TEXT
    """One of `block.KINDS`."""

    @classmethod
    def of_index(cls, name: str, index: ShardIndex, index_sha256: str, corpus: str = "") -> ShardInfo:
        """Sum up an index."""
        counts = {key: int(index.records[key].sum(dtype=np.int64)) for key in ("documents", "sentences", "tokens")}
        return cls(
            name=name,
            corpus=corpus,
            bytes=index.tar_bytes,
            sha256=index.tar_sha256,
            index_sha256=index_sha256,
            blocks=len(index.records),
            documents=counts["documents"],
            sentences=counts["sentences"],
            tokens=counts["tokens"],
        )


@dataclass(frozen=True)
class Manifest:
    """Content of ``manifest.json``."""

    dtype: str
    """``uint16`` or ``uint32``."""
    tokenizer: TokenizerInfo
    splits: dict[str, tuple[ShardInfo, ...]]
    """Shards of ``train`` and ``validation``, in the order of their blocks; those of a corpus follow each other."""
    weights: dict[str, float] = field(default_factory=dict)
    """Corpus: its weight, where the preparation was told weights; training mixes by them if asked to."""
    config: dict[str, Any] = field(default_factory=dict)
    """The preparation's configuration, without what cannot change the bytes (worker count)."""
    statistics: dict[str, Any] = field(default_factory=dict)
    """Counts the preparation made: documents read, empty, per source."""

    @cached_property
    def has_pairs(self) -> bool:
        """Whether any shard holds translation pairs."""
        return any(shard.kind == PAIRS for shards in self.splits.values() for shard in shards)

    @property
    def version(self) -> int:
        """Version of the format that this content needs."""
        return PAIRS_VERSION if self.has_pairs else FORMAT_VERSION

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which tokens stand where: tokenizer, dtype, shards."""
        content = {
            key: value for key, value in self.to_json().items() if key not in ("weights", "config", "statistics")
        }
        return _sha256_of_json(content)

    def total(self, split: str, count: str) -> int:
        """Sum of `count` (``tokens``, ``documents``, ``blocks``, ...) over the shards of a split."""
        return sum(getattr(shard, count) for shard in self.splits.get(split, ()))

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is written, its own fingerprint and checksum left out."""
        return {
            "format": "electra_ds shards",
            "version": self.version,
            "dtype": self.dtype,
            "tokenizer": vars(self.tokenizer),
            "splits": {name: [_shard_json(shard) for shard in shards] for name, shards in self.splits.items()},
            "weights": self.weights,
            "config": self.config,
            "statistics": self.statistics,
        }

    def encode(self) -> bytes:
        """The bytes of ``manifest.json``; ``checksum`` is the SHA-256 of all else, as compact JSON with sorted keys."""
        # Through JSON and back: keys that are numbers become texts, and sort as such.
        value = json.loads(json.dumps({**self.to_json(), "fingerprint": self.fingerprint}))
        value["checksum"] = _sha256_of_json(value)
        return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write ``manifest.json`` atomically: the last act of a preparation."""
        data = self.encode()
        with atomic_write(Path(folder) / MANIFEST_NAME) as file:
            file.write(data)


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read and check the ``manifest.json`` of a folder or URL.

    Raises:
        DataError: missing, not JSON, of another version, with impossible values, or altered.
    """
    return read_manifest_in(open_folder(folder), os.fspath(folder))


def read_manifest_in(storage: Storage, folder: str) -> Manifest:
    """Like `read_manifest`, from a folder that is open; `folder` is how messages call it."""
    try:
        data = storage.read_file(MANIFEST_NAME, LARGEST_MANIFEST)
    except Missing:
        raise DataError(
            f"{folder}: no {MANIFEST_NAME}, so this is not a (finished) shard set; "
            "make one with 'electra-ds prep --output ...'"
        ) from None
    return parse_manifest(data, storage.path(MANIFEST_NAME))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Decode the bytes of a manifest; `where` names it in errors.

    Raises:
        DataError: not JSON, of another version, with impossible values, or altered.
    """
    advice = "restore it, or prepare into a new folder"
    try:
        value = strict_json(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot be read ({error}); {advice}") from error
    if not isinstance(value, dict) or value.get("version") not in (FORMAT_VERSION, PAIRS_VERSION):
        found = value.get("version") if isinstance(value, dict) else type(value).__name__
        raise DataError(
            f"{where}: format version {found!r:.60}, this release reads version {FORMAT_VERSION} or {PAIRS_VERSION}"
        )
    try:
        manifest = _manifest_of(value)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: a field is missing or unknown ({error}); {advice}") from error
    except ValueError as error:
        raise DataError(f"{where}: {error}; {advice}") from error
    if value.get("fingerprint") != manifest.fingerprint:
        raise DataError(f"{where}: altered after it was written (its fingerprint does not match); {advice}")
    if value.pop("checksum", None) != _sha256_of_json(value):
        raise DataError(f"{where}: altered after it was written (its checksum does not match); {advice}")
    return manifest


def _shard_json(shard: ShardInfo) -> dict[str, Any]:
    """The fields of a shard; `kind` only where it is not text, as sets without pairs never had it."""
    return {name: value for name, value in vars(shard).items() if name != "kind" or value != TEXT}


def _sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _manifest_of(value: dict[str, Any]) -> Manifest:
    """Build a manifest from decoded JSON; ValueError, KeyError or TypeError if a value cannot be right."""
    manifest = Manifest(
        dtype=value["dtype"],
        tokenizer=TokenizerInfo(**value["tokenizer"]),
        splits={name: tuple(ShardInfo(**s) for s in shards) for name, shards in value["splits"].items()},
        weights=value["weights"],
        config=value["config"],
        statistics=value["statistics"],
    )
    check_manifest(manifest, value)
    return manifest
