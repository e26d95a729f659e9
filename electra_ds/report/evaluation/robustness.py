"""A classifier's score on changed texts and other corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from electra_ds.report.evaluation.shown import (
    Figure,
    Ground,
    Headline,
    Shown,
    Table,
    coverage,
    excludes,
    interval,
    percent,
    plain,
    plural,
    points,
    texts_key,
    texts_read,
)
from electra_ds.report.figures import intervals

_METRICS = {"accuracy": "accuracy", "f1_macro": "macro F1", "matthews": "Matthews correlation", "f1": "F1"}
_COLOURS = {"typos": "c2", "casing": "c3", "punctuation": "c4"}


def headlines(results: dict[str, Any]) -> list[Headline]:
    """The score, and what is lost by the worst change and on each other corpus."""
    metric = results["metric"]
    shares, unit = metric != "matthews", "" if metric == "matthews" else " (points)"
    digits = 1 if shares else 3
    made = [Headline(f"{_METRICS[metric]}, unchanged", results["clean"][metric], shares, digits)]
    lost = [("by a change, at most", worst)] if (worst := _worst(results)) else []
    lost += [(f"on {one['source']}", one) for one in results["other"]]
    return made + [
        Headline(f"lost {where}{unit}", one["drop_of_score"][metric], shares, digits, change=True)
        for where, one in lost
    ]


def ground(results: dict[str, Any]) -> Ground:
    """A file of texts, the score, and the changes to the texts."""
    settings, metric, variants = results["settings"], results["metric"], results["variants"]
    labels = tuple(results["labels"])
    changes = sorted((one["group"], one["name"], one["rate"] or 0.0, one["draws"]) for one in variants)
    typed = next((one for one in variants if one["group"] == "typos"), None)
    key = (
        "robustness",
        *texts_key(results),
        metric,
        labels if metric == "f1" else tuple(sorted(labels)),  # F1 is that of the second label
        results["data"]["max_length"],
        *changes,
        (settings["keyboard"], settings["seed"]) if typed else None,
    )
    note = f"{plural(results['data']['rows'], 'text')}, longest input: {results['data']['max_length']} tokens. "
    note += f"Changes: {', '.join(map(_name, variants)) or 'none'}"
    if typed:
        note += (
            f"; typos are drawn {typed['draws']} time{'' if typed['draws'] == 1 else 's'} from seed "
            f"{settings['seed']} on the keyboard {settings['keyboard']}"
        )
    return Ground(f"Robustness on {Path(results['data']['source']).name}", key, f"{note}.")


def show(results: dict[str, Any], prefix: str) -> Shown:
    """The page on one model."""
    data, metric = results["data"], results["metric"]
    rows = interval("unchanged", results["clean"][metric])
    for one in results["variants"]:
        rows += interval(_name(one), one["scores"][metric], _COLOURS.get(one["group"], "c5"))
    for one in results["other"]:
        rows += interval(Path(one["source"]).name, one["scores"][metric], "c6")
    name = f"{prefix}-scores"
    shares = metric != "matthews"
    drawn = intervals(name, rows, _METRICS[metric], shares, results["clean"][metric]["value"], width=9.6)
    tables = [_variants(results, metric)] if results["variants"] else []
    tables += [_others(results, metric)] if results["other"] else []
    return Shown(
        title="Robustness",
        subtitle=f"{results['model']} on {data['source']} ({texts_read(data)}); {coverage(results)} confidence "
        "intervals",
        sentences=_sentences(results, metric),
        tables=tables,
        figures=[Figure(name, _METRICS[metric].capitalize(), "dashed: on the unchanged texts", drawn)],
        definitions=results["definitions"],
        notes=list(results["notes"]),
    )


def _name(one: dict[str, Any]) -> str:
    if one["group"] == "typos":
        kind = "typos" if one["name"] == "typo" else one["name"]
        return f"{kind}, {100 * one['rate']:g} % of words"
    return f"{one['name']} case" if one["group"] == "casing" else "no punctuation"


def _worst(results: dict[str, Any]) -> dict[str, Any] | None:
    metric = results["metric"]
    known = [one for one in results["variants"] if one["drop_of_score"][metric]["value"] is not None]
    return max(known, key=lambda one: one["drop_of_score"][metric]["value"], default=None)


def _show(measure: dict[str, Any], metric: str) -> str:
    return plain(measure) if metric == "matthews" else percent(measure)


def _loss(measure: dict[str, Any], metric: str) -> str:
    return plain(measure) if metric == "matthews" else points(measure)


def _sentences(results: dict[str, Any], metric: str) -> list[str]:
    said = [f"{_METRICS[metric].capitalize()} on the unchanged texts: {_show(results['clean'][metric], metric)}."]
    worst = _worst(results)
    unit = "" if metric == "matthews" else " points"
    if worst and excludes(worst["drop_of_score"][metric], 0.0) and worst["drop_of_score"][metric]["value"] > 0:
        said.append(f"Most is lost by {_name(worst)}: {_loss(worst['drop_of_score'][metric], metric)}{unit}.")
    elif worst:
        said.append("No change to the texts can be shown to cost anything.")
    for one in results["other"]:
        gap = one["drop_of_score"][metric]
        verdict = "a loss" if excludes(gap, 0.0) and gap["value"] > 0 else "no loss that can be shown"
        said.append(
            f"On {one['source']}: {_show(one['scores'][metric], metric)}, {verdict} ({_loss(gap, metric)}{unit})."
        )
    return said


def _variants(results: dict[str, Any], metric: str) -> Table:
    rows = [["unchanged", _show(results["clean"][metric], metric), "–", "–", f"{results['data']['truncated']:,}"]]
    rows += [
        [
            _name(one), _show(one["scores"][metric], metric), _loss(one["drop_of_score"][metric], metric),
            f"{100 * one['texts_changed']:.1f} %", f"{one['truncated']:,.0f}",
        ]
        for one in results["variants"]
    ]  # fmt: skip
    lost = "lost" if metric == "matthews" else "lost (points)"
    return Table("Changed texts", ("", _METRICS[metric], lost, "texts with other tokens", "truncated"), rows)


def _others(results: dict[str, Any], metric: str) -> Table:
    data = results["data"]
    rows = [[Path(data["source"]).name, f"{data['rows']:,}", _show(results["clean"][metric], metric), "–"]]
    rows += [
        [
            Path(one["source"]).name, f"{one['rows']:,}", _show(one["scores"][metric], metric),
            _loss(one["drop_of_score"][metric], metric),
        ]
        for one in results["other"]
    ]  # fmt: skip
    lost = "lost" if metric == "matthews" else "lost (points)"
    return Table("Other corpora", ("", "texts", _METRICS[metric], lost), rows)
