"""Where sentences begin: at line breaks, and inside a line after a sentence's end, by a small multilingual rule."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# White space that WordPiece and SentencePiece both turn into a plain space: a cut there changes no id.
_BREAK = re.compile(r"(?P<line>[ \t\r]*\n[ \t\r\n]*)|(?P<end>[.!?…؟۔।॥։。！？][)\]\"'”’»›」』]*)[ \t\u00a0\u3000]+")
_SPACES = " \t\r\n\u00a0\u3000"
_OPENING = frozenset("\"'“‘«‹„¿¡([{「『—–-•*#")
_FULL_WIDTH_END = re.compile(r"[。！？｡][」』”’）)\]]*$")
_HALF_WIDTH_END = re.compile(r"[!?][」』”’）)\]]*$")
_IDEOGRAPHIC = re.compile(
    r"^[「『“《（\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_FULL_WIDTH_CLOSE = re.compile(r"^[。！？｡」』”’）)\]]")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Cut a text at white space into sentences.

    A cut is made at every line break, and after ``. ! ? … ؟ ।`` (closing quotes and brackets included) if what
    follows begins with an upper-case letter, a letter of a script without case, a quote or a bracket. A single
    capital before the full stop ("J. Smith") is an initial, not an end.

    Args:
        text: one document.

    Returns:
        First and one past the last character of each sentence, the white space between them left out, none empty.
        The sentences one by one have the same tokens as the text.
    """
    spans, start = [], 0
    for match in _BREAK.finditer(text):
        cut = match.start() if match["line"] else match.end("end")
        if not match["line"] and not _begins_sentence(text, match.end(), match.start()):
            continue
        spans.append((start, cut))
        start = match.end()
    spans.append((start, len(text)))
    return [(begin, end) for begin, end in (_trim(text, *span) for span in spans) if begin < end]


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start] in _SPACES:
        start += 1
    while end > start and text[end - 1] in _SPACES:
        end -= 1
    return start, end


def _begins_sentence(text: str, position: int, end: int) -> bool:
    if position >= len(text):
        return False
    first = text[position]
    if first in _OPENING or (first.isalpha() and not first.islower()):
        initial = text[end] == "." and end > 0 and text[end - 1].isupper() and (end < 2 or not text[end - 2].isalnum())
        return not initial
    return False


class FullWidthTables(NamedTuple):
    """What tells sentence ends that no white space follows (Chinese, Japanese); each [V] bool, V tokens."""

    ends: np.ndarray
    """The token ends with a full-width full stop, question or exclamation mark."""
    closes: np.ndarray
    """The token begins with a mark that belongs to the sentence before it."""
    half_width_ends: np.ndarray
    """The token ends with ``!`` or ``?``: NFKC makes these of the full-width marks."""
    ideographic: np.ndarray
    """The token begins with a letter, or an opening mark, of a script without spaces between sentences."""


def full_width_tables(vocabulary: Iterable[str]) -> FullWidthTables:
    """Look at each token of a vocabulary, in the order of the ids."""
    # A piece that begins with the sign for a space keeps it: white space is cut elsewhere.
    tokens = [token.removeprefix("##") for token in vocabulary]
    patterns = (_FULL_WIDTH_END, _FULL_WIDTH_CLOSE, _HALF_WIDTH_END, _IDEOGRAPHIC)
    return FullWidthTables(*(np.array([bool(pattern.search(token)) for token in tokens]) for pattern in patterns))
