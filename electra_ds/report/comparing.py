"""Several runs on one page: their numbers side by side, their curves in one drawing, what their recipes differ in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from electra_ds.report import progress
from electra_ds.report.evaluation import ground, headlines
from electra_ds.report.evaluation.shown import NOTHING, Table, coverage, interval
from electra_ds.report.figures import CYCLE, Interval, Series, curves, intervals
from electra_ds.report.progress import Plot, Section, points
from electra_ds.report.reading import Inputs, number
from electra_ds.report.results import Named, tell_apart

_UNSEEN = ("output", "validation", "logging", "checkpoint", "kernels")
"""Sections of a recipe that change nothing in what is learned."""


@dataclass(frozen=True)
class Comparison:
    """What stands above the curves."""

    facts: Table
    differences: Table | None
    """Fields of the recipes that are not the same; None if all are, or no recipe is there."""
    sentences: list[str]
    recipes: list[tuple[str, str]]
    """Label and text of each recipe."""


def labels_of(runs: Sequence[Inputs]) -> list[str]:
    """Names of the runs: those of their folders, with as much of the path as tells them apart."""
    return tell_apart([run.folder.resolve() for run in runs], [1] * len(runs))


def compare(runs: Sequence[Inputs], labels: Sequence[str]) -> Comparison:
    """Facts and recipes of the runs."""
    facts = [{fact.label: _fact(fact) for fact in progress.facts(run)} for run in runs]
    names = list(dict.fromkeys(name for found in facts for name in found))
    rows = [[name, *(found.get(name, NOTHING) for found in facts)] for name in names]
    versions = [dict(progress.versions(run)) for run in runs]
    for name in dict.fromkeys(name for found in versions for name in found):
        rows.append([name, *(found.get(name, NOTHING) for found in versions)])
    differences = _differences(runs, labels)
    return Comparison(
        Table("The runs", ("", *labels), rows),
        differences,
        _cautions(runs),
        [(label, run.recipe_text) for label, run in zip(labels, runs, strict=True) if run.recipe_text is not None],
    )


def _fact(fact: progress.Fact) -> str:
    return f"{fact.value} ({fact.note})" if fact.note else fact.value


def _differences(runs: Sequence[Inputs], labels: Sequence[str]) -> Table | None:
    flat = [dict(_flattened(run.recipe)) for run in runs]
    names = [
        name
        for name in dict.fromkeys(name for one in flat for name in one)
        if name.split(".")[0] not in _UNSEEN and len({repr(one.get(name)) for one in flat}) > 1
    ]
    if not names:
        return None
    rows = [[name, *(NOTHING if name not in one else str(one[name]) for one in flat)] for name in names]
    note = "Fields that are the same in all recipes, and those of checkpoints, logging and kernels, are left out."
    return Table("What their recipes differ in", ("", *labels), rows, note)


def _flattened(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, inner in value.items():
        found += (
            _flattened(inner, f"{prefix}{name}.")
            if isinstance(inner, dict) and inner
            else [(prefix + str(name), inner)]
        )
    return found


def _cautions(runs: Sequence[Inputs]) -> list[str]:
    """What makes curves of these runs hard to compare."""
    said = []
    if len({repr(run.recipe.get("objective")) for run in runs}) > 1:
        said.append(
            "The runs have different objectives: their losses measure different things; compare what fine-tuning and "
            "evaluation on the same texts give."
        )
    if len({run.manifest.fingerprint if run.manifest else None for run in runs}) > 1:
        said.append("The runs learned from different shard sets: their held-out text may be another.")
    return said


def sections(runs: Sequence[Inputs], labels: Sequence[str]) -> list[Section]:
    """Curves of every run in each drawing: over steps, and the chief ones over time and tokens."""
    losses = [
        _overlay(runs, labels, "generator_loss", "Generator loss", "nats at the selected positions"),
        _overlay(runs, labels, "discriminator_loss", "Discriminator loss", "nats over all tokens"),
        _overlay(runs, labels, "vocabulary_loss", "Full-size network’s loss", "nats, of the original tokens"),
        *(
            _overlay(runs, labels, f"pair_{name}_loss", f"{title} loss, pairs", "nats, of rows with translation pairs")
            for name, title in (
                ("generator", "Generator"),
                ("discriminator", "Discriminator"),
                ("vocabulary", "Full-size network’s"),
            )
        ),
    ]
    detection = [
        _overlay(runs, labels, "discriminator_auc", "AUC", "of “replaced” against “original”"),
        _overlay(runs, labels, "discriminator_precision", "Precision", "of “replaced”", shares=True),
        _overlay(runs, labels, "discriminator_recall", "Recall", "of “replaced”", shares=True),
        _overlay(runs, labels, "generator_accuracy", "Generator accuracy", "at selected positions", shares=True),
    ]
    restored = ("vocabulary_accuracy", "Restored", "originals that are most probable")
    restoring = [_overlay(runs, labels, *restored, shares=True)]
    equal = [
        _overlay(runs, labels, key, title, f"{caption}, over {axis}", shares=key == restored[0], over=over)
        for over, axis in (("elapsed_seconds", "hours of training"), ("tokens_consumed", "tokens"))
        for key, title, caption in (
            ("discriminator_auc", "AUC", "of “replaced”"),
            ("generator_loss", "Generator loss", "nats"),
            ("vocabulary_loss", "Full-size network’s loss", "nats"),
            restored,
        )
    ]
    speed = [
        _overlay(runs, labels, "tokens_per_second", "Throughput", "real tokens per second", training=True),
        _overlay(runs, labels, "gradient_norm", "Gradient norm", "before clipping", training=True),
        _overlay(runs, labels, "learning_rate", "Learning rate", "", training=True),
    ]
    note = "On held-out text where the run scored it (dots), else on training text."
    made = [
        ("Losses", [note], losses),
        ("Telling replaced tokens", [], detection),
        ("Restoring tokens", [], restoring),
        ("At equal time and at equal tokens", [], equal),
        ("Speed and schedule", [], speed),
    ]
    return [Section(title, text, kept) for title, text, plots in made if (kept := [plot for plot in plots if plot])]


def _overlay(
    runs: Sequence[Inputs],
    labels: Sequence[str],
    key: str,
    title: str,
    caption: str,
    shares: bool = False,
    training: bool = False,
    over: str | None = None,
) -> Plot | None:
    series = []
    for place, (run, label) in enumerate(zip(runs, labels, strict=True)):
        held_out = bool(points(run.validation, key)[1]) and not training
        steps, values = points(run.validation if held_out else run.train, key)
        if over is not None:
            steps, values = _over(run, steps, values, over)
        if steps:
            again = place >= len(CYCLE)  # more runs than colours: dashed ones
            series.append(
                Series(label, steps, values, CYCLE[place % len(CYCLE)], dashed=again, dots=held_out and not again)
            )
    if not series:
        return None
    name = f"all-{key.replace('_', '-')}" + (f"-over-{over.replace('_', '-')}" if over else "")
    axis = {"elapsed_seconds": "hours", "tokens_consumed": "tokens"}.get(over or "", "step")
    return Plot(title, caption, curves(name, series, [], percent=shares, label=axis))


def _over(run: Inputs, steps: Sequence[float], values: Sequence[float], over: str) -> tuple[list[float], list[float]]:
    """A curve over time (hours) or tokens in place of steps, by the training lines of the same steps."""
    known = [(number(line["step"]), number(line.get(over))) for line in run.train]
    pairs = sorted((step, value) for step, value in known if step is not None and value is not None)
    if not pairs:
        return [], []
    places = np.interp(steps, [0.0, *(step for step, _ in pairs)], [0.0, *(value for _, value in pairs)], right=np.nan)
    places *= 1 / 3600 if over == "elapsed_seconds" else 1.0
    found = [(float(place), value) for place, value in zip(places, values, strict=True) if np.isfinite(place)]
    return [place for place, _ in found], [value for _, value in found]


def evaluations_side_by_side(named: Sequence[Named]) -> list[dict[str, Any]]:
    """Evaluations of one kind on the same ground: a table of their chief numbers, and a drawing of the first of these.

    What stands alone is left out.
    """
    groups: dict[tuple[str, ...], list[Named]] = {}
    for one in named:
        groups.setdefault(ground(one.results).key, []).append(one)
    made: list[dict[str, Any]] = []
    for members in groups.values():
        if len(members) < 2:
            continue
        found = [{line.title: line for line in headlines(one.results)} for one in members]
        titles = list(dict.fromkeys(title for lines in found for title in lines))
        rows = [
            [one.label, *(lines[title].text if title in lines else NOTHING for title in titles)]
            for one, lines in zip(members, found, strict=True)
        ]
        same = ground(members[0].results)
        note = " ".join(filter(None, (same.note, _coverages(members))))
        table = Table(f"{same.title}, side by side", ("", *titles), rows, note)
        made.append({"table": table, "svg": _drawing(f"side-by-side-{len(made) + 1}", titles[0], members, found)})
    return made


def not_compared(named: Sequence[Named]) -> list[str]:
    """A sentence for each evaluation that stands in no table, though another one is of the same data."""
    grounds = [ground(one.results) for one in named]
    titles, keys = [one.title for one in grounds], [one.key for one in grounds]
    return [
        f"A comparison of {one.label}: no other evaluation of the same data was asked the same. {own.note}"
        for one, own in zip(named, grounds, strict=True)
        if titles.count(own.title) > 1 and keys.count(own.key) == 1
    ]


def _coverages(members: Sequence[Named]) -> str:
    """What the intervals in a table are."""
    found = [coverage(one.results) for one in members]
    if len(set(found)) == 1:
        return f"In brackets: {found[0]} confidence intervals."
    return (
        "In brackets: confidence intervals, "
        + ", ".join(f"{share} for {one.label}" for share, one in zip(found, members, strict=True))
        + "."
    )


def _drawing(name: str, title: str, members: Sequence[Named], found: Sequence[dict[str, Any]]) -> str | None:
    rows: list[Interval] = []
    for place, (one, lines) in enumerate(zip(members, found, strict=True)):
        if title in lines:
            rows += interval(one.label, lines[title].measure, CYCLE[place % len(CYCLE)])
    shares = any(lines[title].percent for lines in found if title in lines)
    return intervals(name, rows, title, shares, width=9.6) if rows else None
