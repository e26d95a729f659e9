"""Fine-tuning scores: the plots, the tables, and sentences that follow from the numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from electra_ds.finetune.results import CORRELATIONS
from electra_ds.report.evaluation.shown import NOTHING, Table
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
COLUMNS = ("median", "smallest", "largest", "standard deviation")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seeds: int
    """0 for methods without seeds."""
    cells: list[str]


@dataclass(frozen=True)
class Scale:
    """How scores of one kind are written."""

    share: bool = True
    """In percent, and differences in points; else (a correlation) as the number that it is."""

    def value(self, score: float) -> str:
        """A score: ``61.0 %`` or ``0.610``."""
        return f"{100 * score:.1f} %" if self.share else f"{score:.3f}"

    def gap(self, difference: float) -> str:
        """The size of a difference: ``7.0 points`` or ``0.070``."""
        return f"{100 * abs(difference):.1f} points" if self.share else f"{abs(difference):.3f}"

    def is_seen(self, difference: float) -> bool:
        """Whether `gap` shows more than zeros."""
        return abs(difference) >= 0.0005


PERCENT = Scale()


@dataclass(frozen=True)
class Part:
    """The scores on one split."""

    split: str
    rows_scored: int | None
    sentences: list[str]
    svg: str
    table: list[Row]


@dataclass(frozen=True)
class Finetuning:
    """The section's content."""

    title: str
    units: str
    metric: str
    parts: list[Part]
    """The test split first where there is one, then validation, then further texts."""
    columns: tuple[str, ...]
    settings: str


def build(results: dict[str, Any], title: str = "Fine-tuning", name: str = "fine-tuning-scores") -> Finetuning:
    """Read results.json into what the page shows: every split that has scores.

    Args:
        results: of one task.
        title: of the section.
        name: of the first drawing, unique in the page; those of further splits have ``-on-`` and the split after it.
    """
    metric = str(results.get("metric", "accuracy"))
    return Finetuning(
        title=title,
        units=str(results.get("units", "texts")),
        metric=METRIC_NAMES.get(metric, metric),
        parts=[
            _part(results, split, metric, f"{name}-on-{split}" if place else name, caution=not place)
            for place, split in enumerate(splits_of(results, metric))
        ],
        columns=COLUMNS,
        settings=_settings(results),
    )


def splits_of(results: dict[str, Any], metric: str) -> list[str]:
    """Splits with scores: test, validation, and the others in the order of the file."""
    scored = [split for run in results["runs"] for split, found in run["scores"].items() if metric in found]
    return sorted(dict.fromkeys(scored), key=lambda split: {"test": 0, "validation": 1}.get(split, 2))


def _part(results: dict[str, Any], split: str, metric: str, name: str, caution: bool) -> Part:
    scores, scale = _scores(results, split, metric), Scale(metric not in CORRELATIONS)
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
    return Part(
        split=split,
        rows_scored=data.get("rows"),
        sentences=_sentences(scores, baselines, called, split, units, scale, caution),
        svg=strip(name, drawn, f"{called}, {split}", scale.share),
        table=_table(results, scores, baselines, scale),
    )


def side_by_side(named: Sequence[Named]) -> Table | None:
    """Medians of several results in one table, a row for each kind of model on each split; None for a single one."""
    if len(named) < 2:
        return None
    rows = []
    for one in named:
        metric = str(one.results.get("metric", "accuracy"))
        scale = Scale(metric not in CORRELATIONS)
        for split in splits_of(one.results, metric):
            for kind, found in _scores(one.results, split, metric).items():
                spread = f"{scale.value(min(found))} to {scale.value(max(found))}" if len(found) > 1 else NOTHING
                cells = [
                    METRIC_NAMES.get(metric, metric),
                    split,
                    str(len(found)),
                    scale.value(statistics.median(found)),
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
    scores: dict[str, list[float]],
    baselines: dict[str, float],
    metric: str,
    split: str,
    units: str,
    scale: Scale,
    caution: bool,
) -> list[str]:
    """What the numbers show, and no more; `caution`: also what they cannot, which is said once."""
    said = []
    ours, floor = scores.get("pretrained"), scores.get("from_scratch")
    if ours and floor:
        said.append(compare(ours, floor, metric, split, units, scale))
    elif ours:
        said.append(
            f"Median {metric} on the {split} {units}: {scale.value(statistics.median(ours))} over {_seeds(ours)}."
            + (" Without runs from scratch these scores do not show what pretraining contributes." if caution else "")
        )
    bag = baselines.get("bag_of_words")
    if ours and bag is not None:
        gap = statistics.median(ours) - bag
        place = f"{scale.gap(gap)} {'above' if gap > 0 else 'below'}" if scale.is_seen(gap) else "level with"
        said.append(f"The pretrained median lies {place} the bag of words ({scale.value(bag)}).")
    return said


def compare(
    ours: list[float],
    floor: list[float],
    metric: str,
    split: str,
    units: str = "texts",
    scale: Scale = PERCENT,
) -> str:
    """Say whether the difference of medians is larger than the spread over seeds.

    The spread is the larger of the two ranges (largest minus smallest score).
    """
    gap = statistics.median(ours) - statistics.median(floor)
    change = f"{scale.gap(gap)} {'above' if gap >= 0 else 'below'}"
    text = (
        f"Median {metric} on the {split} {units}: {scale.value(statistics.median(ours))} pretrained, {change} the same "
        f"network from scratch ({scale.value(statistics.median(floor))}); {_seeds(ours)} and {_seeds(floor)}. "
    )
    if len(ours) < 2 or len(floor) < 2:
        return text + "With a single seed the spread is unknown, so this difference may be chance."
    spread = max(max(ours) - min(ours), max(floor) - min(floor))
    if abs(gap) <= spread:
        return (
            text + f"The scores of one kind spread over up to {scale.gap(spread)}: the seeds alone could explain this."
        )
    text += f"That is more than the spread over seeds (at most {scale.gap(spread)})"
    high, low = (ours, floor) if gap > 0 else (floor, ours)
    if min(high) > max(low):
        better, worse = ("pretrained", "from-scratch") if gap > 0 else ("from-scratch", "pretrained")
        return text + f", and the lowest {better} score is above the highest {worse} one."
    return text + ", though the two ranges touch."


def _table(
    results: dict[str, Any], scores: dict[str, list[float]], baselines: dict[str, float], scale: Scale
) -> list[Row]:
    rows = []
    for name, found in scores.items():
        deviation = scale.gap(statistics.stdev(found)) if len(found) > 1 else NOTHING
        cells = [scale.value(statistics.median(found)), scale.value(min(found)), scale.value(max(found)), deviation]
        rows.append(Row(NAMES.get(name, name), len(found), cells))
    for name, value in baselines.items():
        description = (results["baselines"][name] or {}).get("description", "")
        label = NAMES.get(name, name) + (f" ({description})" if description else "")
        rows.append(Row(label, 0, [scale.value(value), *[NOTHING] * 3]))
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
