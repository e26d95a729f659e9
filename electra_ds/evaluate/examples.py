"""Texts with labels from a classification file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from electra_ds.errors import DataError, UserError
from electra_ds.evaluate.config import ColumnsConfig
from electra_ds.finetune.conll import DOCUMENT
from electra_ds.finetune.tables import HUB, Table, read_table

_HEAD = 1 << 16
"""Bytes by which a file is known."""
_TAG = re.compile(r"O|[BIESLU]-\S+")


@dataclass(frozen=True)
class Texts:
    """Rows of one file."""

    source: str
    """File or data set name."""
    texts: list[str]
    pairs: list[str] | None
    """Second texts, None where texts are single."""
    truth: np.ndarray
    """int64, place of each row's label among the labels that were given."""
    empty: int
    """Empty texts that were kept."""

    def __len__(self) -> int:
        return len(self.texts)


def read_texts(source: str, columns: ColumnsConfig, labels: Sequence[str], whose: str) -> Texts:
    """Read a file whose labels are known beforehand.

    Args:
        source: path, or ``hf:NAME[/CONFIG]:SPLIT``.
        columns: where texts and labels stand.
        labels: that a row may have.
        whose: where these labels come from, for messages.

    Raises:
        DataError: no such file or column, an empty text, an unknown label; with its line.
        UserError: a column that cannot be.
    """
    for name in ("text_column", "text_pair_column", "label_column"):
        column = getattr(columns, name)
        if (column < 0) if isinstance(column, int) else not (column or name == "text_pair_column"):
            raise UserError(f"{name}: {column!r}, expected a column's name, or its index from 0")
    _refuse_other_kinds(source)
    table = read_table(source, columns.format, columns.has_header, columns.quotes)
    texts, empty = _texts(table, columns.text_column, "text_column", columns.empty_texts)
    second: int | str | None = columns.text_pair_column
    if second == "":
        second = "text_pair" if table.has("text_pair") else None
    pairs = None
    if second is not None:
        pairs, more = _texts(table, second, "text_pair_column", columns.empty_texts)
        empty += more
    return Texts(table.source, texts, pairs, _labels(table, columns.label_column, labels, whose), empty)


def _refuse_other_kinds(source: str) -> None:
    """Refuse files of questions and of tagged sentences, whatever they are called.

    Raises:
        DataError: what it is, and where it belongs.
    """
    if source.startswith(HUB) or not Path(source).is_file():
        return
    with open(source, "rb") as file:
        begin = file.read(_HEAD)
    head = begin.decode("utf-8", "ignore")
    lines = head.split("\n")[: -1 if len(begin) == _HEAD else None]
    words = [line.split() for line in lines if line.strip() and not line.startswith(DOCUMENT)]
    found = None
    if head.lstrip().startswith("{") and '"paragraphs"' in head and '"context"' in head:
        found = "questions on contexts (SQuAD's form)"
    elif 0 < len(words) < len(lines) - 1 and all(len(one) > 1 and _TAG.fullmatch(one[-1]) for one in words):
        found = "a word and its tag in each line (CoNLL columns)"
    if found is not None:
        raise DataError(
            f"{source}: holds {found}, expected a text and its label in each row. Question answering and tagging need "
            "a fine-tuned model ('electra-ds finetune'), which 'electra-ds evaluate robustness' takes with such files"
        )


def _texts(table: Table, column: int | str, option: str, empty_texts: str) -> tuple[list[str], int]:
    values = table.column(column, option)
    empty = 0
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(f"{table.where(row)}: {column!r} is {value!r}, expected a text (see --{option})")
        if not value.strip():
            if empty_texts == "refuse":
                raise DataError(
                    f"{table.where(row)}: column {column!r} is empty; remove the row, or keep such rows with "
                    "--empty_texts keep"
                )
            empty += 1
    return values, empty


def _labels(table: Table, column: int | str, labels: Sequence[str], whose: str) -> np.ndarray:
    place = {label: number for number, label in enumerate(labels)}
    found, unknown, first = [], Counter[str](), None
    for row, value in enumerate(table.column(column, "label_column")):
        name = str(value).lower() if isinstance(value, bool) else str(value).strip()
        if value is None or not name:
            raise DataError(f"{table.where(row)}: label is {value!r}, expected one of {', '.join(labels)}")
        if name not in place:
            unknown[name] += 1
            first = row if first is None else first
        found.append(place.get(name, 0))
    if first is not None:
        counted = ", ".join(f"'{label}' ({count} rows)" for label, count in unknown.most_common(5))
        raise DataError(
            f"{table.where(first)}: labels that {whose} does not have: {counted}; it has "
            f"{', '.join(map(repr, labels[:10]))}"
        )
    return np.array(found, np.int64)
