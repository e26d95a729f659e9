"""Resuming on another number of ranks, or at another ZeRO stage, than a checkpoint was saved with.

Each rank finds which numbers of which parameters its part of the optimizer holds, reads just those from the files of
the checkpoint, and lets DeepSpeed refresh the weights that it computes with. Nothing is converted or written; all ranks
together read each number of the optimizer once (at stage 0, where each rank keeps all of it, once a rank).

DeepSpeed's own way, universal checkpoints, writes three files a parameter first, cannot change between stages 0, 1-2
and 3, and at stage 3 copies the first group's hyperparameters to all groups and lets them share one step count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_ds.checkpoint import RunState
from electra_ds.errors import UserError
from electra_ds.training.optimizers import adam_of, create_state, set_updates
from electra_ds.zero_pieces import ZeroPieces


@dataclass(frozen=True)
class Target:
    """A run of a parameter's numbers in this rank's optimizer."""

    name: str
    """Of the parameter."""
    begin: int
    """First number in the flattened parameter."""
    owner: Tensor
    """Float32 tensor of the optimizer that has them, live."""
    offset: int
    """First of them in the flattened owner."""
    count: int
    """How many."""

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor like the owner that belongs to these numbers: [count], a view."""
        return tensor.data.view(-1)[self.offset : self.offset + self.count]


def load_resharded(engine: Any, path: Path, state: RunState, stage: int) -> None:
    """Put weights, moments and counts of any checkpoint into an engine of any world size and stage.

    Args:
        engine: DeepSpeed engine that has made no step.
        path: the checkpoint's folder, known to be whole.
        state: its run state.
        stage: the engine's ZeRO stage.

    Raises:
        UserError: the engine keeps its optimizer's state where it cannot be filled (NVMe).
        DataError: the checkpoint does not hold what the engine's parameters need.
    """
    pieces = ZeroPieces(path, state)
    partitioned = hasattr(engine.optimizer, "checkpoint_event_prologue")
    if partitioned:
        engine.optimizer.checkpoint_event_prologue()
    with torch.no_grad():
        for target in targets(engine, stage):
            end = target.begin + target.count
            target.of(target.owner).copy_(pieces.read(target.name, "master", target.begin, end))
            moments = _moments(engine, target)
            target.of(moments["exp_avg"]).copy_(pieces.read(target.name, "exp_avg", target.begin, end))
            target.of(moments["exp_avg_sq"]).copy_(pieces.read(target.name, "exp_avg_sq", target.begin, end))
        set_updates(adam_of(engine), pieces.updates)
        _refresh_weights(engine, stage)
    if partitioned:
        engine.optimizer.checkpoint_event_epilogue()
    if state.precision == "fp16":
        _set_loss_scale(engine, pieces.loss_scale)
    for counter, value in pieces.counters.items():
        setattr(engine, counter, value)


def targets(engine: Any, stage: int) -> Iterator[Target]:
    """Everything that this rank's optimizer holds, in its live tensors.

    Raises:
        UserError: it keeps its state where it cannot be reached (NVMe).
    """
    optimizer, names = engine.optimizer, engine.param_names
    if stage == 0:
        yield from _targets_stage_0(engine)
    elif stage == 3:
        if getattr(optimizer, "swap_optimizer", False):
            raise UserError(
                "the optimizer's state lies on NVMe (offload_optimizer.device=nvme): it can only be resumed as it was "
                "saved, and no moving average be kept of it (training.ema_decay); take --deepspeed zero3 or "
                "zero3_offload, or the ranks it was saved with"
            )
        rank = torch.distributed.get_rank(optimizer.dp_process_group)
        for flat, parameters in zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True):
            offset = 0
            for parameter in parameters:
                piece = parameter.partition_numel()
                count = min(piece, parameter.ds_numel - rank * piece)
                if count > 0:
                    yield Target(names[parameter], rank * piece, flat, offset, count)
                offset += piece
    else:
        groups = zip(
            optimizer.single_partition_of_fp32_groups,
            optimizer.round_robin_bit16_groups,
            optimizer.round_robin_bit16_offsets,
            optimizer.real_dp_process_group,
            strict=True,
        )
        for flat, parameters, offsets, process_group in groups:
            low = torch.distributed.get_rank(process_group) * flat.numel()
            for parameter, position in zip(parameters, offsets, strict=True):
                begin = max(position, low)
                count = min(position + parameter.numel(), low + flat.numel()) - begin
                if count > 0:
                    yield Target(names[parameter], begin - position, flat, begin - low, count)


def _targets_stage_0(engine: Any) -> Iterator[Target]:
    for parameter, master in _stage_0_masters(engine):
        yield Target(engine.param_names[parameter], 0, master, 0, master.numel())


def _stage_0_masters(engine: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """(weight, float32 master) pairs at stage 0; in float32 the weight is its own master."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_groups"):
        for weights, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            yield from zip(weights, masters, strict=True)
    elif hasattr(optimizer, "fp32_groups_flat"):
        raise UserError(
            f"at ZeRO stage 0 this DeepSpeed keeps its masters in a {type(optimizer).__name__}, which can only be "
            "resumed as it was saved; take --deepspeed zero1, which is no slower"
        )
    else:
        for group in optimizer.param_groups:
            yield from ((parameter, parameter) for parameter in group["params"])


def _moments(engine: Any, target: Target) -> dict[str, Tensor]:
    """The optimizer's state of a target's owner."""
    adam = adam_of(engine)
    if "exp_avg" not in adam.state[target.owner]:  # made in its first step, which DeepSpeed does not always make ahead
        create_state(adam, target.owner)
    state: dict[str, Tensor] = adam.state[target.owner]
    return state


def _set_loss_scale(engine: Any, scale: float | None) -> None:
    """Go on with the scale that the checkpoint had come to, wherever this stage keeps it."""
    keeper = getattr(engine.optimizer, "loss_scaler", None) or getattr(engine.optimizer, "loss_scale_config", None)
    if scale is not None and keeper is not None and hasattr(keeper, "cur_scale"):
        keeper.cur_scale = scale


def _refresh_weights(engine: Any, stage: int) -> None:
    """Bring the weights that are computed with to what the masters now are."""
    optimizer = engine.optimizer
    if stage == 0:
        for weight, master in _stage_0_masters(engine):
            if weight is not master:
                weight.data.copy_(master.data)
    elif stage == 3:
        same = {
            "loss_scaler": optimizer.loss_scaler,
            "dynamic_loss_scale": optimizer.dynamic_loss_scale,
            "overflow": optimizer.overflow,
            "fp32_flat_groups": optimizer.fp32_partitioned_groups_flat,
        }
        optimizer._rigid_load_state_dict(same, load_optimizer_states=False)
    else:
        optimizer.update_lp_params()
