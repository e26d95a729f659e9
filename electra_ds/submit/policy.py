"""Whether a job is started again: pure functions of how its lives began and ended. Standard library only."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from electra_ds.lives import FAILED, HUNG, MEANING, NO_PROGRESS, REQUEUE, STOPPED, TOO_MANY_RESTARTS, USER_ERROR

DELIBERATE = (USER_ERROR, STOPPED, REQUEUE, HUNG)
"""Statuses that a rank chooses, the ones to trust first. A rank that is killed because another left has none."""


@dataclass(frozen=True)
class Beginning:
    """How one life of a job began."""

    restart: int
    """Starts of the job before this one."""
    step: int
    """Step of the newest checkpoint then; 0 if there was none."""


@dataclass(frozen=True)
class Decision:
    """What becomes of the job after a life."""

    requeue: bool
    status: int
    """With which the job ends if it is not started again."""
    reason: str
    """One sentence for the log."""


def meaning(status: int) -> str:
    """A status in words."""
    if status > 128:
        try:
            return f"killed by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    return MEANING.get(status, "unknown")


def settle(status: int, seen: Iterable[int], outcome: int | None = None) -> int:
    """Say how a life really ended.

    srun gives the highest status of all tasks, and kills the others as soon as one leaves: a rank that ends with a
    message (2) beside one that is killed for it (137) shows as 137.

    Args:
        status: srun's.
        seen: statuses of single tasks, as srun named them.
        outcome: what the run itself recorded in this life, if it came to that.
    """
    if status == 0:
        return 0
    if outcome is not None and outcome in DELIBERATE:
        return outcome
    named = set(seen)
    return next((one for one in DELIBERATE if one in named), status)


def is_requeued(status: int) -> bool:
    """Whether another life may mend what ended this one."""
    return status in (REQUEUE, HUNG, FAILED) or status > 128


def no_progress(lives: Sequence[Beginning], step: int) -> bool:
    """Whether the last two lives of a job both began at `step`, where it still stands.

    Beginnings alone are asked: a life that ends with its node leaves no record of its end.
    """
    return len(lives) >= 2 and all(life.step == step for life in lives[-2:])


def may_begin(earlier: Sequence[Beginning], restart: int, step: int, max_restarts: int) -> Decision | None:
    """Refuse a life before it costs anything; None lets it begin.

    Args:
        earlier: lives of this job before, oldest first.
        restart: starts of this job before.
        step: newest checkpoint's.
        max_restarts: starts that are allowed after the first.
    """
    if restart > max_restarts:
        return _too_many(restart - 1, max_restarts)
    if no_progress(earlier, step):
        return _stuck(earlier[-2:], step)
    return None


def after(lives: Sequence[Beginning], status: int, step: int, max_restarts: int) -> Decision:
    """Decide what follows a life.

    Args:
        lives: lives of this job, this one last.
        status: how this one ended, `settle`d.
        step: newest checkpoint's.
        max_restarts: starts that are allowed after the first.
    """
    if not is_requeued(status):
        return Decision(False, status, "not started again")
    if no_progress(lives, step):
        return _stuck(lives[-2:], step)
    restart = lives[-1].restart if lives else 0
    if restart >= max_restarts:
        return _too_many(restart, max_restarts)
    return Decision(True, status, f"started again from step {step:,} (restart {restart + 1} of {max_restarts} allowed)")


def _stuck(lives: Sequence[Beginning], step: int) -> Decision:
    which = " and ".join(str(life.restart) for life in lives)
    return Decision(
        False,
        NO_PROGRESS,
        f"no progress: lives {which} of this job both began at step {step:,}, and no newer checkpoint came of them; "
        "not started again. Mend what their logs name, then submit again",
    )


def _too_many(restart: int, max_restarts: int) -> Decision:
    return Decision(
        False,
        TOO_MANY_RESTARTS,
        f"started again {restart} times, as often as max_restarts={max_restarts} allows; submit again to go on from "
        "the newest checkpoint",
    )
