"""Where a task's texts come from: what was named, the files of a folder, or the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from electra_ds.errors import DataError, UserError
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.presets import HELD_OUT, PRESETS, Preset
from electra_ds.finetune.tables import HUB

GENERIC = ("train.tsv", "train.txt", "train.conll")
"""Names of training files that say nothing of the task."""


@dataclass(frozen=True)
class Sources:
    """One source per split."""

    train: str
    """Training texts."""
    validation: str | None
    """Validation texts; None: a share of the training texts is set aside."""
    held_out: float | None
    """That share."""
    further: dict[str, str]
    """``test`` and the texts to evaluate on, by name."""


def find_sources(config: FinetuneConfig) -> Sources:
    """Say where each split of a task lies.

    Raises:
        UserError: no training texts, or a folder without the task's files.
    """
    preset = PRESETS.get(config.task)
    found: dict[str, str] = {}
    if preset is not None and config.data is not None:
        found = files_of(config.task, Path(config.data))
        if not found:
            raise DataError(f"data: {config.data} has no file of {config.task}; looked for {wanted_files(preset)}")
    elif preset is not None and config.train is None:
        if preset.hub is None:
            raise UserError(
                f"task: {config.task} has no data set of its own to train on; name SQuAD-format files with --train "
                "and, by language, --evaluate de=FILE,es=FILE (or their folder with --data)"
            )
        found = {split: f"{HUB}{preset.hub}:{name}" for split, name in preset.hub_splits.items()}
    named = {"train": config.train, "validation": config.validation, "test": config.test}
    found |= {split: source for split, source in named.items() if source is not None}
    found |= config.evaluation_sources
    if "train" not in found:
        assert preset is not None
        raise DataError(
            f"train: {config.data} has no training texts of {config.task} "
            f"({' or '.join(preset.files['train'])}); name them with --train"
        )
    validation = found.pop("validation", None)
    if validation is not None and config.held_out is not None:
        raise UserError(
            f"held_out: sets training texts aside for validation, but {validation} is there for that; leave it out, or "
            "name the training texts with --train instead of --data"
        )
    share = None if validation is not None else (config.held_out or HELD_OUT)
    train = found.pop("train")
    return Sources(train, validation, share, found)


def files_of(task: str, folder: Path) -> dict[str, str]:
    """Find a named task's files in a folder, by their published names.

    Returns:
        Split name to path; for XQuAD the files of each language by its code.
    """
    if not folder.is_dir():
        raise DataError(f"data: no folder {folder}; name one with the task's files")
    preset = PRESETS[task]
    place = _folder_of(task, preset, folder)
    found = {}
    for split, names in preset.files.items():
        path = next((place / name for name in names if (place / name).is_file()), None)
        if path is not None:
            found[split] = str(path)
    if preset.languages:
        for path in sorted(place.iterdir()):
            if (match := re.fullmatch(preset.languages, path.name)) and path.is_file():
                found[match.group(1)] = str(path)
    return found


def suite_folder(task: str, folder: Path) -> Path | None:
    """Find the folder of a task inside the folder of a suite; None: it has no training texts there.

    That is the folder named after the task, or the suite's own where a file there is called as only this task's is.
    """
    found = files_of(task, folder).get("train")
    if found is None:
        return None
    path = Path(found)
    return path.parent if path.parent != folder or path.name not in GENERIC else None


def _folder_of(task: str, preset: Preset, folder: Path) -> Path:
    """Return the subfolder named after the task, or the folder itself.

    A folder of folders is told from a task's own by its names: ``train.tsv`` alone names no task.
    """
    names = {task, preset.title.lower(), preset.title.lower().replace(" ", "-"), preset.title.lower().replace("-", "")}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name.lower() in names:
            return path
    return folder


def wanted_files(preset: Preset) -> str:
    """List the published names, for messages."""
    names = [name for split in preset.files.values() for name in split]
    if preset.languages:
        names.append("xquad.LANGUAGE.json")
    return ", ".join(names)
