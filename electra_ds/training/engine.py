"""One DeepSpeed engine over one module: its config, its optimizer, and the traps around both."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from electra_ds import resources
from electra_ds.backend import import_deepspeed
from electra_ds.distributed import Place
from electra_ds.errors import UserError
from electra_ds.model.config import decays
from electra_ds.recipe import Recipe
from electra_ds.training.config import OptimizerConfig
from electra_ds.training.schedule import PhasePlan, adam_settings

FILLED_IN = {
    "train_batch_size": "training.global_batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.micro_batch_size",
    "gradient_clipping": "optimizer.clip_norm",
    "optimizer": "the optimizer section",
    "scheduler": "the schedule section",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "torch_autocast": "training.precision",
}
"""Keys a DeepSpeed file must not hold, and where the recipe says the same: each fact is written once."""


def choose_device(asked: str, precision: str, local_rank: int) -> torch.device:
    """Pick this rank's device.

    Raises:
        UserError: no such GPU, or it lacks the precision.
    """
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        if precision == "fp16":
            raise UserError("training.precision=fp16 needs a GPU; on a CPU take bf16 or float32")
        os.environ["DS_ACCELERATOR"] = "cpu"
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("training.device=cuda, but torch finds no GPU; take --training.device cpu or check the driver")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU of its own ({torch.cuda.device_count()} here); "
            "start at most one rank per GPU"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise UserError(f"training.precision=bf16, but {name} lacks bfloat16; take fp16 or float32")
    return device


def read_deepspeed_config(name: str) -> dict[str, Any]:
    """Read a shipped or a user's DeepSpeed config.

    Raises:
        UserError: not found, not JSON, or it sets what the recipe sets.
    """
    path = resources.find("ds_configs", name, ".json")
    try:
        config = json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"DeepSpeed config {path}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"DeepSpeed config {path}: expected a JSON object")
    twice = [f"{key} (set {FILLED_IN[key]} instead)" for key in config if key in FILLED_IN]
    if twice:
        raise UserError(f"DeepSpeed config {path}: remove {', '.join(twice)}; the recipe fills these in")
    return config


def zero_stage(config: dict[str, Any]) -> int:
    """ZeRO stage of a DeepSpeed config."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def complete_config(config: dict[str, Any], recipe: Recipe, phases: list[PhasePlan], parameters: int) -> dict[str, Any]:
    """Fill batch sizes, clipping, precision and buffer sizes into a DeepSpeed config."""
    # One engine serves all phases: it must be ready to accumulate if any of them does.
    accumulation = max(phase.accumulation for phase in phases)
    zero = {
        # Buckets default to half a billion elements; the parameter count, made even as DeepSpeed demands, fills one.
        key: (parameters + parameters % 2 if value == "auto" else value)
        for key, value in config.get("zero_optimization", {}).items()
    }
    completed = {
        **config,
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": phases[0].micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 0.0 if clips_itself(config, recipe) else recipe.optimizer.clip_norm,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
    }
    if recipe.training.precision == "bf16":
        completed["bf16"] = {"enabled": True}
    elif recipe.training.precision == "fp16":
        completed["fp16"] = {"enabled": True, "initial_scale_power": 16}
    return completed


def clips_itself(config: dict[str, Any], recipe: Recipe) -> bool:
    """Whether the loop clips: float32 without ZeRO, where DeepSpeed clips but keeps the norm to itself."""
    return zero_stage(config) == 0 and recipe.training.precision == "float32"


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: weights that decay (embeddings included), and biases and LayerNorm that do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if decays(name) else kept).append(parameter)
    return [{"params": decayed, "decays": True}, {"params": kept, "decays": False}]


def build_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Torch's fused AdamW with rate 0: `set_hyperparameters` gives every update its own settings.

    Rate 0 also disarms the update that DeepSpeed's bf16 optimizer makes on zero gradients while it is built. torch's
    AdamW resumes exactly, as it keeps its step count in the state; DeepSpeed's CPU Adam with bias correction does not.
    """
    return torch.optim.AdamW(parameter_groups(model), lr=0.0, weight_decay=0.0, fused=True)


def set_hyperparameters(engine: Any, config: OptimizerConfig, rate: float, update: int) -> None:
    """Give both groups this update's settings, from the recipe alone.

    Args:
        engine: DeepSpeed engine.
        config: betas, eps, decay.
        rate: learning rate of the schedule.
        update: number of this update, counted from 1.
    """
    effective, eps, decay = adam_settings(config, rate, update)
    for group in engine.optimizer.param_groups:
        group.update(
            lr=effective, eps=eps, betas=(config.beta1, config.beta2), weight_decay=decay if group["decays"] else 0.0
        )


def build_engine(
    model: nn.Module, recipe: Recipe, deepspeed_config: dict[str, Any], phases: list[PhasePlan], place: Place
) -> Any:
    """Wrap the module; the process group must be up."""
    deepspeed = import_deepspeed()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    config = complete_config(deepspeed_config, recipe, phases, parameters)
    optimizer = build_optimizer(model)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    forget_phantom_step(engine)
    engine._copy_recovery_script = lambda save_path: None  # a checkpoint holds data only, no scripts
    return engine


def forget_phantom_step(engine: Any) -> None:
    """Clear what the update on zero gradients left in the optimizer's state (bf16 at stage 0, and stages 1 to 3)."""
    base = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for state in base.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()
