"""Checkpoints on disk: their layout, which is the newest whole one, and reading them without running any code.

    checkpoints/step-00000100/   DeepSpeed's files and checkpoint.json (state of the run, SHA-256 of each file)
    checkpoints/latest           the name of the newest one, replaced last

Training writes them, export reads them; this module is what both share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from electra_ds.backend import import_deepspeed
from electra_ds.errors import DataError, UserError
from electra_ds.files import sha256_of

CHECKPOINTS = "checkpoints"
METRICS_NAME = "metrics.jsonl"
STATE_NAME = "checkpoint.json"
LATEST_NAME = "latest"
FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class RunState:
    """Where a run stands; nothing in it depends on a rank.

    The five numbers of the data order are seed, epoch (which follows from the rows), rows_consumed, phase_rows (the
    cursor inside the phase) and fingerprint.
    """

    step: int
    """Optimizer updates made."""
    rows_consumed: int
    """Rows consumed by the optimizer, over all phases."""
    phase_rows: int
    """Rows consumed in the current phase."""
    tokens_consumed: int
    """Real tokens consumed by the optimizer."""
    seed: int
    fingerprint: str
    """Of the shard set's manifest."""
    tokenizer_fingerprint: str
    special_ids: dict[str, int]
    model: dict[str, Any]
    """The model's config, vocabulary size filled in."""
    objective: dict[str, Any]
    world_size: int
    zero_stage: int
    precision: str
    elapsed_seconds: float
    """Training time over all lives of the run."""
    versions: dict[str, str]
    rows_skipped: int = 0
    """Of the rows consumed, those of blocks that could not be read (data.on_corrupt=skip)."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Corpus: its share of the rows; empty if all blocks are one pool."""
    optimizer: str = "torch"
    """Backend that made the updates: what its state looks like."""


def checkpoint_name(step: int) -> str:
    """Name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Published checkpoints, oldest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Step that a checkpoint's name tells."""
    match = _NAME.fullmatch(path.name)
    if not match:
        raise UserError(f"{path}: not a checkpoint; expected a folder named like step-00000100")
    return int(match.group(1))


def read_state(path: Path) -> tuple[RunState, dict[str, dict[str, Any]]]:
    """Read ``checkpoint.json``: the state, and bytes and SHA-256 of each file.

    Raises:
        DataError: missing, not JSON, or of another version.
    """
    try:
        value = json.loads((path / STATE_NAME).read_text("utf-8"))
        if value["version"] != FORMAT_VERSION:
            raise DataError(f"{path}: checkpoint version {value['version']}, this release reads {FORMAT_VERSION}")
        return RunState(**value["state"]), value["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"checkpoint {path}: {STATE_NAME} is missing or damaged ({error!r})") from error


def check_whole(path: Path) -> RunState:
    """Compare every file with its recorded size and SHA-256.

    Raises:
        DataError: the first file that is missing, cut short or altered.
    """
    state, files = read_state(path)
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise DataError(f"checkpoint {path}: {name} is missing")
        if file.stat().st_size != expected["bytes"]:
            raise DataError(f"checkpoint {path}: {name} has {file.stat().st_size} bytes, expected {expected['bytes']}")
        if sha256_of(file) != expected["sha256"]:
            raise DataError(f"checkpoint {path}: {name} was altered (its sha256 differs)")
    return state


def newest_whole(folder: Path, say: Callable[[str], None]) -> tuple[Path, RunState] | None:
    """Find the newest checkpoint whose every file is as it was written; say which were skipped and why."""
    skipped = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, check_whole(path)
        except DataError as error:
            skipped.append(str(error))
            say(f"skipped: {error}")
    if skipped:
        raise DataError(
            f"{folder}: none of its {len(skipped)} checkpoints is whole ({skipped[0]}); restore one from a copy, or "
            "begin again in another --output"
        )
    return None


def load_weights_only(path: Path, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """Load a file of a checkpoint; only tensors, plain values and DeepSpeed's own four small classes are allowed.

    Args:
        path: the file.
        map_location: where its tensors go, as `torch.load` takes it.
        mmap: map the file instead of reading it: a tensor's bytes are read when they are used.

    Raises:
        DataError: anything else is in it, or it is damaged.
    """
    import torch

    import_deepspeed()
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    allowed = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(str(path), map_location=map_location, weights_only=True, mmap=mmap)
    except Exception as error:
        raise DataError(
            f"{path}: refused or damaged ({_why(path, error)}); it was not written by electra_ds pretrain"
        ) from error


def load_tensors(path: Path) -> dict[str, Any]:
    """Load a state dict that torch pickled, such as ``pytorch_model.bin``: tensors by name, and nothing else.

    Raises:
        DataError: anything else is in it, which is named and never run; or it is damaged.
    """
    import zipfile

    import torch

    try:
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise DataError(
            f"{path}: refused or damaged ({_why(path, error)}); expected tensors only, or a file of safetensors"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: refused, it holds a {type(content).__name__}; expected a state dict")
    odd = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise DataError(f"{path}: refused, it holds {', '.join(odd[:5])} beside tensors; expected a state dict")
    return dict(content)


def _why(path: Path, error: Exception) -> str:
    """Why torch would not load a file: what its pickle would import or run, which is named without importing it."""
    import torch

    # DeepSpeed's classes that are allowed are among what torch lists; those that are not are named by its own error.
    found = set(re.findall(r"GLOBAL ([\w.]+)", str(error)))
    try:
        listed = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        found |= {name for name in listed if not name.startswith("deepspeed.")}
    except Exception:  # torch's old format, or no pickle at all
        pass
    if found:
        return f"it would run or build {', '.join(sorted(found))}"
    return (str(error).strip().splitlines() or [repr(error)])[0]
