"""What a preparation is told: one dataclass, its fields the options of ``electra-ds prep``."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from electra_ds.command_line import plain
from electra_ds.errors import UserError

TOKENIZER_TYPES = ("wordpiece", "unigram", "bpe", "existing")


def _require(condition: bool, path: str, value: object, allowed: str) -> None:
    if not condition:
        raise UserError(f"{path}: {value!r} is not possible; expected {allowed}")


@dataclass(frozen=True)
class TokenizerConfig:
    """Which vocabulary to train, or which one to take."""

    type: str = "wordpiece"
    """``wordpiece`` (BERT's), SentencePiece ``unigram`` or ``bpe``, or ``existing`` (see ``path``)."""
    vocab_size: int = 30522
    """Number of ids to train, special tokens included; without meaning for ``existing``."""
    path: str | None = None
    """For ``existing``: a Hugging Face folder, a SentencePiece ``.model`` file, or a name on the hub."""
    lowercase: bool = True
    """Lower-case the text; SentencePiece folds case by its ``nmt_nfkc_cf`` rule."""
    strip_accents: bool | None = None
    """Remove accents, as BERT does; unset means: with WordPiece like ``lowercase``, with SentencePiece never."""
    sample_bytes: int = 100_000_000
    """Bytes of UTF-8 text to train on: a sample of whole documents, drawn by ``seed``, so that memory is bounded."""
    character_coverage: float = 0.9999
    """Share of the sample's characters that the alphabet must hold; the rarest others become ``[UNK]``."""

    def __post_init__(self) -> None:
        _require(self.type in TOKENIZER_TYPES, "tokenizer.type", self.type, "one of " + ", ".join(TOKENIZER_TYPES))
        _require(64 <= self.vocab_size <= 1 << 24, "tokenizer.vocab_size", self.vocab_size, "64 to 16,777,216")
        _require(self.sample_bytes >= 1000, "tokenizer.sample_bytes", self.sample_bytes, "at least 1000 bytes")
        _require(
            0.9 <= self.character_coverage <= 1, "tokenizer.character_coverage", self.character_coverage, "0.9 to 1"
        )
        _require(
            (self.type == "existing") == (self.path is not None),
            "tokenizer.path",
            self.path,
            "a folder, a .model file or a hub name with --tokenizer.type existing, and nothing with the other types",
        )
        _require(
            not (self.strip_accents and self.type in ("unigram", "bpe")),
            "tokenizer.strip_accents",
            self.strip_accents,
            "false with SentencePiece, whose normalisation has no such rule (use wordpiece)",
        )


@dataclass(frozen=True)
class PrepConfig:
    """Turn corpora into a tokenizer and a set of WebDataset shards."""

    inputs: str | list[str]
    """What to read, in this order: glob patterns (one, a comma-separated string, or a list) of .txt, .jsonl or .parquet
    files (.gz, .zst, .bz2, .xz too), a folder written by ``datasets`` (save_to_disk), ``hf:NAME[:CONFIG][@SPLIT]``
    (a data set of the hub), ``docstrings`` or ``docstrings:numpy,scipy`` (documentation strings of installed
    packages; ``python`` is the standard library)."""
    output: Path
    """Folder of the shard set: new, empty, or one that the same command has begun."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The vocabulary."""
    text_field: str = "text"
    """Name of the JSON field or column that holds the text."""
    text_documents: str = "file"
    """What one document is in plain text files: the ``file``, each ``line``, or each ``paragraph`` (blank lines)."""
    language: str = ""
    """Language code to record for documents that do not tell their own (fields ``language`` or ``lang``)."""
    source: str = ""
    """Source name to record for documents that do not tell their own (field ``source``)."""
    validation_fraction: float = 0.01
    """Share of the documents held out for validation, chosen by a seeded hash of the content: duplicates of a document
    go the same way."""
    docstrings_holdout: float = 0.0
    """Share of the modules that the ``docstrings`` source leaves out, chosen by a hash of the module's path, for a test
    set made from them."""
    block_tokens: int = 262_144
    """Tokens at which a block is closed; a block holds fewer than twice as many."""
    shard_blocks: int = 256
    """Blocks in one tar."""
    workers: int = 0
    """Processes that tokenize; 0 means one per available CPU core. The bytes do not depend on it."""
    seed: int = 0
    """Seed of the validation split and of the tokenizer's sample."""

    def __post_init__(self) -> None:
        _require(bool(self.patterns()), "inputs", self.inputs, "at least one pattern")
        _require(
            self.text_documents in ("file", "line", "paragraph"),
            "text_documents",
            self.text_documents,
            "file, line or paragraph",
        )
        _require(bool(self.text_field), "text_field", self.text_field, "a field's name")
        _require(0 <= self.validation_fraction < 1, "validation_fraction", self.validation_fraction, "0 up to below 1")
        _require(0 <= self.docstrings_holdout < 1, "docstrings_holdout", self.docstrings_holdout, "0 up to below 1")
        # Twice as many tokens, four bytes each, must fit the index's 32-bit sizes.
        _require(16 <= self.block_tokens <= 1 << 28, "block_tokens", self.block_tokens, "16 to 268,435,456 tokens")
        _require(1 <= self.shard_blocks <= 100_000, "shard_blocks", self.shard_blocks, "1 to 100,000 blocks")
        _require(self.workers >= 0, "workers", self.workers, "0 (one per CPU core) or more")

    def patterns(self) -> list[str]:
        """Return the inputs one by one; a comma separates them, except where it belongs to a name."""
        given = [self.inputs] if isinstance(self.inputs, str) else list(self.inputs)
        patterns: list[str] = []
        for text in given:
            whole = text.startswith("docstrings") or os.path.exists(text)
            patterns += [text] if whole else [part.strip() for part in text.split(",")]
        return [pattern for pattern in patterns if pattern]

    def worker_count(self) -> int:
        """Return the number of processes to use."""
        return self.workers or len(os.sched_getaffinity(0))

    def recorded(self) -> dict[str, Any]:
        """Return what the manifest records: everything that can change the bytes."""
        values = plain(dataclasses.replace(self, inputs=self.patterns()))
        return {key: value for key, value in values.items() if key not in ("output", "workers")}
