"""Blocks, documents and rows of a shard set as text a person can read."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from electra_ds.data.config import DataConfig
from electra_ds.data.format import Block
from electra_ds.data.loader import RowSource
from electra_ds.data.shards import ShardSet
from electra_ds.data.translations import pieces_of
from electra_ds.errors import DataError, UserError

SHOWN_TOKENS = 60
"""Tokens of a document that are decoded where a block is shown."""


def show_block(shards: ShardSet, number: int, documents: int) -> str:
    """Decode the beginnings of some documents of a block.

    Args:
        shards: the split.
        number: of the block in it.
        documents: how many.

    Raises:
        DataError: the shard or the tokenizer is missing or altered.
        UserError: no such block.
    """
    _require("block", number, len(shards), shards)
    block = shards.read(number)
    tokenizer = _tokenizer(shards)
    lines = [
        f"{shards.split} block {number} ({_place(shards, number)}): "
        f"{len(block.tokens):,} tokens, {len(block.documents):,} documents, {len(block.sentences):,} sentences",
    ]
    texts = 2 if shards.pairs[number] else 1
    for document in range(min(documents * texts, len(block.documents))):
        start, end = int(block.documents[document]), int(block.document_ends[document])
        text = tokenizer.decode(
            block.tokens[start : min(end, start + SHOWN_TOKENS)].tolist(), skip_special_tokens=False
        )
        more = " ..." if end - start > SHOWN_TOKENS else ""
        name = f"document {document}" if texts == 1 else f"pair {document // 2}, {'ab'[document % 2]}"
        lines.append(f"  {name} {_heading(block, document)}: {text}{more}")
    return "\n".join(lines)


def show_document(shards: ShardSet, number: int) -> str:
    """Decode a whole document, one line a sentence.

    Args:
        shards: the split.
        number: of the document in it, counted by the index: one cut over two blocks counts twice.

    Raises:
        DataError: the shard or the tokenizer is missing or altered.
        UserError: no such document.
    """
    ends = np.cumsum(shards.records["documents"], dtype=np.int64)
    _require("document", number, int(ends[-1]) if len(ends) else 0, shards)
    place = int(np.searchsorted(ends, number, "right"))
    block = shards.read(place)
    inside = number - int(ends[place] - shards.records["documents"][place])
    start, end = int(block.documents[inside]), int(block.document_ends[inside])
    note = "; it began in the block before" if inside == 0 and block.metadata.get("continues") else ""
    if shards.pairs[place]:
        note = f"; document {number + 1 - 2 * (inside % 2)} is its translation"
    tokenizer = _tokenizer(shards)
    first, last = np.searchsorted(block.sentences, [start, end])
    borders = [*block.sentences[first:last].tolist(), end]
    return "\n".join(
        [
            f"{shards.split} document {number} (block {place}, {_place(shards, place)}, document {inside} in it) "
            f"{_heading(block, inside)}{note}",
            *(
                "  " + tokenizer.decode(block.tokens[begin:stop].tolist(), skip_special_tokens=False)
                for begin, stop in itertools.pairwise(borders)
            ),
        ]
    )


def show_row(shards: ShardSet, config: DataConfig, number: int, seed: int, epoch: int) -> str:
    """Decode a row as training sees it, one line a text.

    Args:
        shards: the split.
        config: row length and pairs.
        number: of the row in the split, as audits of a run number rows.
        seed: of the run.
        epoch: pass over the data.

    Raises:
        DataError: the shard or the tokenizer is missing or altered.
        UserError: no such row.
    """
    source = RowSource(shards, config, config.sequence_length, seed)
    _require("row", number, len(source), shards)
    rows = source.unshuffled(np.array([number]), epoch)
    ids, segments, types = rows.ids[0], rows.segments[0], rows.token_types[0]
    block = int(np.searchsorted(source.first_row_id, number, "right")) - 1
    tokenizer = _tokenizer(shards)
    count = int(segments.max())
    lines = [
        f"{shards.split} row {number} of {len(source):,} (block {block}, {_place(shards, block)}, row "
        f"{number - int(source.first_row_id[block])} in it; seed {seed}, epoch {epoch}): {source.length} slots, "
        f"{count} segment{'s' if count != 1 else ''}, {int((segments == 0).sum())} of padding",
    ]
    pair = "translation pair" if shards.pairs[block] else "pair"
    for segment in range(1, count + 1):
        slots = np.flatnonzero(segments == segment)
        kind = pair if types[slots].any() else "single text"
        lines.append(f"  segment {segment}, {kind}: slots {slots[0]}-{slots[-1]}, positions 0-{len(slots) - 1}")
        for type_, name in ((0, "a"), (1, "b")):
            part = slots[types[slots] == type_]
            if len(part):
                text = tokenizer.decode(ids[part].tolist(), skip_special_tokens=False)
                lines.append(f"    {name}, {len(part):,} slots, token type {type_}: {text}")
    if shards.pairs[block]:
        content = shards.read(block)
        cut = len(pieces_of(content, source.length).cut())
        lines.append(f"  of the {len(content.documents) // 2:,} pairs of this block {cut:,} are cut into pieces")
    return "\n".join(lines)


def _heading(block: Block, document: int) -> str:
    start, end = int(block.documents[document]), int(block.document_ends[document])
    sentences = int(np.searchsorted(block.sentences, end) - np.searchsorted(block.sentences, start))
    where = " ".join(filter(None, block.label(document)))
    return f"[{where}] {end - start:,} tokens, {sentences:,} sentences"


def _place(shards: ShardSet, block: int) -> str:
    """Where a block lies."""
    for shard in shards.manifest.splits[shards.split]:
        if block < shard.blocks:
            return f"{shard.name}.tar, number {block} in it"
        block -= shard.blocks
    raise IndexError(block)


def _require(name: str, number: int, count: int, shards: ShardSet) -> None:
    if not 0 <= number < count:
        raise UserError(f"{name}: {number} is not in split '{shards.split}', whose {count} {name}s count from 0")


def _tokenizer(shards: ShardSet) -> Any:
    from tokenizers import Tokenizer

    path = shards.tokenizer_folder() / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise DataError(f"tokenizer {path}: cannot be read ({error}); delete {path.parent} and rerun prep") from error
