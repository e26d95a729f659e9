"""Checkpoints within a seed: the Trainer's own, and beside them what it does not know of.

A checkpoint is whole once `PROGRESS` is in it, which is written last. Two are kept while a third is made, so that a
kill at any moment leaves a whole one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from electra_ds.errors import UserError
from electra_ds.files import atomic_write
from electra_ds.finetune import processes

PROGRESS = "progress.pt"


@dataclass
class Progress:
    """Where a seed stands beyond weights, optimizer, schedule and random states, which the Trainer saves."""

    update: int = 0
    """Updates made."""
    loss: float = 0.0
    """Sum of the training loss over these updates, mean over the processes."""
    seconds: float = 0.0
    """Time they took, over all lives of the run."""
    watch: dict[str, Any] = field(default_factory=dict)
    """What early stopping has seen; see `training._Watch.state`."""
    fingerprint: dict[str, str] = field(default_factory=dict)
    """Of settings, texts and weights; see `output.fingerprint`."""


def newest(folder: Path, known: dict[str, str]) -> tuple[Path | None, Progress]:
    """Find the newest whole checkpoint of a seed, the same on every process.

    Newer ones that are not whole are deleted: the Trainer counts them when it makes room for the next, and would
    delete that one in their stead, by its number.

    Args:
        folder: of the seed's checkpoints; need not exist.
        known: this run's fingerprint, on the first process.

    Returns:
        Its folder and what stands in it; None and a progress of nothing where there is none.

    Raises:
        UserError: it is of other settings, texts or weights.
    """
    found = ""
    with processes.first_only() as first:
        if first:
            found = _newest(folder, known)
    found = processes.share(found)
    return (Path(found), _read(Path(found))) if found else (None, Progress())


def _newest(folder: Path, known: dict[str, str]) -> str:
    found = ""
    broken = []
    for place in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            there = _read(place).fingerprint
        except Exception:  # cut short, or missing: torch's errors are of many kinds
            broken.append(place)
            continue
        if there != known:
            differing = [name for name in known if there.get(name) != known[name]]
            raise UserError(
                f"output: {place} is a checkpoint of an interrupted run with other {' and '.join(differing)}; give "
                "those of that run to go on, choose another --output, or delete it to start over"
            )
        found = str(place)
        break
    for place in broken:
        shutil.rmtree(place)
    return found


def _read(place: Path) -> Progress:
    return Progress(**torch.load(place / PROGRESS, map_location="cpu", weights_only=True))


class Saving(TrainerCallback):
    """Asks the Trainer for a checkpoint every so many updates, and completes it.

    None is made after the last update or where the training stops early: the seed is finished a moment later.
    """

    def __init__(self, every: int, progress: Callable[[int], Progress]):
        """Take the distance in updates, and what tells the progress; it is called on every process."""
        self.every, self.progress = every, progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask; comes after the callbacks that may stop the training."""
        if state.global_step % self.every == 0 and not control.should_training_stop:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write `PROGRESS`; every process has written its part when the sum over all of them in it is there."""
        progress = self.progress(int(state.global_step))
        if processes.is_first():
            place = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            with atomic_write(place / PROGRESS) as file:
                torch.save(dict(vars(progress)), file)
