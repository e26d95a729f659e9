"""Shards of made-up text: token ids with the statistics of prose, written without a preparation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from electra_ds.data.format import (
    Block,
    Manifest,
    ShardInfo,
    ShardWriter,
    TokenizerInfo,
    token_dtype,
    tokenizer_fingerprint,
)

VOCABULARY = 30_522
"""Entries, as in the paper's vocabulary."""
BLOCK_TOKENS = 262_144
"""Tokens of a block, as `prep` makes them unless told otherwise."""
SHARD_BLOCKS = 256
_SPECIAL = 5


def write_text_set(folder: Path, tokens: int, seed: int = 0, block_tokens: int = BLOCK_TOKENS) -> Path:
    """Write a shard set of about `tokens` tokens.

    Ids follow Zipf's law (p ~ 1 / (rank + 2.7), Mandelbrot's form); documents are log-normal with a median of 300 and a
    mean of about 550 tokens, sentences with a median of 20 and a mean of about 25.

    Args:
        folder: made if missing.
        tokens: at least so many.
        seed: decides every id.
        block_tokens: tokens of a block, at least.

    Returns:
        The folder.
    """
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    blocks = max(1, -(-tokens // block_tokens))
    shards: list[ShardInfo] = []
    for first in range(0, blocks, SHARD_BLOCKS):
        with ShardWriter(folder, f"train-{len(shards):06d}") as writer:
            for number in range(first, min(blocks, first + SHARD_BLOCKS)):
                writer.add(_block(np.random.default_rng([seed, number]), block_tokens))
            shards.append(writer.finish())
    tokenizer = TokenizerInfo("existing", tokenizer_fingerprint(folder / "tokenizer"), VOCABULARY, 0, 1, 2, 3, 4)
    Manifest(token_dtype(VOCABULARY).name, tokenizer, {"train": tuple(shards), "validation": ()}).write(folder)
    return folder


def _block(chance: np.random.Generator, tokens: int) -> Block:
    documents = _starts(chance, tokens, median=300, sigma=1.1)
    sentences = np.union1d(_starts(chance, tokens, median=20, sigma=0.67), documents)
    cumulated = np.cumsum(1 / (np.arange(VOCABULARY - _SPECIAL) + 2.7))
    ids = _SPECIAL + np.searchsorted(cumulated, chance.random(tokens) * cumulated[-1], "right")
    metadata = {"labels": [["synthetic", "", ""]], "runs": [[0, 0]], "continues": False}
    return Block(ids.astype(token_dtype(VOCABULARY)), documents.astype("<u4"), sentences.astype("<u4"), metadata)


def _starts(chance: np.random.Generator, tokens: int, median: float, sigma: float) -> np.ndarray:
    """First tokens of pieces with log-normal lengths, int64, beginning with 0."""
    lengths = np.maximum(1, np.exp(chance.normal(np.log(median), sigma, 2 * int(tokens / median) + 2))).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    return starts[starts < tokens]
