"""What counts as a duplicate, and what may not be in the training text; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from electra_ds.errors import UserError


@dataclass(frozen=True)
class DedupConfig:
    """Which copies are dropped, over all corpora together; the first in the order of the input is kept."""

    exact: bool = True
    """Drop documents whose cleaned text is that of an earlier one."""
    near: bool = False
    """Drop documents that share a MinHash band with an earlier one."""
    ngram: int = 5
    """Words of a shingle (case, digits and punctuation folded)."""
    bands: int = 14
    """Bands of a signature: two documents match if one band is equal."""
    rows: int = 8
    """Hashes of a band; 14 bands of 8 find half of the pairs at a Jaccard similarity of 0.69, 92% at 0.8."""

    def __post_init__(self) -> None:
        for name, low, high in (("ngram", 1, 32), ("bands", 1, 64), ("rows", 1, 64)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"dedup.{name}: {getattr(self, name)!r} is not possible; expected {low} to {high}")


@dataclass(frozen=True)
class DecontaminationConfig:
    """Evaluation texts whose n-grams may not occur in the corpora."""

    files: list[str] = field(default_factory=list)
    """Evaluation files (.txt, .jsonl, .json, .tsv, .csv; patterns allowed): every string in them counts."""
    ngram: int = 13
    """Words of an n-gram (folded as for ``dedup``); texts that are shorter are matched whole, from 5 words on."""
    share: float = 0.0
    """Drop a document if more than this share of its n-grams occurs in the files; 0 drops at the first."""

    def __post_init__(self) -> None:
        if not 1 <= self.ngram <= 64:
            raise UserError(f"decontaminate.ngram: {self.ngram!r} is not possible; expected 1 to 64")
        if not 0 <= self.share < 1:
            raise UserError(f"decontaminate.share: {self.share!r} is not possible; expected 0 up to below 1")
