"""The manifest: what a shard set holds, and the checksums that prove it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from electra_ds.data.format.index import ShardIndex
from electra_ds.errors import DataError
from electra_ds.files import sha256_of, write_json

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 2


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

    @classmethod
    def of_index(cls, name: str, index: ShardIndex, index_sha256: str, corpus: str = "") -> ShardInfo:
        """Sum up an index."""
        return cls(
            name=name,
            corpus=corpus,
            bytes=index.tar_bytes,
            sha256=index.tar_sha256,
            index_sha256=index_sha256,
            blocks=len(index.records),
            **{key: int(index.records[key].sum(dtype=np.int64)) for key in ("documents", "sentences", "tokens")},
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

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which tokens stand where: tokenizer, dtype, shards."""
        content = {key: value for key, value in self.to_json().items() if key not in ("weights", "config", "statistics")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def total(self, split: str, count: str) -> int:
        """Sum of `count` (``tokens``, ``documents``, ``blocks``, ...) over the shards of a split."""
        return sum(getattr(shard, count) for shard in self.splits.get(split, ()))

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is written, its own fingerprint left out."""
        return {"format": "electra_ds shards", "version": FORMAT_VERSION, **dataclasses.asdict(self)}

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write ``manifest.json`` atomically: the last act of a preparation."""
        write_json(Path(folder) / MANIFEST_NAME, {**self.to_json(), "fingerprint": self.fingerprint})


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read and check ``manifest.json``.

    Raises:
        DataError: missing, not JSON, of another version, or altered (fingerprint mismatch).
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no {MANIFEST_NAME}, so this is not a (finished) shard set; "
            "make one with 'electra-ds prep --output ...'"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore it, or prepare into a new folder") from error
    if not isinstance(value, dict) or value.get("version") != FORMAT_VERSION:
        found = value.get("version") if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{path}: format version {found!r}, this release reads version {FORMAT_VERSION}")
    try:
        manifest = Manifest(
            dtype=value["dtype"],
            tokenizer=TokenizerInfo(**value["tokenizer"]),
            splits={name: tuple(ShardInfo(**s) for s in shards) for name, shards in value["splits"].items()},
            weights=value["weights"],
            config=value["config"],
            statistics=value["statistics"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: a field is missing or unknown ({error}); restore it, or prepare into a new folder"
        ) from error
    if value.get("fingerprint") != manifest.fingerprint:
        raise DataError(
            f"{path}: altered after it was written (its fingerprint does not match); "
            "restore it, or prepare into a new folder"
        )
    return manifest


def verify_shards(
    folder: str | os.PathLike[str], manifest: Manifest, advance: Callable[[int], None] = lambda _: None
) -> list[str]:
    """Check size and SHA-256 of every tar, index and tokenizer file.

    Args:
        folder: the shard set.
        manifest: what it should hold.
        advance: called with the bytes read since the last call, for a progress bar.

    Returns:
        One sentence per problem, empty if all is whole.
    """
    folder = Path(folder)
    problems = []
    for shards in manifest.splits.values():
        for shard in shards:
            for ending, expected in (("tar", shard.sha256), ("idx", shard.index_sha256)):
                path = folder / f"{shard.name}.{ending}"
                if not path.exists():
                    problems.append(f"{path}: missing; rerun prep to rebuild it")
                elif (found := sha256_of(path)) != expected:
                    problems.append(
                        f"{path}: sha256 differs from the manifest ({found[:12]}... where {expected[:12]}... was "
                        "expected); delete it and rerun prep to rebuild it"
                    )
            advance(shard.bytes)
    if tokenizer_fingerprint(folder / "tokenizer") != manifest.tokenizer.fingerprint:
        problems.append(f"{folder / 'tokenizer'}: its files are not those the shards were made with")
    return problems


def tokenizer_fingerprint(folder: str | os.PathLike[str]) -> str:
    """SHA-256 over the names and contents of a tokenizer folder's files, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*")):
        if path.is_file():
            digest.update(f"{path.name}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()
