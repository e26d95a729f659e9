"""Which cleaning steps a corpus goes through; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from electra_ds.errors import UserError


@dataclass(frozen=True)
class CleanConfig:
    """Steps of cleaning, all off unless asked for, applied in the order of these fields."""

    repair: bool = False
    """Mend broken Unicode with ftfy: text that was decoded wrongly once or twice, HTML entities, wrong line ends."""
    markup: bool = False
    """Remove HTML and XML tags, comments, scripts and styles; entities become characters."""
    control: bool = False
    """Remove control characters (but tab and line feed), zero-width spaces, soft hyphens and byte order marks."""
    normalize: str = ""
    """Unicode normal form to bring text to: ``NFC`` or ``NFKC``; empty leaves it as it is."""
    languages: list[str] = field(default_factory=list)
    """Keep documents identified as one of these languages (ISO 639-1 codes), recorded where the source tells none."""
    identify_language: bool = False
    """Record the identified language of documents whose source does not tell it."""
    language_threshold: float = 0.65
    """Least probability of the identified language for a document to be kept (``languages``)."""
    language_thresholds: dict[str, float] = field(default_factory=dict)
    """Other thresholds for some languages, such as ``{de: 0.5}``."""
    gopher_repetition: bool = False
    """Drop documents that repeat lines, paragraphs or n-grams (Rae et al. 2021, table A1)."""
    gopher_quality: bool = False
    """Drop documents by word counts, word lengths, symbols, bullets and stop words (Rae et al. 2021, section A1.1)."""
    c4_quality: bool = False
    """Remove lines without a final punctuation mark and drop documents by the rules of C4 (Raffel et al. 2020)."""
    fineweb_quality: bool = False
    """Drop documents by line endings, short lines and repeated characters (Penedo et al. 2024)."""
    mask_emails: bool = False
    """Replace e-mail addresses by ``email@example.com``."""
    mask_ips: bool = False
    """Replace public IP addresses by one of a documentation range."""

    def __post_init__(self) -> None:
        if self.normalize.upper() not in ("", "NFC", "NFKC"):
            raise UserError(f"clean.normalize: {self.normalize!r} is not possible; expected NFC, NFKC or nothing")
        for name, value in (("", self.language_threshold), *self.language_thresholds.items()):
            path = f"clean.language_thresholds.{name}" if name else "clean.language_threshold"
            if not 0 <= value <= 1:
                raise UserError(f"{path}: {value!r} is not possible; expected 0 to 1")
