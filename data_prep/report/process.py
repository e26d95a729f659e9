"""How the set was made: times, versions, inputs, settings."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from data_prep.report.amounts import Listed, listed
from electra_ds import __version__
from electra_ds.data.format import Manifest

LIBRARIES = ("numpy", "tokenizers", "sentencepiece", "pyarrow", "zstandard", "datasets", "ftfy", "mpi4py")
"""Whose versions can matter to the bytes, or to the time; those that are installed are shown."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run."""

    name: str
    seconds: float
    share: float
    """Of the run's time."""
    bytes: int | None
    """Of text that went through it in this run; None if that is not what it handles."""

    @property
    def rate(self) -> float | None:
        """Bytes a second."""
        return self.bytes / self.seconds if self.bytes and self.seconds else None


@dataclass(frozen=True)
class Run:
    """What was measured in the run that finished the set."""

    ranks: int
    workers: int
    stages: list[Stage]
    seconds: float
    resumed: bool
    """Parts of the set were there before."""


def run(measured: dict[str, Any] | None) -> Run | None:
    """Return the times; None if they were not kept."""
    if not measured:
        return None
    total = sum(entry["seconds"] for entry in measured["stages"].values())
    stages = [
        Stage(name, entry["seconds"], entry["seconds"] / max(total, 1e-9), entry.get("bytes"))
        for name, entry in measured["stages"].items()
    ]
    resumed = any(entry.get("made", 0) < entry.get("parts", 0) for entry in measured["stages"].values())
    return Run(measured["ranks"], measured["workers"], stages, total, resumed)


def duration(value: float) -> str:
    """Seconds in the unit that fits them."""
    if value < 100:
        return f"{value:.1f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def versions() -> list[tuple[str, str]]:
    """Names and versions of what made this page, and of the libraries beside it."""
    found = [("electra_ds", __version__), ("Python", platform.python_version())]
    for name in LIBRARIES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class InputFile:
    """One input."""

    name: str
    corpus: str
    bytes: int | None
    other: str
    """What else tells it from another, as JSON."""


def inputs(manifest: Manifest) -> Listed[InputFile]:
    """Return the inputs, in their order."""
    rows = []
    for entry in manifest.statistics["inputs"]:
        rest = {key: value for key, value in entry.items() if key not in ("name", "corpus", "bytes")}
        other = json.dumps(rest, ensure_ascii=False) if rest else ""
        rows.append(InputFile(entry["name"], entry.get("corpus", ""), entry.get("bytes"), other[:500]))
    return listed(rows)


def config_text(manifest: Manifest) -> str:
    """The configuration as a YAML file that ``electra-ds prep --config`` reads."""
    import yaml

    return yaml.safe_dump(manifest.config, allow_unicode=True, sort_keys=False, width=100)
