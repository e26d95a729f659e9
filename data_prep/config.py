"""What a preparation is told: one dataclass, its fields the options of ``electra-ds prep``."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.clean.config import CleanConfig
from data_prep.dedup.config import DecontaminationConfig, DedupConfig
from electra_ds.command_line import plain
from electra_ds.errors import UserError

TOKENIZER_TYPES = ("wordpiece", "unigram", "bpe", "existing")
GROUPINGS = ("corpus", "language", "source")
TEXT_DOCUMENTS = ("file", "line", "paragraph")


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
class ParallelConfig:
    """Where the translation of each document stands; with nothing set, documents are single texts."""

    text_field: str = ""
    """Name of the JSON field that holds the translation, such as ``text_pair``; a ``moses:`` input needs none."""
    language: str = ""
    """Language code of translations that do not tell their own (fields ``language_pair`` or ``lang_pair``)."""


@dataclass(frozen=True)
class CorpusConfig:
    """One named corpus of several; what is unset here is taken from the options of the same name beside ``corpora``."""

    inputs: str | list[str]
    """What to read (see ``inputs``)."""
    text_field: str | None = None
    """Name of the JSON field or column that holds the text."""
    text_documents: str | None = None
    """What one document is in plain text files: ``file``, ``line`` or ``paragraph``."""
    language: str | None = None
    """Language code of documents that do not tell their own."""
    source: str | None = None
    """Source name of documents that do not tell their own; unset takes the corpus's name."""
    license: str | None = None
    """Licence of its texts."""
    encoding: str | None = None
    """Character encoding of text files and JSON lines."""
    weight: float | None = None
    """Share of this corpus in training, in proportion to the other weights; unset for all takes each by its size."""
    clean: CleanConfig | None = None
    """Cleaning of this corpus, in place of ``clean``."""
    parallel: ParallelConfig | None = None
    """Translations in this corpus, in place of ``parallel``."""

    def patterns(self) -> list[str]:
        """Return the inputs one by one; a comma separates them, except where it belongs to a name."""
        given = [self.inputs] if isinstance(self.inputs, str) else list(self.inputs)
        patterns: list[str] = []
        for text in given:
            whole = text.startswith("docstrings") or os.path.exists(text)
            patterns += [text] if whole else [part.strip() for part in text.split(",")]
        return [pattern for pattern in patterns if pattern]


@dataclass(frozen=True)
class PrepConfig:
    """Turn corpora into a tokenizer and a set of WebDataset shards."""

    output: Path
    """Folder of the shard set: new, empty, or one that the same command has begun."""
    inputs: str | list[str] = ""
    """What to read, in this order: paths, folders, glob patterns or URLs (one, a comma-separated string, or a list) of
    .txt, .jsonl, .parquet, .arrow, .xml (MediaWiki dump), .warc or .wet files (.gz, .zst, .bz2, .xz too), a folder
    written by ``datasets`` (save_to_disk), ``hf:NAME[:CONFIG][@SPLIT]`` (a data set of the hub; ``hf-stream:`` does not
    download it first), ``docstrings`` or ``docstrings:numpy,scipy`` (documentation strings of installed packages;
    ``python`` is the standard library), ``moses:FIRST+SECOND`` (two text files of as many lines, each line the
    translation of the same line of the other)."""
    corpora: dict[str, CorpusConfig] = field(default_factory=dict)
    """Several named corpora in place of ``inputs``, each with inputs, language, weight and cleaning of its own; read in
    the order of their names."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The vocabulary."""
    clean: CleanConfig = field(default_factory=CleanConfig)
    """Cleaning steps."""
    decontaminate: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    """Evaluation texts that must not be trained on."""
    dedup: DedupConfig = field(default_factory=DedupConfig)
    """Duplicates."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Translations: documents become pairs of texts, and rows of them are trained as such."""
    text_field: str = "text"
    """Name of the JSON field or column that holds the text."""
    text_documents: str = "file"
    """What one document is in plain text files: the ``file``, each ``line``, or each ``paragraph`` (blank lines)."""
    language: str = ""
    """Language code to record for documents that do not tell their own (fields ``language`` or ``lang``)."""
    source: str = ""
    """Source name to record for documents that do not tell their own (field ``source``)."""
    license: str = ""
    """Licence of the texts (``cc-by-sa-4.0``): recorded, and shown in the card of models made of them."""
    encoding: str = "utf-8"
    """Character encoding of text files and JSON lines, one that extends ASCII (``latin-1``, ``cp1252``, ``euc-jp``)."""
    encoding_errors: str = "stop"
    """What to do with bytes that are not of that encoding: ``stop`` with file and line, or ``replace`` by U+FFFD."""
    max_document_bytes: int = 8_388_608
    """Longer documents (bytes as stored) are dropped unread, and counted: memory stays bounded."""
    group_by: str = "corpus"
    """Shards are kept apart, to be mixed by weight in training, by ``corpus``, ``language`` or ``source``."""
    shuffle: bool = True
    """Shuffle the documents of a group over its shards, by ``seed``; false keeps the order of the input."""
    validation_fraction: float = 0.01
    """Share of the documents held out for validation, chosen by a seeded hash of the content: duplicates of a document
    go the same way."""
    docstrings_holdout: float = 0.0
    """Share of the modules that the ``docstrings`` source leaves out, chosen by a hash of the module's path, for a test
    set made from them."""
    block_tokens: int = 262_144
    """Tokens at which a block is closed; a block holds fewer than twice as many."""
    shard_blocks: int = 256
    """Blocks in one tar (about: shards of a split are made equally large)."""
    workers: int = 0
    """Processes that tokenize on this machine, or of each MPI rank; 0 means one per available CPU core. The bytes do
    not depend on it."""
    seed: int = 0
    """Seed of the shuffle, the validation split and the tokenizer's sample."""

    def __post_init__(self) -> None:
        _require(
            bool(self.inputs) != bool(self.corpora), "inputs", self.inputs, "either inputs or corpora, not both or none"
        )
        for key in self.corpora:
            # YAML reads an unquoted no, on or 1 as something else than a name.
            _require(isinstance(key, str), "corpora", key, "names; in YAML put quotes around this one")
        for name, corpus in self.resolved_corpora().items():
            path = f"corpora.{name}." if name else ""
            _require(
                not name or bool(re.fullmatch(r"[A-Za-z0-9_]{1,60}", name)),
                "corpora",
                name,
                "names of 1 to 60 letters, digits and underscores",
            )
            _require(bool(corpus.patterns()), f"{path}inputs", corpus.inputs, "at least one pattern")
            _require(
                corpus.text_documents in TEXT_DOCUMENTS,
                f"{path}text_documents",
                corpus.text_documents,
                "file, line or paragraph",
            )
            _require(bool(corpus.text_field), f"{path}text_field", corpus.text_field, "a field's name")
            _check_encoding(f"{path}encoding", corpus.encoding or "")
            _require(corpus.weight is None or corpus.weight > 0, f"{path}weight", corpus.weight, "a number above 0")
        weights = [corpus.weight is None for corpus in self.corpora.values()]
        _require(
            all(weights) or not any(weights), "corpora", list(self.corpora), "a weight for all of them or for none"
        )
        _require(
            not (self.corpora and not all(weights)) or self.group_by == "corpus",
            "group_by",
            self.group_by,
            "corpus where corpora have weights",
        )
        _require(self.group_by in GROUPINGS, "group_by", self.group_by, "one of " + ", ".join(GROUPINGS))
        _require(
            self.encoding_errors in ("stop", "replace"), "encoding_errors", self.encoding_errors, "stop or replace"
        )
        _require(
            1000 <= self.max_document_bytes <= 1 << 30,
            "max_document_bytes",
            self.max_document_bytes,
            "1,000 to 1,073,741,824 bytes",
        )
        _require(0 <= self.validation_fraction < 1, "validation_fraction", self.validation_fraction, "0 up to below 1")
        _require(0 <= self.docstrings_holdout < 1, "docstrings_holdout", self.docstrings_holdout, "0 up to below 1")
        # Twice as many tokens, four bytes each, must fit the index's 32-bit sizes.
        _require(16 <= self.block_tokens <= 1 << 28, "block_tokens", self.block_tokens, "16 to 268,435,456 tokens")
        _require(1 <= self.shard_blocks <= 100_000, "shard_blocks", self.shard_blocks, "1 to 100,000 blocks")
        _require(self.workers >= 0, "workers", self.workers, "0 (one per CPU core) or more")

    def resolved_corpora(self) -> dict[str, CorpusConfig]:
        """Return the corpora by name, nothing unset but weights; ``inputs`` alone make one without a name."""
        corpora = self.corpora or {"": CorpusConfig(self.inputs)}
        return {
            name: dataclasses.replace(
                corpus,
                inputs=corpus.patterns(),
                text_field=self.text_field if corpus.text_field is None else corpus.text_field,
                text_documents=corpus.text_documents or self.text_documents,
                language=self.language if corpus.language is None else corpus.language,
                source=(self.source or name) if corpus.source is None else corpus.source,
                license=self.license if corpus.license is None else corpus.license,
                encoding=corpus.encoding or self.encoding,
                clean=corpus.clean or self.clean,
                parallel=corpus.parallel or self.parallel,
            )
            for name, corpus in sorted(corpora.items())
        }

    def worker_count(self) -> int:
        """Return the number of processes to use."""
        return self.workers or len(os.sched_getaffinity(0))

    def recorded(self) -> dict[str, Any]:
        """Return what the manifest records: everything that can change the bytes."""
        values = plain(self)
        values["corpora"] = plain(self.resolved_corpora()) if self.corpora else {}
        values["inputs"] = self.resolved_corpora()[""].inputs if self.inputs else []
        # Left out where unset: a set made before there were translations or licences still fits its command.
        for section in (values, *values["corpora"].values()):
            if section["parallel"] == plain(ParallelConfig()):
                del section["parallel"]
            if not section["license"]:
                del section["license"]
        return {key: value for key, value in values.items() if key not in ("output", "workers")}


def _check_encoding(path: str, encoding: str) -> None:
    try:
        extends_ascii = "\n{}".encode(encoding) == b"\n{}"
    except LookupError:
        extends_ascii = False
    _require(extends_ascii, path, encoding, "an encoding that Python knows and that extends ASCII, such as utf-8")
