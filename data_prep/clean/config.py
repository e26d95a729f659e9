"""Which cleaning steps a corpus goes through; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from electra_ds.errors import UserError, did_you_mean

_CODES = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de diq dsb
dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io is it ja
jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn
nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq
sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh
"""
LANGUAGES = frozenset(_CODES.split())
"""Codes that the model of ``languages`` knows."""


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
        for option, codes in (("languages", self.languages), ("language_thresholds", self.language_thresholds)):
            for code in codes:
                if code not in LANGUAGES:
                    raise UserError(
                        f"clean.{option}: {code!r} is no language that is identified{did_you_mean(code, LANGUAGES)}; "
                        f"expected codes such as en, de or zh, of these: {' '.join(sorted(LANGUAGES))}"
                    )
        if self.language_thresholds and not (self.languages or self.identify_language):
            raise UserError(
                f"clean.language_thresholds: {self.language_thresholds!r} has no effect alone; "
                "give clean.languages or clean.identify_language, too"
            )
