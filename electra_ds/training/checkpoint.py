"""Saving and loading through the engine: written aside, checksummed while written, published by a rename."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from electra_ds.checkpoint import (
    FORMAT_VERSION,
    LATEST_NAME,
    STATE_NAME,
    RunState,
    checkpoint_name,
    list_checkpoints,
    load_weights_only,
    step_of,
)
from electra_ds.errors import UserError
from electra_ds.files import TEMPORARY_SUFFIX, atomic_write, fsync_folder, full_disk_message, write_json
from electra_ds.training.config import CheckpointConfig
from electra_ds.training.reshard import load_resharded


class SafeCheckpointEngine:
    """What DeepSpeed writes and reads through.

    Writing goes through a Python file object, so a full disk is an `OSError` with a number and the SHA-256 is taken on
    the way; errors are kept until all ranks can agree on them, since raising inside the engine would leave the others
    waiting. Reading is torch's weights-only loading with a short allow-list.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        self.error: str | None = None

    def create(self, info: Any) -> None:
        """Begin a checkpoint."""
        self.files, self.error = {}, None

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Create a folder."""
        os.makedirs(path, exist_ok=exist_ok)

    def save(self, state_dict: Any, path: str) -> None:
        """Write one file and remember its checksum."""
        try:
            with open(path, "wb") as file:
                hashing = _HashingFile(file)
                torch.save(state_dict, hashing)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            self.files[Path(path).name] = {"bytes": hashing.bytes, "sha256": hashing.digest.hexdigest()}
        except (OSError, RuntimeError) as error:
            self.error = full_disk_message(path, error)

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file without running anything in it."""
        return load_weights_only(Path(path), map_location)

    def commit(self, info: Any) -> bool:
        """All files of this rank are written."""
        return True

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        """Whether this rank writes the module's weights."""
        return dp_rank == 0

    def is_decoupled(self) -> bool:
        """Whether files are written by another process."""
        return False

    def set_commit_info(self, info: Any) -> None:
        """Nothing to keep."""

    def get_commit_info(self) -> None:
        """Nothing kept."""

    def cleanup(self) -> None:
        """Nothing to release."""

    def preserves_storage_sharing(self) -> bool:
        """torch.save keeps tensors that share memory shared."""
        return True


class _HashingFile:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def save_checkpoint(
    engine: Any, folder: Path, state: RunState, config: CheckpointConfig, exchange: Callable[[Any], list[Any]]
) -> Path:
    """Write, agree, publish.

    Args:
        engine: DeepSpeed engine; its checkpoint engine is a `SafeCheckpointEngine`.
        folder: ``RUN/checkpoints``.
        state: where the run stands.
        config: what to keep.
        exchange: gathers one object of every rank on every rank.

    Raises:
        UserError: some rank could not write; the unfinished folder is removed, earlier checkpoints are untouched.
    """
    final = folder / checkpoint_name(state.step)
    partial = folder / (final.name + TEMPORARY_SUFFIX)
    writer: SafeCheckpointEngine = engine.checkpoint_engine
    first = torch.distributed.get_rank() == 0
    if first:
        shutil.rmtree(partial, ignore_errors=True)
    exchange(None)
    engine.save_checkpoint(str(folder), tag=partial.name, client_state={}, save_latest=False)
    reports = exchange((writer.files, writer.error))
    errors = [error for _, error in reports if error]
    if not errors and first:
        errors = _publish(partial, final, state, {name: entry for files, _ in reports for name, entry in files.items()})
    errors = errors or [error for error in exchange(errors[0] if errors else None) if error]
    if errors:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"checkpoint not saved: {errors[0]}")
    if first:
        _prune(folder, config, keep=final)
    return final


def _publish(partial: Path, final: Path, state: RunState, files: dict[str, dict[str, Any]]) -> list[str]:
    try:
        write_json(partial / STATE_NAME, {"version": FORMAT_VERSION, "state": asdict(state), "files": files})
        fsync_folder(partial)
        if final.exists():
            shutil.rmtree(final)
        os.rename(partial, final)
        fsync_folder(final.parent)
        with atomic_write(final.parent / LATEST_NAME, "w") as file:
            file.write(final.name + "\n")
    except (OSError, UserError) as error:
        return [str(error) if isinstance(error, UserError) else full_disk_message(partial, error)]
    return []


def _prune(folder: Path, config: CheckpointConfig, keep: Path) -> None:
    """Remove what is neither among the last k nor a multiple of keep_every; unfinished folders too."""
    published = list_checkpoints(folder)
    for path in published[: -config.keep_last]:
        permanent = config.keep_every is not None and step_of(path) % config.keep_every == 0
        if path != keep and not permanent:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(engine: Any, path: Path, state: RunState, world_size: int, stage: int) -> None:
    """Put weights, optimizer and loss scale back, also those of another number of ranks or another ZeRO stage."""
    if (state.world_size, state.zero_stage) == (world_size, stage) or state.zero_stage == stage == 0:
        engine.load_checkpoint(str(path.parent), tag=path.name, load_lr_scheduler_states=False)
    else:
        load_resharded(engine, path, state, stage)
