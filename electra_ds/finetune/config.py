"""What ``electra-ds finetune`` can be told; the paper's settings are the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from electra_ds.errors import UserError, did_you_mean
from electra_ds.finetune.tasks import TASKS


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Train a task head on a Hugging Face folder with several seeds, and score it."""

    model: str
    """Folder with an encoder in Hugging Face form (config.json, weights, tokenizer), or ``hf:NAME`` for the hub."""
    train: str
    """Training texts: a TSV, CSV or JSON lines file, or ``hf:NAME[/CONFIG]:SPLIT`` for `datasets` (hub or folder)."""
    validation: str
    """Texts to score on and to choose the best seed by; same forms as ``train``."""
    output: str
    """Folder for results.json, the predictions of each seed, and the best seed's model; must be new or empty."""
    test: str | None = None
    """Texts scored once more, never used for a choice; same forms as ``train`` (default: none)."""
    test_labels: bool = True
    """Whether ``test`` has labels; ``false``: its label column is not read and only predictions are written."""
    task: str = "classification"
    """Kind of problem: ``classification`` (one label for a text or a pair of texts)."""

    text_column: int | str = "text"
    """Column of the text: a name, or an index from 0 (files without a header line)."""
    text_pair_column: int | str = ""
    """Column of the second text (empty: ``text_pair`` where the training data has it, else single texts)."""
    label_column: int | str = "label"
    """Column of the label: a name or an index from 0."""
    format: Literal["auto", "tsv", "csv", "jsonl"] = "auto"
    """File format; ``auto`` goes by the ending (.tsv and .txt, .csv, .jsonl and .json)."""
    header: bool | None = None
    """Whether the first line of a TSV or CSV names the columns (default: yes, unless all columns are indexes)."""
    quotes: bool | None = None
    """Whether double quotes enclose fields (default: yes in CSV, no in TSV, where they are part of the text)."""
    empty_texts: Literal["refuse", "keep"] = "refuse"
    """What an empty text is: an error, or a text of no tokens, kept and counted."""
    max_length: int = 128
    """Longest input in tokens, special tokens included; longer ones lose tokens of the longer text, and are counted."""

    seeds: int = 3
    """How many runs, each with its own head, order of texts and dropout."""
    first_seed: int = 0
    """Seed of the first run; the others count up."""
    from_scratch: bool = False
    """Start from random weights of the same shape instead of the pretrained ones."""
    compare_from_scratch: bool = False
    """Run both, pretrained and from scratch, with the same seeds, and report both."""
    baseline: bool = False
    """Add the score of a bag of words (TF-IDF, naive Bayes) on the same texts."""
    metric: str | None = None
    """Score that names the best seed (default: the task's own, ``accuracy`` for classification)."""

    learning_rate: float | None = None
    """Peak learning rate of the head (default: 3e-4 small, 1e-4 base, 5e-5 large, by hidden size)."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer to the one below (default: 0.8 small and base, 0.9 large)."""
    layer_decay_kind: Literal["intended", "original"] = "intended"
    """``intended``: lr * d^(n + 1 - depth); ``original``: Google's code, off by one, lr * d^(n + 2 - depth)."""
    batch_size: int = 32
    """Texts per update."""
    micro_batch_size: int | None = None
    """Texts per forward pass, a divisor of ``batch_size``; smaller saves memory (default: ``batch_size``)."""
    epochs: float = 3.0
    """Passes over the training texts."""
    warmup: float = 0.1
    """Share of the updates in which the learning rate rises from 0; it then falls linearly to 0."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    dropout: float = 0.1
    """Dropout probability in the encoder and the head."""
    weight_decay: float = 0.0
    """Decoupled weight decay, not on biases and LayerNorm."""
    adam_epsilon: float = 1e-6
    """Epsilon of Adam (betas .9 and .999, with bias correction)."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Arithmetic of the forward and backward pass; fp16 needs a GPU."""

    threads: int | None = None
    """CPU threads; 1 is fastest for networks of a few layers on shared cores (default: torch's choice)."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UserError(f"task: '{self.task}', expected one of {', '.join(TASKS)}{did_you_mean(self.task, TASKS)}")
        self._require("seeds", self.seeds >= 1, "at least 1")
        self._require("first_seed", 0 <= self.first_seed < 2**31, "0 or more, below 2^31")
        self._require("max_length", self.max_length >= 4, "at least 4")
        self._require("learning_rate", self.learning_rate is None or 0 < self.learning_rate < 1, "above 0, below 1")
        self._require("layer_decay", self.layer_decay is None or 0 < self.layer_decay <= 1, "above 0, at most 1")
        self._require("batch_size", self.batch_size >= 1, "at least 1")
        micro = self.batch_size if self.micro_batch_size is None else self.micro_batch_size
        self._require(
            "micro_batch_size",
            micro >= 1 and self.batch_size % micro == 0,
            f"a divisor of batch_size {self.batch_size}",
        )
        self._require("threads", self.threads is None or self.threads >= 1, "at least 1")
        self._require("epochs", 0 < self.epochs <= 10_000, "above 0, at most 10000")
        self._require("warmup", 0 <= self.warmup < 1, "0 or more, below 1")
        self._require("clip", 0 <= self.clip < float("inf"), "0 or more")
        self._require("dropout", 0 <= self.dropout < 1, "0 or more, below 1")
        self._require("weight_decay", 0 <= self.weight_decay < 1, "0 or more, below 1")
        self._require("adam_epsilon", 0 < self.adam_epsilon < 1, "above 0, below 1")
        for name in ("text_column", "text_pair_column", "label_column"):
            value = getattr(self, name)
            allowed = value >= 0 if isinstance(value, int) else (value or name == "text_pair_column")
            self._require(name, bool(allowed), "a column's name, or its index from 0")
        if self.from_scratch and self.compare_from_scratch:
            raise UserError(
                "from_scratch: true runs from scratch only, compare_from_scratch: true runs both; choose one"
            )
        if not self.test_labels and self.test is None:
            raise UserError("test_labels: false, but there is no test; name one with --test")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise UserError(f"{name}: {getattr(self, name)!r}, expected {allowed}")

    @property
    def has_header(self) -> bool:
        """Whether TSV and CSV files start with a line of column names."""
        if self.header is not None:
            return self.header
        columns = (self.text_column, self.text_pair_column, self.label_column)
        return any(isinstance(column, str) and column for column in columns)


@dataclass(frozen=True, kw_only=True)
class SizeDefaults:
    """Fine-tuning settings that the paper gives by model size."""

    size: str
    """``small``, ``base`` or ``large``."""
    learning_rate: float
    """Peak learning rate."""
    layer_decay: float
    """Layer-wise learning rate decay."""


SIZES = (
    (512, SizeDefaults(size="small", learning_rate=3e-4, layer_decay=0.8)),
    (1023, SizeDefaults(size="base", learning_rate=1e-4, layer_decay=0.8)),
    (2**31, SizeDefaults(size="large", learning_rate=5e-5, layer_decay=0.9)),
)
"""(largest hidden size, settings): arXiv 2003.10555, table 7; other hidden sizes go with the nearest above."""


def size_defaults(hidden_size: int) -> SizeDefaults:
    """Return the paper's fine-tuning settings for an encoder of this hidden size."""
    return next(defaults for limit, defaults in SIZES if hidden_size <= limit)
