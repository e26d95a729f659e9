"""Writing a benchmark's report: a Markdown page for people and a JSON file beside it with every number."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from electra_ds.files import atomic_write, write_json


@dataclass
class Section:
    """A heading, what it says, and perhaps a table."""

    heading: str
    text: str = ""
    header: Sequence[str] = ()
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """The section as Markdown; numbers are set to the right."""
        parts = [f"## {self.heading}"]
        if self.text:
            parts.append(self.text)
        if self.header:
            parts.append(_table(self.header, self.rows))
        return "\n\n".join(parts)


@dataclass
class Report:
    """One benchmark: what was run, on what, what came out, how to repeat it."""

    name: str
    title: str
    lead: str
    command: str
    machine: dict[str, str]
    config: dict[str, Any]
    sections: list[Section] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    """SVG files by their names."""

    def write(self, folder: Path) -> Path:
        """Write ``NAME.md`` and ``NAME.json`` and the figures into a folder, which is made; return the page's path."""
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / f"{self.name}.md"
        with atomic_write(page, "w") as file:
            file.write(self.markdown())
        content = {name: getattr(self, name) for name in ("name", "title", "command", "machine", "config", "results")}
        write_json(folder / f"{self.name}.json", content)
        for name, svg in self.figures.items():
            with atomic_write(folder / name, "w") as file:
                file.write(svg)
        return page

    def publish(self, folder: Path, *told: str) -> None:
        """Write it, then print some lines and where the page and the numbers are."""
        page = self.write(folder)
        print(*told, page, page.with_suffix(".json"), sep="\n")

    def markdown(self) -> str:
        """The whole page."""
        machine = Section("On what", "", ("", ""), [[name, value] for name, value in self.machine.items()])
        repeat = Section("How to repeat it", f"    {self.command}\n\nEvery number is in `{self.name}.json`.")
        parts = [f"# {self.title}", self.lead, *(part.markdown() for part in (*self.sections, machine, repeat))]
        return "\n\n".join(parts) + "\n"


def command_line(program: str, arguments: Sequence[str]) -> str:
    """The command as a shell takes it."""
    return shlex.join([*program.split(), *arguments])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = [":---" if place == 0 or not _numeric(rows, place) else "---:" for place in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ruler, *rows))


def _numeric(rows: Sequence[Sequence[str]], place: int) -> bool:
    return all(not row[place] or row[place][0].isdigit() or row[place][0] in "-–<" for row in rows)
