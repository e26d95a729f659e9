"""Comparing answers: exact match and F1 by SQuAD's official rules, MLQA's by language, and the best threshold of 2.0.

The rules are those of SQuAD's evaluate-v1.1.py and evaluate-v2.0.py (Rajpurkar et al. 2016, 2018) and of MLQA's
mlqa_evaluation_v1.py (Lewis et al. 2020). Scores are shares, where the scripts print percentages.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "ar": r"\sال^|ال",
    "hi": None,
    "zh": None,
}
LANGUAGES = tuple(sorted(_ARTICLES))
"""Languages that MLQA's rules know."""

Normalize = Callable[[str], list[str]]
"""From an answer to its words."""


def squad_words(answer: str) -> list[str]:
    """Lower-case, without ASCII punctuation and English articles, split at white space."""
    kept = "".join(character for character in answer.lower() if character not in _ASCII_PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def mlqa_words(answer: str, language: str) -> list[str]:
    """Lower-case, without any language's punctuation and the language's articles; Chinese character by character."""
    kept = "".join(character for character in answer.lower() if character not in _punctuation())
    articles = _ARTICLES[language]
    if articles is not None:
        kept = re.sub(articles, " ", kept)
    return _mixed_words(kept) if language == "zh" else kept.split()


_ASCII_PUNCTUATION = frozenset(string.punctuation)


@cache
def _punctuation() -> frozenset[str]:
    """ASCII punctuation and every character that Unicode calls punctuation."""
    found = (chr(i) for i in range(sys.maxunicode) if unicodedata.category(chr(i)).startswith("P"))
    return frozenset(found) | _ASCII_PUNCTUATION


def _mixed_words(text: str) -> list[str]:
    """Split Chinese text into characters and keep runs of other letters whole."""
    words: list[str] = []
    run = ""
    for character in text:
        if re.match(r"[\u4e00-\u9fa5]", character) or character in _punctuation():
            words += [*run.split(), character]
            run = ""
        else:
            run += character
    return words + run.split()


def normalizer(rules: str, language: str) -> Normalize:
    """Return what turns an answer into words: ``squad`` (English, whatever the language) or ``mlqa``."""
    if rules == "squad":
        return squad_words
    return lambda answer: mlqa_words(answer, language)


def exact_match(truth: Sequence[str], predicted: str, words: Normalize = squad_words, null: bool = False) -> float:
    """1 if the prediction equals one of the right answers after normalization, else 0.

    `null` takes SQuAD 2.0's side: right answers of which nothing is left do not count, and where there is none the
    empty answer is right.
    """
    return float(any(words(answer) == words(predicted) for answer in _right(truth, words, null)))


def f1(truth: Sequence[str], predicted: str, words: Normalize = squad_words, null: bool = False) -> float:
    """Largest F1 of words over the right answers; two answers without words have 0, and with `null` 1."""
    return max(_f1(words(answer), words(predicted), null) for answer in _right(truth, words, null))


def _right(truth: Sequence[str], words: Normalize, null: bool) -> Sequence[str]:
    return ([answer for answer in truth if words(answer)] or [""]) if null else truth


def _f1(truth: list[str], predicted: list[str], null: bool) -> float:
    if not truth or not predicted:
        return float(null and truth == predicted)
    same = sum((Counter(truth) & Counter(predicted)).values())
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(truth)
    return 2 * precision * recall / (precision + recall)


def best_threshold(
    scores: dict[str, float], odds: dict[str, float], answerable: dict[str, bool], guessed: dict[str, bool]
) -> tuple[float, float]:
    """Find the threshold on the odds of no answer that gives the best mean score (evaluate-v2.0.py).

    Args:
        scores: score of each question's non-empty prediction, by id.
        odds: how strongly each question is held to have no answer; above the threshold it gets none.
        answerable: whether each question has an answer.
        guessed: whether each prediction is non-empty.

    Returns:
        The best mean score and its threshold.
    """
    total = sum(not has for has in answerable.values())
    best: float = total
    threshold = 0.0
    running: float = total
    for name in sorted(odds, key=lambda name: odds[name]):
        # Taking this question's answer: its score where it has one; where it has none, a guess loses the point.
        running += scores[name] if answerable[name] else -float(guessed[name])
        if running > best:
            best, threshold = running, odds[name]
    return best / len(scores), threshold
