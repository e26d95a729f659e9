"""Metrics of the run: gathered on the device, exchanged now and then, written as JSON lines, TensorBoard and W&B."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_ds.checkpoint import METRICS_NAME
from electra_ds.errors import UserError
from electra_ds.files import atomic_write, explain_full_disk
from electra_ds.model import statistics
from electra_ds.model.config import ObjectiveConfig
from electra_ds.recipe import RECIPE_NAME, Recipe

DISCARDED_NAME = "metrics.discarded.jsonl"


class Writer:
    """Appends lines to metrics.jsonl, TensorBoard and W&B; only rank 0 has one.

    After a resume, lines of steps that will be run again are moved to metrics.discarded.jsonl, so that metrics.jsonl
    stays one clean curve and nothing is lost.
    """

    def __init__(self, folder: Path, recipe: Recipe, resumed_step: int) -> None:
        """Args: folder: of the run. recipe: named in W&B. resumed_step: updates made before this life."""
        self._path = folder / METRICS_NAME
        from torch.utils.tensorboard import SummaryWriter

        with explain_full_disk(self._path):
            self._drop_lines_after(resumed_step, folder / DISCARDED_NAME)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
            self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)
        self._wandb = _start_wandb(recipe, folder) if recipe.logging.wandb_project else None

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; not-a-number and infinity become null, as JSON has neither.

        Raises:
            UserError: the disk is full.
        """
        with explain_full_disk(self._path):
            self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
        }
        self._file.write(json.dumps(clean) + "\n")
        parts = {
            f"{key}/{name}": part
            for key, value in clean.items()
            if isinstance(value, dict)
            for name, part in value.items()
        }
        numbers = {
            f"{line['kind']}/{key}": value
            for key, value in {**clean, **parts}.items()
            if isinstance(value, (int, float)) and key != "step"
        }
        if line["kind"] != "event":
            for key, value in numbers.items():
                self._tensorboard.add_scalar(key, value, line["step"])
            if self._wandb is not None:
                self._wandb.log(numbers, step=line["step"])

    def flush(self) -> None:
        """Make the lines so far durable.

        Raises:
            UserError: the disk is full.
        """
        with explain_full_disk(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._tensorboard.flush()

    def close(self) -> None:
        """Flush and close everything."""
        self.flush()
        self._file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _drop_lines_after(self, step: int, discarded: Path) -> None:
        if not self._path.exists():
            return
        kept: list[str] = []
        dropped: list[str] = []
        for text in self._path.read_text("utf-8").splitlines(keepends=True):
            try:
                line = json.loads(text)
            except ValueError:  # the last line of a life that was killed while writing it
                dropped.append(text)
                continue
            (kept if line.get("step", 0) <= step else dropped).append(text)
        if dropped:
            with open(discarded, "a", encoding="utf-8") as file:
                file.writelines(text if text.endswith("\n") else text + "\n" for text in dropped)
            with atomic_write(self._path, "w") as file:
                file.write("".join(kept))


def _start_wandb(recipe: Recipe, folder: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "logging.wandb_project is set, but wandb is not installed: pip install '.[wandb]' in the clone"
        ) from error
    from electra_ds.command_line import plain

    return wandb.init(
        project=recipe.logging.wandb_project,
        name=folder.name,
        id=f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}",
        dir=str(folder),
        resume="allow",
        config={**plain(recipe), "recipe": RECIPE_NAME},
    )


@dataclass
class _Pending:
    line: dict[str, Any]
    statistics: Tensor
    histogram: Tensor
    gradient_norm: Any


class Meter:
    """Collects a step's sums and turns them into lines.

    Sums stay on the device, so recording a step waits for nothing; every few lines the ranks add theirs up in one
    exchange. Throughput counts everything between two lines: data wait, logging, validation and saving too.
    """

    def __init__(self, objective: ObjectiveConfig, world_size: int, tokens_consumed: int, elapsed: float) -> None:
        """Args: objective: what is learned. world_size: ranks. tokens_consumed, elapsed: of earlier lives."""
        self._objective, self._world_size = objective, world_size
        self._pending: list[_Pending] = []
        self.flushed = False
        self.tokens_consumed = tokens_consumed
        self._life_began = self._last_time = time.perf_counter()
        self._elapsed_before = elapsed
        self._tokens_since, self._waited_at_last = 0, 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of training, over all lives."""
        return self._elapsed_before + time.perf_counter() - self._life_began

    def count_tokens(self, tokens: int) -> None:
        """Add a step's real tokens, of all ranks."""
        self.tokens_consumed += tokens
        self._tokens_since += tokens

    def record(self, line: dict[str, Any], sums: Tensor, histogram: Tensor, gradient_norm: Any, waited: float) -> None:
        """Keep a step's own sums [statistics] and [2, bins] until `flush`; `waited`: seconds for data in this life."""
        now = time.perf_counter()
        seconds = max(now - self._last_time, 1e-9)
        line = {
            **line,
            "tokens_per_second": self._tokens_since / seconds,
            "data_wait": (waited - self._waited_at_last) / seconds,
            "tokens_consumed": self.tokens_consumed,
            "elapsed_seconds": self.elapsed,
        }
        self._last_time, self._tokens_since, self._waited_at_last = now, 0, waited
        self._pending.append(_Pending(line, sums, histogram, gradient_norm))

    @property
    def pending(self) -> int:
        """Lines kept."""
        return len(self._pending)

    def flush(self) -> list[dict[str, Any]]:
        """Add the ranks' sums up and return the finished lines (on every rank)."""
        if not self._pending:
            return []
        self.flushed = True
        packed = torch.stack([torch.cat([item.statistics, item.histogram.flatten()]) for item in self._pending])
        if self._world_size > 1:
            torch.distributed.all_reduce(packed)
        lines = []
        for item, row in zip(self._pending, packed.cpu(), strict=True):
            lines.append({**item.line, **self.named(row), "gradient_norm": _number(item.gradient_norm)})
        self._pending.clear()
        return lines

    def named(self, row: Tensor) -> dict[str, float | None]:
        """Metrics from one packed vector of sums."""
        count = len(statistics.STATISTICS)
        return statistics.metrics(row[:count], row[count:].view(2, -1), self._objective)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


class Audit:
    """Writes which rows this rank consumed, a JSON line a step: audit/rank-00000.jsonl."""

    def __init__(self, folder: Path, rank: int, world_size: int, resumed_step: int) -> None:
        """Args: folder: of the run. rank, world_size: of this life. resumed_step: lines of later steps are removed.

        Files of ranks that this life does not have are its ranks' to clean, too.
        """
        path = folder / "audit" / f"rank-{rank:05d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        number, other = rank, path
        while other.exists():
            _keep_lines_to(other, resumed_step)
            number += world_size
            other = path.with_name(f"rank-{number:05d}.jsonl")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)

    def write(self, step: int, epochs: Any, row_ids: Any) -> None:
        """Record the rows of one finished step."""
        with explain_full_disk(self._file.name):
            self._file.write(json.dumps({"step": step, "epochs": epochs.tolist(), "rows": row_ids.tolist()}) + "\n")
            self._file.flush()


def _keep_lines_to(path: Path, step: int) -> None:
    kept, dropped = [], 0
    for text in path.read_text("utf-8").splitlines():
        try:
            if json.loads(text)["step"] <= step:
                kept.append(text + "\n")
                continue
        except ValueError:  # the last line of a life that was killed while writing it
            pass
        dropped += 1
    if dropped:
        with atomic_write(path, "w") as file:
            file.write("".join(kept))
