"""Held-out quality of a model's networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from electra_ds.report.evaluation.shown import (
    Figure,
    Ground,
    Headline,
    Shown,
    Table,
    coverage,
    interval,
    percent,
    plain,
    plural,
)
from electra_ds.report.figures import Interval, intervals, reliability

_DETECTION = (
    ("AUC", "auc", False), ("average precision", "average_precision", False), ("precision", "precision", True),
    ("recall", "recall", True), ("F1", "f1", True), ("accuracy", "accuracy", True),
    ("tokens replaced", "replaced_rate", True), ("expected calibration error", "calibration_error", True),
    ("Brier score", "brier", False), ("log loss (nats)", "log_loss", False),
)  # fmt: skip
_FILLING = (
    ("perplexity", "perplexity", False), ("bits a token", "bits_per_token", False),
    ("perplexity at [MASK] alone", "masked_perplexity", False), ("accuracy", "accuracy", True),
    ("sample is the original", "sample_accuracy", True),
)  # fmt: skip

_SELECTION = ("mask_fraction", "masking", "disallow_correct")
"""Fields of the objective that, with its name and `_fates`, say which tokens are replaced and scored."""
_OWN_GENERATOR = (
    "Each full-size network is scored on what the generator beside it replaced: a better generator makes its task "
    "harder."
)
_NO_GENERATOR = (
    "The replaced tokens are the same for all, and no generator's: that is not the task of training, and not to be "
    "compared with scores on what a generator replaced."
)
_MASKS_ALONE = "The masked text is the same for all."
_FILLERS = ("generator", "encoder")
"""Networks that say which token stands at a selected position."""


def headlines(results: dict[str, Any]) -> list[Headline]:
    """AUC, average precision, calibration error where there is one; perplexity and accuracy."""
    made = []
    if found := results.get("discriminator"):
        made += [
            Headline("AUC, replaced tokens", found["auc"], percent=False, digits=4),
            Headline("average precision", found["average_precision"], percent=False, digits=4),
        ]
        if "calibration_error" in found:
            made.append(Headline("calibration error", found["calibration_error"], digits=2))
    for name in _FILLERS:
        if found := results.get(name):
            made += [
                Headline(f"{name} perplexity", found["perplexity"], percent=False, digits=2),
                Headline(f"{name} accuracy", found["accuracy"]),
            ]
    return made


def ground(results: dict[str, Any]) -> Ground:
    """Rows of a split, and how they were corrupted."""
    data, corruption, objective = results["data"], results["corruption"], results["corruption"]["objective"]
    title = f"Held-out text, split '{data['split']}' of the shards {data['fingerprint'][:12]}"
    sampled = corruption["replacements"] == "generator"
    shaping = (*_SELECTION, "temperature") if sampled else _SELECTION
    key = (
        "heldout",
        *(data[name] for name in ("fingerprint", "split", "sequence_length", "rows")),
        results["settings"]["pairs"],
        corruption["replacements"],
        corruption["noise_seed"],
        objective.get("name", "electra"),
        *_fates(corruption),
        *(objective[name] for name in shaping),
    )
    said = {"generator": _OWN_GENERATOR, "none": _MASKS_ALONE}.get(corruption["replacements"], _NO_GENERATOR)
    return Ground(title, key, f"{_corrupted(results)} {said}")


def _corrupted(results: dict[str, Any]) -> str:
    """What is the same for all that stand on this ground."""
    data, corruption, objective = results["data"], results["corruption"], results["corruption"]["objective"]
    masked, random = _fates(corruption)
    made = f"{100 * masked:g} % of these masked"
    made += f", {100 * random:g} % made a random token" if random else ""
    by = f"draws from {corruption['replacements']}"
    if corruption["replacements"] == "generator":
        by = f"samples at temperature {objective['temperature']:g}"
    never = ", never by the original token" if objective["disallow_correct"] else ""
    replaced = "" if corruption["replacements"] == "none" else f"; replaced by {by}{never}"
    pairs = "pairs of segments" if results["settings"]["pairs"] else "single segments"
    return (
        f"Objective {objective.get('name', 'electra')}; {plural(data['rows'], 'row')} of {data['sequence_length']} "
        f"tokens, {pairs}; {100 * objective['mask_fraction']:g} % of the tokens selected (masking: "
        f"{objective['masking']}), {made}{replaced}; seed {corruption['noise_seed']}."
    )


def _fates(corruption: dict[str, Any]) -> tuple[float, float]:
    """Shares of the selected tokens that became [MASK] and a random token; older results had no random ones."""
    masked, random = corruption.get("fates", (corruption["objective"]["mask_token_probability"], 0.0))
    return masked, random


def show(results: dict[str, Any], prefix: str) -> Shown:
    """The page on all networks that were scored."""
    data = results["data"]
    tables, figures = [], []
    if found := results.get("discriminator"):
        tables += [_whole("Discriminator", found, _DETECTION), *_classes("Discriminator", found, "tokens", _BY_TOKEN)]
        figures += _detection_figures(found, prefix)
    for name in _FILLERS:
        if found := results.get(name):
            title = name.capitalize()
            tables += [_whole(title, found, _FILLING), *_classes(title, found, "selected", _BY_SELECTED)]
            figures += _filling_figures(title, found, prefix if name == "generator" else f"{prefix}-{name}")
    replacements = results["corruption"]["replacements"]
    by = "the generator" if replacements == "generator" else replacements
    corrupted = "masked, nothing replaced" if replacements == "none" else f"replaced by {by}"
    return Shown(
        title="Held-out text",
        subtitle=f"{results['model']} on split '{data['split']}' of {data['shards']}: {plural(data['rows'], 'row')} of "
        f"{data['rows_of_split']:,}, {data['sequence_length']} tokens each, {data['tokens']:,} of them real; "
        f"{corrupted}; {coverage(results)} confidence intervals",
        sentences=_sentences(results),
        tables=tables,
        figures=figures,
        definitions={**results["definitions"], "frequencies counted in": data["frequencies_counted_in"]},
        notes=list(results["notes"]),
    )


def _sentences(results: dict[str, Any]) -> list[str]:
    said = []
    if (found := results.get("discriminator")) and found["auc"]["value"] is not None:
        text = f"The discriminator tells replaced from original tokens with an AUC of {plain(found['auc'])}"
        if found.get("frequency_auc") is not None:
            text += f"; knowing only how rare a token is gives {found['frequency_auc']:.3f}"
        said.append(text + ".")
    if found and "precision" in found:
        said.append(
            f"At a logit above 0 it flags {percent(found['recall'])} of the replaced tokens, and "
            f"{percent(found['precision'])} of what it flags was replaced; "
            f"{100 * found['replaced_rate']['value']:.1f} % of all {found['tokens']:,} tokens that are judged are."
        )
    for name in _FILLERS:
        if found := results.get(name):
            said.append(
                f"The {name}'s perplexity at selected positions is {plain(found['perplexity'], 2)}, or "
                f"{found['bits_per_token']['value']:.2f} bits a token; it is right at {percent(found['accuracy'])} of "
                "them."
            )
    return said


def _whole(title: str, found: dict[str, Any], rows: Sequence[tuple[str, str, bool]]) -> Table:
    cells = [
        [name, percent(found[key], 2) if shares else plain(found[key], _digits(key, 4))]
        for name, key, shares in rows
        if key in found
    ]
    return Table(title, ("", "estimate"), cells)


_BY_TOKEN = (("replaced", "replaced_rate", True), ("AUC", "auc", False), ("precision", "precision", True),
             ("recall", "recall", True), ("calibration error", "calibration_error", True))  # fmt: skip
_BY_SELECTED = (("perplexity", "perplexity", False), ("accuracy", "accuracy", True))


def _digits(key: str, others: int) -> int:
    return 2 if "perplexity" in key else others


def _classes(title: str, found: dict[str, Any], count: str, columns: Sequence[tuple[str, str, bool]]) -> list[Table]:
    tables = []
    columns = [column for column in columns if column[1] in found]
    for key, name in (("by_frequency", "token frequency"), ("by_position", "position in the segment")):
        rows = [
            [
                one["class"],
                f"{one[count]:,}",
                *(percent(one[k]) if shares else plain(one[k], _digits(k, 3)) for _, k, shares in columns),
            ]
            for one in found[key]
        ]
        first = "occurrences per million" if key == "by_frequency" else "position"
        tables.append(Table(f"{title} by {name}", (first, count, *(head for head, _, _ in columns)), rows))
    return tables


def _detection_figures(found: dict[str, Any], prefix: str) -> list[Figure]:
    bins = [
        (one["predicted"], Interval("", one["observed"]["value"], one["observed"]["low"], one["observed"]["high"]))
        for one in found.get("reliability", ())
        if one["tokens"]
    ]
    name = f"{prefix}-reliability"
    figures = []
    if bins:
        figures.append(Figure(name, "Calibration", "each dot is a bin of P(replaced)", reliability(name, bins)))
    for key, title, short in _CUTS:
        rows = [row for one in found[key] for row in interval(one["class"], one["auc"])]
        if rows:
            name = f"{prefix}-auc-{short}"
            reference = found["auc"]["value"]
            figures.append(
                Figure(
                    name,
                    f"AUC by {title}",
                    f"dashed: over all tokens{_UNITS[key]}",
                    intervals(name, rows, "AUC", reference=reference),
                )
            )
    return figures


def _filling_figures(title: str, found: dict[str, Any], prefix: str) -> list[Figure]:
    figures = []
    for key, cut, short in _CUTS:
        name = f"{prefix}-bits-{short}"
        rows = [row for one in found[key] for row in interval(one["class"], one["bits_per_token"], "c2")]
        drawn = intervals(name, rows, "bits a token", reference=found["bits_per_token"]["value"])
        if rows:
            figures.append(
                Figure(name, f"{title} by {cut}", f"dashed: over all selected positions{_UNITS[key]}", drawn)
            )
    return figures


_CUTS = (("by_frequency", "token frequency", "frequency"), ("by_position", "position in the segment", "position"))
_UNITS = {"by_frequency": "; occurrences per million tokens", "by_position": ""}
