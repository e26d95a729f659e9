"""The GPU that is planned for, the vocabulary, and the rate: found here, stated, or assumed, and always said which."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from electra_ds.checkpoint import METRICS_NAME
from electra_ds.errors import UserError
from electra_ds.model.config import ModelConfig
from electra_ds.model.flops import PEAK_BF16, peak_flops, step_flops_per_token
from electra_ds.plan.config import DEFAULT_GPU, DEFAULT_VOCABULARY, GPUS, NO_SHARDS, PlanConfig

_LINES = 50
"""Lines of metrics.jsonl whose median rate is taken: the last ones."""


@dataclass(frozen=True)
class Machine:
    """One rank's device."""

    name: str
    memory: float
    """Bytes."""
    peak: float | None
    """FLOP/s in bf16."""
    traced_as: str
    """``cpu`` or ``cuda``: which way through the kernels is traced."""


@dataclass(frozen=True)
class Rate:
    """How fast one rank is."""

    tokens_per_second: float
    source: str
    """For people."""
    has_wire: bool
    """Whether communication is in it."""


def choose_machine(config: PlanConfig, notes: list[str]) -> Machine:
    """The device that is planned for; `notes` get what was assumed."""
    stated = config.training.peak_flops
    if config.training.device == "cpu":
        pages = Path("/proc/meminfo").read_text("ascii").split(maxsplit=2)[1]
        memory = config.memory_gb * 1e9 if config.memory_gb else 1024.0 * int(pages)
        return Machine("cpu", memory, stated, "cpu")
    if config.gpu is None and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = config.memory_gb * 1e9 if config.memory_gb else float(properties.total_memory)
        return Machine(properties.name, memory, stated or peak_flops(properties.name), "cuda")
    gpu = config.gpu or DEFAULT_GPU
    if config.gpu is None:
        notes.append(f"no GPU here and none named: planned for --gpu {gpu}")
    gib, known = GPUS[gpu]
    return Machine(gpu, config.memory_gb * 1e9 if config.memory_gb else gib * 2**30, stated or PEAK_BF16[known], "cuda")


def choose_model(config: PlanConfig, notes: list[str]) -> ModelConfig:
    """The model with its vocabulary: that of the shard set, else of the recipe, else the paper's.

    Raises:
        UserError: shard set and recipe disagree.
    """
    asked = config.model.vocab_size
    if config.data.path != NO_SHARDS:
        from electra_ds.data.format import read_manifest

        found = read_manifest(config.data.path).tokenizer.vocab_size
        if asked is not None and asked != found:
            raise UserError(
                f"model.vocab_size={asked}, but the tokenizer of {config.data.path} has {found} entries; leave "
                "model.vocab_size null to take the tokenizer's"
            )
        return replace(config.model, vocab_size=found)
    if asked is None:
        notes.append(f"no data.path and no model.vocab_size: a vocabulary of {DEFAULT_VOCABULARY:,} entries was taken")
    return replace(config.model, vocab_size=asked or DEFAULT_VOCABULARY)


def choose_rate(config: PlanConfig, model: ModelConfig, machine: Machine, length: int) -> Rate | None:
    """Real tokens a second of one rank at a row length; None where nothing tells."""
    if config.tokens_per_second:
        return Rate(config.tokens_per_second, "stated, without communication", False)
    if config.like:
        return _read_rate(config.like)
    if machine.peak is None:
        return None
    flops = step_flops_per_token(model, config.objective.mask_fraction, length, config.objective.name)
    said = f"an estimate: {config.mfu:.0%} of {machine.peak / 1e12:,.0f} TFLOP/s, not a measurement"
    return Rate(config.mfu * machine.peak / flops, said, False)


def _read_rate(folder: Path) -> Rate:
    """The median rate of a run's last lines.

    Raises:
        UserError: no such run, or nothing in it yet.
    """
    path = folder / METRICS_NAME
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"like={folder}: {path} cannot be read ({error}); name a run folder of pretrain") from error
    ranks = [line["world_size"] for line in lines if line.get("kind") == "event" and "world_size" in line]
    rates = [line["tokens_per_second"] for line in lines if line.get("kind") == "train"][-_LINES:]
    if not ranks or not rates:
        raise UserError(f"like={folder}: {path} has no 'start' and 'train' lines yet; let that run make a few steps")
    median = statistics.median(rates) / ranks[-1]
    return Rate(median, f"measured: median of the last {len(rates)} lines of {path}, on {ranks[-1]} ranks", True)
