"""Results of fine-tuning and evaluation: named on the command line, or found in a run's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from electra_ds.errors import DataError
from electra_ds.report.evaluation import FORMAT as EVALUATION
from electra_ds.report.evaluation import KINDS

RESULTS = "results.json"
DEPTH = 4
"""Folders below a run in which results are looked for; those of a suite lie three below it: FOLDER/MODEL/TASK."""
_PASSED_BY = ("checkpoints", "logs", "audit", "tensorboard", "tokenizer")
"""Folders of a run that may hold very many files, and no results; hidden ones are passed by as well."""


@dataclass(frozen=True)
class Named:
    """What one results.json holds."""

    label: str
    """How the page calls it: its folder, with as much of the path as tells it from others."""
    results: dict[str, Any]
    folder: Path
    """Absolute, as it was named or found."""


def is_finetuning(value: Any) -> bool:
    """Whether this is what ``electra-ds finetune`` writes of one task."""
    return isinstance(value, dict) and bool(value.get("runs")) and "summary" in value


def is_evaluation(value: Any) -> bool:
    """Whether this is what ``electra-ds evaluate`` writes."""
    return isinstance(value, dict) and value.get("format") == EVALUATION and value.get("kind") in KINDS


def found_below(folder: Path, wanted: Callable[[Any], bool]) -> Iterator[Named]:
    """Every results.json of a kind up to `DEPTH` folders below one that can be read, the nearest first."""
    top = Path(os.path.abspath(folder))
    level = [top]
    for _ in range(DEPTH):
        level = [inner for outer in level for inner in _folders_in(outer)]
        for path in level:
            try:
                value = json.loads((path / RESULTS).read_text("utf-8"))
            except (OSError, ValueError):
                continue
            if wanted(value):
                yield Named(str(path.relative_to(top.parent)), value, path)


def _folders_in(folder: Path) -> list[Path]:
    """Folders in a folder that may hold results, by name; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries
                     if entry.name not in _PASSED_BY and not entry.name.startswith(".") and entry.is_dir()]  # fmt: skip
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def read_finetunings(folders: Sequence[str]) -> list[Named]:
    """Read folders that were named, each with the results of a task, or with folders of several tasks in it.

    Raises:
        DataError: no results there.
    """
    return _read_named("finetune", "finetune", folders, is_finetuning)


def read_evaluations(folders: Sequence[str]) -> list[Named]:
    """Read folders that were named, each of one evaluation, or with folders of several in it.

    Raises:
        DataError: no results there.
    """
    return _read_named("evaluation", "evaluate", folders, is_evaluation)


def _read_named(option: str, command: str, folders: Sequence[str], wanted: Callable[[Any], bool]) -> list[Named]:
    named = []
    for folder in folders:
        path = Path(folder) / RESULTS
        try:
            value = json.loads(path.read_text("utf-8")) if path.is_file() else None
        except (OSError, ValueError) as error:
            raise DataError(f"{option}: {path} cannot be read ({error}); run {command} again") from error
        if value is not None and wanted(value):
            whole = Path(os.path.abspath(folder))
            named.append(Named(whole.name, value, whole))
            continue
        inner = list(found_below(Path(folder), wanted))
        if not inner:
            problem = f"{path} is not what 'electra-ds {command}' writes" if path.is_file() else f"no {path}"
            raise DataError(f"{option}: {problem}; name a folder that 'electra-ds {command}' has finished")
        named += inner
    return named


def without_duplicates(groups: Sequence[Sequence[Named]]) -> list[list[Named]]:
    """Each folder once over all groups, where it comes first, under labels that tell all of them apart."""
    first: dict[Path, Named] = {}
    for one in (one for group in groups for one in group):
        first.setdefault(one.folder.resolve(), one)
    kept = list(first.values())
    labels = tell_apart([one.folder for one in kept], [len(Path(one.label).parts) for one in kept])
    renamed = {id(one): replace(one, label=label) for one, label in zip(kept, labels, strict=True)}
    return [[renamed[id(one)] for one in group if id(one) in renamed] for group in groups]


def tell_apart(folders: Sequence[Path], least: Sequence[int]) -> list[str]:
    """As many last parts of each path as no other path ends with, and at least as many as asked for."""
    labels = []
    for folder, depth in zip(folders, least, strict=True):
        others = [other.parts for other in folders if other != folder]
        while depth < len(folder.parts) and any(other[-depth:] == folder.parts[-depth:] for other in others):
            depth += 1
        labels.append(str(Path(*folder.parts[-depth:])))
    return labels
