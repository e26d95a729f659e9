"""The parts of a page on an evaluation, before they are Markdown or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from electra_ds.report.figures import Interval

Measure = dict[str, Any]
"""``value``, ``low`` and ``high``, as in results.json."""
NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Rows of text under a title."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption."""

    name: str
    """Of its file."""
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Headline:
    """One number by which models are set side by side."""

    title: str
    measure: Measure
    percent: bool = True
    """Whether it is a share; else it is shown as it is."""
    digits: int = 1
    change: bool = False
    """Whether it is a difference; of shares it is shown in points, with its sign."""

    @property
    def text(self) -> str:
        """As the evaluation's own section shows it."""
        if not self.percent:
            return plain(self.measure, self.digits)
        return points(self.measure) if self.change else percent(self.measure, self.digits)


@dataclass(frozen=True)
class Ground:
    """On what a model was evaluated."""

    title: str
    key: tuple[Any, ...]
    """Equal where the numbers are of the same texts, asked in the same way."""
    note: str = ""
    """What to keep in mind when models are compared on it."""


@dataclass(frozen=True)
class Shown:
    """What a page says of one evaluation."""

    title: str
    subtitle: str
    """What was scored on what."""
    sentences: list[str]
    """What follows from the numbers."""
    tables: list[Table]
    figures: list[Figure]
    definitions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""


def in_order(found: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Entries in an order of ours: JSON comes back sorted."""
    return {name: found[name] for name in names if name in found}


def percent(measure: Measure | None, digits: int = 1) -> str:
    """A share with its interval, in percent."""
    return _text(measure, 100.0, digits, " %")


def plain(measure: Measure | None, digits: int = 3) -> str:
    """A number with its interval."""
    return _text(measure, 1.0, digits, "")


def points(measure: Measure | None) -> str:
    """A difference of shares with its interval, in points, with its sign."""
    if measure is None or measure.get("value") is None:
        return NOTHING
    text = f"{100 * measure['value']:+.1f}"
    if measure.get("low") is not None:
        text += f" ({100 * measure['low']:+.1f} to {100 * measure['high']:+.1f})"
    return text


def _text(measure: Measure | None, factor: float, digits: int, unit: str) -> str:
    if measure is None or measure.get("value") is None:
        return NOTHING
    text = f"{factor * measure['value']:,.{digits}f}{unit}"
    if measure.get("low") is not None:
        between = " to " if measure["low"] < 0 else "–"
        text += f" ({factor * measure['low']:,.{digits}f}{between}{factor * measure['high']:,.{digits}f})"
    return text


def interval(label: str, measure: Measure | None, colour: str = "c1") -> list[Interval]:
    """A row of an interval plot, or none where the measure is undefined."""
    if measure is None or measure.get("value") is None:
        return []
    return [Interval(label, measure["value"], measure.get("low"), measure.get("high"), colour)]


def excludes(measure: Measure, value: float) -> bool:
    """Whether an interval lies wholly above or below a value."""
    return measure.get("low") is not None and not measure["low"] <= value <= measure["high"]


def coverage(results: dict[str, Any]) -> str:
    """``95 %``."""
    return f"{100 * results['settings']['confidence']:g} %"


def plural(count: int, name: str) -> str:
    """``1 text``, ``2,000 texts``."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def texts_key(results: dict[str, Any]) -> tuple[Any, ...]:
    """Which texts with labels a model was scored on: part of a `Ground`'s key."""
    data, settings = results["data"], results["settings"]
    columns = ("text_column", "text_pair_column", "label_column")
    return (data["source"], data["rows"], data["empty_texts"], *(str(settings[name]) for name in columns))


def texts_read(data: dict[str, Any]) -> str:
    """What a file held, with what was kept empty or cut."""
    parts = [plural(data["rows"], "text")]
    if data.get("empty_texts"):
        parts.append(f"{data['empty_texts']:,} of them empty")
    if data.get("truncated"):
        parts.append(f"{data['truncated']:,} cut to {data['max_length']} tokens")
    return ", ".join(parts)
