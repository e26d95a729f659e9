"""Minimal pairs of sentences in CrowS-Pairs' CSV format (Nangia et al. 2020, arXiv 2010.00133)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np

from electra_ds.errors import DataError
from electra_ds.finetune.tables import Table, read_table

MORE, LESS, DIRECTION, CATEGORY = "sent_more", "sent_less", "stereo_antistereo", "bias_type"
DIRECTIONS = ("stereo", "antistereo")


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences that differ in whom they speak of."""

    more: str
    """The more stereotyping one."""
    less: str
    direction: str
    """``stereo``: `more` states a stereotype of a disadvantaged group; ``antistereo``: `less` goes against one."""
    category: str


def read_pairs(path: str) -> list[MinimalPair]:
    """Read a file with the columns sent_more, sent_less, stereo_antistereo and bias_type; others are not read.

    Raises:
        DataError: no such file, not CSV, a missing column, or a row that is no minimal pair; with its line.
    """
    table = read_table(path, "csv", header=True)
    missing = [name for name in (MORE, LESS, DIRECTION, CATEGORY) if not table.has(name)]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(map(repr, table.header or ()))}, expected "
            f"those of CrowS-Pairs: {MORE}, {LESS}, {DIRECTION}, {CATEGORY}"
        )
    columns = [table.column(name, "pairs") for name in (MORE, LESS, DIRECTION, CATEGORY)]
    return [_pair(table, row, *values) for row, values in enumerate(zip(*columns, strict=True))]


def _pair(table: Table, row: int, more: str, less: str, direction: str, category: str) -> MinimalPair:
    where, direction, category = table.where(row), direction.strip(), category.strip()
    for name, value in ((MORE, more), (LESS, less), (CATEGORY, category)):
        if not value.strip():
            raise DataError(f"{where}: {name} is empty; every pair needs both sentences and its category")
    if direction not in DIRECTIONS:
        raise DataError(f"{where}: {DIRECTION} is {direction!r}, expected {' or '.join(DIRECTIONS)}")
    if more.strip() == less.strip():
        raise DataError(f"{where}: {MORE} and {LESS} are the same sentence; a pair differs in whom it speaks of")
    return MinimalPair(more, less, direction, category)


def shared_positions(more: np.ndarray, less: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the tokens that two sequences of ids share, int64, one array for each, of equal length.

    As the authors' code aligns them: the equal blocks of Python's SequenceMatcher. Its junk heuristic, which begins at
    200 tokens, is off here.
    """
    matcher = difflib.SequenceMatcher(None, more.tolist(), less.tolist(), autojunk=False)
    one: list[int] = []
    other: list[int] = []
    for a, b, size in matcher.get_matching_blocks():
        one += range(a, a + size)
        other += range(b, b + size)
    return np.array(one, np.int64), np.array(other, np.int64)
