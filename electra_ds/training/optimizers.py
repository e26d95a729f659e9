"""AdamW by torch, DeepSpeed or apex: one update, whoever computes it, and resumed exactly.

They differ in what they keep and in what they can be told. torch's always corrects the bias of the moments, by a step
count in its state. The two others can leave that out, and are always told to: with correction, DeepSpeed's CPU Adam
multiplies up beta^t from call to call, which a late resume does not repeat bit for bit. What the recipe wants and the
optimizer does not do is put into each update's own settings, see `schedule.adam_settings`.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from electra_ds.errors import UserError
from electra_ds.kernels.backends import look
from electra_ds.model.config import decays
from electra_ds.training.config import OptimizerConfig
from electra_ds.training.schedule import adam_settings

_LOCK_NAME = "lock"
"""File by which torch's extension builder tells others to wait; a build that was killed leaves it behind."""


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: weights that decay (embeddings included), and biases and LayerNorm that do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if decays(name) else kept).append(parameter)
    return [{"params": decayed, "decays": True}, {"params": kept, "decays": False}]


def build_optimizer(model: nn.Module, backend: str = "torch", on_cpu: bool = True) -> torch.optim.Optimizer:
    """AdamW with rate 0: `set_hyperparameters` gives every update its own settings.

    Rate 0 also disarms the update that DeepSpeed's optimizers make on zero gradients while they are built.

    Args:
        model: whose parameters to update.
        backend: ``torch``, ``deepspeed`` or ``apex``.
        on_cpu: whether the optimizer's state lies on the CPU, as with offloading.

    Raises:
        UserError: DeepSpeed's op cannot be built here, or apex is asked to work on a CPU.
    """
    groups = parameter_groups(model)
    if backend == "torch":
        return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=True)
    common: dict[str, Any] = {"lr": 0.0, "weight_decay": 0.0, "bias_correction": False}
    if backend == "apex":
        if on_cpu:
            raise UserError(
                "kernels.optimizer=apex works on a GPU only, but the optimizer's state lies on the CPU; take "
                "kernels.optimizer torch or deepspeed"
            )
        apex = importlib.import_module("apex.optimizers")
        made: torch.optim.Optimizer = apex.FusedAdam(groups, adam_w_mode=True, **common)
        return made
    from deepspeed.ops import adam

    if on_cpu:
        return _with_op("cpu_adam", lambda: adam.DeepSpeedCPUAdam(groups, adamw_mode=True, **common))
    return _with_op("fused_adam", lambda: adam.FusedAdam(groups, adam_w_mode=True, **common))


def set_hyperparameters(engine: Any, config: OptimizerConfig, rate: float, update: int) -> None:
    """Give both groups this update's settings, from the recipe alone.

    Args:
        engine: DeepSpeed engine.
        config: betas, eps, decay.
        rate: learning rate of the schedule.
        update: number of this update, counted from 1.
    """
    for group in engine.optimizer.param_groups:
        effective, eps, decay = adam_settings(config, rate, update, corrects="bias_correction" not in group)
        group.update(
            lr=effective, eps=eps, betas=(config.beta1, config.beta2), weight_decay=decay if group["decays"] else 0.0
        )


def leave_out_unless_finite(adam: torch.optim.Optimizer, norm: Tensor) -> None:
    """Let torch's fused AdamW change nothing in its next step if the gradient's norm is not finite.

    It looks at this mark on the device itself, so the host need not know.

    Args:
        adam: torch's.
        norm: of the global batch's gradient, scalar on the device of the weights.
    """
    adam.found_inf = (~torch.isfinite(norm)).to(torch.float32)  # type: ignore[attr-defined]


def adam_of(engine: Any) -> torch.optim.Optimizer:
    """The AdamW inside DeepSpeed's wrapper, or alone (float32 without ZeRO)."""
    adam: torch.optim.Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return adam


def forget_phantom_step(engine: Any) -> None:
    """Clear what the update on zero gradients left in the optimizer's state (bf16 at stage 0, and stages 1 to 3)."""
    adam = adam_of(engine)
    for entry in adam.state.values():
        for value in entry.values():
            if isinstance(value, Tensor):
                value.zero_()
    set_updates(adam, 0)


def set_updates(adam: torch.optim.Optimizer, updates: float) -> None:
    """Make the optimizer count on from `updates`, in the form that its kind keeps: by tensor, number or group."""
    tensors = isinstance(adam, torch.optim.AdamW)
    for entry in adam.state.values():
        if isinstance(entry.get("step"), Tensor):
            entry["step"].fill_(updates)
        elif tensors:
            entry["step"] = torch.tensor(float(updates), device=entry["exp_avg"].device)
        elif "step" in entry:
            entry["step"] = int(updates)
    for group in adam.param_groups:
        if "step" in group:
            group["step"] = int(updates)


def create_state(adam: torch.optim.Optimizer, owner: Tensor) -> None:
    """Make a parameter's empty state, as the optimizer itself does in its first step."""
    entry = adam.state[owner]
    entry["exp_avg"], entry["exp_avg_sq"] = torch.zeros_like(owner.data), torch.zeros_like(owner.data)
    if isinstance(adam, torch.optim.AdamW):
        entry["step"] = torch.zeros((), dtype=torch.float32, device=owner.device)
    elif type(adam).__module__.startswith("deepspeed."):
        entry["step"] = 0
    else:  # apex counts once a group
        for group in adam.param_groups:
            group.setdefault("step", 0)


def _with_op(name: str, build: Callable[[], torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """Make an optimizer whose op DeepSpeed compiles at its first use; one process of a node at a time."""
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    found = look("optimizer", "deepspeed", torch.device("cpu" if name == "cpu_adam" else "cuda"))
    if not found.available:
        raise UserError(f"kernels.optimizer=deepspeed: {found.reason}; or take kernels.optimizer torch")
    try:
        with _sole_builder(name):
            return build()
    except (RuntimeError, OSError) as error:
        cause = error.__cause__ or error
        raise UserError(
            f"kernels.optimizer=deepspeed: its {name} op cannot be built ({str(cause).strip().splitlines()[0]}); "
            "'ds_report' lists what DeepSpeed can build here; or take kernels.optimizer torch"
        ) from error


@contextmanager
def _sole_builder(name: str) -> Iterator[None]:
    """Hold a lock of the kernel's around a build, and remove torch's own if a killed build left it.

    torch marks a build by a file, for which every later build waits for ever. The kernel's lock ends with its process:
    whoever has it knows that such a file belongs to no one.
    """
    from torch.utils.cpp_extension import _get_build_directory

    folder = Path(_get_build_directory(name, False))
    with open(folder.with_name(f"{folder.name}.electra_ds"), "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        (folder / _LOCK_NAME).unlink(missing_ok=True)
        yield
