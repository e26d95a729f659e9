"""Fine-tuning scores: the plot, the table, and a sentence that follows from the numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from electra_ds.report.evaluation.shown import Table
from electra_ds.report.figures import Dots, strip
from electra_ds.report.reading import number
from electra_ds.report.results import Named

NAMES = {
    "pretrained": "pretrained",
    "from_scratch": "same network, from scratch",
    "bag_of_words": "bag of words",
    "majority": "majority label",
    "mean": "training mean",
    "entity_list": "list of entities",
}
COLOURS = {"pretrained": "c1", "from_scratch": "c2", "bag_of_words": "c3", "entity_list": "c3", "majority": "muted"}
METRIC_NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "f1_macro": "macro F1",
    "matthews": "Matthews correlation",
    "spearman": "Spearman correlation",
    "pearson": "Pearson correlation",
    "precision": "precision",
    "recall": "recall",
    "exact_match": "exact match",
    "best_f1": "F1 at the best threshold",
    "best_exact_match": "exact match at the best threshold",
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seeds: int
    """0 for methods without seeds."""
    cells: list[str]


@dataclass(frozen=True)
class Finetuning:
    """The section's content."""

    title: str
    split: str
    rows_scored: int | None
    units: str
    metric: str
    sentences: list[str]
    svg: str
    columns: list[str]
    table: list[Row]
    settings: str


def build(results: dict[str, Any], title: str = "Fine-tuning", name: str = "fine-tuning-scores") -> Finetuning:
    """Read results.json into what the page shows: the test split where there is one, else validation.

    Args:
        results: of one task.
        title: of the section.
        name: of the drawing, unique in the page.
    """
    metric = str(results.get("metric", "accuracy"))
    split = "test" if all("test" in run["scores"] for run in results["runs"]) else "validation"
    scores = _scores(results, split, metric)
    baselines = {
        name: float(value)
        for name, entry in (results.get("baselines") or {}).items()
        if (value := number((entry.get(split) or {}).get(metric))) is not None
    }
    drawn = [Dots(NAMES.get(n, n), found, COLOURS.get(n, "c4"), median=True) for n, found in scores.items()]
    drawn += [Dots(NAMES.get(n, n), [found], COLOURS.get(n, "c4"), median=False) for n, found in baselines.items()]
    called = METRIC_NAMES.get(metric, metric)
    data = (results.get("data") or {}).get(split) or {}
    units = str(results.get("units", "texts"))
    return Finetuning(
        title=title,
        split=split,
        rows_scored=data.get("rows"),
        units=units,
        metric=called,
        sentences=_sentences(scores, baselines, called, split, units),
        svg=strip(name, drawn, f"{called}, {split}"),
        columns=["median", "smallest", "largest", "standard deviation"],
        table=_table(results, scores, baselines),
        settings=_settings(results),
    )


def side_by_side(named: Sequence[Named]) -> Table | None:
    """Medians of several results in one table, a row for each kind of model in each; None for a single one."""
    if len(named) < 2:
        return None
    rows = []
    for one in named:
        metric = str(one.results.get("metric", "accuracy"))
        split = "test" if all("test" in run["scores"] for run in one.results["runs"]) else "validation"
        for kind, found in _scores(one.results, split, metric).items():
            spread = f"{_percent(min(found))} to {_percent(max(found))}" if len(found) > 1 else "–"
            cells = [
                METRIC_NAMES.get(metric, metric),
                split,
                str(len(found)),
                _percent(statistics.median(found)),
                spread,
            ]
            rows.append([f"{one.label}: {NAMES.get(kind, kind)}", *cells])
    return Table("Fine-tuning, side by side", ("", "score", "split", "seeds", "median", "range"), rows)


def _scores(results: dict[str, Any], split: str, metric: str) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for run in results["runs"]:
        value = number(run["scores"].get(split, {}).get(metric))
        if value is not None:
            scores.setdefault(str(run["initialization"]), []).append(value)
    return scores


def _sentences(
    scores: dict[str, list[float]], baselines: dict[str, float], metric: str, split: str, units: str
) -> list[str]:
    """What the numbers show, and no more."""
    said = []
    ours, floor = scores.get("pretrained"), scores.get("from_scratch")
    if ours and floor:
        said.append(compare(ours, floor, metric, split, units))
    elif ours:
        said.append(
            f"Median {metric} {_percent(statistics.median(ours))} over {_seeds(ours)}. Without runs from scratch these "
            "scores do not show what pretraining contributes."
        )
    bag = baselines.get("bag_of_words")
    if ours and bag is not None:
        gap = 100 * (statistics.median(ours) - bag)
        place = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}" if abs(gap) >= 0.05 else "level with"
        said.append(f"The pretrained median lies {place} the bag of words ({_percent(bag)}).")
    return said


def compare(ours: list[float], floor: list[float], metric: str, split: str, units: str = "texts") -> str:
    """Say whether the difference of medians is larger than the spread over seeds.

    The spread is the larger of the two ranges (largest minus smallest score).
    """
    gap = 100 * (statistics.median(ours) - statistics.median(floor))
    change = f"{abs(gap):.1f} points {'above' if gap >= 0 else 'below'}"
    text = (
        f"Median {metric} on the {split} {units}: {_percent(statistics.median(ours))} pretrained, {change} the same "
        f"network from scratch ({_percent(statistics.median(floor))}); {_seeds(ours)} and {_seeds(floor)}. "
    )
    if len(ours) < 2 or len(floor) < 2:
        return text + "With a single seed the spread is unknown, so this difference may be chance."
    spread = 100 * max(max(ours) - min(ours), max(floor) - min(floor))
    if abs(gap) <= spread:
        return (
            text + f"The scores of one kind spread over up to {spread:.1f} points: the seeds alone could explain this."
        )
    text += f"That is more than the spread over seeds (at most {spread:.1f} points)"
    high, low = (ours, floor) if gap > 0 else (floor, ours)
    if min(high) > max(low):
        better, worse = ("pretrained", "from-scratch") if gap > 0 else ("from-scratch", "pretrained")
        return text + f", and the lowest {better} score is above the highest {worse} one."
    return text + ", though the two ranges touch."


def _table(results: dict[str, Any], scores: dict[str, list[float]], baselines: dict[str, float]) -> list[Row]:
    rows = []
    for name, found in scores.items():
        deviation = f"{100 * statistics.stdev(found):.1f} points" if len(found) > 1 else "–"
        cells = [_percent(statistics.median(found)), _percent(min(found)), _percent(max(found)), deviation]
        rows.append(Row(NAMES.get(name, name), len(found), cells))
    for name, value in baselines.items():
        description = (results["baselines"][name] or {}).get("description", "")
        label = NAMES.get(name, name) + (f" ({description})" if description else "")
        rows.append(Row(label, 0, [_percent(value), "–", "–", "–"]))
    return rows


def _settings(results: dict[str, Any]) -> str:
    """One line on how it was done."""
    settings, data = results.get("settings") or {}, results.get("data") or {}
    parts = []
    if rows := (data.get("train") or {}).get("rows"):
        labels = len(results.get("labels") or [])
        parts.append(f"{rows:,} training {results.get('units', 'texts')}" + (f", {labels} labels" if labels else ""))
    for key, text in (
        ("learning_rate", "learning rate {:g}"), ("layer_decay", "layer decay {:g}"), ("epochs", "{:g} epochs"),
        ("batch_size", "batches of {:g}"), ("dropout", "dropout {:g}"), ("max_length", "at most {:g} tokens"),
    ):  # fmt: skip
        if (value := number(settings.get(key))) is not None:
            parts.append(text.format(value))
    if head := results.get("head"):
        parts.append(f"head of {head}")
    return "; ".join(parts)


def _seeds(scores: list[float]) -> str:
    return f"{len(scores)} seed{'' if len(scores) == 1 else 's'}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
