"""The folder an evaluation writes: who may write there, and how it is finished."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from electra_ds import __version__
from electra_ds.command_line import dump_yaml, plain
from electra_ds.evaluate.config import EvaluationConfig
from electra_ds.files import atomic_write, take_output_folder, write_json

FORMAT, FORMAT_VERSION = "electra_ds evaluate", 1
"""Of results.json."""
SETTINGS = "evaluate.yaml"
"""Written first; it marks a folder as ours."""
RESULTS = "results.json"
"""Written last; it marks a folder as finished."""
_ENDINGS = (".svg", ".tsv", ".md")


class Output:
    """One evaluation's folder, from its start to its results."""

    def __init__(self, kind: str, config: EvaluationConfig) -> None:
        """Take the folder over; `kind` is the evaluation's name.

        Raises:
            UserError: it holds finished results, or something that is not ours.
        """
        self.kind, self._config, self._began = kind, config, time.perf_counter()
        self.folder = _prepare(config.output)
        with atomic_write(self.folder / SETTINGS, "w") as file:
            file.write(dump_yaml(config))

    def finish(self, machine: dict[str, str], notes: list[str], **results: Any) -> dict[str, Any]:
        """Write report.md with its plots, then results.json; return what it holds.

        Args:
            machine: where it was computed, and how.
            notes: what was left out and why, one sentence each.
            results: what was measured, under names of its kind.
        """
        from electra_ds.report.evaluation import present, write_markdown

        result = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "kind": self.kind,
            "model": self._config.model,
            "settings": plain(self._config),
            **results,
            "notes": notes,
            "machine": machine,
            "seconds": round(time.perf_counter() - self._began, 3),
            "versions": _versions(),
        }
        shown = present(result, self.kind)
        write_markdown(shown, self.folder)
        write_json(self.folder / RESULTS, result)
        for sentence in (*shown.sentences, *notes):
            print(sentence)
        print(f"wrote {self.folder / RESULTS} ({result['seconds']:.1f} s)", flush=True)
        return result


def _prepare(output: str) -> Path:
    folder, names = take_output_folder(output, SETTINGS, RESULTS, _ours)
    for name in names:  # of an interrupted run of ours
        (folder / name).unlink()
    return folder


def _ours(name: str) -> bool:
    return name in (SETTINGS, RESULTS) or name.endswith(_ENDINGS)


def _versions() -> dict[str, str]:
    libraries = ("torch", "transformers", "tokenizers", "numpy")
    return {
        "electra_ds": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }
