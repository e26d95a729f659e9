"""Where sentences begin: at line breaks, and inside a line after a sentence's end, by a small multilingual rule.

The rule runs over the UTF-8 bytes of many documents at once, in numpy. Shape legend: N bytes, S sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np

SEPARATORS = b" \t\r\n"
"""Bytes between words. U+00A0 and U+3000 are turned into spaces first: WordPiece and SentencePiece do the same."""

_TERMINATORS = ".!?…؟۔।॥։。！？"
_CLOSERS = ")]\"'”’»›」』"
_OPENING = "\"'“‘«‹„¿¡([{「『—–-•*#"
_MOST_CLOSERS = 8

_FULL_WIDTH_END = re.compile(r"[。！？｡][」』”’）)\]]*$")
_HALF_WIDTH_END = re.compile(r"[!?][」』”’）)\]]*$")
_IDEOGRAPHIC = re.compile(
    r"^[「『“《（\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_FULL_WIDTH_CLOSE = re.compile(r"^[。！？｡」』”’）)\]]")

_SPACE_TABLE = np.zeros(256, bool)
_SPACE_TABLE[list(SEPARATORS)] = True


def plain_spaces(text: bytes) -> bytes:
    """Replace U+00A0 and U+3000 in UTF-8 by a space."""
    return text.replace(b"\xc2\xa0", b" ").replace(b"\xe3\x80\x80", b" ")


def space_mask(data: np.ndarray) -> np.ndarray:
    """Which bytes stand between words, bool [N]; `data` is uint8 [N]."""
    return _SPACE_TABLE[data]


def sentence_starts(data: np.ndarray, spaces: np.ndarray) -> np.ndarray:
    """Find where sentences begin.

    A sentence begins at the first word, at the first word of a line, and after ``. ! ? … ؟ ।`` (closing quotes and
    brackets included) and white space if an upper-case letter, a letter of a script without case, a quote or a bracket
    follows. A single capital before the full stop ("J. Smith") is an initial, not an end.

    Args:
        data: uint8 [N], UTF-8 after `plain_spaces`.
        spaces: bool [N], of `space_mask`.

    Returns:
        int64 [S], ascending, each the first byte of a word.
    """
    if not len(data):
        return np.zeros(0, np.int64)
    lines = np.flatnonzero(data == 10)
    after_lines = _next_word(spaces, np.append(-1, lines) + 1)
    inside = _after_sentence_ends(data, spaces)
    starts = join_sorted(after_lines, inside)
    return starts[starts < len(data)]


def join_sorted(*arrays: np.ndarray) -> np.ndarray:
    """The different values of sorted arrays, sorted (numpy's set functions would hash them, which is slower)."""
    values = np.sort(np.concatenate(arrays), kind="stable")
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def _after_sentence_ends(data: np.ndarray, spaces: np.ndarray) -> np.ndarray:
    """Words that follow a sentence's end and white space without a line break, int64."""
    tables = _tables()
    gap = np.flatnonzero(tables.may_end[data[:-1]] & spaces[1:]) + 1
    character, begin = _character_before(data, gap)
    for _ in range(_MOST_CLOSERS):
        closing = tables.closes[character]
        if not closing.any():
            break
        inner, inner_begin = _character_before(data, np.where(closing, begin, gap))
        character, begin = np.where(closing, inner, character), np.where(closing, inner_begin, begin)
    ended = tables.terminates[character]
    gap, begin, character = gap[ended], begin[ended], character[ended]
    word = _next_word(spaces, gap)
    first = _character_at(data, word)
    before, before_begin = _character_before(data, begin)
    two_before, _ = _character_before(data, before_begin)
    initial = (character == ord(".")) & tables.upper[before] & ~tables.alphanumeric[two_before]
    return word[(word < len(data)) & tables.opens[first] & ~(initial & tables.letter[first])]


def _next_word(spaces: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """First byte from each position on that is no space (the number of bytes if there is none), int64."""
    found = positions.astype(np.int64)
    padded = np.append(spaces, False)
    for _ in range(8):
        moving = padded[found]
        if not moving.any():
            return found
        found = found + moving
    words = np.append(np.flatnonzero(~spaces), len(spaces))  # a long gap somewhere
    return words[np.searchsorted(words, found)]


def _character_before(data: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Code point that ends just before each position, and its first byte; 0 at the beginning. Both int64."""
    begin = positions - 1
    for _ in range(3):
        continuing = (begin > 0) & ((data[np.maximum(begin, 0)] & 0xC0) == 0x80)
        if not continuing.any():
            break
        begin = begin - continuing
    begin = np.maximum(begin, 0)
    return np.where(positions > 0, _character_at(data, begin), 0), begin


def _character_at(data: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Code point that begins at each position, int64; 0 past the end."""
    inside = positions < len(data)
    at = np.where(inside, positions, 0)
    code = data[at].astype(np.int64)
    lead = code
    for floor, mask, length in ((0xC0, 0x1F, 2), (0xE0, 0x0F, 3), (0xF0, 0x07, 4)):
        longer = np.flatnonzero(lead >= floor)
        if not len(longer):
            break
        value = lead[longer] & mask
        for offset in range(1, length):
            value = value << 6 | (data[np.minimum(at[longer] + offset, len(data) - 1)] & 0x3F)
        code = code.copy()
        code[longer] = value
    return np.where(inside, np.minimum(code, _CODES - 1), 0)


_CODES = 0x20000
"""Code points that the tables tell apart; those above count as the last (an ideograph)."""


class _Tables(NamedTuple):
    may_end: np.ndarray
    """[256] bool: a byte that can be the last of a sentence end's character."""
    terminates: np.ndarray
    closes: np.ndarray
    opens: np.ndarray
    letter: np.ndarray
    upper: np.ndarray
    alphanumeric: np.ndarray
    """[_CODES] bool."""


@cache
def _tables() -> _Tables:
    characters = [chr(code) for code in range(_CODES)]
    ends = np.zeros(256, bool)
    ends[[character.encode()[-1] for character in _TERMINATORS + _CLOSERS]] = True
    letter = np.array([character.isalpha() for character in characters])
    lower = np.array([character.islower() for character in characters])
    alphanumeric = np.array([character.isalnum() for character in characters])
    letter[-1] = alphanumeric[-1] = True
    terminates, closes, opens = (np.zeros(_CODES, bool) for _ in range(3))
    terminates[[ord(character) for character in _TERMINATORS]] = True
    closes[[ord(character) for character in _CLOSERS]] = True
    opens[[ord(character) for character in _OPENING]] = True
    opens |= letter & ~lower
    upper = np.array([character.isupper() for character in characters])
    return _Tables(ends, terminates, closes, opens, letter, upper, alphanumeric)


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
