"""A page in Markdown beside its drawings."""

from __future__ import annotations

from pathlib import Path

from electra_ds.files import atomic_write
from electra_ds.report.evaluation.shown import Shown, Table
from electra_ds.report.figures import standalone

PAGE = "report.md"


def write_markdown(shown: Shown, folder: Path) -> Path:
    """Write ``report.md`` and one SVG for each drawing; return the page's path."""
    for figure in shown.figures:
        with atomic_write(folder / f"{figure.name}.svg", "w") as file:
            file.write(standalone(figure.svg))
    lines = [f"# {shown.title}", "", f"{shown.subtitle}.", ""]
    for sentence in (*shown.sentences, *shown.notes):
        lines += [sentence, ""]
    for table in shown.tables:
        lines += [f"## {table.title}", "", *_table(table), ""]
        if table.note:
            lines += [table.note, ""]
    for drawn in shown.figures:
        lines += [f"## {drawn.title}", ""]
        lines += [f"{drawn.caption[:1].upper()}{drawn.caption[1:]}.", ""] if drawn.caption else []
        lines += [f"![{drawn.title}]({drawn.name}.svg)", ""]
    lines += ["## What the words mean", ""]
    lines += [f"- *{name.replace('_', ' ')}*: {meaning}" for name, meaning in shown.definitions.items()]
    path = folder / PAGE
    with atomic_write(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


def _table(table: Table) -> list[str]:
    rows = [list(table.columns), *table.rows]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    return [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]
