"""Token parts to shards: each shard is made by itself, from its share of every part's documents.

A group's documents (see `data_prep.build`) are spread over *cells*, one for each shard: by their place in the shuffle,
or, without a shuffle, by where their tokens begin. A cell's documents are a slice of every part, so a shard needs no
memory but its own, and any process can make any shard.

Shape legend: D documents of a shard, T its tokens, S its sentences.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.build import TOKENS, dropped_numbers
from data_prep.config import PrepConfig
from data_prep.part import PartFile
from data_prep.plan import PartId
from electra_ds.data.format import PAIRS, TEXT, Block, ShardInfo, ShardWriter, read_index, token_dtype
from electra_ds.errors import DataError
from electra_ds.files import sha256_of


@dataclass(frozen=True)
class Shard:
    """One shard to be made.

    Attributes:
        name: without ending. group, split: whose documents. cell, cells: which share of them.
        parts: pieces that hold documents of the section, in order, and the section's tokens before each of them.
        tokens: tokens of the section in all parts. vocab_size: of the tokenizer.
        pairs: its documents are translation pairs, two a pair.
    """

    name: str
    group: str
    split: str
    cell: int
    cells: int
    parts: Sequence[tuple[PartId, int]]
    tokens: int
    vocab_size: int
    pairs: bool = False


def shard_name(split: str, group: str, number: int) -> str:
    """Name of a shard, a file name on any system: a group's name with other characters gets a mark of its own."""
    slug = re.sub(r"[^A-Za-z0-9_]", "_", group)[:40]
    if slug != group:
        slug += "_" + blake2b(group.encode(), digest_size=3).hexdigest()
    return f"{split}-{slug}-{number:06d}" if group else f"{split}-{number:06d}"


def write_shard(config: PrepConfig, work: Path, folder: Path, target: Path, shard: Shard) -> dict[str, Any]:
    """Write a shard, unless it is there and whole.

    Args:
        config: of the preparation.
        work: folder of the part files.
        folder: of the shard set; a shard that is whole there is kept.
        target: folder to write to, most often the same.
        shard: which.

    Returns:
        ``info`` (fields of `ShardInfo`), ``cut`` (documents over several blocks), ``used`` (ids that occur, uint32).
    """
    marker = work / "shards" / f"{shard.name}.npz"
    info = whole_shard(folder, shard.name)
    if info is not None and marker.exists():
        with np.load(marker, allow_pickle=False) as kept:
            return {
                "info": _described(info, shard),
                "cut": int(kept["cut"]),
                "used": kept["used"],
            }
    cell = gather(config, work, shard)
    frequencies = np.zeros(shard.vocab_size, bool)
    cuts = list(
        pair_blocks(cell.ends, config.block_tokens)
        if shard.pairs
        else cut_blocks(cell.ends, cell.sentences, config.block_tokens)
    )
    with ShardWriter(target, shard.name) as writer:
        for begin, end in cuts:
            block = cell.block(begin, end)
            frequencies[block.tokens] = True
            writer.add(block)
        info = writer.finish()
    cut = cell.documents_cut([end for _, end in cuts])
    used = np.flatnonzero(frequencies).astype("<u4")
    marker.parent.mkdir(parents=True, exist_ok=True)
    temporary = marker.with_suffix(".partial.npz")
    np.savez(temporary, cut=np.int64(cut), used=used)
    temporary.replace(marker)
    return {"info": _described(info, shard), "cut": cut, "used": used}


def _described(info: ShardInfo, shard: Shard) -> ShardInfo:
    return dataclasses.replace(info, corpus=shard.group, kind=PAIRS if shard.pairs else TEXT)


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


@dataclass
class Cell:
    """The documents of a shard, in their final order.

    Attributes:
        tokens: D arrays. ends: int64 [D], one past each document's last token, counted through the cell.
        sentences: int64 [S], sentence starts, counted through the cell.
        labels: D numbers of `names`; names: [source, language, file].
        pairs: each two documents are translations of each other.
    """

    tokens: list[np.ndarray]
    ends: np.ndarray
    sentences: np.ndarray
    labels: np.ndarray
    names: list[list[str]]
    dtype: np.dtype[Any]
    pairs: bool = False

    def block(self, begin: int, end: int) -> Block:
        """Tokens [begin, end) of the cell as a block."""
        first = int(np.searchsorted(self.ends, begin, "right"))
        last = int(np.searchsorted(self.ends, end, "left")) + 1
        starts = np.append(0, self.ends)[first:last]
        pieces = self.tokens[first:last]
        if starts[0] < begin:
            pieces = [pieces[0][begin - starts[0] :], *pieces[1:]]
        surplus = int(self.ends[last - 1]) - end
        if surplus:
            pieces = [*pieces[:-1], pieces[-1][: len(pieces[-1]) - surplus]]
        sentences = self.sentences[np.searchsorted(self.sentences, begin) : np.searchsorted(self.sentences, end)]
        # Where a long sentence is cut, what follows in the next block counts as a sentence of its own.
        if not len(sentences) or sentences[0] != begin:
            sentences = np.append(begin, sentences)
        sentences = sentences - begin
        labels = self.labels[first:last]
        if self.pairs:
            codes, of_pair = np.unique(labels.reshape(-1, 2), axis=0, return_inverse=True)
            of_pair = of_pair.reshape(-1)
            changes = np.flatnonzero(np.diff(of_pair, prepend=-1))
            kinds, named = of_pair[changes].tolist(), [[self.names[label] for label in code] for code in codes.tolist()]
        else:
            changes = np.flatnonzero(np.diff(labels, prepend=-1))
            kinds, named = labels[changes].tolist(), [[name] for name in self.names]
        seen: dict[int, int] = {}
        numbers = [seen.setdefault(kind, len(seen)) for kind in kinds]
        step = 2 if self.pairs else 1
        metadata = {
            "continues": bool(starts[0] < begin),
            "labels": [name for kind in seen for name in named[kind]],
            # Runs of documents alike are written once: metadata stays small beside the tokens.
            "runs": [[change * step, number * step] for change, number in zip(changes.tolist(), numbers, strict=True)],
            **({"pairs": True} if self.pairs else {}),
        }
        documents = np.maximum(starts - begin, 0)
        return Block(
            np.concatenate(pieces).astype(self.dtype, copy=False),
            documents.astype("<u4"),
            sentences.astype("<u4"),
            metadata,
        )

    def documents_cut(self, borders: list[int]) -> int:
        """How many documents lie in more than one block; `borders`: ends of the blocks."""
        inner = np.setdiff1d(np.array(borders, np.int64), self.ends)
        return len(np.unique(np.searchsorted(self.ends, inner, "right")))


def cut_blocks(ends: np.ndarray, sentences: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Cut the documents of a shard into blocks.

    A block ends with the first document that fills it; where that would make it twice as long as `limit`, or longer, at
    the first sentence start from `limit` on, or else after `limit` tokens.

    Args:
        ends: int64 [D], one past each document's last token.
        sentences: int64 [S], sentence starts.
        limit: tokens of a block.

    Yields:
        First and one past the last token of each block.
    """
    begin, total = 0, int(ends[-1]) if len(ends) else 0
    while begin < total:
        full = begin + limit
        end = total if full >= total else int(ends[np.searchsorted(ends, full)])
        if end >= begin + 2 * limit:
            at = int(np.searchsorted(sentences, full))
            end = int(sentences[at]) if at < len(sentences) else end
            end = end if end < begin + 2 * limit else full
        yield begin, end
        begin = end


def pair_blocks(ends: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Like `cut_blocks` for documents of which each two are a pair: a block ends with the pair that fills it."""
    begin, borders = 0, ends[1::2]
    while begin < (int(borders[-1]) if len(borders) else 0):
        end = int(borders[min(int(np.searchsorted(borders, begin + limit)), len(borders) - 1)])
        yield begin, end
        begin = end


def gather(config: PrepConfig, work: Path, shard: Shard) -> Cell:
    """Read a cell's documents out of all parts and put them in order."""
    tokens: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    sentence_counts: list[np.ndarray] = []
    sentences: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    names: dict[tuple[str, ...], int] = {}
    for part, before in shard.parts:
        found = _of_part(config, work / part.stem, shard, before)
        if found is None:
            continue
        tokens += found.tokens
        keys.append(found.keys)
        numbers.append(found.numbers.astype(np.uint64) + np.uint64(part.first_document))
        sentence_counts.append(found.sentence_counts)
        sentences += found.sentences
        mine = np.array([names.setdefault(tuple(name), len(names)) for name in found.names], np.int64)
        labels.append(mine[found.labels])
    if not tokens:
        raise DataError(f"{work}: no document for {shard.name}; delete the folder and run the same command again")
    order = np.lexsort((np.concatenate(numbers), np.concatenate(keys)))
    rows = order.tolist()
    ordered = [tokens[row] for row in rows]
    ends = np.cumsum([len(document) for document in ordered], dtype=np.int64)
    counts = np.concatenate(sentence_counts)[order].astype(np.int64)
    starts = np.append(0, ends[:-1])
    dtype = token_dtype(shard.vocab_size)
    return Cell(
        ordered,
        ends,
        np.concatenate([sentences[row] for row in rows]).astype(np.int64) + np.repeat(starts, counts),
        np.concatenate(labels)[order],
        [list(name) for name in names],
        dtype,
        shard.pairs,
    )


@dataclass
class _Slice:
    tokens: list[np.ndarray]
    keys: np.ndarray
    numbers: np.ndarray
    sentence_counts: np.ndarray
    sentences: list[np.ndarray]
    labels: np.ndarray
    names: list[list[str]]


def cells_of_part(config: PrepConfig, work: Path, shard: Shard, part: PartId, before: int) -> set[int]:
    """Cells of a shard's section that have documents in a part."""
    with PartFile((work / part.stem).with_suffix(TOKENS)) as file:
        found = _locate(config, work / part.stem, file, shard, before)
    return set() if found is None else set(np.unique(found[1]).tolist())


def _locate(
    config: PrepConfig, path: Path, part: PartFile, shard: Shard, before: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of a shard's section in a part, copies left out, int64, and the cell of each (ascending); None if none."""
    first = 0
    for group, split, count in part.facts["sections"]:
        if (group, split) == (shard.group, shard.split):
            break
        first += count
    else:
        return None
    rows = np.arange(first, first + count)
    drops = dropped_numbers(path)
    if len(drops):
        rows = rows[~np.isin(part.slice("numbers", first, first + count), drops)]
    if config.shuffle:
        keys = part.slice("keys", first, first + count)[rows - first]
        return rows, ((keys >> np.uint64(32)) * np.uint64(shard.cells) >> np.uint64(32)).astype(np.int64)
    counts = part.slice("token_counts", first, first + count)[rows - first].astype(np.int64)
    cells = (before + np.cumsum(counts) - counts) * shard.cells // shard.tokens
    return rows, np.repeat(cells[::2], 2) if shard.pairs else cells


def _of_part(config: PrepConfig, path: Path, shard: Shard, before: int) -> _Slice | None:
    """A cell's documents of one part, or None if it has none."""
    with PartFile(path.with_suffix(TOKENS)) as part:
        located = _locate(config, path, part, shard, before)
        if located is None:
            return None
        rows, cells = located
        low, high = np.searchsorted(cells, [shard.cell, shard.cell + 1]).tolist()
        rows = rows[low:high]
        if not len(rows):
            return None
        token_counts = part.array("token_counts").astype(np.int64)
        sentence_counts = part.array("sentence_counts").astype(np.int64)
        first, last = int(rows[0]), int(rows[-1]) + 1
        return _Slice(
            _ragged(part, "tokens", np.cumsum(token_counts), token_counts, rows),
            part.slice("keys", first, last)[rows - first],
            part.slice("numbers", first, last)[rows - first],
            sentence_counts[rows],
            _ragged(part, "sentences", np.cumsum(sentence_counts), sentence_counts, rows),
            part.slice("labels", first, last)[rows - first],
            part.facts["labels"],
        )


def _ragged(part: PartFile, name: str, ends: np.ndarray, counts: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Rows of a ragged array, read at once from the first to the last."""
    begin = int(ends[rows[0]] - counts[rows[0]])
    flat = part.slice(name, begin, int(ends[rows[-1]]))
    stops = (ends[rows] - begin).tolist()
    starts = (ends[rows] - counts[rows] - begin).tolist()
    return [flat[start:stop] for start, stop in zip(starts, stops, strict=True)]
