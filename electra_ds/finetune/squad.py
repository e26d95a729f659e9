"""Questions with contexts and answers: SQuAD's JSON (1.1 and 2.0, XQuAD, MLQA), or flat in JSON lines and hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_ds.errors import DataError
from electra_ds.finetune.tables import HUB, read_table, read_text, refuse_half_characters

_SHOWN = 5


@dataclass(frozen=True)
class Question:
    """One question on one context."""

    id: str
    """Unique in its file."""
    question: str
    """Its text."""
    context: str
    """The text that holds the answer, if any."""
    answers: tuple[tuple[str, int], ...] | None
    """Right answers and where they start in the context (character); empty: no answer; None: not known."""
    article: str
    """What the context is a part of; articles stay together when texts are set aside."""


@dataclass(frozen=True)
class Read:
    """A file's questions and what was counted."""

    questions: list[Question]
    mismatched: list[str]
    """Ids whose answer does not stand in the context where the file says."""


def read_questions(source: str, format: str = "auto", keep_empty: bool = False) -> Read:
    """Read questions.

    Args:
        source: SQuAD JSON, or JSON lines or ``hf:`` with id, question, context, answers ({text: [], answer_start: []}).
        format: ``auto``, ``squad`` or ``jsonl``.
        keep_empty: allow empty questions.

    Raises:
        DataError: missing keys, an id twice, an empty context or question; where it is.
    """
    lines = source.startswith(HUB) or format == "jsonl" or Path(source).suffix.lower() in (".jsonl", ".ndjson")
    questions = list(_from_table(source) if lines and format != "squad" else _from_json(source))
    if not questions:
        raise DataError(f"{source}: no questions")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError(
                f"{source}: the id '{question.id}' stands there twice; scores are by id, so each needs its own"
            )
        seen.add(question.id)
        for name, text in (("context", question.context), ("question", question.question)):
            if not text.strip() and not (keep_empty and name == "question"):
                hint = "; keep such questions with --empty_texts keep" if name == "question" else ""
                raise DataError(f"{source}, id '{question.id}': the {name} is empty{hint}")
    return Read(questions, [question.id for question in questions if not _matches(question)])


def _matches(question: Question) -> bool:
    return all(_stands(question.context, *answer) for answer in question.answers or ())


def _stands(context: str, text: str, start: int) -> bool:
    # A negative start would count from the end of the context.
    return bool(text) and start >= 0 and context.startswith(text, start)


def describe_mismatch(read: Read) -> str:
    """Name the first questions whose answer is not where the file says, with what stands there instead."""
    by_id = {question.id: question for question in read.questions}
    question = by_id[read.mismatched[0]]
    text, start = next(answer for answer in question.answers or () if not _stands(question.context, *answer))
    there = question.context[start : start + len(text)] if 0 <= start < len(question.context) else ""
    names = ", ".join(read.mismatched[:_SHOWN]) + (", ..." if len(read.mismatched) > _SHOWN else "")
    return (
        f"{len(read.mismatched)} questions with an answer that does not stand in the context at its answer_start "
        f"({names}): for id '{question.id}' the answer is {text[:60]!r}, but at {start} stands {there[:60]!r}"
    )


def _from_json(source: str) -> Iterator[Question]:
    text = read_text(Path(source))
    try:
        root = json.loads(text)
    except ValueError as error:
        hint = "; JSON lines need the ending .jsonl or --format jsonl" if "Extra data" in str(error) else ""
        raise DataError(f"{source}: not JSON ({error}){hint}") from None
    refuse_half_characters(source, text, root)
    for i, article in enumerate(_list(source, "data", root, "data")):
        here = f"data[{i}]"
        for j, paragraph in enumerate(_list(source, here, article, "paragraphs")):
            place = f"{here}.paragraphs[{j}]"
            context = _text(source, place, paragraph, "context")
            for k, entry in enumerate(_list(source, place, paragraph, "qas")):
                at = f"{place}.qas[{k}]"
                name = _text(source, at, entry, "id")
                at = f"{at} (id '{name}')"
                question = _text(source, at, entry, "question")
                answers = _answers(source, at, entry)
                yield Question(name, question, context, answers, str(article.get("title") or f"article {i}"))


def _answers(source: str, place: str, entry: dict[str, Any]) -> tuple[tuple[str, int], ...] | None:
    impossible = entry.get("is_impossible")
    if impossible is not None and not isinstance(impossible, bool):
        raise DataError(f"{source}, {place}: is_impossible is {_short(impossible)}, expected true or false")
    if impossible:
        if entry.get("answers"):
            raise DataError(
                f"{source}, {place}: is_impossible is true, but answers has {_short(entry['answers'])}; make it false, "
                "or the list empty, as SQuAD 2.0 does: what only looks like an answer stands there in plausible_answers"
            )
        return ()
    if "answers" not in entry:
        return None
    found = []
    for answer in _list(source, place, entry, "answers"):
        start = answer.get("answer_start") if isinstance(answer, dict) else None
        if not isinstance(start, int) or isinstance(start, bool):
            raise DataError(
                f"{source}, {place}: an answer without a whole number answer_start, the character of the context at "
                f"which it begins: {_short(answer)}"
            )
        found.append((_text(source, place, answer, "text"), start))
    return tuple(found)


def _list(source: str, place: str, value: Any, key: str) -> list[Any]:
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise DataError(
            f"{source}, {place}: no list '{key}'; expected SQuAD's form, data > paragraphs > context and qas > id, "
            "question and answers"
        )
    found: list[Any] = value[key]
    return found


def _text(source: str, place: str, value: Any, key: str) -> str:
    allowed = (str, int) if key == "id" else (str,)
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, allowed) or isinstance(found, bool):
        there = "" if found is None else f", it is {_short(found)}"
        raise DataError(f"{source}, {place}: no text '{key}'{there}; expected one in double quotes")
    return str(found)


def _from_table(source: str) -> Iterator[Question]:
    table = read_table(source, "jsonl")
    rows = zip(
        *(table.column(name, "format") for name in ("id", "question", "context")),
        table.column("answers", "format") if table.has("answers") else [None] * len(table),
        table.column("title", "format") if table.has("title") else [""] * len(table),
        strict=True,
    )
    for row, (name, question, context, answers, title) in enumerate(rows):
        where = table.where(row)
        if not isinstance(question, str) or not isinstance(context, str):
            raise DataError(f"{where}: question and context are texts, found {_short(question)} and {_short(context)}")
        if not isinstance(name, (str, int)) or isinstance(name, bool):
            raise DataError(f"{where}: id is {_short(name)}, expected a text or a whole number")
        if title is not None and not isinstance(title, str):
            raise DataError(f"{where}: title is {_short(title)}, expected the name of the article")
        found = None if answers is None else _answers_of_row(where, answers)
        yield Question(str(name), question, context, found, title or context)


def _answers_of_row(where: str, answers: Any) -> tuple[tuple[str, int], ...]:
    form = "expected {'text': [...], 'answer_start': [...]}, empty lists where there is no answer"
    texts, starts = (answers.get("text"), answers.get("answer_start")) if isinstance(answers, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list):
        raise DataError(f"{where}: answers {_short(answers)}, {form}")
    if len(texts) != len(starts):
        raise DataError(f"{where}: answers has {len(texts)} texts and {len(starts)} of answer_start, {form}")
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"{where}: answers has the text {_short(text)}, expected a text in double quotes")
    for start in starts:
        if not isinstance(start, int) or isinstance(start, bool):
            raise DataError(
                f"{where}: answers has the answer_start {_short(start)}, expected a whole number: the character of the "
                "context at which the answer begins, from 0"
            )
    return tuple(zip(texts, starts, strict=True))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
