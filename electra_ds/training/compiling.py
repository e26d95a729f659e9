"""torch.compile on the model's blocks, one by one and in place, before the engine takes the module.

A block is a transformer layer or the discriminator's head; what stands between them (look-ups, gathers, the sample's
search) is short. All layers of a network share one compiled graph. Vocabulary heads compile their own passes over the
logits (`kernels.vocabulary`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from electra_ds.errors import UserError
from electra_ds.kernels.backends import Chosen, choose, look
from electra_ds.kernels.compiling import compile_static
from electra_ds.kernels.config import Backends, KernelsConfig
from electra_ds.model.config import ModelConfig
from electra_ds.model.encoder import Layer
from electra_ds.model.heads import DiscriminatorHead
from electra_ds.model.pretraining import Pretraining
from electra_ds.recipe import Recipe

BLOCKS = (Layer, DiscriminatorHead)
"""Modules whose forward pass is one graph."""


def choose_backends(recipe: Recipe, model: ModelConfig, device: torch.device) -> Chosen:
    """Backends of the fused operations for a run.

    Args:
        recipe: kernels and precision.
        model: sizes.
        device: where the model lies.

    Raises:
        UserError: something that was asked for is not there.
    """
    heads = (model.hidden_size // model.heads, model.generator_hidden_size // model.generator_heads)
    return choose(
        recipe.kernels,
        device,
        precision=recipe.training.precision,
        head_sizes=heads,
        hidden_sizes=(model.hidden_size, model.generator_hidden_size),
        compiled=compiles(recipe.kernels.compile, device),
    )


def compiles(asked: bool | None, device: torch.device) -> bool:
    """Whether blocks are compiled: as asked for, else where the device's compiler is there.

    Raises:
        UserError: it was asked for and cannot be.
    """
    missing = _missing(device)
    if asked and missing:
        raise UserError(f"kernels.compile=true cannot run here: {missing}; or take kernels.compile null")
    return not missing if asked is None else asked


def kept_share(config: KernelsConfig, backends: Backends, device: torch.device, drops: bool = True) -> float:
    """Share of the activations that compiled blocks keep for the backward pass; `drops`: attention weights are dropped.

    Raises:
        UserError: less than all is asked for with attention whose kernel draws its own dropout: run a second time it
            would drop other weights.
    """
    if config.activation_memory is None:
        return 0.5 if device.type == "cpu" else 1.0
    if config.activation_memory < 1 and backends.attention != "torch":
        raise UserError(
            f"kernels.activation_memory={config.activation_memory:g}: kernels.attention={backends.attention} cannot be "
            "computed twice inside a block; take 1, kernels.activation_checkpointing, or kernels.attention torch"
        )
    if config.activation_memory < 1 and device.type != "cpu" and drops:
        raise UserError(
            f"kernels.activation_memory={config.activation_memory:g}: on a {device.type} device attention draws its "
            "own dropout, and would drop other weights when it is computed again; take 1, "
            "kernels.activation_checkpointing, or model.attention_dropout 0"
        )
    return config.activation_memory


def _missing(device: torch.device) -> str:
    """What stands in the way of compiling for a device, and what to do about it; empty if nothing does."""
    if device.type == "cuda":
        return look("gelu", "triton", device).reason
    compiler = os.environ.get("CXX", "g++")
    return "" if shutil.which(compiler) else f"no C++ compiler ({compiler}) is on PATH: install g++, or set CXX"


def compile_blocks(model: Pretraining, sharded: bool = False, kept: float = 1.0) -> None:
    """Compile every block for training; evaluation, whose shapes differ, runs as written.

    Shapes are static: a row length or a micro-batch that was not seen before compiles once more.

    Args:
        model: not yet taken by the engine.
        sharded: the engine takes weights apart (ZeRO-3): it must put those of a block together before the block, as
            inside a graph it cannot.
        kept: share of the activations to keep for the backward pass, see `kept_share`.
    """
    if sharded:
        from deepspeed.utils import set_z3_leaf_modules

        set_z3_leaf_modules(model, list(BLOCKS))
    for module in model.modules():
        if isinstance(module, BLOCKS):
            module.forward = _while_training(module, module.forward, kept)  # type: ignore[method-assign]


def _while_training(module: nn.Module, forward: Callable[..., Any], kept: float) -> Callable[..., Any]:
    compiled = compile_static(forward)
    seen: set[tuple[torch.Size, ...]] = set()

    def either(*arguments: Any) -> Any:
        if not module.training:
            return forward(*arguments)
        shapes = _shapes(arguments)
        if shapes in seen:
            return compiled(*arguments)
        seen.add(shapes)
        with _partitioned(kept):
            return compiled(*arguments)

    return either


def _shapes(arguments: tuple[Any, ...]) -> tuple[torch.Size, ...]:
    """Of the tensors among a block's arguments, and in the tuples among them."""
    parts = (part for one in arguments for part in (one if isinstance(one, tuple) else (one,)))
    return tuple(part.shape for part in parts if isinstance(part, torch.Tensor))


def _partitioned(kept: float) -> AbstractContextManager[Any]:
    """How the graphs compiled meanwhile are cut into forward and backward; others' keep their ways.

    By default the partitioner does not go through a long chain of cheap operations again, nor through one that ran
    long before. A stored dropout mask costs more than its hash: a layer of small takes 10% more time on a CPU. Below a
    `kept` of 1 it also computes short matrix products again, where that saves much: attention's probabilities first.
    """
    import torch._functorch.config as settings

    wanted = {
        "ban_recompute_used_far_apart": False,
        "ban_recompute_long_fusible_chains": False,
        "activation_memory_budget": kept,
    }
    patch: dict[str, object] = {name: value for name, value in wanted.items() if hasattr(settings, name)}
    context: AbstractContextManager[Any] = settings.patch(patch)
    return context
