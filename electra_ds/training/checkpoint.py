"""Checkpoints of a run that goes on.

Copied aside, written in the background, published by a rename once all ranks are done; loaded into any number of ranks
at any ZeRO stage.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from electra_ds.checkpoint import (
    FORMAT_VERSION,
    LATEST_NAME,
    STATE_NAME,
    RunState,
    checkpoint_name,
    list_checkpoints,
    step_of,
)
from electra_ds.errors import MachineError, UserError
from electra_ds.files import TEMPORARY_SUFFIX, atomic_write, fsync_folder, full_disk_message, is_full_disk, write_json
from electra_ds.lives import node_name
from electra_ds.training.config import CheckpointConfig
from electra_ds.training.ema import MovingAverage
from electra_ds.training.peers import Peers
from electra_ds.training.reshard import load_resharded
from electra_ds.training.writer import BackgroundWriter

WRITING, WRITTEN, NOT_WRITTEN = "writing", "written", "not written"
_PATIENCE = 2.0
"""Seconds between two looks at how far the ranks' files are."""


@dataclass(frozen=True)
class Saved:
    """A published checkpoint, and what it cost."""

    name: str
    step: int
    stall_seconds: float
    """That training stood still for it."""
    seconds: float
    """From its beginning until it was published."""
    bytes: int
    """Over all ranks."""


@dataclass
class _Underway:
    state: RunState
    partial: Path
    begun: float
    stall: float


class Saver:
    """Saves through the engine, never two checkpoints at once.

    `begin` and `finish` are for all ranks together; whether all have written is agreed on by the loop, which asks each
    for its `progress` once a step.
    """

    def __init__(
        self,
        engine: Any,
        folder: Path,
        config: CheckpointConfig,
        peers: Peers,
        life: str,
        check_lock: Callable[[], None],
        beat: Callable[[str], None],
    ) -> None:
        """Take over the engine's way of saving.

        Args:
            engine: DeepSpeed engine.
            folder: ``RUN/checkpoints``.
            config: when and what to keep.
            peers: the ranks.
            life: name of this life: two lives never write into one folder.
            check_lock: raises if the run folder is no longer this life's; called on rank 0.
            beat: told of progress while all wait.
        """
        self._engine, self._folder, self._config, self._peers = engine, folder, config, peers
        self._life, self._check_lock, self._beat = life, check_lock, beat
        self._writer = BackgroundWriter(copies=config.in_background)
        engine.checkpoint_engine = self._writer
        self.average: MovingAverage | None = None
        """Saved with every checkpoint."""
        self._underway: _Underway | None = None
        self._pruning: threading.Thread | None = None

    @property
    def progress(self) -> str | None:
        """Of this rank's files: None without a checkpoint underway, else `WRITING`, `WRITTEN` or `NOT_WRITTEN`."""
        if self._underway is None:
            return None
        if self._writer.busy:
            return WRITING
        return WRITTEN if self._writer.error is None else NOT_WRITTEN

    def begin(self, state: RunState) -> list[Saved]:
        """Copy a checkpoint and begin to write it; one still underway is finished first.

        Returns:
            What was published meanwhile: the one before, and this one too unless it is written in the background.

        Raises:
            UserError: one could not be written.
        """
        published = self.finish()
        begun = time.perf_counter()
        name = checkpoint_name(state.step)
        partial = self._folder / f"{name}.{self._life}{TEMPORARY_SUFFIX}"
        self._engine.save_checkpoint(str(self._folder), tag=partial.name, client_state={}, save_latest=False)
        if self.average is not None and (stored := self.average.stored) is not None:
            self._writer.save(stored, str(partial / self.average.file_name))
        self._writer.start()
        self._underway = _Underway(state, partial, begun, time.perf_counter() - begun)
        return published if self._config.in_background else published + self.finish()

    def finish(self) -> list[Saved]:
        """Wait for all ranks' files, then publish; empty if nothing is underway.

        Raises:
            UserError: some rank found no room, or the folder is no longer ours.
            MachineError: some rank could not write for another reason, which may pass. In each case the unfinished
                folder is removed, and earlier checkpoints are untouched.
        """
        if self._underway is None:
            return []
        waited = time.perf_counter()
        underway, self._underway = self._underway, None
        self._wait_for_writers()
        writer, first = self._writer, self._peers.place.is_first
        if writer.error is None and writer.files.keys() != writer.expected:
            missing = ", ".join(sorted(writer.expected - writer.files.keys()))
            writer.error, writer.may_pass = f"node {node_name()} did not write {missing}", True
        reports = self._peers.gather((writer.files, writer.error, writer.may_pass))
        errors = [(error, may_pass) for _, error, may_pass in reports if error]
        files = {name: entry for written, _, _ in reports for name, entry in written.items()}
        final = self._folder / checkpoint_name(underway.state.step)
        if not errors and first:
            errors = self._publish(underway, final, files)
        outcome = self._peers.gather(errors[0] if errors else None)
        failed = next((one for one in outcome if one), None)
        if failed:
            if first:
                shutil.rmtree(underway.partial, ignore_errors=True)
            raise (MachineError if failed[1] else UserError)(f"checkpoint not saved: {failed[0]}")
        if first:
            self._prune(final)
        now = time.perf_counter()
        stall = underway.stall + (now - waited)
        size = sum(int(entry["bytes"]) for entry in files.values())
        return [Saved(final.name, underway.state.step, stall, now - underway.begun, size)]

    def close(self) -> None:
        """Wait until what is no longer kept is removed."""
        if self._pruning is not None:
            self._pruning.join()

    def _wait_for_writers(self) -> None:
        """Wait for the files of all ranks; every rank's watchdog hears of it as long as bytes arrive anywhere."""
        before = -1.0
        while True:
            self._writer.join(_PATIENCE)
            busy, written = self._peers.sum(
                torch.tensor([self._writer.busy, self._writer.bytes_written]).double()
            ).tolist()
            if not busy:
                return
            if written != before:
                before = written
                self._beat("waiting for a checkpoint to be written")

    def _publish(self, underway: _Underway, final: Path, files: dict[str, dict[str, Any]]) -> list[tuple[str, bool]]:
        """Make a checkpoint that is written whole the newest one; returns what went wrong, and whether it may pass."""
        partial, state = underway.partial, underway.state
        try:
            self._check_lock()
            write_json(partial / STATE_NAME, {"version": FORMAT_VERSION, "state": asdict(state), "files": files})
            fsync_folder(partial)
            if final.exists():  # a damaged one that was skipped: what stood there is removed with the other leftovers
                os.rename(final, partial.with_name(f"{final.name}.{self._life}.replaced{TEMPORARY_SUFFIX}"))
            os.rename(partial, final)
            fsync_folder(final.parent)
            with atomic_write(final.parent / LATEST_NAME, "w") as file:
                file.write(final.name + "\n")
        except (OSError, UserError) as error:
            if isinstance(error, UserError):
                return [(str(error), isinstance(error, MachineError))]
            if is_full_disk(error):
                return [(full_disk_message(partial, error), False)]
            return [(f"node {node_name()} cannot publish {partial}: {error!r}", True)]
        return []

    def _prune(self, newest: Path) -> None:
        """Remove, in the background, what is neither among the last k nor a multiple of keep_every.

        Unfinished folders of other lives go too: the run folder's lock says that those are dead.
        """
        self.close()
        published = list_checkpoints(self._folder)
        every = self._config.keep_every
        old = [
            path
            for path in published[: -self._config.keep_last]
            if path != newest and (every is None or step_of(path) % every)
        ]
        old += [path for path in self._folder.glob(f"*{TEMPORARY_SUFFIX}") if path.is_dir()]
        self._pruning = threading.Thread(target=_remove, args=(old,), name="checkpoint removal", daemon=True)
        self._pruning.start()


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        # The state goes first: a folder that is half removed is no checkpoint.
        (folder / STATE_NAME).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def load_checkpoint(engine: Any, path: Path, state: RunState, fresh: RunState) -> None:
    """Put weights, optimizer and loss scale back, also those of other ranks, another ZeRO stage or optimizer.

    Args:
        engine: DeepSpeed engine that has made no step.
        path: the checkpoint's folder, known to be whole.
        state: its run state.
        fresh: how this life would begin: its world size, stage and optimizer.

    Raises:
        UserError: the optimizer's state cannot be filled where it lies.
        DataError: the checkpoint does not hold what the engine's parameters need.
    """
    as_saved = (state.world_size, state.zero_stage) == (fresh.world_size, fresh.zero_stage)
    if state.optimizer == fresh.optimizer and (as_saved or state.zero_stage == fresh.zero_stage == 0):
        engine.load_checkpoint(str(path.parent), tag=path.name, load_lr_scheduler_states=False)
    else:
        load_resharded(engine, path, state, fresh.zero_stage)
