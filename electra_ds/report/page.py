"""Putting the page together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from electra_ds import __version__
from electra_ds.data.format import Manifest
from electra_ds.errors import UserError
from electra_ds.files import atomic_write
from electra_ds.report import comparing, finetuning, progress, tokens
from electra_ds.report.config import ReportConfig
from electra_ds.report.evaluation import ground, headlines, present
from electra_ds.report.reading import Inputs, read_all
from electra_ds.report.results import Named

TEMPLATE = "report.html.j2"
GENERATOR = '<meta name="generator" content="electra_ds'
"""How a page of ours is told from a file that must not be replaced."""
_UNKNOWN_FORM = (KeyError, TypeError, AttributeError, ValueError)
_OTHER_FORM = "its results.json has another form than this release knows"


def write_report(config: ReportConfig) -> Path:
    """Read, render and write; return the page's path.

    Raises:
        UserError: no run there, or the output is a file that is not one of our pages.
    """
    runs = read_all(config)
    inputs = runs[0]
    path = Path(config.output) if config.output else inputs.folder / "report.html"
    if path.is_dir():
        raise UserError(f"output: {path} is a folder, expected the name of an HTML file")
    if path.exists() and GENERATOR not in path.read_text("utf-8", errors="replace")[:2000]:
        raise UserError(f"output: {path} exists and is not a report of ours; choose another --output")
    if not path.parent.is_dir():
        raise UserError(f"output: no folder {path.parent}; make it first")
    html = render(runs, config)
    with atomic_write(path, "w") as file:
        file.write(html)
    return path


def render(runs: Sequence[Inputs], config: ReportConfig) -> str:
    """Return the page as one HTML text without any outside reference."""
    import jinja2
    from markupsafe import Markup

    inputs = runs[0]
    left_out = list(inputs.left_out)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent.parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["svg"] = Markup
    finetunings = _finetunings([one for run in runs for one in run.finetunings], left_out)
    evaluations = _evaluations([one for run in runs for one in run.evaluations], left_out)
    left_out += comparing.not_compared([one["named"] for one in evaluations])
    common: dict[str, Any] = {
        "version": __version__,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "finetuning_table": finetuning.side_by_side([one for one, _ in finetunings]),
        "finetunings": [built for _, built in finetunings],
        "evaluation_tables": comparing.evaluations_side_by_side([one["named"] for one in evaluations]),
        "evaluations": evaluations,
    }
    if len(runs) > 1:
        labels = comparing.labels_of(runs)
        own_lines = [f"{label}: {line}" for label, run in zip(labels, runs, strict=True) for line in run.left_out]
        left_out = own_lines + left_out[len(inputs.left_out) :]
        left_out.append("Corrupted text: it is on the page of each run alone.")
        own = {
            "title": config.title or f"ELECTRA runs: {', '.join(labels)}",
            "learned": progress.learned(inputs),
            "facts": [],
            "comparison": comparing.compare(runs, labels),
            "sections": comparing.sections(runs, labels),
            "examples": None,
            "dataset": None,
            "recipe": None,
            "versions": [],
        }
    else:
        own = {
            "comparison": None,
            "learned": progress.learned(inputs),
            "title": config.title or f"ELECTRA run: {inputs.folder.resolve().name}",
            "facts": progress.facts(inputs),
            "sections": progress.sections(inputs),
            "examples": _examples(inputs, config.examples, left_out),
            "dataset": _dataset(inputs.manifest) if inputs.manifest else None,
            "recipe": inputs.recipe_text,
            "versions": progress.versions(inputs),
        }
    return environment.get_template(TEMPLATE).render(**common, **own, left_out=left_out)


def _finetunings(named: Sequence[Named], left_out: list[str]) -> list[tuple[Named, finetuning.Finetuning]]:
    """Results with their sections, those that this release knows."""
    made = []
    for number, one in enumerate(named):
        title = "Fine-tuning" if len(named) == 1 else f"Fine-tuning: {one.label}"
        name = "fine-tuning-scores" + (f"-{number + 1}" if number else "")
        try:
            made.append((one, finetuning.build(one.results, title, name)))
        except _UNKNOWN_FORM as error:
            left_out.append(f"Fine-tuning {one.label}: {_OTHER_FORM} ({error!r}).")
    return made


def _evaluations(named: Sequence[Named], left_out: list[str]) -> list[dict[str, Any]]:
    made = []
    for number, one in enumerate(named):
        try:
            shown = present(one.results, f"evaluation-{number + 1}")
            # Read here already, where results of an unknown form can still be left out.
            headlines(one.results), ground(one.results)
        except _UNKNOWN_FORM as error:
            left_out.append(f"Evaluation {one.label}: {_OTHER_FORM} ({error!r}).")
            continue
        made.append({"id": f"evaluation-{number + 1}", "named": one, "shown": shown})
    return made


def _examples(inputs: Inputs, limit: int, left_out: list[str]) -> dict[str, Any] | None:
    if inputs.samples is None or limit == 0:
        return None
    examples, unusable = tokens.read_examples(inputs.samples, limit)
    if unusable:
        left_out.append(f"{unusable} of the examples in samples.json, whose lists do not fit together.")
    if not examples:
        return None
    replaced, found = sum(one.replaced for one in examples), sum(one.found for one in examples)
    return {
        "rows": examples,
        "step": inputs.samples.get("step"),
        "replaced": replaced,
        "found": found,
        "false_alarms": sum(one.false_alarms for one in examples),
        "originals": sum(len(one.tokens) for one in examples) - replaced,
        "kept": len(inputs.samples["examples"]),
    }


def _dataset(manifest: Manifest) -> dict[str, Any]:
    counts = ("documents", "sentences", "tokens", "bytes")
    splits = [
        {"name": name, "shards": len(shards), **{count: manifest.total(name, count) for count in counts}}
        for name, shards in manifest.splits.items()
    ]
    return {
        "splits": splits,
        "tokenizer": manifest.tokenizer,
        "fingerprint": manifest.fingerprint,
        "dtype": manifest.dtype,
    }
