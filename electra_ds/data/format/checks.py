"""What the values of a manifest may be: nothing that leads out of the folder, no counts that cannot be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from electra_ds.data.format.block import KINDS, PAIRS

if TYPE_CHECKING:
    from electra_ds.data.format.manifest import Manifest, ShardInfo, TokenizerInfo

SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,78}")
"""Names of shards: no folder, and short enough for a tar member."""
_LABEL = re.compile(r"[^/\\\x00-\x1f]{1,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST_COUNT = 1 << 62


def check_manifest(manifest: Manifest, value: dict[str, Any]) -> None:
    """Check type and range of every field.

    Args:
        manifest: built from `value`.
        value: the decoded JSON.

    Raises:
        ValueError: names field, value and what was expected. KeyError, TypeError: a field of another kind.
    """
    unknown = value.keys() - manifest.to_json().keys() - {"fingerprint", "checksum"}
    _require(not unknown, "keys", sorted(unknown), "none that this release does not know")
    _require(value["format"] == "electra_ds shards", "format", value["format"], "'electra_ds shards'")
    _require(value["version"] == manifest.version, "version", value["version"], f"{manifest.version} for what it holds")
    _require(manifest.dtype in ("uint16", "uint32"), "dtype", manifest.dtype, "uint16 or uint32")
    _check_tokenizer(manifest.tokenizer, manifest.dtype)
    for name in manifest.splits:
        _require(_LABEL.fullmatch(name), "splits", name, "names without slashes")
    token_bytes = np.dtype(manifest.dtype).itemsize
    seen: set[str] = set()
    for split, shards in manifest.splits.items():
        _require(
            isinstance(value["splits"][split], list), f"splits.{split}", value["splits"][split], "a list of shards"
        )
        for shard in shards:
            _check_shard(shard, token_bytes, f"splits.{split}")
            _require(shard.name not in seen, f"splits.{split}", shard.name, "each shard's name once")
            seen.add(shard.name)
    for field_ in ("weights", "config", "statistics"):
        _require(isinstance(value[field_], dict), field_, type(value[field_]).__name__, "an object")
    for name, weight in manifest.weights.items():
        fits = type(weight) in (int, float) and 0 <= weight < 1e30
        _require(fits, f"weights.{name}", weight, "a number from 0 on")


def _check_tokenizer(info: TokenizerInfo, dtype: str) -> None:
    most = 1 << (16 if dtype == "uint16" else 31)
    _require(isinstance(info.type, str) and len(info.type) <= 100, "tokenizer.type", info.type, "a name")
    _require(_is_sha256(info.fingerprint), "tokenizer.fingerprint", info.fingerprint, "64 hexadecimal digits")
    size = info.vocab_size
    _require(_is_count(size) and 1 <= size <= most, "tokenizer.vocab_size", size, f"1 to {most:,} for {dtype}")
    for name in ("pad_id", "unk_id", "cls_id", "sep_id", "mask_id"):
        id_ = getattr(info, name)
        _require(_is_count(id_) and id_ < size, f"tokenizer.{name}", id_, f"an id from 0 to {size - 1:,}")


def _check_shard(shard: ShardInfo, token_bytes: int, where: str) -> None:
    """Refuse names that lead out of the folder, and counts that no tar of that size can hold."""
    name_fits = isinstance(shard.name, str) and SHARD_NAME.fullmatch(shard.name)
    _require(name_fits, f"{where}: shard name", shard.name, f"a name that matches {SHARD_NAME.pattern}")
    where = f"{where}: shard {shard.name}"
    counts = (shard.bytes, shard.tokens, shard.sentences, shard.documents, shard.blocks)
    for name, count in zip(("bytes", "tokens", "sentences", "documents", "blocks"), counts, strict=True):
        _require(_is_count(count), f"{where}: {name}", count, "a whole number from 0 on")
    for name, digest in (("sha256", shard.sha256), ("index_sha256", shard.index_sha256)):
        _require(_is_sha256(digest), f"{where}: {name}", digest, "64 hexadecimal digits")
    _require(isinstance(shard.corpus, str) and len(shard.corpus) <= 1000, f"{where}: corpus", shard.corpus, "a text")
    _require(shard.kind in KINDS, f"{where}: kind", shard.kind, " or ".join(KINDS))
    least = 2048 * shard.blocks + token_bytes * shard.tokens + 4 * (shard.documents + shard.sentences)
    fits = shard.blocks <= shard.documents <= shard.sentences <= shard.tokens and least <= shard.bytes
    fits = fits and (shard.blocks > 0 or shard.tokens == 0)
    _require(fits, f"{where}: bytes, tokens, sentences, documents, blocks", counts, "counts that fit each other")
    paired = shard.kind != PAIRS or shard.documents % 2 == 0
    _require(paired, f"{where}: documents", shard.documents, "an even number for kind pairs")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST_COUNT


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _require(fits: Any, field_: str, value: Any, expected: str) -> None:
    if not fits:
        raise ValueError(f"{field_} is {value!r:.200}, expected {expected}")
