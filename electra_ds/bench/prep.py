"""``electra-ds bench prep``: corpora to shards, by number of workers. The command is run as a user runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from electra_ds.command_line import bare_flag, parse
from electra_ds.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PrepBenchConfig:
    """Measure the preparation by number of workers, and write a report."""

    output: Path = Path("benchmarks")
    """Folder for prep.md and prep.json."""
    workers: list[int] = field(default_factory=lambda: [1, 2])
    """Numbers of worker processes."""
    rounds: int = 3
    """Preparations of each kind, in turn."""
    short: bool = False
    """A few seconds, for tests; its figures mean nothing."""


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark."""
    parse(PrepBenchConfig, bare_flag(arguments, "--short"), program)
    raise UserError("bench prep is not in this release yet")
