"""How results of ``electra-ds evaluate`` are shown: one description that becomes Markdown and HTML."""

from __future__ import annotations

import importlib
from typing import Any

from electra_ds.report.evaluation.markdown import write_markdown
from electra_ds.report.evaluation.shown import Ground, Headline, Shown

__all__ = ["FORMAT", "KINDS", "Ground", "Headline", "Shown", "ground", "headlines", "present", "write_markdown"]

FORMAT = "electra_ds evaluate"
"""What results.json says of itself."""
KINDS = {
    "heldout": "electra_ds.report.evaluation.heldout",
    "zero-shot": "electra_ds.report.evaluation.zero_shot",
    "bias": "electra_ds.report.evaluation.bias",
    "robustness": "electra_ds.report.evaluation.robustness",
}
"""Kind: module with `show`, `headlines` and `ground`."""


def present(results: dict[str, Any], prefix: str) -> Shown:
    """Describe results as sentences, tables and drawings; `prefix` makes the drawings' names unique in a page."""
    shown: Shown = importlib.import_module(KINDS[results["kind"]]).show(results, prefix)
    return shown


def headlines(results: dict[str, Any]) -> list[Headline]:
    """The few numbers by which models are set side by side."""
    found: list[Headline] = importlib.import_module(KINDS[results["kind"]]).headlines(results)
    return found


def ground(results: dict[str, Any]) -> Ground:
    """On what a model was evaluated: results on the same ground can be set side by side."""
    found: Ground = importlib.import_module(KINDS[results["kind"]]).ground(results)
    return found
