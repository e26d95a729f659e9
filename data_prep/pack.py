"""Parts to blocks to shards: the last stage, in the order of the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.units import SPLITS, read_part
from electra_ds.data.format import Block, ShardInfo, ShardWriter, read_index
from electra_ds.errors import DataError
from electra_ds.files import sha256_of


class ShardSequence:
    """Writes the blocks of one split into ``SPLIT-000000.tar`` and so on; passes over shards that are whole."""

    def __init__(self, folder: Path, target: Path, split: str, shard_blocks: int) -> None:
        """`folder`: of the shard set; `target`: where new shards go; `shard_blocks`: blocks in one tar."""
        self.infos: list[ShardInfo] = []
        self._folder, self._target, self._split, self._shard_blocks = folder, target, split, shard_blocks
        self._writer: ShardWriter | None = None
        self._whole: ShardInfo | None = None
        self._blocks = 0

    def add(self, block: Block) -> None:
        """Append a block."""
        if self._writer is None and self._whole is None:
            name = f"{self._split}-{len(self.infos):06d}"
            self._whole = whole_shard(self._folder, name)
            self._writer = None if self._whole else ShardWriter(self._target, name)
        if self._writer:
            self._writer.add(block)
        self._blocks += 1
        if self._blocks == self._shard_blocks:
            self.finish()

    def finish(self) -> None:
        """Close the shard that is open, if any."""
        info = self._writer.finish() if self._writer else self._whole
        if info:
            if info.blocks != self._blocks:
                raise DataError(
                    f"{self._folder / info.name}.tar: holds {info.blocks} blocks where this preparation makes "
                    f"{self._blocks}: it is not of this shard set; prepare into another folder"
                )
            self.infos.append(info)
        self._writer, self._whole, self._blocks = None, None, 0

    def abandon(self) -> None:
        """Remove what is not finished."""
        if self._writer:
            self._writer.__exit__(Exception)


def whole_shard(folder: Path, name: str) -> ShardInfo | None:
    """Describe a shard whose tar has the checksum that its index tells; None if there is no such shard."""
    tar, idx = folder / f"{name}.tar", folder / f"{name}.idx"
    if not (tar.is_file() and idx.is_file()):
        return None
    try:
        index = read_index(idx)
    except DataError:
        return None
    if tar.stat().st_size != index.tar_bytes or sha256_of(tar) != index.tar_sha256:
        return None
    return ShardInfo.of_index(name, index, sha256_of(idx))


class Packer:
    """Joins documents to blocks.

    A block is closed once it has `block_tokens`; a longer document is cut at sentence starts, so a block
    stays below twice that.
    """

    def __init__(self, block_tokens: int, emit: Callable[[Block], None]) -> None:
        """`emit` takes each finished block."""
        self.cut_documents = 0
        self._limit, self._emit = block_tokens, emit
        self._reset()

    def add(self, tokens: np.ndarray, sentences: np.ndarray, label: list[str]) -> None:
        """Append a document.

        Args:
            tokens: [T] token ids, at least one.
            sentences: [S] int64, sentence starts in it, from 0.
            label: source, language and file.
        """
        first = 0
        self.cut_documents += len(tokens) > self._limit
        while first < len(tokens):
            last = self._cut(first, len(tokens), sentences)
            starts = sentences[(sentences >= first) & (sentences < last)] - first
            self._append(tokens[first:last], starts, label, continues=first > 0)
            first = last

    def flush(self) -> None:
        """Emit what is left as a last, shorter block."""
        if self._tokens:
            starts = np.cumsum([0, *(len(tokens) for tokens in self._tokens)])[:-1]
            sentences = [cuts + start for cuts, start in zip(self._sentences, starts, strict=True)]
            labels = [list(label) for label in self._labels]
            metadata = {"continues": self._continues, "labels": labels, "runs": self._runs}
            self._emit(
                Block(
                    np.concatenate(self._tokens),
                    starts.astype("<u4"),
                    np.concatenate(sentences).astype("<u4"),
                    metadata,
                )
            )
        self._reset()

    def _reset(self) -> None:
        self._tokens: list[np.ndarray] = []
        self._sentences: list[np.ndarray] = []
        self._labels: dict[tuple[str, ...], int] = {}
        self._runs: list[tuple[int, int]] = []
        self._count, self._continues = 0, False

    def _cut(self, first: int, end: int, sentences: np.ndarray) -> int:
        if end - first <= self._limit:
            return end
        at = int(np.searchsorted(sentences, first + self._limit, side="right")) - 1
        return int(sentences[at]) if at >= 0 and sentences[at] > first else first + self._limit

    def _append(self, tokens: np.ndarray, sentences: np.ndarray, label: list[str], continues: bool) -> None:
        self._count += len(tokens)
        if continues and self._tokens:  # the same document goes on in the same block
            self._sentences[-1] = np.append(self._sentences[-1], sentences + len(self._tokens[-1]))
            self._tokens[-1] = np.append(self._tokens[-1], tokens)
        else:
            self._begin(tokens, sentences, label, continues)
        if self._count >= self._limit:
            self.flush()

    def _begin(self, tokens: np.ndarray, sentences: np.ndarray, label: list[str], continues: bool) -> None:
        if not self._tokens:
            self._continues = continues
        number = self._labels.setdefault(tuple(label), len(self._labels))
        # Runs of documents alike are written once: metadata stays small beside the tokens.
        if not self._runs or self._runs[-1][1] != number:
            self._runs.append((len(self._tokens), number))
        self._tokens.append(tokens)
        # Where a long sentence is cut, what follows in the next block counts as a sentence of its own.
        self._sentences.append(sentences if len(sentences) and sentences[0] == 0 else np.append(0, sentences))


def assemble(
    parts: Iterable[Path], folder: Path, target: Path, block_tokens: int, shard_blocks: int, dtype: np.dtype[Any]
) -> tuple[dict[str, tuple[ShardInfo, ...]], dict[str, Any]]:
    """Write the shards of every split.

    Args:
        parts: files in the order of the input.
        folder: of the shard set; shards that are whole there are kept.
        target: folder that others are written to, most often the same.
        block_tokens: tokens of a block.
        shard_blocks: blocks of a shard.
        dtype: of the tokens.

    Returns:
        The shards per split, and the counts summed over the parts.
    """
    sequences = [ShardSequence(folder, target, split, shard_blocks) for split in SPLITS]
    packers = [Packer(block_tokens, sequence.add) for sequence in sequences]
    counts: dict[str, Any] = {"read": 0, "bytes": 0, "unknown": 0, "dropped": {}, "sources": {}}
    kept = [0] * len(SPLITS)
    try:
        for path in parts:
            part = read_part(path)
            _add_counts(counts, part.counts)
            ends = np.append(part.documents[1:], len(part.tokens))
            cuts = np.append(np.searchsorted(part.sentences, part.documents), len(part.sentences))
            for number, (start, end) in enumerate(zip(part.documents, ends, strict=True)):
                sentences = part.sentences[cuts[number] : cuts[number + 1]] - start
                split = int(part.splits[number])
                kept[split] += 1
                tokens = part.tokens[start:end].astype(dtype, copy=False)
                packers[split].add(tokens, sentences, part.label_names[part.labels[number]])
        for packer, sequence in zip(packers, sequences, strict=True):
            packer.flush()
            sequence.finish()
    except BaseException:
        for sequence in sequences:
            sequence.abandon()
        raise
    counts["kept"] = dict(zip(SPLITS, kept, strict=True))
    counts["cut"] = sum(packer.cut_documents for packer in packers)
    return {split: tuple(sequence.infos) for split, sequence in zip(SPLITS, sequences, strict=True)}, counts


def _add_counts(total: dict[str, Any], more: dict[str, Any]) -> None:
    for key in ("read", "bytes", "unknown"):
        total[key] += more[key]
    for reason, count in more["dropped"].items():
        total["dropped"][reason] = total["dropped"].get(reason, 0) + count
    for source, values in more["sources"].items():
        old = total["sources"].get(source, [0] * len(values))
        total["sources"][source] = [a + b for a, b in zip(old, values, strict=True)]
