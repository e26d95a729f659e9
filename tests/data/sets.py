"""Small shard sets made without the preparation."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from electra_ds.data.format import PAIRS, TEXT, Block, Manifest, ShardWriter, TokenizerInfo, tokenizer_fingerprint

VOCABULARY = 1000


def make_block(seed: int, tokens: int, vocabulary: int = VOCABULARY) -> Block:
    """A block of random ids: some documents of some sentences each."""
    chance = np.random.default_rng(seed)
    starts = np.unique(np.append(chance.integers(0, tokens, max(1, tokens // 20)), 0)).astype("<u4")
    metadata = {"labels": [["web", "en", f"part-{seed}"]], "runs": [[0, 0]], "continues": False}
    return Block(chance.integers(5, vocabulary, tokens).astype("<u2"), starts[::3].copy(), starts, metadata)


def make_set(folder: Path, blocks: tuple[int, ...] = (3, 2), tokens: int = 400, validation: int = 1) -> Path:
    """Write a shard set: `blocks` of each training shard, `tokens` a block; block n is ``make_block(n, tokens)``."""
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer/tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer/vocab.txt").write_text("".join(f"word{n}\n" for n in range(VOCABULARY)))
    splits = {}
    seed = 0
    for split, counts in (("train", blocks), ("validation", (validation,))):
        shards = []
        for number, count in enumerate(counts):
            with ShardWriter(folder, f"{split}-{number:06d}") as writer:
                for _ in range(count):
                    writer.add(make_block(seed, tokens))
                    seed += 1
                shards.append(writer.finish())
        splits[split] = tuple(shards)
    tokenizer = TokenizerInfo("wordpiece", tokenizer_fingerprint(folder / "tokenizer"), VOCABULARY, 0, 1, 2, 3, 4)
    Manifest("uint16", tokenizer, splits, config={"seed": 0}, statistics={"documents_read": 7}).write(folder)
    return folder


def same(one: Block, two: Block) -> bool:
    """Whether two blocks hold the same."""
    arrays = ((getattr(one, name), getattr(two, name)) for name in ("tokens", "documents", "sentences"))
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays) and one.metadata == two.metadata


def digest(block: Block) -> str:
    """SHA-256 of what a block holds, to compare it across processes."""
    return hashlib.sha256(block.tokens.tobytes() + block.documents.tobytes() + block.sentences.tobytes()).hexdigest()


def make_pairs(seed: int, pairs: int, longest: int = 40, vocabulary: int = VOCABULARY) -> Block:
    """A block of translation pairs: a text of random ids below the middle of the vocabulary, and one of those above."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(1, longest + 1, 2 * pairs)
    sides = [(5, vocabulary // 2), (vocabulary // 2, vocabulary)]
    texts = [chance.integers(*sides[n % 2], length) for n, length in enumerate(lengths)]
    starts = (np.cumsum(lengths) - lengths).astype("<u4")
    labels = [["web", "en", "pairs"], ["web", "de", "pairs"]]
    metadata = {"labels": labels, "runs": [[0, 0]], "continues": False, "pairs": True}
    return Block(np.concatenate(texts).astype("<u2"), starts, starts.copy(), metadata)


def make_corpora(
    folder: Path,
    corpora: dict[str, int],
    weights: dict[str, float] | None = None,
    tokens: int = 400,
    paired: tuple[str, ...] = (),
) -> Path:
    """Write a shard set of named corpora, each a training shard of so many blocks; block n as in `make_set`.

    Those of the corpora `paired` are ``make_pairs(n, 30)``.
    """
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer/vocab.txt").write_text("".join(f"word{n}\n" for n in range(VOCABULARY)))
    shards = []
    seed = 0
    for name, count in corpora.items():
        with ShardWriter(folder, f"train-{len(shards):06d}") as writer:
            for _ in range(count):
                writer.add(make_pairs(seed, 30) if name in paired else make_block(seed, tokens))
                seed += 1
            kind = PAIRS if name in paired else TEXT
            shards.append(dataclasses.replace(writer.finish(), corpus=name, kind=kind))
    tokenizer = TokenizerInfo("wordpiece", tokenizer_fingerprint(folder / "tokenizer"), VOCABULARY, 0, 1, 2, 3, 4)
    Manifest("uint16", tokenizer, {"train": tuple(shards), "validation": ()}, weights or {}).write(folder)
    return folder
