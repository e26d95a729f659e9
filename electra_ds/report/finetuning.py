"""Fine-tuning scores: the plot, the table, and a sentence that follows from the numbers."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from electra_ds.report.figures import Dots, strip
from electra_ds.report.reading import number

NAMES = {
    "pretrained": "pretrained",
    "from_scratch": "same network, from scratch",
    "bag_of_words": "bag of words",
    "majority": "majority label",
}
COLOURS = {"pretrained": "c1", "from_scratch": "c2", "bag_of_words": "c3", "majority": "muted"}
METRIC_NAMES = {"accuracy": "accuracy", "f1": "F1", "f1_macro": "macro F1", "matthews": "Matthews correlation"}


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

    split: str
    rows_scored: int | None
    metric: str
    sentences: list[str]
    svg: str
    columns: list[str]
    table: list[Row]
    settings: str


def build(results: dict[str, Any]) -> Finetuning:
    """Read results.json into what the page shows: the test split where there is one, else validation."""
    metric = str(results.get("metric", "accuracy"))
    split = "test" if all("test" in run["scores"] for run in results["runs"]) else "validation"
    scores = _scores(results, split, metric)
    baselines = {
        name: float(value)
        for name, entry in (results.get("baselines") or {}).items()
        if (value := number((entry.get(split) or {}).get(metric))) is not None
    }
    rows = [Dots(NAMES.get(n, n), found, COLOURS.get(n, "c4"), median=True) for n, found in scores.items()]
    rows += [Dots(NAMES.get(n, n), [found], COLOURS.get(n, "c4"), median=False) for n, found in baselines.items()]
    name = METRIC_NAMES.get(metric, metric)
    data = (results.get("data") or {}).get(split) or {}
    return Finetuning(
        split=split,
        rows_scored=data.get("rows"),
        metric=name,
        sentences=_sentences(scores, baselines, name, split),
        svg=strip("fine-tuning-scores", rows, f"{name}, {split}"),
        columns=["median", "smallest", "largest", "standard deviation"],
        table=_table(results, scores, baselines),
        settings=_settings(results),
    )


def _scores(results: dict[str, Any], split: str, metric: str) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for run in results["runs"]:
        value = number(run["scores"].get(split, {}).get(metric))
        if value is not None:
            scores.setdefault(str(run["initialization"]), []).append(value)
    return scores


def _sentences(scores: dict[str, list[float]], baselines: dict[str, float], metric: str, split: str) -> list[str]:
    """What the numbers show, and no more."""
    said = []
    ours, floor = scores.get("pretrained"), scores.get("from_scratch")
    if ours and floor:
        said.append(compare(ours, floor, metric, split))
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


def compare(ours: list[float], floor: list[float], metric: str, split: str) -> str:
    """Say whether the difference of medians is larger than the spread over seeds.

    The spread is the larger of the two ranges (largest minus smallest score).
    """
    gap = 100 * (statistics.median(ours) - statistics.median(floor))
    change = f"{abs(gap):.1f} points {'above' if gap >= 0 else 'below'}"
    text = (
        f"Median {metric} on the {split} texts: {_percent(statistics.median(ours))} pretrained, {change} the same "
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
        parts.append(f"{rows:,} training texts, {len(results.get('labels') or [])} labels")
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
