"""Learning rate per step, Adam's per-step settings, and the run's phases. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from electra_ds.errors import UserError, divisors
from electra_ds.recipe import Recipe
from electra_ds.training.config import OptimizerConfig, ScheduleConfig


def learning_rate(config: ScheduleConfig, peak: float, step: int, steps: int) -> float:
    """Rate of the update after `step` finished ones.

    Args:
        config: which curve.
        peak: highest rate.
        step: updates made before this one; 0 gives 0 under any warmup.
        steps: length of the schedule.

    Source of ``original``: create_optimizer in google-research/electra's model/optimization.py, where the linear decay
    runs during warmup too.
    """
    warmup = config.warmup * steps if config.warmup < 1 else config.warmup
    rise = min(1.0, step / warmup) if warmup else 1.0
    if config.name == "original":
        return peak * rise * max(0.0, 1 - step / steps)
    if config.name == "wsd":
        falling = config.decay * steps
        progress = max(0.0, (step - (steps - falling)) / falling) if falling else 0.0
    else:
        progress = max(0.0, (step - warmup) / max(1.0, steps - warmup))
    progress = min(1.0, progress)
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if config.name == "cosine" else 1 - progress
    return peak * rise * (config.final + (1 - config.final) * fall)


def adam_settings(
    config: OptimizerConfig, rate: float, update: int, corrects: bool = True
) -> tuple[float, float, float]:
    """Rate, eps and weight decay to give an AdamW for one update.

    torch's AdamW always corrects the bias of the moments; others are told not to. Where the recipe wants what the
    optimizer does not do, the same step comes from other settings, with b = 1 - beta^update: a correcting one steps
    without correction at rate times b1/sqrt(b2), eps/sqrt(b2) and a weight decay divided by that factor; one that does
    not correct steps with correction by the inverse of these. Exact at any update, resumed or not.

    Args:
        config: betas, eps, decay, and whether to correct.
        rate: wanted learning rate.
        update: number of this update, counted from 1.
        corrects: whether the optimizer corrects the bias by itself.

    Returns:
        (learning rate, eps, weight decay).
    """
    if config.bias_correction == corrects:
        return rate, config.eps, config.weight_decay
    root = math.sqrt(1 - config.beta2**update)
    factor = (1 - config.beta1**update) / root
    if corrects:
        return rate * factor, config.eps / root, config.weight_decay / factor
    return rate / factor, config.eps * root, config.weight_decay * factor


@dataclass(frozen=True)
class PhasePlan:
    """A phase with its numbers worked out for a world size."""

    begin: int
    """First step (updates made before it)."""
    end: int
    """One past its last step."""
    sequence_length: int
    global_batch: int
    micro_batch: int
    accumulation: int
    """Micro-batches of a rank in one step."""
    first_row: int = 0
    """Place in the order of rows of this length where the phase begins: what earlier such phases consumed (rows)."""


def plan_phases(recipe: Recipe, world_size: int) -> list[PhasePlan]:
    """Work out batches and borders of all phases.

    Raises:
        UserError: the ranks do not divide a batch; says which counts do.
    """
    training = recipe.training
    shares = [(p.share, p.sequence_length, p.global_batch_size, p.micro_batch_size) for p in training.phases]
    shares = shares or [(1.0, recipe.data.sequence_length, None, None)]
    plans: list[PhasePlan] = []
    done = 0.0
    for number, (share, length, batch, micro) in enumerate(shares):
        begin = plans[-1].end if plans else 0
        done += share
        end = training.steps if number == len(shares) - 1 else round(done * training.steps)
        batch = batch or training.global_batch_size
        micro = micro or training.micro_batch_size
        if batch % world_size:
            raise UserError(
                f"training.global_batch_size={batch} cannot be divided among {world_size} ranks; "
                f"these counts of ranks divide it: {divisors(batch)}"
            )
        micro = micro or batch // world_size
        if (batch // world_size) % micro:
            raise UserError(
                f"training.micro_batch_size={micro} does not divide the {batch // world_size} rows that each of "
                f"{world_size} ranks takes of training.global_batch_size={batch}; these do: "
                f"{divisors(batch // world_size)}"
            )
        if end > begin:
            alike = (plan for plan in plans if plan.sequence_length == length)
            first_row = sum((plan.end - plan.begin) * plan.global_batch for plan in alike)
            plans.append(PhasePlan(begin, end, length, batch, micro, batch // world_size // micro, first_row))
    return plans


def phase_at(plans: list[PhasePlan], step: int) -> PhasePlan:
    """The phase that the update after `step` finished ones belongs to (the last one at the end of the run)."""
    return next((plan for plan in plans if plan.begin <= step < plan.end), plans[-1])
