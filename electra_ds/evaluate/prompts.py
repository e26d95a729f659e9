"""A prompt with a text and a label word in it, as tokens whose places are known."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from electra_ds.errors import UserError
from electra_ds.evaluate.tokens import Tokens

TEXT, PAIR, LABEL = "text", "text_pair", "label"
_AT_A_TIME = 1000
"""Prompts tokenized in one call."""


@dataclass(frozen=True)
class Filled:
    """One text in the prompt with one label word."""

    tokens: Tokens
    label: np.ndarray
    """int64, positions of the label word's tokens, ascending."""
    content: np.ndarray
    """int64, positions of all tokens but the special ones."""


@dataclass(frozen=True)
class Template:
    """A prompt, such as ``{text} It was {label}.``, in its parts."""

    parts: tuple[tuple[str, str | None], ...]
    """Literal text, and the name of the field that follows it (None at the end)."""

    @classmethod
    def parse(cls, prompt: str) -> Template:
        """Read a prompt.

        Raises:
            UserError: braces that do not match, an unknown field, no text or not exactly one label.
        """
        try:
            parts = tuple((literal, name) for literal, name, _, _ in string.Formatter().parse(prompt))
        except ValueError as error:
            raise UserError(
                f"prompt: {prompt!r} cannot be read ({error}); braces of the text itself are doubled"
            ) from error
        names = [name for _, name in parts if name is not None]
        for name in names:
            if name not in (TEXT, PAIR, LABEL):
                raise UserError(
                    f"prompt: {prompt!r} has a field {{{name}}}, expected {{text}}, {{text_pair}} and {{label}}"
                )
        if names.count(LABEL) != 1 or not {TEXT, PAIR} & set(names):
            raise UserError(
                f"prompt: {prompt!r}, expected {{text}} and one {{label}}, as in '{{text}} It was {{label}}.'"
            )
        return cls(parts)

    @property
    def takes_pairs(self) -> bool:
        """Whether the second text of a pair has a place."""
        return any(name == PAIR for _, name in self.parts)

    def fill(self, values: dict[str, str]) -> tuple[str, list[tuple[str, int, int]]]:
        """The prompt with values in it, and where each value stands (name, first and last character, exclusive)."""
        text, spans = "", []
        for literal, name in self.parts:
            text += literal
            if name is not None:
                spans.append((name, len(text), len(text) + len(values[name])))
                text += values[name]
        return text, spans


def encode(
    tokenizer: Any,
    template: Template,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    words: Sequence[str],
    limit: int,
) -> tuple[list[list[Filled]], int]:
    """Put each text into the prompt with each label word.

    A prompt that is too long loses the last tokens of its text, of the longer one first where there are two; never
    tokens of the prompt's own. All label words of a text see the same text: as much as the longest word
    leaves room for.

    Args:
        tokenizer: a fast one.
        template: the prompt.
        texts: first texts.
        pairs: second texts, None if there are none.
        words: label words.
        limit: longest sequence (tokens).

    Returns:
        For each text its prompts in the order of `words`, and how many texts lost tokens.

    Raises:
        UserError: the prompt alone is too long, or a label word has no tokens or unknown ones.
    """
    filled: list[list[Filled]] = []
    truncated = 0
    for begin in range(0, len(texts), _AT_A_TIME):
        here = range(begin, min(begin + _AT_A_TIME, len(texts)))
        prompts = [
            template.fill({TEXT: texts[i], PAIR: pairs[i] if pairs is not None else "", LABEL: word})
            for i in here
            for word in words
        ]
        encoding = tokenizer(
            [text for text, _ in prompts], return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
        )
        for number in range(len(here)):
            own = range(number * len(words), (number + 1) * len(words))
            excess = max(0, max(len(encoding["input_ids"][i]) for i in own) - limit)
            truncated += excess > 0
            filled.append([_place(encoding, i, prompts[i][1], excess, limit) for i in own])
    for one in filled[:1]:
        _check_words(tokenizer, words, one)
    return filled, truncated


def _place(encoding: Any, number: int, spans: list[tuple[str, int, int]], excess: int, limit: int) -> Filled:
    ids = np.array(encoding["input_ids"][number], np.int64)
    offsets = np.array(encoding["offset_mapping"][number], np.int64).reshape(len(ids), 2)
    special = np.array(encoding["special_tokens_mask"][number], bool)
    types = np.array(encoding["token_type_ids"][number] if "token_type_ids" in encoding else [0] * len(ids), np.int64)
    inside = {name: _overlapping(offsets, begin, end) & ~special for name, begin, end in spans}
    removable = [list(np.flatnonzero(inside[name] & ~inside[LABEL])) for name in (TEXT, PAIR) if name in inside]
    keep = np.ones(len(ids), bool)
    for _ in range(excess):
        longest = max(removable, key=len)
        if not longest:
            raise UserError(
                f"prompt: without any text it still has {keep.sum()} tokens, but the longest input is {limit}"
            )
        keep[longest.pop()] = False
    place = np.cumsum(keep) - 1
    return Filled(Tokens(ids[keep], types[keep]), place[inside[LABEL] & keep], place[~special & keep])


def _overlapping(offsets: np.ndarray, begin: int, end: int) -> np.ndarray:
    return np.asarray((offsets[:, 0] < end) & (offsets[:, 1] > begin))


def _check_words(tokenizer: Any, words: Sequence[str], filled: Sequence[Filled]) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for word, one in zip(words, filled, strict=True):
        ids = tuple(one.tokens.ids[one.label].tolist())
        if not ids:
            raise UserError(f"labels: the word {word!r} has no tokens in this prompt")
        if tokenizer.unk_token_id in ids:
            raise UserError(f"labels: the vocabulary does not know {word!r}; choose a word that it has")
        if ids in seen:
            raise UserError(f"labels: {seen[ids]!r} and {word!r} are the same tokens; nothing could tell them apart")
        seen[ids] = word
