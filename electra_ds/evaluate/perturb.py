"""Changes to a text that leave its meaning: typos, other casing, no punctuation. Deterministic by seed."""

from __future__ import annotations

import random
import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache

from electra_ds.errors import UserError

KEYBOARDS = {
    "qwerty": ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
    "qwertz": ("qwertzuiopü", "asdfghjklöä", "yxcvbnm"),
    "azerty": ("azertyuiop", "qsdfghjklm", "wxcvbn"),
}
"""Rows of letters; each row stands half a key to the right of the one above it."""
TYPOS = ("neighbour", "transpose", "drop", "insert")
"""Ways to mistype a word; ``typo`` takes one of them at random for each word."""
_JOINERS = "\u200c\u200d"
"""Zero width joiner and non-joiner, which stand inside words of Persian and of Indian languages."""


@cache
def _letters() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of a letter with the marks that belong to it, and of such letters in a row, in any script.

    Vowel signs, vowel points and the accents of decomposed letters are marks to Unicode, and no letters to ``re``.
    """
    marks = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("M")]
    # As ranges: a class of single characters beyond the basic plane is searched one by one.
    first = [code for code, before in zip(marks, [-1, *marks], strict=False) if code != before + 1]
    last = [code for code, after in zip(marks, [*marks[1:], -1], strict=True) if code != after - 1]
    ranges = "".join(f"{chr(begin)}-{chr(end)}" for begin, end in zip(first, last, strict=True))
    letter = rf"[^\W\d_][{ranges}{_JOINERS}]*"
    return re.compile(letter), re.compile(rf"(?:{letter})+")


def title_case(text: str) -> str:
    """Title case as ``str.title`` has it, but with decomposed letters cased as composed ones are.

    ``str.title`` takes the letter after a combining accent for the first one of a word.
    """
    if not any(unicodedata.combining(letter) for letter in text):
        return text.title()

    def titled(match: re.Match[str]) -> str:
        letters, cased = [], False
        for letter in _letters()[0].findall(match[0]):
            letters.append(letter.lower() if cased else letter[0].title() + letter[1:])
            cased = letter.lower() != letter.upper()
        return "".join(letters)

    return _letters()[1].sub(titled, text)


CASINGS: dict[str, Callable[[str], str]] = {"lower": str.lower, "upper": str.upper, "title": title_case}


def neighbours(keyboard: str) -> dict[str, str]:
    """Letters next to each letter on a keyboard: beside it, and on the rows above and below.

    Raises:
        UserError: no such keyboard.
    """
    if keyboard not in KEYBOARDS:
        raise UserError(f"keyboard: {keyboard!r}, expected one of {', '.join(KEYBOARDS)}")
    places = {
        letter: (line, column) for line, row in enumerate(KEYBOARDS[keyboard]) for column, letter in enumerate(row)
    }
    found = {}
    for letter, (line, column) in places.items():
        above, below = ((line - 1, column), (line - 1, column + 1)), ((line + 1, column - 1), (line + 1, column))
        near = ((line, column - 1), (line, column + 1), *above, *below)
        found[letter] = "".join(sorted(other for other, place in places.items() if place in near))
    return found


class Typist:
    """Mistypes some words of a text."""

    def __init__(self, keyboard: str, seed: int) -> None:
        """Args: keyboard: a name in `KEYBOARDS`. seed: of what is drawn."""
        self._neighbours, self._seed = neighbours(keyboard), seed

    def __call__(self, text: str, number: str, kind: str, rate: float) -> str:
        """Mistype each word of a text with probability `rate`, once.

        Which words are mistyped and how follows from (seed, number, kind, word): those of a lower rate are among those
        of a higher one. A word without a letter of the keyboard is left as it is where a key is needed. A letter
        keeps its marks: it is dropped with them, changes places with them, and is one key where its composed form is.

        Args:
            text: what is typed.
            number: of the text, which names it in its file.
            kind: of `TYPOS`, or ``typo``.
            rate: share of words.
        """
        draw = random.Random(f"{self._seed}/{number}/{kind}")

        def mistyped(match: re.Match[str]) -> str:
            letters: list[str] = list(match[0]) if match[0].isascii() else _letters()[0].findall(match[0])
            if len(letters) < 2:
                return match[0]
            # Three numbers a word, used or not, so that one word does not change what another draws.
            chance, way, place = draw.random(), draw.random(), draw.random()
            if chance >= rate:
                return match[0]
            chosen = TYPOS[int(way * len(TYPOS))] if kind == "typo" else kind
            return "".join(self._mistype(letters, chosen, place, way))

        return _letters()[1].sub(mistyped, text)

    def _mistype(self, letters: list[str], kind: str, place: float, other: float) -> list[str]:
        if kind == "drop":
            at = int(place * len(letters))
            return letters[:at] + letters[at + 1 :]
        if kind == "transpose":
            # Two letters that differ, or nothing would change.
            able = [at for at in range(len(letters) - 1) if letters[at] != letters[at + 1]]
            if not able:
                return letters
            at = able[int(place * len(able))]
            return [*letters[:at], letters[at + 1], letters[at], *letters[at + 2 :]]
        composed = [unicodedata.normalize("NFC", letter) for letter in letters]
        able = [at for at, letter in enumerate(composed) if letter.lower() in self._neighbours]
        if not able:
            return letters
        at = able[int(place * len(able))]
        near = self._neighbours[composed[at].lower()]
        # The fraction that is left of a number that already chose among four.
        key = near[int((other * len(TYPOS) % 1) * len(near))]
        key = key.upper() if composed[at].isupper() else key
        return [*letters[:at], key, *letters[at + (kind == "neighbour") :]]


def without_punctuation(text: str) -> str:
    """Drop every character of Unicode's punctuation categories, and spaces that become double."""
    kept = "".join(letter for letter in text if not unicodedata.category(letter).startswith("P"))
    return " ".join(kept.split())
