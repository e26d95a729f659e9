"""What `convert` is pointed at: a run, a checkpoint, several of them, or a universal checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from electra_ds.checkpoint import (
    CHECKPOINTS,
    STATE_NAME,
    RunState,
    check_whole,
    checkpoint_name,
    list_checkpoints,
    load_weights_only,
    newest_whole,
    read_state,
    step_of,
)
from electra_ds.errors import DataError, UserError
from electra_ds.export.networks import Network, trained_by
from electra_ds.export.weights import (
    AverageWeights,
    StoredWeights,
    UniversalWeights,
    Weights,
    model_file_of_universal,
)


@dataclass(frozen=True)
class Source:
    """Weights to export, and what is known of them."""

    weights: Weights
    state: RunState
    """Of the checkpoint, of the newest if several are averaged."""
    path: Path
    """Of that checkpoint."""
    run: Path
    """The run folder."""
    averaged: tuple[str, ...] = ()
    """Names of the checkpoints whose mean this is; empty for one alone."""
    ema_decay: float | None = None
    """Decay of the moving average that these weights are; None for the weights themselves."""

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks that are exported."""
        return trained_by(self.state.objective).networks


def open_source(
    path: Path, step: int | None, average: str | None, kind: Literal["raw", "ema"], run: Path | None
) -> Source:
    """Find checkpoints and open them.

    Args:
        path: a run folder, a checkpoint, or a universal checkpoint.
        step: of the checkpoint to take; None for the newest whole one.
        average: ``5``, the last so many; or ``100,200``, these steps.
        kind: the weights, or their moving average.
        run: the run folder, where it is not the one that the checkpoint lies in.

    Raises:
        UserError: nothing of the kind there. DataError: damaged.
    """
    stored: Literal["master", "ema"] = "ema" if kind == "ema" else "master"
    if (model_file := model_file_of_universal(path)) is not None:
        return _open_universal(path, model_file, average, kind, run)
    if average is not None:
        paths = _choose_several(path, step, average)
        states = [check_whole(one) for one in paths]
        _require_one_run(paths, states)
        members = [StoredWeights(one, state, stored) for one, state in zip(paths, states, strict=True)]
        names = tuple(one.name for one in paths)
        weights: Weights = AverageWeights(members, names)
        decay = members[-1].ema_decay if kind == "ema" else None
        return Source(weights, states[-1], paths[-1], run or path, names, decay)
    chosen, state, folder = _choose(path, step)
    one = StoredWeights(chosen, state, stored)
    return Source(one, state, chosen, run or folder, (), one.ema_decay if kind == "ema" else None)


def _choose(source: Path, step: int | None) -> tuple[Path, RunState, Path]:
    """The checkpoint asked for, its state, and the run folder it belongs to."""
    if (source / STATE_NAME).is_file():
        if step is not None:
            raise UserError(f"--step {step}: {source} is a checkpoint itself; name its run folder")
        return source, check_whole(source), source.absolute().parent.parent
    if step is not None:
        path = _at(source, step, "--step")
        return path, check_whole(path), source
    found = newest_whole(source / CHECKPOINTS, print)
    if found is None:
        raise UserError(
            f"{source}: no checkpoints in it; expected a run folder of 'electra-ds pretrain' that has saved one"
        )
    return found[0], found[1], source


def _at(source: Path, step: int, option: str) -> Path:
    path = source / CHECKPOINTS / checkpoint_name(step)
    if not path.is_dir():
        steps = ", ".join(p.name for p in list_checkpoints(source / CHECKPOINTS)) or "none"
        raise UserError(f"{option} {step}: {path} does not exist; {source} has {steps}")
    return path


def _choose_several(source: Path, step: int | None, average: str) -> list[Path]:
    """The checkpoints to average, oldest first."""
    try:
        numbers = [int(part) for part in average.split(",")]
        if min(numbers) < 1 or len(set(numbers)) != len(numbers) or numbers == [1]:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--average {average}: expected how many of the last checkpoints (2 or more), or their steps such as "
            "1000,2000,3000"
        ) from None
    if (source / STATE_NAME).is_file():
        raise UserError(f"--average {average}: {source} is one checkpoint; name its run folder")
    if len(numbers) > 1:
        if step is not None:
            raise UserError(f"--average {average} names its steps; leave --step {step} out")
        return [_at(source, number, "--average") for number in sorted(numbers)]
    paths = [path for path in list_checkpoints(source / CHECKPOINTS) if step is None or step_of(path) <= step]
    if len(paths) < numbers[0]:
        raise UserError(
            f"--average {average}: {source} has {len(paths)} checkpoints"
            + (f" up to step {step}" if step is not None else "")
            + "; checkpoint.keep_last and keep_every of the recipe say how many stay"
        )
    return paths[-numbers[0] :]


def _require_one_run(paths: list[Path], states: list[RunState]) -> None:
    for path, state in zip(paths, states, strict=True):
        for what in ("model", "tokenizer_fingerprint", "special_ids"):
            if getattr(state, what) != getattr(states[0], what):
                raise UserError(f"--average: {path.name} is of another {what.split('_')[0]} than {paths[0].name}")


def _open_universal(path: Path, model_file: Path, average: str | None, kind: str, run: Path | None) -> Source:
    if average is not None or kind == "ema":
        raise UserError(
            f"{path}: a universal checkpoint holds one set of weights and no moving average; leave out --average and "
            "--weights, or name the run folder"
        )
    step = int(load_weights_only(model_file, mmap=True)["global_steps"])
    beside = path.absolute().parent
    places = [path, *((folder / checkpoint_name(step)) for folder in _folders_of_checkpoints(beside, run))]
    described = next((place for place in places if (place / STATE_NAME).is_file()), None)
    if described is None:
        raise DataError(
            f"{path}: a universal checkpoint of step {step}, without {STATE_NAME}, which DeepSpeed does not copy; put "
            "that of the checkpoint it was made from into it, or name its run folder with --run"
        )
    state, _ = read_state(described)
    if state.step != step:
        raise DataError(f"{described / STATE_NAME}: of step {state.step}, but {path} is of step {step}")
    folder = run or (described.parent.parent if described != path else beside.parent)
    return Source(UniversalWeights(path), state, path, folder)


def _folders_of_checkpoints(beside: Path, run: Path | None) -> list[Path]:
    return [beside] if run is None else [run / CHECKPOINTS, beside]
