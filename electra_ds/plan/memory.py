"""The most memory a rank holds in a step, and the largest micro-batch that fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from electra_ds.plan.trace import Timeline, TracedModel
from electra_ds.plan.zero import Held, Zero


@dataclass(frozen=True)
class Peak:
    """A step's highest moment."""

    micro_batch: int
    """Rows."""
    moment: str
    """``forward``, ``backward``, or one of those after it (`Zero.afterwards`)."""
    held: Held
    """Bytes by part then."""
    saved: dict[str, float]
    """Of the activations, bytes that each part of the model leaves for the backward pass."""
    between: Held
    """Bytes from step to step."""

    @property
    def total(self) -> float:
        """Bytes."""
        return float(self.held.total)


def step_peak(zero: Zero, timeline: Timeline, accumulation: int) -> Peak:
    """The highest of all moments of a step.

    Args:
        zero: the rank's share of the state.
        timeline: of one micro-batch.
        accumulation: micro-batches of the step.
    """
    between = zero.between_steps()
    best, name = between, "between steps"
    for later in (False, True)[: 1 if accumulation == 1 else 2]:
        during = between + zero.during(timeline, later)
        place = int(np.argmax(during.total))
        if float(during.total[place]) > best.total:
            best, name = during.at(place), "forward" if place < timeline.forward else "backward"
    for moment, held in zero.afterwards(accumulation > 1).items():
        if (between + held).total > best.total:
            best, name = between + held, moment
    return Peak(timeline.rows, name, best, timeline.saved, between)


def divisors_of(share: int) -> list[int]:
    """Micro-batches that divide a rank's share of the global batch (rows), ascending."""
    low = [number for number in range(1, int(share**0.5) + 1) if share % number == 0]
    return sorted({*low, *(share // number for number in low)})


def largest_fit(model: TracedModel, zero: Zero, length: int, share: int, room: float) -> Peak | None:
    """The largest micro-batch whose peak is at most `room` bytes; None if not even one row fits.

    Args:
        model: what runs.
        zero: the rank's share of the state.
        length: tokens of a row.
        share: rows of a rank in a step; the micro-batch divides it.
        room: bytes.
    """
    for rows in reversed(divisors_of(share)):
        peak = step_peak(zero, model.timeline(rows, length, zero.stage == 3), share // rows)
        if peak.total <= room:
            return peak
    return None
