"""Classification without fine-tuning."""

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
    points,
    texts_key,
    texts_read,
)
from electra_ds.report.figures import Interval, intervals

_VARIANTS = {"plain": "", "corrected": ", corrected"}
_METRICS = {"accuracy": "accuracy", "f1_macro": "macro F1", "matthews": "Matthews correlation", "f1": "F1"}
_COLOURS = {"discriminator": "c1", "generator": "c2", "both": "c3"}


def headlines(results: dict[str, Any]) -> list[Headline]:
    """Accuracy of each method, and of the majority label."""
    made = [
        Headline(f"{name}{suffix}", entry[variant]["accuracy"])
        for name, entry in _methods(results).items()
        for variant, suffix in _VARIANTS.items()
    ]
    return [*made, Headline("majority label", results["majority"]["accuracy"])]


def ground(results: dict[str, Any]) -> Ground:
    """A file, with the prompt, its label words, and what is made of their log-probabilities."""
    settings = results["settings"]
    asked = ("prompt", "labels", "scope", "combine", "empty_prompt", "max_length")
    key = ("zero-shot", *texts_key(results), *(settings[name] for name in asked))
    judged = "the label word" if settings["scope"] == "label" else "the whole prompt"
    combined = "added up" if settings["combine"] == "sum" else "averaged"
    empty = repr(settings["empty_prompt"]) if settings["empty_prompt"] else "an empty text"
    limit = "what each model takes" if settings["max_length"] is None else f"{settings['max_length']} tokens"
    note = (
        f"{plural(results['data']['rows'], 'text')}, longest input: {limit}. Prompt {settings['prompt']!r}, "
        f"{settings['labels']}; the discriminator judges {judged}, log-probabilities of several tokens are {combined}; "
        f"corrected by {empty}."
    )
    return Ground(f"Zero-shot on {Path(results['data']['source']).name}", key, note)


def show(results: dict[str, Any], prefix: str) -> Shown:
    """The page on one file."""
    data = results["data"]
    words = ", ".join(f"{one['label']} = {one['word']} ({' '.join(one['tokens'])})" for one in results["labels"])
    name = f"{prefix}-accuracy"
    drawn = intervals(name, _rows(results), "accuracy", True, results["majority"]["accuracy"]["value"], width=9.6)
    return Shown(
        title="Zero-shot",
        subtitle=f"{results['model']} on {data['source']} ({texts_read(data)}), "
        f"prompt {results['settings']['prompt']!r}, label words {words}; {coverage(results)} confidence intervals",
        sentences=_sentences(results),
        tables=[_table(results)],
        figures=[Figure(name, "Accuracy", "dashed: always the most frequent label; grey: random weights", drawn)],
        definitions=results["definitions"],
        notes=list(results["notes"]),
    )


def _methods(results: dict[str, Any]) -> dict[str, Any]:
    return in_order(results["methods"], tuple(_COLOURS))


def _sentences(results: dict[str, Any]) -> list[str]:
    majority = results["majority"]
    said = [f"Always '{majority['label']}', the most frequent label, gives {percent(majority['accuracy'])} accuracy."]
    for name, variants in _methods(results).items():
        for variant, suffix in _VARIANTS.items():
            gap = variants[variant]["above_majority"]["accuracy"]
            told = excludes(gap, 0.0)
            verdict = ("above it" if gap["value"] > 0 else "below it") if told else "not to be told from it"
            accuracy = percent(variants[variant]["accuracy"])
            line = f"{name.capitalize()}{suffix}: {accuracy}, {verdict} ({points(gap)} points)."
            counts = variants[variant]["predicted"]
            if max(counts) == results["data"]["rows"]:
                line += f" It says '{results['labels'][counts.index(max(counts))]['label']}' of every text."
            said.append(line)
    return said


def _rows(results: dict[str, Any]) -> list[Interval]:
    rows = []
    for name, variants in _methods(results).items():
        for variant, suffix in _VARIANTS.items():
            rows += interval(f"{name}{suffix}", variants[variant]["accuracy"], _COLOURS.get(name, "c4"))
            for one in results["random"]:
                value = one["methods"][name][variant]["accuracy"]
                rows += interval(f"random weights, seed {one['seed']}", {"value": value}, "muted")
    return rows


def _table(results: dict[str, Any]) -> Table:
    metrics = [name for name in _METRICS if name in results["majority"]]
    rows = []
    for name, variants in _methods(results).items():
        for variant, suffix in _VARIANTS.items():
            found = variants[variant]
            cells = [percent(found[m]) if m != "matthews" else plain(found[m]) for m in metrics]
            rows.append([f"{name}{suffix}", *cells, points(found["above_majority"]["accuracy"])])
            values = [one["methods"][name][variant] for one in results["random"]]
            if values:
                spread = [_range([value[m] for value in values], m == "matthews") for m in metrics]
                rows.append([f"random weights, {len(values)} seeds", *spread, "–"])
    majority = results["majority"]
    cells = [percent(majority[m]) if m != "matthews" else plain(majority[m]) for m in metrics]
    rows.append([f"always '{majority['label']}'", *cells, "–"])
    columns = ("", *(_METRICS[name] for name in metrics), "accuracy above majority (points)")
    return Table("Scores", columns, rows, "Of random weights: the smallest and the largest score.")


def _range(values: list[float], plain_numbers: bool) -> str:
    if plain_numbers:
        return f"{min(values):.3f} to {max(values):.3f}"
    return f"{100 * min(values):.1f} to {100 * max(values):.1f} %"
