"""Where sentences begin: at line breaks, and inside a line after a sentence's end, by a small multilingual rule."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

# White space that WordPiece and SentencePiece both turn into a plain space: a cut there changes no id.
_BREAK = re.compile(r"(?P<line>[ \t\r]*\n[ \t\r\n]*)|(?P<end>[.!?…؟۔।॥։。！？][)\]\"'”’»›」』]*)[ \t\u00a0\u3000]+")
_SPACES = " \t\r\n\u00a0\u3000"
_OPENING = frozenset("\"'“‘«‹„¿¡([{「『—–-•*#")
_FULL_WIDTH_END = re.compile(r"[。！？｡][」』”’）)\]]*$")
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


def full_width_tables(vocabulary: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Tell for each token whether it ends a sentence where no white space follows (Chinese, Japanese).

    Args:
        vocabulary: the tokens in the order of their ids, V of them.

    Returns:
        ends: [V] bool, the token ends with a full-width full stop, question or exclamation mark.
        closes: [V] bool, the token begins with a mark that belongs to the sentence before it.
    """
    tokens = [token.removeprefix("##").lstrip("▁") for token in vocabulary]
    ends = np.array([bool(_FULL_WIDTH_END.search(token)) for token in tokens])
    closes = np.array([bool(_FULL_WIDTH_CLOSE.match(token)) for token in tokens])
    return ends, closes
