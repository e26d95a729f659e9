"""What all evaluations can be told. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from electra_ds.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Options of every evaluation."""

    model: str
    """What to evaluate: a local folder in Hugging Face form, or ``hf:NAME`` for the hub."""
    output: str
    """Folder for results.json, report.md and the plots; must be new or empty."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    precision: Literal["float32", "bf16"] = "float32"
    """Arithmetic of the networks; probabilities and sums are float32 or float64 in either case."""
    batch_tokens: int = 16_384
    """Tokens of one forward pass, padding included (count)."""
    threads: int | None = None
    """CPU threads (default: torch's choice)."""
    bootstrap: int = 1000
    """Resamples behind each confidence interval (count); 0 leaves intervals out."""
    confidence: float = 0.95
    """Coverage of the confidence intervals (share)."""
    seed: int = 0
    """Of everything drawn: masks and samples, resamples, typos."""

    def __post_init__(self) -> None:
        self._require("batch_tokens", self.batch_tokens >= 1, "at least 1")
        self._require("threads", self.threads is None or self.threads >= 1, "at least 1")
        self._require("bootstrap", self.bootstrap >= 0, "0 or more")
        self._require("confidence", 0 < self.confidence < 1, "above 0, below 1")
        self._require("seed", 0 <= self.seed < 2**31, "0 or more, below 2^31")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise UserError(f"{name}: {getattr(self, name)!r}, expected {allowed}")


@dataclass(frozen=True, kw_only=True)
class ColumnsConfig:
    """Where texts and labels stand in a file; the same words as those of ``electra-ds finetune``."""

    text_column: int | str = "text"
    """Column of the text: a name, or an index from 0 (files without a header line)."""
    text_pair_column: int | str = ""
    """Column of the second text (empty: ``text_pair`` where the file has it, else single texts)."""
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

    @property
    def has_header(self) -> bool:
        """Whether TSV and CSV files start with a line of column names."""
        if self.header is not None:
            return self.header
        columns: tuple[Any, ...] = (self.text_column, self.text_pair_column, self.label_column)
        return any(isinstance(column, str) and column for column in columns)
