"""Writes docs/commands.md: the help of every command, as the code gives it. Run by `make docs`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from electra_ds.bench.command import BENCHMARKS
from electra_ds.cli import COMMANDS
from electra_ds.evaluate.command import EVALUATIONS


def main() -> None:
    """Ask each command for its help at a fixed width, and write the page."""
    environment = {**os.environ, "COLUMNS": "110"}
    pages = [
        "# Commands\n\nMade by `make docs` from the config classes. A field `--section.field` is "
        "`section: {field: ...}` in YAML.\n"
    ]
    parts = {"evaluate": EVALUATIONS, "bench": BENCHMARKS}
    inner = {f"{command} {name}": entry for command, kinds in parts.items() for name, entry in kinds.items()}
    named = {**COMMANDS, **inner}
    for name, (_, summary) in named.items():
        command = [sys.executable, "-m", "electra_ds", *name.split(), "--help"]
        text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        options = text[text.index("options:") :] if "options:" in text else text
        pages.append(
            f"## electra-ds {name}\n\n{summary[0].upper()}{summary[1:]}.\n\n```text\n{options.rstrip()}\n```\n"
        )
    Path(__file__).with_name("commands.md").write_text("\n".join(pages), "utf-8")


if __name__ == "__main__":
    main()
