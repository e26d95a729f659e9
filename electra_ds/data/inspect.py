"""``electra-ds inspect``: what a shard set holds, and whether it is whole."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from electra_ds.command_line import bare_flag, parse
from electra_ds.data.format import (
    Block,
    Manifest,
    ShardInfo,
    decode_block,
    read_block_bytes,
    read_index,
    read_manifest,
    verify_shards,
)
from electra_ds.errors import DataError, UserError, did_you_mean

SHOWN_TOKENS = 60
"""Tokens of a document that are decoded for show."""


@dataclass(frozen=True)
class InspectConfig:
    """Show what a shard set holds; verify every checksum."""

    path: Path
    """Folder of the shard set (may be given without ``--path``)."""
    verify: bool = False
    """Read everything and compare every checksum with the manifest."""
    split: str = "train"
    """Split that samples are shown of."""
    block: int | None = None
    """Number of the block to show, counted from 0 through the split; unset shows the first."""
    documents: int = 3
    """Documents of that block to decode."""

    def __post_init__(self) -> None:
        if self.documents < 0:
            raise UserError(f"documents: {self.documents} is not possible; expected 0 or more")


def main(arguments: list[str], program: str) -> int:
    """Run the command; return 0, or 1 if the set is damaged."""
    config = parse(InspectConfig, _flag(arguments), program, positional="path")
    manifest = read_manifest(config.path)
    if config.verify:
        return _verify(config.path, manifest)
    print(describe(config.path, manifest))
    if manifest.total(config.split, "blocks") or config.block is not None or config.split not in manifest.splits:
        print(show_block(config, manifest))
    return 0


def _flag(arguments: list[str]) -> list[str]:
    """Let ``--verify`` stand alone, and the path follow the options."""
    result = bare_flag(arguments, "--verify")
    # The path may follow the options too: `inspect --verify shards`.
    if result and result[0].startswith("-") and not any(entry.split("=")[0] == "--path" for entry in result):
        loose = [n for n in range(1, len(result)) if not result[n].startswith("-") and _complete(result[n - 1])]
        if loose:
            result.insert(0, result.pop(loose[0]))
    return result


def _complete(option: str) -> bool:
    return not option.startswith("-") or "=" in option


def describe(folder: Path, manifest: Manifest) -> str:
    """Say in a table what each split holds, and what it costs on disk."""
    tokenizer = manifest.tokenizer
    ids = ", ".join(f"{name}={getattr(tokenizer, name + '_id')}" for name in ("pad", "unk", "cls", "sep", "mask"))
    lines = [
        f"{folder}: {manifest.dtype} tokens, manifest {manifest.fingerprint[:12]}",
        f"tokenizer: {tokenizer.type}, {tokenizer.vocab_size:,} ids ({ids}), fingerprint {tokenizer.fingerprint[:12]}",
        "",
        f"{'split':<12}{'shards':>8}{'blocks':>8}{'documents':>12}{'tokens':>16}"
        f"{'tokens/doc':>12}{'tokens/sent':>12}{'tar MB':>10}{'tar/payload':>12}",
    ]
    for split, shards in manifest.splits.items():
        blocks, documents, sentences, tokens, size = (
            manifest.total(split, name) for name in ("blocks", "documents", "sentences", "tokens", "bytes")
        )
        payload = np.dtype(manifest.dtype).itemsize * tokens + 4 * (documents + sentences)
        lines.append(
            f"{split:<12}{len(shards):>8,}{blocks:>8,}{documents:>12,}{tokens:>16,}"
            f"{tokens / max(documents, 1):>12.1f}{tokens / max(sentences, 1):>12.1f}{size / 1e6:>10.2f}"
            f"{size / max(payload, 1):>12.3f}"
        )
    statistics = manifest.statistics
    if sources := statistics.get("sources"):
        lines += ["", f"{'source':<24}{'documents':>12}{'MB of text':>12}{'tokens':>16}"]
        lines += [
            f"{name[:23]:<24}{entry['documents']:>12,}{entry['bytes'] / 1e6:>12.2f}{entry['tokens']:>16,}"
            for name, entry in sorted(sources.items(), key=lambda item: -item[1]["tokens"])[:20]
        ]
        if len(sources) > 20:
            lines.append(f"... and {len(sources) - 20:,} more in manifest.json")
    if dropped := statistics.get("documents_dropped"):
        lines += ["", "dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())]
    return "\n".join(lines)


def show_block(config: InspectConfig, manifest: Manifest) -> str:
    """Decode the beginnings of some documents of one block.

    Raises:
        DataError: the shard, its index or the tokenizer is missing or altered.
        UserError: no such split or block.
    """
    shard, number = find_block(manifest, config.split, config.block or 0)
    block = read_block(config.path, shard, number)
    tokenizer = _tokenizer(config.path)
    lines = [
        "",
        f"{config.split} block {config.block or 0} ({shard.name}.tar, number {number} in it): "
        f"{len(block.tokens):,} tokens, {len(block.documents):,} documents, {len(block.sentences):,} sentences",
    ]
    for document in range(min(config.documents, len(block.documents))):
        start, end = int(block.documents[document]), int(block.document_ends[document])
        where = " ".join(filter(None, block.label(document)))
        sentences = int(np.searchsorted(block.sentences, end) - np.searchsorted(block.sentences, start))
        text = tokenizer.decode(
            block.tokens[start : min(end, start + SHOWN_TOKENS)].tolist(), skip_special_tokens=False
        )
        more = " ..." if end - start > SHOWN_TOKENS else ""
        lines.append(f"  document {document} [{where}] {end - start:,} tokens, {sentences:,} sentences: {text}{more}")
    return "\n".join(lines)


def find_block(manifest: Manifest, split: str, block: int) -> tuple[ShardInfo, int]:
    """Return the shard that holds a split's block, and the block's number in it."""
    if split not in manifest.splits:
        known = ", ".join(manifest.splits)
        raise UserError(f"split: no split '{split}' (there are {known}){did_you_mean(split, manifest.splits)}")
    before = 0
    for shard in manifest.splits[split] if block >= 0 else ():
        if block < before + shard.blocks:
            return shard, block - before
        before += shard.blocks
    raise UserError(
        f"block: {block} is not in split '{split}', whose {manifest.total(split, 'blocks')} blocks count from 0"
    )


def read_block(folder: Path, shard: ShardInfo, number: int) -> Block:
    """Read and check one block of a shard."""
    index = read_index(folder / f"{shard.name}.idx")
    path = folder / f"{shard.name}.tar"
    if number >= len(index.records):
        raise DataError(
            f"{path}: its index has {len(index.records)} blocks where the manifest says {shard.blocks}; rerun prep"
        )
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"shard {path}: cannot be read ({error.strerror}); rerun prep to rebuild it") from error
    try:
        where = f"{path} block {number}"
        return decode_block(read_block_bytes(descriptor, index.records[number], where), where)
    finally:
        os.close(descriptor)


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer" / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise DataError(f"tokenizer {path}: cannot be read ({error}); delete {path.parent} and rerun prep") from error


def _verify(folder: Path, manifest: Manifest) -> int:
    total = sum(shard.bytes for shards in manifest.splits.values() for shard in shards)
    advance = lambda _: None  # noqa: E731
    bar = None
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(desc="verifying", total=total, unit="B", unit_scale=True)
        advance = bar.update
    problems = verify_shards(folder, manifest, advance)
    if bar is not None:
        bar.close()
    if problems:
        listed = "\n  ".join(problems)
        raise DataError(f"{folder}: {len(problems)} of its files are damaged:\n  {listed}")
    shards = sum(len(shards) for shards in manifest.splits.values())
    print(f"{folder}: {shards} shards ({total / 1e6:,.1f} MB), their indexes and the tokenizer are whole")
    return 0
