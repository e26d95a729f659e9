"""Adam with a learning rate per layer, and the schedule around it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from electra_ds.finetune.config import FinetuneConfig

DecayKind = Literal["intended", "original"]
_LAYER = re.compile(r"(?:^|\.)(?:layer|layers|h)\.(\d+)\.")


def depth_of(name: str, base_prefix: str) -> int | None:
    """Return the depth of a parameter: 0 for embeddings and their projection, i + 1 for layer i (from 0).

    Args:
        name: its full name in the model with the head.
        base_prefix: name of the encoder inside it (``electra``).

    Returns:
        The depth, or None for what belongs to the head or follows the last layer.
    """
    if not name.startswith(base_prefix + "."):
        return None
    inner = name.removeprefix(base_prefix + ".")
    if layer := _LAYER.search(inner):
        return int(layer.group(1)) + 1
    return 0 if "embeddings" in inner else None


def layer_learning_rate(depth: int | None, layers: int, peak: float, decay: float, kind: DecayKind) -> float:
    """Return the peak learning rate at a depth.

    Args:
        depth: see `depth_of`; None (the head) has `peak`.
        layers: number of layers n.
        peak: learning rate of the head.
        decay: factor d per layer.
        kind: ``intended``: peak * d^(n + 1 - depth), so the last layer has d^1. ``original``: peak * d^(n + 2 - depth),
            so the last layer has d^2 and the embeddings d^(n + 2), as google-research/electra computes it
            (model/optimization.py `_get_layer_lrs`; its issues 51 and 64).
    """
    if depth is None:
        return peak
    return peak * decay ** (layers + (1 if kind == "intended" else 2) - depth)


def parameter_groups(
    model: torch.nn.Module,
    layers: int,
    base_prefix: str,
    peak: float,
    decay: float,
    kind: DecayKind = "intended",
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Group parameters by learning rate and weight decay, each parameter in one group.

    Returns:
        Groups for a torch optimizer: ``params``, ``names``, ``lr``, ``weight_decay`` (0 on biases and LayerNorm).
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = layer_learning_rate(depth_of(name, base_prefix), layers, peak, decay, kind)
        decayed = 0.0 if parameter.ndim < 2 else weight_decay  # one-dimensional: biases and LayerNorm
        group = groups.setdefault((rate, decayed), {"params": [], "names": [], "lr": rate, "weight_decay": decayed})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(
    groups: Iterable[dict[str, Any]], config: FinetuneConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """Return AdamW over `groups`, and a linear schedule over `steps` updates.

    The first update has learning rate 0, as in Google's code, unless there is no warmup: at most all updates but one
    warm up, so that a single update has the whole rate and trains.
    """
    import torch
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.AdamW(
        ({key: value for key, value in group.items() if key != "names"} for group in groups),
        betas=(0.9, 0.999),
        eps=config.adam_epsilon,
        fused=True,
    )
    warmup = min(math.ceil(config.warmup * steps), steps - 1)
    scheduler = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    return optimizer, scheduler
