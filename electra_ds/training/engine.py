"""One DeepSpeed engine over one module: its config, its optimizer, and the traps around both."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_ds import resources
from electra_ds.backend import import_deepspeed
from electra_ds.distributed import Place
from electra_ds.errors import UserError
from electra_ds.model.pretraining import Pretraining
from electra_ds.recipe import Recipe
from electra_ds.training.optimizers import (
    adam_of,
    build_optimizer,
    forget_phantom_step,
    leave_out_unless_finite,
    set_hyperparameters,
)
from electra_ds.training.schedule import PhasePlan

__all__ = ["build_engine", "clip_gradients", "set_hyperparameters"]

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


def complete_config(
    config: dict[str, Any], recipe: Recipe, phases: list[PhasePlan], parameters: int, optimizer: str = "torch"
) -> dict[str, Any]:
    """Fill batch sizes, clipping, precision and buffer sizes into a DeepSpeed config."""
    # One engine serves all phases: it must be ready to accumulate if any of them does.
    accumulation = max(phase.accumulation for phase in phases)
    zero = {
        # Buckets default to half a billion elements; the parameter count, made even as DeepSpeed demands, fills one.
        key: (parameters + parameters % 2 if value == "auto" else value)
        for key, value in config.get("zero_optimization", {}).items()
    }
    completed = {
        # Its throughput meter waits for the GPU at the beginning and at the end of each step.
        "timers": {"throughput": {"enabled": False}},
        **config,
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": phases[0].micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 0.0 if clips_itself(config, recipe) else recipe.optimizer.clip_norm,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
    }
    if recipe.training.precision == "bf16":
        # The check makes the host wait for each step. torch's AdamW can be told on the device, see
        # `_clip_without_waiting`, and where the run stops anyway nobody else needs to know at once.
        told = optimizer == "torch" and recipe.training.on_nonfinite == "stop" and recipe.optimizer.clip_norm > 0
        completed["bf16"] = {"enabled": True, "check_grad_overflow": not told}
    elif recipe.training.precision == "fp16":
        completed["fp16"] = {"enabled": True, "initial_scale_power": 16}
    return completed


def clips_itself(config: dict[str, Any], recipe: Recipe) -> bool:
    """Whether the loop clips: float32 without ZeRO, where DeepSpeed clips but keeps the norm to itself."""
    return zero_stage(config) == 0 and recipe.training.precision == "float32"


def build_engine(
    model: Pretraining,
    recipe: Recipe,
    deepspeed_config: dict[str, Any],
    phases: list[PhasePlan],
    place: Place,
    optimizer: str = "torch",
) -> Any:
    """Wrap the module; the process group must be up.

    Args:
        model: on its device.
        recipe: of the run.
        deepspeed_config: from `read_deepspeed_config`.
        phases: of the run.
        place: of this rank.
        optimizer: ``torch``, ``deepspeed`` or ``apex``.

    Raises:
        UserError: this optimizer does not go together with the ZeRO stage, or cannot be built.
    """
    deepspeed = import_deepspeed()
    # Under ZeRO-3 every use of the word matrix must go through its module, which puts it together.
    model.hands_on = zero_stage(deepspeed_config) != 3
    parameters = sum(parameter.numel() for parameter in model.parameters())
    config = complete_config(deepspeed_config, recipe, phases, parameters, optimizer)
    on_cpu = offloads(config) or next(model.parameters()).device.type == "cpu"
    _check_optimizer(optimizer, config, recipe, on_cpu)
    built = build_optimizer(model, optimizer, on_cpu)
    engine, *_ = deepspeed.initialize(model=model, optimizer=built, config=config, dist_init_required=False)
    forget_phantom_step(engine)
    engine._copy_recovery_script = lambda save_path: None  # a checkpoint holds data only, no scripts
    _clip_without_waiting(engine, config)
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if scaler is not None and hasattr(scaler, "raise_error_at_min_scale"):
        scaler.raise_error_at_min_scale = False  # such steps are reported, with their rows, by training.nonfinite
    return engine


def clip_gradients(engine: Any, limit: float, skip: bool) -> Tensor:
    """Clip where `clips_itself`, and see to it that a gradient that is not finite changes no weight.

    Args:
        engine: DeepSpeed engine, float32 without ZeRO.
        limit: greatest norm; 0 clips nothing.
        skip: count such a step as left out, for which the host waits for the gradient. Elsewhere DeepSpeed does it.

    Returns:
        Norm before clipping, float32 scalar.
    """
    parameters = list(engine.module.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
    if not skip and isinstance(engine.optimizer, torch.optim.AdamW):
        leave_out_unless_finite(engine.optimizer, norm)
        return norm
    # DeepSpeed looks at this mark after the optimizer's step, which passes over parameters without a gradient.
    engine.optimizer.overflow = not bool(torch.isfinite(norm))
    if engine.optimizer.overflow:
        for parameter in parameters:
            parameter.grad = None
    return norm


def scale_of_norm(engine: Any) -> float | None:
    """What the next step's `get_global_grad_norm` has to be divided by; None: by nothing.

    Without ZeRO DeepSpeed's fp16 optimizer tells the norm of the scaled gradients, the others that of the gradients.
    """
    unfused = engine.fp16_enabled() and hasattr(engine.optimizer, "fp32_groups")
    return float(engine.optimizer.loss_scale_config.cur_scale) if unfused else None


def offloads(config: dict[str, Any]) -> bool:
    """Whether a DeepSpeed config keeps the optimizer's state off the GPU."""
    offload = config.get("zero_optimization", {}).get("offload_optimizer") or {}
    return str(offload.get("device", "none")) != "none"


def _check_optimizer(optimizer: str, config: dict[str, Any], recipe: Recipe, on_cpu: bool) -> None:
    fused = optimizer == "apex" or (optimizer == "deepspeed" and not on_cpu)
    if fused and zero_stage(config) == 0 and recipe.training.precision != "float32":
        raise UserError(
            f"kernels.optimizer={optimizer} at ZeRO stage 0 in {recipe.training.precision}: DeepSpeed keeps the "
            "float32 weights in another form there, which cannot be exported or resumed elsewhere; take --deepspeed "
            "zero1, which is no slower, or kernels.optimizer torch"
        )


def _clip_without_waiting(engine: Any, config: dict[str, Any]) -> None:
    """Let ZeRO stages 1 and 2 clip bf16 gradients on the device, without asking whether their norm is finite.

    DeepSpeed asks there (zero/stage_1_and_2.py, unscale_and_clip_grads), and the host waits for the whole backward pass
    to answer. A norm that is not finite arrives as infinity; torch's AdamW is told, and changes nothing.
    """
    limit, adam = float(config["gradient_clipping"]), adam_of(engine)
    if zero_stage(config) not in (1, 2) or config.get("bf16", {}).get("check_grad_overflow", True):
        return

    def unscale_and_clip(gradients: list[Tensor], norm: Tensor) -> None:
        factor = 1.0 / torch.clamp((norm + 1e-6) / limit, min=1.0)
        for gradient in gradients:
            gradient.data.mul_(factor)
        leave_out_unless_finite(adam, norm)

    engine.optimizer.unscale_and_clip_grads = unscale_and_clip
