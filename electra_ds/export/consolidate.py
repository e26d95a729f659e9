"""Full float32 weights from a checkpoint of any ZeRO stage and world size; no GPU, no ranks.

Where the weights lie (DeepSpeed 0.19, utils/zero_to_fp32.py reads the same):

- stage 0: whole in the model file; in bf16 and fp16 the optimizer keeps float32 masters beside them;
- stages 1, 2: each parameter group is one flat vector, cut into equal pieces, one a rank;
- stage 3: each parameter is cut on its own; a rank's pieces of all parameters of a group are one flat vector.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_ds.checkpoint import RunState, load_weights_only
from electra_ds.errors import DataError
from electra_ds.model.config import decays


def read_weights(path: Path, state: RunState) -> dict[str, Tensor]:
    """Read all parameters of a checkpoint.

    Args:
        path: the checkpoint's folder, known to be whole.
        state: its run state.

    Returns:
        Name of each parameter to its float32 tensor, in full shape, on the CPU.

    Raises:
        DataError: a file is missing, or the pieces do not add up.
    """
    if state.zero_stage == 0:
        return _stage_0(load_weights_only(path / "mp_rank_00_model_states.pt"), path)
    name = "zero_pp_rank_0_mp_rank_00_model_states.pt" if state.zero_stage == 3 else "mp_rank_00_model_states.pt"
    shapes = load_weights_only(path / name)["param_shapes"]
    parts = [_flat_groups(path, rank, state.zero_stage) for rank in range(state.world_size)]
    if len(parts[0]) != len(shapes):
        raise DataError(f"checkpoint {path}: {len(parts[0])} flat groups for {len(shapes)} parameter groups")
    weights: dict[str, Tensor] = {}
    merge = _merge_stage_3 if state.zero_stage == 3 else _merge_stage_1_2
    for number, group in enumerate(shapes):
        weights.update(merge([part[number] for part in parts], group, path))
    return weights


def _stage_0(model_file: dict[str, Any], path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model_file["module"].items():
        if tensor.data_ptr() not in seen:  # a shared parameter is listed under each of its names: the first one counts
            weights[name] = tensor.float()
        seen.add(tensor.data_ptr())
    masters = (model_file.get("optimizer") or {}).get("fp32_groups")
    if masters is None:
        return weights
    # The masters come in the optimizer's order: all that decays, then the rest, each in the module's order.
    flat = [tensor for group in masters for tensor in group]
    names = [name for wanted in (True, False) for name in weights if decays(name) == wanted]
    if [tuple(t.shape) for t in flat] != [tuple(weights[name].shape) for name in names]:
        raise DataError(f"checkpoint {path}: its float32 masters do not match its parameters")
    for name, master in zip(names, flat, strict=True):
        lowered = master.to(model_file["module"][name].dtype)
        if not torch.equal(lowered, model_file["module"][name]):
            raise DataError(f"checkpoint {path}: the float32 master of {name} does not round to its weight")
        weights[name] = master.float()
    return weights


def _flat_groups(path: Path, rank: int, stage: int) -> list[Tensor]:
    """A rank's float32 pieces, one flat tensor per parameter group."""
    for prefix in ("bf16_", "", "fp16_"):
        file = path / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        if file.is_file():
            state = load_weights_only(file)["optimizer_state_dict"]
            key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
            return [tensor.float() for tensor in state[key]]
    raise DataError(f"checkpoint {path}: no optimizer file of rank {rank}")


def _merge_stage_1_2(parts: list[Tensor], shapes: OrderedDict[str, torch.Size], path: Path) -> dict[str, Tensor]:
    flat = torch.cat(parts)
    merged: dict[str, Tensor] = {}
    offset = 0
    for name, shape in shapes.items():
        merged[name] = flat[offset : offset + shape.numel()].view(shape).clone()
        offset += shape.numel()
    if not 0 <= flat.numel() - offset < 2 * len(parts) * 128:
        raise DataError(f"checkpoint {path}: {flat.numel()} numbers in its pieces, its parameters need {offset}")
    return merged


def _merge_stage_3(parts: list[Tensor], shapes: OrderedDict[str, torch.Size], path: Path) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    offset = 0
    for name, shape in shapes.items():
        piece = -(-shape.numel() // len(parts))
        whole = torch.cat([part[offset : offset + piece] for part in parts])
        merged[name] = whole[: shape.numel()].view(shape).clone()
        offset += piece
    if any(part.numel() < offset for part in parts):
        raise DataError(f"checkpoint {path}: {parts[0].numel()} numbers in a piece, its parameters need {offset}")
    return merged
