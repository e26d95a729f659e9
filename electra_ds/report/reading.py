"""What a run left behind, read with patience: a missing or torn part is noted, not fatal."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from electra_ds.data.format import Manifest, read_manifest
from electra_ds.errors import DataError
from electra_ds.report.config import ReportConfig
from electra_ds.report.results import (
    Named,
    found_below,
    is_evaluation,
    is_finetuning,
    read_evaluations,
    read_finetunings,
    without_duplicates,
)


@dataclass
class Inputs:
    """Everything a report is made of."""

    folder: Path
    """The run folder."""
    train: list[dict[str, Any]] = field(default_factory=list)
    """Lines of metrics.jsonl of kind ``train``."""
    validation: list[dict[str, Any]] = field(default_factory=list)
    """Those of kind ``validation``."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """Those of kind ``event``."""
    recipe_text: str | None = None
    """recipe.yaml as it stands."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """The same, parsed."""
    samples: dict[str, Any] | None = None
    """samples.json."""
    finetunings: list[Named] = field(default_factory=list)
    """Fine-tuning results that were named, and those in the run's folder."""
    evaluations: list[Named] = field(default_factory=list)
    """Evaluations, likewise."""
    manifest: Manifest | None = None
    """Of the shard set."""
    left_out: list[str] = field(default_factory=list)
    """One sentence per part that is not in the report."""


def read_inputs(config: ReportConfig) -> Inputs:
    """Read a run folder and what was named beside it.

    Raises:
        DataError: the folder is no run, or something named explicitly cannot be read.
    """
    folder = Path(config.run)
    if not folder.is_dir():
        raise DataError(f"run: no folder {config.run}; name one that 'electra-ds pretrain' wrote")
    known = ("metrics.jsonl", "recipe.yaml", "samples.json")
    if not any((folder / name).is_file() for name in known):
        raise DataError(f"run: {config.run} is not a run folder, it has none of {', '.join(known)}")
    inputs = Inputs(folder)
    _read_metrics(inputs)
    _read_recipe(inputs)
    _read_samples(inputs)
    run = folder.resolve()
    inputs.finetunings += [*read_finetunings(config.finetune), *found_below(run, is_finetuning)]
    inputs.evaluations += [*read_evaluations(config.evaluation), *found_below(run, is_evaluation)]
    _read_shards(inputs, config.shards)
    return inputs


def read_all(config: ReportConfig) -> list[Inputs]:
    """Read every run; what was named beside them belongs to the first, and no result is in two of them.

    Raises:
        DataError: a folder is no run, or something named explicitly cannot be read.
    """
    alone = [replace(config, run=run, others=[], finetune=[], evaluation=[]) for run in config.others]
    runs = [read_inputs(config), *(read_inputs(one) for one in alone)]
    for run in runs:
        if not run.finetunings and not config.finetune:
            run.left_out.append("Fine-tuning: no folder was named with --finetune.")
    finetunings = without_duplicates([run.finetunings for run in runs])
    evaluations = without_duplicates([run.evaluations for run in runs])
    for run, *own in zip(runs, finetunings, evaluations, strict=True):
        run.finetunings, run.evaluations = own
    return runs


def number(value: Any) -> float | None:
    """Return a finite number as float, anything else (null, NaN, text) as None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _read_metrics(inputs: Inputs) -> None:
    path = inputs.folder / "metrics.jsonl"
    if not path.is_file():
        inputs.left_out.append("Curves and headline numbers: the run has no metrics.jsonl.")
        return
    torn = 0
    for text in path.read_text("utf-8", errors="replace").split("\n"):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            torn += 1
            continue
        if not isinstance(line, dict) or number(line.get("step")) is None:
            torn += 1
            continue
        kinds = {"validation": inputs.validation, "event": inputs.events, "train": inputs.train}
        kinds.get(line.get("kind", "train"), []).append(line)
    if torn:
        inputs.left_out.append(f"{torn} line{'s' if torn > 1 else ''} of metrics.jsonl that could not be read.")
    if not inputs.train:
        inputs.left_out.append("Training curves: metrics.jsonl has no training lines.")
    if not inputs.validation:
        inputs.left_out.append("Held-out curves: metrics.jsonl has no validation lines.")


def _read_recipe(inputs: Inputs) -> None:
    import yaml

    path = inputs.folder / "recipe.yaml"
    if not path.is_file():
        inputs.left_out.append("The recipe: the run has no recipe.yaml.")
        return
    inputs.recipe_text = path.read_text("utf-8", errors="replace")
    try:
        recipe = yaml.safe_load(inputs.recipe_text)
    except yaml.YAMLError:
        inputs.left_out.append("Facts from the recipe: recipe.yaml is not valid YAML.")
        return
    inputs.recipe = recipe if isinstance(recipe, dict) else {}


def _read_samples(inputs: Inputs) -> None:
    path = inputs.folder / "samples.json"
    if not path.is_file():
        section = inputs.recipe.get("objective")
        name = section.get("name") if isinstance(section, dict) else None
        why = "the run has no samples.json (it validates now and then)"
        if name in ("mlm", "replace_mlm", "all_tokens_mlm"):
            why = f"the objective {name} gives no verdicts on tokens"
        inputs.left_out.append(f"Examples of corrupted text: {why}.")
        return
    try:
        samples = json.loads(path.read_text("utf-8"))
        if not isinstance(samples, dict) or not isinstance(samples.get("examples"), list):
            raise ValueError("no list of examples")
    except ValueError as error:
        inputs.left_out.append(f"Examples of corrupted text: samples.json cannot be read ({error}).")
        return
    inputs.samples = samples


def _read_shards(inputs: Inputs, folder: str | None) -> None:
    if folder is not None:
        inputs.manifest = read_manifest(folder)
        return
    named = (inputs.recipe.get("data") or {}).get("path") if isinstance(inputs.recipe.get("data"), dict) else None
    try:
        if not isinstance(named, str):
            raise DataError("the recipe names no data.path")
        inputs.manifest = read_manifest(named)
    except DataError:
        inputs.left_out.append("The data set: the recipe's shards are not at hand; name them with --shards.")
