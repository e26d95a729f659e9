"""Optimizer, schedule and the run's own settings. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from electra_ds.data.rows import LONGEST_ROW, SHORTEST_ROW


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam with decoupled weight decay (model/optimization.py of the original)."""

    learning_rate: float = 5e-4
    """Highest learning rate of the schedule (per step)."""
    beta1: float = 0.9
    """Decay of the running mean of gradients."""
    beta2: float = 0.999
    """Decay of the running mean of squared gradients."""
    eps: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Times the learning rate, off the weights each step; not on biases and LayerNorm, embeddings included."""
    bias_correction: bool = False
    """Adam's correction of the first steps; the original has none."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm (L2); 0 turns it off."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be above 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must lie in [0, 1)")
        for name in ("weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be at least 0")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the steps of the run; the first update has rate 0."""

    name: Literal["original", "linear", "cosine", "wsd"] = "original"
    """original: decays during warmup too, as Google's; linear, cosine: to `final` after it; wsd: holds, then falls."""
    warmup: float = 0.01
    """Rise from 0: a share of training.steps below 1, a number of steps from 1 on."""
    decay: float = 0.2
    """wsd only: the falling part at the end, as a share of training.steps."""
    final: float = 0.0
    """Where linear, cosine and wsd end, as a share of the highest rate."""

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"schedule.warmup={self.warmup}: must be at least 0")
        for name in ("decay", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"schedule.{name}={getattr(self, name)}: must lie in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the run with its own row length."""

    share: float
    """Share of training.steps; all phases together make 1."""
    sequence_length: int
    """Tokens of a row."""
    global_batch_size: int | None = None
    """Rows of a step; null takes training.global_batch_size."""
    micro_batch_size: int | None = None
    """Rows of one forward pass on one rank; null takes training.micro_batch_size."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, in which portions, and what is kept."""

    steps: int = 1_000_000
    """Length of the schedule (optimizer steps)."""
    stop_after: int | None = None
    """Save and end well after this step (optimizer steps); run again without it and the run goes on to its end."""
    global_batch_size: int = 128
    """Rows of a step, over all ranks."""
    micro_batch_size: int | None = None
    """Rows of one forward pass on one rank; null takes a rank's whole share. What remains is accumulated."""
    phases: list[Phase] = field(default_factory=list)
    """Parts with their own row length, for example 90% of the steps at 128 tokens and 10% at 512; empty for one."""
    precision: Literal["bf16", "float32", "fp16"] = "bf16"
    """Type of the forward and backward pass; weights are kept in float32 beside it. fp16 needs a GPU."""
    seed: int = 0
    """Of weights, order, masks, samples and dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where torch finds one."""
    threads: int | None = None
    """CPU threads of a rank (count); null: OMP_NUM_THREADS (torchrun sets 1), else the cores are shared."""
    try_batch: bool = True
    """Run one batch forward and backward before the first step, so that a lack of memory shows at once."""
    watchdog_seconds: float | None = 600.0
    """Without progress for so long, a rank writes its stacks and ends the run, to be started again (s); null: off."""
    start_seconds: float = 300.0
    """How long the ranks wait for each other at the start (s); rank 0 then names those that are missing."""
    peak_flops: float | None = None
    """Peak of one device for the MFU (FLOP/s); null takes the known figure of the GPU, or gives none on a CPU."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is NaN or infinite: stop without saving it, or leave it out; both name its rows."""
    nonfinite_limit: int = 10
    """With skip: stop after so many such steps in a row (optimizer steps)."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the float32 weights, this share of it staying in each step (for example
    0.999); four more bytes a parameter. Export it with 'convert --weights ema'. null: off."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"training.steps={self.steps}: must be at least 1")
        for name in ("stop_after", "micro_batch_size", "threads", "nonfinite_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                optional = "" if name == "nonfinite_limit" else ", or null"
                raise ValueError(f"training.{name}={value}: must be at least 1{optional}")
        for name in ("watchdog_seconds", "start_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"training.{name}={value}: must be above 0{' or null' if name[0] == 'w' else ''}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"training.ema_decay={self.ema_decay}: must lie in [0, 1), or null for no average")
        if self.global_batch_size < 1:
            raise ValueError(f"training.global_batch_size={self.global_batch_size}: must be at least 1")
        for number, phase in enumerate(self.phases):
            if not 0 < phase.share <= 1:
                raise ValueError(f"training.phases[{number}].share={phase.share}: must lie in (0, 1]")
            if not SHORTEST_ROW <= phase.sequence_length <= LONGEST_ROW:
                raise ValueError(
                    f"training.phases[{number}].sequence_length={phase.sequence_length}: "
                    f"must lie in [{SHORTEST_ROW}, {LONGEST_ROW:,}]"
                )
        if self.phases and abs(sum(phase.share for phase in self.phases) - 1) > 1e-6:
            raise ValueError(
                f"training.phases: their shares make {sum(phase.share for phase in self.phases):g}, expected 1"
            )


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Weights to begin with, in place of random ones; a run that has a checkpoint goes on from that."""

    from_: str | None = None
    """Discriminator: a Hugging Face folder or a name on the hub, or a folder of 'convert' with its generator."""
    generator: str | None = None
    """Its generator, a folder or a name; null: the one that lies beside it in a folder of 'convert', else a new one."""
    vocabulary: Literal["same", "extend", "replace"] = "same"
    """same: token for token the shards'. extend: the shards' has all of its tokens, and more. replace: any. Tokens of
    the same spelling keep their embeddings, and special tokens those of their role."""
    new_rows: Literal["mean", "normal"] = "mean"
    """Embeddings of new tokens: mean of the old ones and a little noise, or N(0, model.initializer_range)."""
    positions: Literal["same", "resize"] = "same"
    """same: as many as model.max_positions. resize: cut, or repeated from the first on."""

    def __post_init__(self) -> None:
        if self.from_ is None and self.generator is not None:
            raise ValueError(f"init.generator={self.generator}: needs init.from, the discriminator it belongs to")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = 10_000
    """Save after every so many steps (steps); the last step is always saved."""
    keep_last: int = 3
    """Newest checkpoints that stay (count)."""
    keep_every: int | None = None
    """Checkpoints at multiples of this stay for good (steps); null keeps none for good."""
    in_background: bool = True
    """Copy to host memory and write while training goes on; false: training waits, which needs no second copy."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep_last < 1 or (self.keep_every is not None and self.keep_every < 1):
            raise ValueError(
                f"checkpoint.every={self.every}, keep_last={self.keep_last}, keep_every={self.keep_every}: "
                "each must be at least 1 (keep_every may be null)"
            )


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Held-out text."""

    every: int = 5_000
    """Validate after every so many steps (steps), and at the end."""
    rows: int = 1024
    """Rows of the validation split that are used, over all ranks (count), spread evenly over it."""
    samples: int = 6
    """Rows written to samples.json, with the discriminator's opinion of each token (count)."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.rows < 1 or self.samples < 0:
            raise ValueError(
                f"validation.every={self.every}, rows={self.rows}, samples={self.samples}: expected at least 1, 1 and 0"
            )


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Metrics: always to metrics.jsonl and TensorBoard."""

    every: int = 1
    """Steps between two lines (steps); a line holds that step's own global values."""
    flush_every: int = 10
    """Lines gathered before ranks exchange and write them (count); bounds the cost of logging."""
    wandb_project: str | None = None
    """Also log to this Weights & Biases project; needs the extra [wandb]."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.flush_every < 1:
            raise ValueError(f"logging.every={self.every}, flush_every={self.flush_every}: must be at least 1")
