"""What several seeds say together, and how it is written and shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

CORRELATIONS = ("matthews", "pearson", "spearman")
"""Scores that every table shows as the numbers they are; the others are shares, shown in percent."""


def summarize(scores: Sequence[float]) -> dict[str, float | None]:
    """Median, smallest, largest, sample standard deviation (None for one score) and best of `scores`."""
    return {
        "median": statistics.median(scores),
        "minimum": min(scores),
        "maximum": max(scores),
        "best": max(scores),
        "standard_deviation": statistics.stdev(scores) if len(scores) > 1 else None,
    }


def summarize_runs(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
    """Summaries over seeds: ``{initialization: {split: {metric: summary}}}``."""
    summary: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {}
    for initialization in dict.fromkeys(run["initialization"] for run in runs):
        chosen = [run["scores"] for run in runs if run["initialization"] == initialization]
        summary[initialization] = {
            split: {metric: summarize([scores[split][metric] for scores in chosen]) for metric in chosen[0][split]}
            for split in chosen[0]
        }
    return summary


def describe(results: dict[str, Any]) -> str:
    """The table printed at the end: one line per initialization and baseline, for each scored split."""
    metric = results["metric"]
    lines = []
    scored = next(iter(results["summary"].values()))
    for split in [name for name in results["data"] if name in scored]:
        rows, seeds = results["data"][split]["rows"], results["settings"]["seeds"]
        lines.append(f"{metric} on {split} ({rows:,} {results['units']}), {seeds} seed{'' if seeds == 1 else 's'}:")
        for initialization, summary in results["summary"].items():
            lines.append(f"  {initialization:<14} {_spread(summary[split][metric])}")
        for name, baseline in results["baselines"].items():
            if metric in baseline.get(split, {}):
                lines.append(f"  {name:<14} {baseline[split][metric]:.4f}  ({baseline['description']})")
    return "\n".join(lines)


def undefined_note(undefined: dict[str, list[str]]) -> str:
    """Say which scores were undefined, for the line of a run."""
    if not undefined:
        return ""
    parts = [f"{', '.join(names)} on {split}" for split, names in undefined.items()]
    return f"; undefined, counted as 0: {'; '.join(parts)}"


def _spread(summary: dict[str, float | None]) -> str:
    deviation = summary["standard_deviation"]
    text = f"{summary['median']:.4f}  min {summary['minimum']:.4f}  max {summary['maximum']:.4f}"
    return text if deviation is None else f"{text}  sd {deviation:.4f}"
