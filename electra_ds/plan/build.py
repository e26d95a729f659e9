"""A plan: every number of it, as one JSON-compatible dictionary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from electra_ds.plan.config import PlanConfig
from electra_ds.plan.machine import Machine, Rate, choose_machine, choose_model, choose_rate
from electra_ds.plan.memory import Peak, divisors_of, largest_fit, step_peak
from electra_ds.plan.trace import TracedModel
from electra_ds.plan.wire import sent_bytes, step_exchanges, wire_seconds
from electra_ds.plan.zero import Zero
from electra_ds.training.engine import complete_config, read_deepspeed_config
from electra_ds.training.schedule import PhasePlan, plan_phases

STAGES = ("zero0", "zero1", "zero2", "zero3")
_SHOWN = 6
"""Micro-batches whose totals are listed: the largest divisors of a rank's share, and the recipe's own."""


def make_plan(config: PlanConfig) -> dict[str, Any]:
    """Work everything out.

    Raises:
        UserError: the ranks do not divide the batch, or the shard set, run or DeepSpeed file named cannot be used.
    """
    notes: list[str] = []
    phases = plan_phases(config, config.world_size)
    machine = choose_machine(config, notes)
    model_config = choose_model(config, notes)
    recomputes = config.kernels.activation_checkpointing
    model = TracedModel(model_config, config.objective, config.training.precision, machine.traced_as, recomputes)
    zeros = {name: _zero(config, name, phases, model) for name in _stages(config)}
    parts = []
    for phase in phases:
        rate = choose_rate(config, model_config, machine, phase.sequence_length)
        parts.append(_phase(config, phase, model, zeros, machine, rate))
    tokens = sum(part["steps"] * part["global_batch"] * part["sequence_length"] for part in parts)
    first = next(iter(zeros.values()))
    return {
        "parameters": first.parameters,
        "vocab_size": model_config.vocab_size,
        "precision": config.training.precision,
        "ranks": config.world_size,
        "nodes": config.node_count,
        "machine": vars(machine),
        "reserved_bytes": config.reserved_gb * 1e9,
        "link_bytes_per_second": config.link_gb_per_second * 1e9,
        "deepspeed": config.deepspeed,
        "steps": config.training.steps,
        "tokens": tokens,
        "phases": parts,
        "run": {name: _run(parts, name, config) for name in zeros},
        "checkpoints": {name: _checkpoint(zero) for name, zero in zeros.items()},
        "notes": notes,
    }


def _stages(config: PlanConfig) -> tuple[str, ...]:
    return STAGES if config.deepspeed in STAGES else (*STAGES, config.deepspeed)


def _zero(config: PlanConfig, name: str, phases: list[PhasePlan], model: TracedModel) -> Zero:
    sizes = model.named_sizes()
    completed = complete_config(read_deepspeed_config(name), config, phases, sum(size for _, size in sizes))
    zero = Zero.read(completed, sizes, config.world_size, 4 if config.training.precision == "float32" else 2)
    return replace(zero, averages=config.training.ema_decay is not None)


def _phase(
    config: PlanConfig,
    phase: PhasePlan,
    model: TracedModel,
    zeros: dict[str, Zero],
    machine: Machine,
    rate: Rate | None,
) -> dict[str, Any]:
    """Memory, traffic and time of the steps at one row length."""
    share, length = phase.global_batch // config.world_size, phase.sequence_length
    room = machine.memory - config.reserved_gb * 1e9
    shown = sorted({phase.micro_batch, *divisors_of(share)[-_SHOWN:]})
    stages: dict[str, Any] = {}
    for name, zero in zeros.items():
        peaks = {rows: step_peak(zero, model.timeline(rows, length, zero.stage == 3), share // rows) for rows in shown}
        best = largest_fit(model, zero, length, share, room)
        exchanges = step_exchanges(zero, phase.accumulation, config.logging.every)
        seconds = wire_seconds(
            exchanges, config.world_size, config.link_gb_per_second * 1e9, config.latency_us / 1e6
        )  # fmt: skip
        stages[name] = {
            **_described(peaks[phase.micro_batch]),
            "host_bytes": zero.on_host(),
            "fits": peaks[phase.micro_batch].total <= room,
            "by_micro_batch": {str(rows): peak.total for rows, peak in peaks.items()},
            "largest_micro_batch": best.micro_batch if best else None,
            "exchanges": [vars(exchange) for exchange in exchanges],
            "sent_bytes": sent_bytes(exchanges, config.world_size),
            "wire_seconds": seconds,
        }
    tokens = phase.global_batch * length
    return {
        "sequence_length": length,
        "global_batch": phase.global_batch,
        "micro_batch": phase.micro_batch,
        "accumulation": phase.accumulation,
        "steps": phase.end - phase.begin,
        "stages": stages,
        "rate": vars(rate) if rate else None,
        "compute_seconds": tokens / config.world_size / rate.tokens_per_second if rate else None,
    }


def _described(peak: Peak) -> dict[str, Any]:
    held = {name: float(value) for name, value in vars(peak.held).items()}
    between = {name: float(value) for name, value in vars(peak.between).items()}
    return {"parts": held, "moment": peak.moment, "total": peak.total, "saved": peak.saved, "between_steps": between}


def _run(parts: list[dict[str, Any]], stage: str, config: PlanConfig) -> dict[str, float] | None:
    """Time and cost of all phases at a stage; None where no rate is known."""
    if any(part["rate"] is None for part in parts):
        return None
    seconds = 0.0
    for part in parts:
        wire = 0.0 if part["rate"]["has_wire"] else part["stages"][stage]["wire_seconds"]
        seconds += part["steps"] * (part["compute_seconds"] + wire)
    hours = seconds / 3600
    return {"hours": hours, "node_hours": hours * config.node_count, "gpu_hours": hours * config.world_size}


def _checkpoint(zero: Zero) -> dict[str, int]:
    """Bytes and files of one checkpoint of DeepSpeed's, all ranks together (`checkpoint.json` is one more file).

    The module in its own precision, float32 masters and both moments: at stage 0 in one file, at stages 1 and 2 one for
    the module and one of each rank; at stage 3 two of each rank, and no weights beside the masters. A moving average is
    one file more of each rank, at stage 0 one in all.
    """
    s, part, average = zero.element, sum(zero.partitions), int(zero.averages)
    if zero.stage == 0:
        return {"bytes": (s + (8 if s == 4 else 12) + 4 * average) * part, "files": 1 + average}
    optimizer = (12 + 4 * average) * part * zero.ranks
    if zero.stage == 3:
        return {"bytes": optimizer, "files": (2 + average) * zero.ranks}
    return {"bytes": s * zero.parameters + optimizer, "files": 1 + (1 + average) * zero.ranks}
