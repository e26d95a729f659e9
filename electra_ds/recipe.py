"""A whole run as one typed object, composed of each room's own config. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from electra_ds import resources
from electra_ds.command_line import dump_yaml, parse, plain
from electra_ds.data.config import DataConfig
from electra_ds.errors import UserError
from electra_ds.kernels.config import KernelsConfig
from electra_ds.model.config import ModelConfig, ObjectiveConfig, check_objective
from electra_ds.training.config import (
    CheckpointConfig,
    InitConfig,
    LoggingConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    ValidationConfig,
)

RECIPE_NAME = "recipe.yaml"

MAY_CHANGE = (
    "output",
    "deepspeed",
    "checkpoint",
    "validation",
    "logging",
    "kernels",
    "data.path",
    "data.cache_bytes",
    "data.cache_folder",
    "data.cache_disk_bytes",
    "data.retries",
    "data.prefetch",
    "data.prefetch_process",
    "data.on_corrupt",
    "data.corrupt_share",
    "data.audit",
    "training.stop_after",
    "training.micro_batch_size",
    "training.device",
    "training.threads",
    "training.try_batch",
    "training.watchdog_seconds",
    "training.start_seconds",
    "training.peak_flops",
    "training.on_nonfinite",
    "training.nonfinite_limit",
    "training.ema_decay",
)
"""What a resumed run may set anew: nothing here decides what is computed (the shard set is compared by fingerprint)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Pretrain generator and discriminator on a shard set.

    Everything a run needs, from a shipped recipe (--config small), a YAML file and options, the later ones winning. The
    run folder receives the result as recipe.yaml; the same command run again goes on from the newest whole checkpoint.
    """

    output: str
    """Run folder: recipe.yaml, metrics.jsonl, tensorboard/, checkpoints/."""
    data: DataConfig
    """Shards and rows."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The two networks."""
    init: InitConfig = field(default_factory=InitConfig)
    """Weights to begin with."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What is learned."""
    kernels: KernelsConfig = field(default_factory=KernelsConfig)
    """Backends of the fused operations."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Adam."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Length, batches, precision."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """What is saved."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Held-out text."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Metrics."""
    deepspeed: str = "zero1"
    """DeepSpeed config: a shipped name (zero0, zero1, zero2, zero3, zero3_offload) or a JSON file."""

    def __post_init__(self) -> None:
        lengths = [phase.sequence_length for phase in self.training.phases] or [self.data.sequence_length]
        if max(lengths) > self.model.max_positions:
            raise ValueError(
                f"data.sequence_length={max(lengths)} is longer than model.max_positions={self.model.max_positions}; "
                "shorten the rows or raise model.max_positions"
            )
        check_objective(self.model, self.objective)


def parse_recipe(arguments: Sequence[str], program: str) -> Recipe:
    """Build a recipe from ``--config NAME_OR_FILE`` and ``--section.field`` options."""
    return parse(Recipe, arguments, program, find_config=lambda name: resources.find("recipes", name, ".yaml"))


def read_recipe(path: Path) -> Recipe:
    """Read a run folder's recipe."""
    return parse(Recipe, ["--config", str(path)], "electra-ds")


def check_same_run(stored: Recipe, asked: Recipe, folder: Path) -> None:
    """Refuse to go on with a run under settings that would make it another run.

    Raises:
        UserError: lists every setting that differs.
    """
    before, now = _flat(plain(stored)), _flat(plain(asked))
    changed = [
        f"{key}: {before.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(key == free or key.startswith(free + ".") for free in MAY_CHANGE)
    ]
    if changed:
        raise UserError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}); "
            f"repeat its own ('--config {folder / RECIPE_NAME}') to go on with it, or choose another --output"
        )


def recipe_yaml(recipe: Recipe) -> str:
    """The recipe as YAML that `read_recipe` reads back."""
    return dump_yaml(recipe)


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat.update(_flat(item, f"{prefix}{key}."))
        else:
            flat[prefix + key] = item
    return flat
