"""Steps whose loss or gradient is NaN or infinite: found without waiting for the device, told with the rows they read.

Each step leaves a few numbers behind: the losses of its micro-batches and the norm of the gradient. A GPU copies them
to the host while it computes; they are looked at one step later, when they are there, and the ranks agree in the small
sum that they exchange before each step anyway. Whatever must not follow such a step, a checkpoint above all, asks
`NonfiniteWatch.settle` first.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from electra_ds.errors import UserError
from electra_ds.files import explain_full_disk
from electra_ds.training.batches import PreparedRows
from electra_ds.training.config import TrainingConfig
from electra_ds.training.peers import Peers

REPORT_NAME = "nonfinite.jsonl"
"""File of a run: a line for each rank and step that had something not finite."""
BEHIND = 1
"""Steps between making a step and looking at its numbers: the device is then busy with the next one."""
LOSSES = ("generator_loss", "discriminator_loss", "loss")
_SHOWN = 8
"""Rows and ranks that a message names."""


@dataclass(frozen=True)
class Incident:
    """What one rank saw in one step."""

    step: int
    rank: int
    rows: list[list[int]]
    """[epoch, row] of the micro-batches whose loss is not finite; where only the gradient is not, all of the step."""
    generator_loss: float
    """Sum over those rows (nats)."""
    discriminator_loss: float
    gradient_norm: float
    """Of the global batch, before clipping."""
    what: list[str]
    """Which of them are not finite."""


@dataclass
class _Noted:
    step: int
    epochs: np.ndarray
    row_ids: np.ndarray
    values: Tensor
    """Float64 [3 M + 1], on the CPU once `copied` has passed: `LOSSES` of M micro-batches, norm of the gradient."""
    copied: torch.cuda.Event | None
    scale_falls: bool


def telling_loss(loss: Tensor) -> Tensor:
    """The loss itself; its gradient is NaN wherever the loss is not finite.

    A loss may be infinite or NaN and its gradient not, for instance where the loss is clamped. The update would then be
    made from what the other rows said. This makes the step one that the gradient's norm betrays, on every rank.
    """
    return loss * (1.0 + 0.0 * loss.detach())


def losses_of(output: dict[str, Tensor]) -> Tensor:
    """`LOSSES` of a micro-batch, float64 [3], on its device."""
    return torch.cat([output["statistics"][:2], output["loss"].detach().to(torch.float64).view(1)])


def loss_scale_falls(engine: Any) -> bool:
    """Whether a gradient that is not finite is but a loss scale still too high (fp16); reads numbers of the host."""
    optimizer = engine.optimizer
    keeper = getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)
    if keeper is None or not engine.fp16_enabled():
        return False
    lowest = getattr(keeper, "min_scale", getattr(keeper, "min_loss_scale", 1.0))
    return bool(keeper.cur_scale > lowest)


class NonfiniteWatch:
    """Keeps the numbers of the last steps, and says what is wrong with them; `settle` and `report` are collective."""

    def __init__(
        self,
        config: TrainingConfig,
        peers: Peers,
        folder: Path,
        event: Callable[..., None],
        before_stop: Callable[[], None],
    ) -> None:
        """Watch one life of a run.

        Args:
            config: what to do.
            peers: the ranks.
            folder: of the run.
            event: writes a line of metrics.jsonl.
            before_stop: called on every rank before the run stops, for what should not be lost.
        """
        self._config, self._peers, self._path, self._event = config, peers, folder / REPORT_NAME, event
        self._before_stop = before_stop
        self._noted: deque[_Noted] = deque()
        self._found: list[Incident] = []
        self._last, self._in_a_row = -1, 0

    def note(
        self, step: int, prepared: PreparedRows, losses: list[Tensor], gradient_norm: Any, scale_falls: bool
    ) -> None:
        """Keep the numbers of a step that was just made.

        Args:
            step: its number.
            prepared: rows of this rank.
            losses: `losses_of` each micro-batch.
            gradient_norm: of the global batch, a tensor of the device or a number.
            scale_falls: see `loss_scale_falls`, as it was before the step.
        """
        norm, device = gradient_norm, losses[0].device
        if not isinstance(norm, Tensor) or norm.device != device:
            norm = torch.full((), float(norm or 0.0), device=device)  # the host has it already: no copy, no wait
        values, copied = torch.cat([*losses, norm.detach().to(torch.float64).view(1)]), None
        if values.device.type == "cuda":
            # Page-locked, so that the copy is one more piece of work in the GPU's queue.
            on_host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            on_host.copy_(values, non_blocking=True)
            values, copied = on_host, torch.cuda.Event()
            copied.record()
        self._noted.append(_Noted(step, prepared.epochs, prepared.row_ids, values, copied, scale_falls))

    def look(self, behind: int = BEHIND) -> bool:
        """Examine the steps that are at least so many behind; returns whether this rank has found something."""
        while len(self._noted) > behind:
            self._examine(self._noted.popleft())
        return bool(self._found)

    def settle(self) -> None:
        """Examine all steps so far, on all ranks, before something that must not follow a bad one.

        Raises:
            UserError: see `report`.
        """
        mine = torch.tensor([self.look(behind=0)], dtype=torch.float64)
        if self._peers.sum(mine).item():
            self.report()

    def report(self) -> None:
        """Tell what the ranks found, and stop if that is what is asked; called by all once one has found something.

        Raises:
            UserError: on every rank, if training.on_nonfinite=stop, or there were too many in a row.
        """
        found, self._found = self._found, []
        steps: dict[int, list[Incident]] = {}
        for incident in (one for rank in self._peers.gather(found) for one in rank):
            steps.setdefault(incident.step, []).append(incident)
        for step in sorted(steps):
            # Where the loss of some rank is not finite, the gradient of all is not: the others are not at fault.
            own = [one for one in steps[step] if set(one.what) & set(LOSSES)] or steps[step]
            self._in_a_row = self._in_a_row + 1 if step == self._last + 1 else 1
            self._last = step
            stops = self._config.on_nonfinite == "stop" or self._in_a_row >= self._config.nonfinite_limit
            if self._peers.place.is_first:
                self._write(own, stops)
            if stops:
                self._before_stop()
                raise UserError(self._why(own))
            if self._peers.place.is_first:
                print(f"{_describe(own)}; the step was left out", file=sys.stderr, flush=True)

    def _examine(self, noted: _Noted) -> None:
        if noted.copied is not None:
            noted.copied.synchronize()
        values = noted.values.tolist()
        losses, norm = np.array(values[:-1]).reshape(-1, len(LOSSES)), values[-1]
        finite = np.isfinite(losses)
        what = [name for name, good in zip(LOSSES, finite.all(0), strict=True) if not good]
        bad = ~finite.all(1) if what else np.ones(len(losses), bool)
        if not math.isfinite(norm) and not noted.scale_falls:
            what.append("gradient_norm")
        if not what:
            return
        rows = np.repeat(bad, len(noted.row_ids) // len(losses))
        pairs = np.stack([noted.epochs, noted.row_ids], 1)[rows].tolist()
        with np.errstate(invalid="ignore"):
            sums = losses[bad].sum(0).tolist()
        rank = self._peers.place.rank
        self._found.append(Incident(noted.step, rank, pairs, sums[0], sums[1], norm, what))

    def _write(self, incidents: list[Incident], stops: bool) -> None:
        action = "stop" if stops else "skip"
        with explain_full_disk(self._path), open(self._path, "a", encoding="utf-8") as file:
            for one in incidents:
                line = {name: _json(value) for name, value in vars(one).items()}
                file.write(json.dumps({**line, "action": action, "time": time.time()}) + "\n")
        ranks = [one.rank for one in incidents]
        self._event("nonfinite", step=incidents[0].step, ranks=ranks, what=_kinds(incidents), action=action)

    def _why(self, incidents: list[Incident]) -> str:
        if self._config.on_nonfinite == "stop":
            so = "no checkpoint was saved after it: run again to go on from the last one"
            advice = "if it comes again, look at these rows, or set training.on_nonfinite=skip to leave such steps out"
        else:
            so = f"{self._in_a_row} in a row reach training.nonfinite_limit={self._config.nonfinite_limit}"
            advice = "the run does not recover: run again to go on from the last checkpoint"
        return (
            f"{_describe(incidents)}; {so}; {advice}, lower optimizer.learning_rate, or take training.precision "
            f"float32; {self._path} has all rows"
        )


def _describe(incidents: list[Incident]) -> str:
    parts = []
    for one in incidents[:_SHOWN]:
        rows = ", ".join(f"{epoch}/{row}" for epoch, row in one.rows[:_SHOWN])
        more = f" and {len(one.rows) - _SHOWN} more" if len(one.rows) > _SHOWN else ""
        parts.append(f"rank {one.rank} with rows (epoch/row) {rows}{more}")
    more = f", and {len(incidents) - _SHOWN} more ranks" if len(incidents) > _SHOWN else ""
    first = incidents[0]
    return (
        f"step {first.step}: {' and '.join(_kinds(incidents))} not finite (generator {first.generator_loss:g}, "
        f"discriminator {first.discriminator_loss:g} nats, gradient norm {first.gradient_norm:g}) on "
        + "; ".join(parts)
        + more
    )


def _kinds(incidents: list[Incident]) -> list[str]:
    return list(dict.fromkeys(name for one in incidents for name in one.what))


def _json(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as words."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
