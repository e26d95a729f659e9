"""How long before its time limit a job is signalled. Pure functions of a run's metrics."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_SECONDS = 300
"""Lead of a run that has measured nothing yet (seconds)."""
MARGIN_SECONDS = 60
"""For leaving, the summary and a busy file system (seconds)."""
LONGEST_SECONDS = 65_535
"""The most that Slurm takes (seconds)."""
EARLY_SECONDS = 60
"""Slurm may signal this much earlier than asked (sbatch(1), --signal)."""
_RECENT_BYTES = 1_000_000


@dataclass(frozen=True)
class Measured:
    """Times of a run (seconds); None where nothing was measured."""

    step: float | None
    """Longest usual step: the 95th of 100."""
    validation: float
    save: float | None
    """The slowest save."""


def measure(lines: Iterable[dict[str, Any]]) -> Measured:
    """Read step, validation and save times off the lines of metrics.jsonl, oldest first."""
    steps: list[float] = []
    saves: list[float] = []
    validations: list[float] = []
    before: dict[str, Any] | None = None
    for line in lines:
        kind = line.get("kind")
        if kind == "event":
            if line.get("event") == "save" and isinstance(line.get("seconds"), (int, float)):
                saves.append(float(line["seconds"]))
            before = None  # a save, a start: the time until the next line is not a step's
        elif kind == "validation":
            if before is not None:
                validations.append(line["elapsed_seconds"] - before["elapsed_seconds"])
            before = None
        elif kind == "train":
            if before is not None and line["step"] > before["step"]:
                elapsed = line["elapsed_seconds"] - before["elapsed_seconds"]
                steps.append(elapsed / (line["step"] - before["step"]))
            before = line
    return Measured(_high(steps), max(validations, default=0.0), max(saves, default=None))


def signal_lead(measured: Measured) -> int:
    """Seconds before the limit when Slurm is to signal, rounded up to half minutes.

    Room for the step under way and another, a validation, a save under way and the last one, and a margin.
    """
    if measured.step is None or measured.save is None:
        return DEFAULT_SECONDS
    total = 2 * measured.step + measured.validation + 2 * measured.save + MARGIN_SECONDS
    return min(LONGEST_SECONDS, 30 * math.ceil(total / 30))


def read_measured(path: Path) -> Measured:
    """Times from the end of a metrics.jsonl; nothing measured where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _RECENT_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return Measured(None, 0.0, None)
    lines = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return measure(lines)


def _high(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=20, method="inclusive")[-1]
