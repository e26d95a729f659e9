"""Unicode: wrong decoding mended, normal forms, and characters that nobody sees."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from data_prep.clean.base import library


def repair() -> Callable[[str], str]:
    """Return a function that mends text with ftfy (Speer 2019): mojibake, entities, terminal escapes, line ends.

    What enforces a style and is no mending is off: quotation marks, ligatures and the width of characters stay (ftfy
    would make ASCII of Chinese punctuation). Lines are mended one by one, which is what ftfy does with paragraphs.
    """
    ftfy = library("ftfy", "repair")
    settings = ftfy.TextFixerConfig(
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        remove_control_chars=False,
        fix_line_breaks=False,
        normalization=None,
        explain=False,
    )

    def mend(text: str) -> str:
        if not _DOUBTFUL.search(text):
            return text
        # In text with tags, entities may be meant: ftfy's own rule, taken for the whole document.
        options = settings._replace(unescape_html="<" not in text)
        lines = _LINE_ENDS.sub("\n", text).split("\n")
        for number, line in enumerate(lines):
            if _DOUBTFUL.search(line):
                lines[number] = "".join(
                    ftfy.fix_text_segment(line[start : start + _SEGMENT], options)
                    for start in range(0, len(line), _SEGMENT)
                )
        return "\n".join(lines)

    return mend


_DOUBTFUL = re.compile("[^\n\t -%'-~‘’“”–—…]")
"""What repair may have to do with: entities (&), controls, and all that is not ASCII but for the commonest punctuation.
Of the latter no two make a UTF-8 sequence in any of the encodings that ftfy tries: they are all leading bytes in some,
all continuation bytes in others."""
_LINE_ENDS = re.compile("\r\n|[\r\u2028\u2029]")
_SEGMENT = 100_000
"""Characters that ftfy sees at a time: it decides by the whole segment, and a document may be one line."""


def normalize(form: str) -> Callable[[str], str]:
    """Return a function that brings text to a Unicode normal form, ``NFC`` or ``NFKC`` (UAX 15).

    Runs of more than 500 combining marks, which no language has, are parted after every 30 by a combining grapheme
    joiner first (UAX 15, section 13): putting a run in order takes time quadratic in its length.
    """
    name = form.upper()

    def to_form(text: str) -> str:
        if text.isascii() or unicodedata.is_normalized(name, text):  # type: ignore[arg-type]
            return text
        if _MAYBE_LONG_RUN.search(text):
            text = _long_run().sub(lambda found: _GRAPHEME_JOINER.join(re.findall(".{1,30}", found[0])), text)
        return unicodedata.normalize(name, text)  # type: ignore[arg-type]

    return to_form


_GRAPHEME_JOINER = "\u034f"
_MAYBE_LONG_RUN = re.compile("[^\x00-\u02ff]{501}")
"""A set of one range is searched much faster than that of all combining marks."""


@lru_cache(maxsize=1)
def _long_run() -> re.Pattern[str]:
    """More than 500 characters that are put in order: those with a combining class."""
    marks = "".join(filter(unicodedata.combining, map(chr, range(0x1F000))))
    return re.compile(f"[{marks}]{{501,}}")


_JOINING = (
    "\u0600-\u08ff"  # Arabic, Syriac, Thaana, N'Ko, Mandaic
    "\u0900-\u0dff"  # Devanagari to Sinhala
    "\u0f00-\u109f"  # Tibetan, Myanmar
    "\u1780-\u18af"  # Khmer, Mongolian
    "\u1b00-\u1b7f\ua980-\ua9df\uaa60-\uaa7f\uabc0-\uabff"  # Balinese, Javanese, Myanmar and Meetei Mayek extensions
    "\U00010a00-\U00010a5f\U00011000-\U000114ff"  # Kharoshthi, Brahmi and its kin
)
"""Scripts where a joiner or non-joiner decides which form of a letter is written (Unicode 15, sections 9, 12 to 14)."""
_UNSPACED = "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19df\uaa60-\uaa7f"
"""Thai, Lao, Tibetan, Myanmar, Khmer, Tai: a zero-width space is the only border between words."""
_PICTURES = "\u200d\ufe0f\u2190-\u2bff\U0001f000-\U0001faff"
"""Emoji and what modifies them: a joiner makes one picture of several."""

_LINE_BREAKS = "\x0b\x0c\x1c-\x1e\x85\u2028\u2029"
_NEVER = (
    "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f"  # C0 and C1 controls
    "\u00ad\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # soft hyphen, direction, marks
    "\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f"  # noncharacters, tags
)
_SUSPECT = re.compile(f"[\r{_LINE_BREAKS}{_NEVER}\u200b-\u200d]")
_INVISIBLE = re.compile(
    f"\r\n?|[{_LINE_BREAKS}]|[{_NEVER}]"
    f"|(?<![{_UNSPACED}])\u200b|\u200b(?![{_UNSPACED}])"
    f"|(?<![{_JOINING}])\u200c"
    f"|(?<![{_JOINING}{_PICTURES}])\u200d|(?<=[{_PICTURES}])\u200d(?![{_PICTURES}])"
)


def remove_control(text: str) -> str:
    """Remove what is not seen: C0 and C1 controls but tab and line feed, soft hyphens, byte order marks, zero-width
    characters, marks of direction, tags and noncharacters.

    Line and page breaks of every kind (CR LF, CR, VT, FF, NEL, LS, PS, the separators FS to RS) become line feeds. A
    zero-width space stays between letters of scripts without spaces, a (non-)joiner after letters of scripts that need
    it (Arabic, the scripts of India, Tibetan, Khmer, Mongolian ...), a joiner between emoji.
    """
    if not _SUSPECT.search(text):  # one set of characters is searched ten times as fast as the choices
        return text
    return _INVISIBLE.sub(lambda found: "\n" if found[0][0] in _BREAKS else "", text)


_BREAKS = frozenset("\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
