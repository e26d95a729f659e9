"""The folder a fine-tuning run writes: who may write there, and how it is finished."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from electra_ds.errors import UserError
from electra_ds.files import TEMPORARY_SUFFIX, explain_full_disk

SETTINGS = "finetune.yaml"
"""Written first; it marks a folder as ours."""
RESULTS = "results.json"
"""Written last; it marks a folder as finished."""
MODEL = "model"
FROM_SCRATCH = "from-scratch"


def prepare(output: str) -> Path:
    """Create the output folder, or take over an unfinished one of our own.

    Raises:
        UserError: it holds finished results, or something that is not ours.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output: {output} is a file, expected a folder that is new or empty")
    names = set(os.listdir(folder)) if folder.exists() else set()
    if RESULTS in names:
        raise UserError(f"output: {output} holds finished results; choose another --output, or delete it to run again")
    foreign = sorted(name for name in names if not _ours(name))
    if foreign or (names and SETTINGS not in names):
        found = ", ".join((foreign or sorted(names))[:3])
        raise UserError(f"output: {output} holds something else ({found}); choose a new or empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: {output} cannot be created ({error.strerror})") from error
    for name in names:  # an interrupted run's own files; its seeds are run again
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def _ours(name: str) -> bool:
    name = name.removesuffix(TEMPORARY_SUFFIX)
    return name in (SETTINGS, RESULTS, MODEL, FROM_SCRATCH) or (
        name.startswith("seed-") and name.removeprefix("seed-").isdecimal()
    )


def seed_folder(output: Path, seed: int, extra: bool) -> Path:
    """Folder of one run; those that only serve the comparison stand apart."""
    folder = (output / FROM_SCRATCH if extra else output) / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_model(output: Path, network: object, tokenizer: object) -> Path:
    """Save weights, config and tokenizer under a temporary name, then publish ``model/`` by renaming it."""
    final = output / MODEL
    temporary = output / (MODEL + TEMPORARY_SUFFIX)
    with explain_full_disk(final):
        network.save_pretrained(temporary)  # type: ignore[attr-defined]
        tokenizer.save_pretrained(temporary)  # type: ignore[attr-defined]
        temporary.rename(final)
    return final
