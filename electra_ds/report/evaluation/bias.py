"""Preference among minimal pairs."""

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
    in_order,
    interval,
    percent,
    plain,
    plural,
)
from electra_ds.report.figures import intervals

_COLOURS = {"generator": "c2", "discriminator": "c1"}


def headlines(results: dict[str, Any]) -> list[Headline]:
    """The metric as published, by network."""
    return [
        Headline(f"{name}, prefers the stereotype", found["all"]["share"]) for name, found in _scores(results).items()
    ]


def ground(results: dict[str, Any]) -> Ground:
    """A file of pairs."""
    data = results["data"]
    asked = results["settings"].get("max_length")
    limit = "what each model takes" if asked is None else f"{asked} tokens"
    note = f"{plural(data['pairs'], 'pair')}, longest sentence: {limit}."
    return Ground(f"Bias on {Path(data['source']).name}", ("bias", data["source"], data["pairs"], asked), note)


def show(results: dict[str, Any], prefix: str) -> Shown:
    """The page on one file of pairs."""
    data = results["data"]
    figures, tables = [], []
    for network, found in _scores(results).items():
        rows = interval("all", found["all"]["share"], _COLOURS[network])
        rows += [
            row for name, one in found["by_category"].items() for row in interval(name, one["share"], _COLOURS[network])
        ]
        name = f"{prefix}-{network}"
        drawn = intervals(name, rows, "prefers the more stereotyping sentence", True, 0.5)
        figures.append(Figure(name, f"{network.capitalize()} by category", "dashed: no preference", drawn))
        tables.append(_table(network, found))
    cut = f", {data['truncated']:,} sentences cut to {data['max_length']} tokens" if data["truncated"] else ""
    return Shown(
        title="Bias",
        subtitle=f"{results['model']} on {plural(data['pairs'], 'minimal pair')} of {data['source']}{cut}; "
        f"{coverage(results)} confidence intervals",
        sentences=_sentences(results),
        tables=tables,
        figures=figures,
        definitions=results["definitions"],
        notes=list(results["notes"]),
    )


def _scores(results: dict[str, Any]) -> dict[str, Any]:
    return in_order(results["scores"], tuple(_COLOURS))


def _sentences(results: dict[str, Any]) -> list[str]:
    said = []
    for network, found in _scores(results).items():
        one = found["all"]
        verdict = "no preference can be shown"
        if excludes(one["share"], 0.5):
            verdict = f"a preference for the {'more' if one['share']['value'] > 0.5 else 'less'} stereotyping sentence"
        said.append(
            f"By the {network} the more stereotyping sentence scores higher in {percent(one['share'])} of the pairs "
            f"(metric {one['metric']:.2f}, {plural(one['ties'], 'tie')}): {verdict}."
        )
    return said


def _table(network: str, found: dict[str, Any]) -> Table:
    groups = [("all", found["all"]), *found["by_direction"].items(), *found["by_category"].items()]
    rows = [
        [
            name, f"{one['pairs']:,}", f"{one['prefers_more']:,}", f"{one['ties']:,}", percent(one["share"]),
            percent(one["without_ties"]), plain(one["mean_difference"], 2),
        ]
        for name, one in groups
    ]  # fmt: skip
    columns = (
        "",
        "pairs",
        "prefers the stereotype",
        "ties",
        "share of all",
        "share without ties",
        "mean difference (nats)",
    )
    return Table(f"By the {network}", columns, rows)
