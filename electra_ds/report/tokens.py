"""Corrupted text for the page: each token with what the discriminator thinks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from electra_ds.report.reading import number

CONTINUATION, WORD_START = "##", "▁"
"""Marks of WordPiece (inside a word) and SentencePiece (before a word)."""
CLOSING = set(".,;:!?)]}%’”")
"""Tokens that are set without a space before them."""
THRESHOLD = 0.5
"""Probability from which the discriminator calls a token replaced (logit 0)."""


@dataclass(frozen=True)
class Token:
    """One position."""

    text: str
    """As the discriminator reads it, without its mark."""
    original: str
    """What stood there."""
    replaced: bool
    """Whether it really was replaced."""
    probability: float
    """The discriminator's probability of "replaced"."""
    space: bool
    """Whether a space comes before it."""
    special: bool
    """[CLS], [SEP] and the like."""
    starts_line: bool
    """Whether a new segment begins here."""


@dataclass(frozen=True)
class Example:
    """One row of text."""

    tokens: list[Token]
    replaced: int
    """Tokens that were replaced."""
    found: int
    """Of these, called replaced."""
    false_alarms: int
    """Original tokens called replaced."""


def read_examples(samples: dict[str, Any], limit: int) -> tuple[list[Example], int]:
    """Turn samples.json into at most `limit` examples.

    Returns:
        The examples, and how many entries were unusable (lists missing or of unequal length).
    """
    examples: list[Example] = []
    unusable = 0
    for entry in samples["examples"]:
        if len(examples) == limit:
            break
        example = _example(entry) if isinstance(entry, dict) else None
        if example is None:
            unusable += 1
        else:
            examples.append(example)
    return examples, unusable


def _example(entry: dict[str, Any]) -> Example | None:
    corrupted = entry.get("corrupted") or entry.get("tokens")
    lists = [corrupted, entry.get("original"), entry.get("replaced"), entry.get("probability")]
    if not corrupted or not all(isinstance(one, list) and len(one) == len(corrupted) for one in lists):
        return None
    sentencepiece = any(str(token).startswith(WORD_START) for token in corrupted)
    tokens: list[Token] = []
    for text, original, replaced, probability in zip(*lists, strict=True):
        text, original = str(text), str(original)
        special = text.startswith(("[", "<")) and text.endswith(("]", ">")) and len(text) > 2
        if text in ("[PAD]", "<pad>"):
            continue
        value = number(probability)
        tokens.append(
            Token(
                text=_bare(text) or text,
                original=_bare(original) or original,
                replaced=bool(replaced),
                probability=0.0 if value is None else min(max(value, 0.0), 1.0),
                space=_space(text, tokens, sentencepiece, special),
                special=special,
                starts_line=text in ("[CLS]", "<s>") and bool(tokens),
            )
        )
    return Example(tokens, *_counts(tokens))


def _bare(token: str) -> str:
    return token.removeprefix(CONTINUATION).removeprefix(WORD_START)


def _space(text: str, before: Sequence[Token], sentencepiece: bool, special: bool) -> bool:
    if not before or special or before[-1].special:
        return bool(before)
    if sentencepiece:
        return text.startswith(WORD_START)
    return not text.startswith(CONTINUATION) and text not in CLOSING


def _counts(tokens: Sequence[Token]) -> tuple[int, int, int]:
    called = [token.probability > THRESHOLD for token in tokens]
    replaced = sum(token.replaced for token in tokens)
    found = sum(token.replaced and call for token, call in zip(tokens, called, strict=True))
    return replaced, found, sum(called) - found
