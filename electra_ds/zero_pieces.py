"""Parameters, Adam's moments and moving averages of a checkpoint of any ZeRO stage and world size, in any parts.

Where they lie (DeepSpeed 0.19, whose utils/zero_to_fp32.py reads the same):

- stage 0: whole in the model file; in bf16 and fp16 the optimizer keeps float32 masters beside the weights;
- stages 1, 2: each parameter group is one flat vector, cut into equal pieces, one a rank;
- stage 3: each parameter is cut on its own; a rank's pieces of all parameters of a group are one flat vector.

The moving average of the weights, if the recipe keeps one, lies in files of our own beside DeepSpeed's (`ema_file`):
one a rank, one in all at stage 0. Each lists which numbers of which parameters it has.

Files are mapped into memory, not read: whoever needs a part of a parameter reads that part from the disk. Export and
resuming on another number of ranks, or at another stage, stand on this.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from electra_ds.checkpoint import RunState, load_weights_only
from electra_ds.errors import DataError
from electra_ds.model.config import decays

Kind = Literal["master", "exp_avg", "exp_avg_sq", "ema"]
KINDS: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")
"""Float32 weights, and Adam's running means of gradients and of their squares: what every checkpoint has."""
EMA_VERSION = 1
_PREFIXES = ("bf16_", "", "fp16_")


@dataclass(frozen=True)
class _Extent:
    """A run of a parameter's numbers in one rank's flat vector of a group."""

    rank: int
    group: int
    begin: int
    """In the parameter (numbers)."""
    offset: int
    """In the flat vector (numbers)."""
    count: int


def ema_file(rank: int) -> str:
    """Name of the file in a checkpoint that holds a rank's part of the moving average."""
    return f"ema_rank_{rank:05d}.pt"


class ZeroPieces:
    """The parameters of one checkpoint that is known to be whole.

    Attributes:
        shapes: name of each parameter to its shape, in the optimizer's order.
        updates: how many updates the moments have seen.
        counters: DeepSpeed's own counts (``global_steps``, ``global_samples``, ``skipped_steps``).
    """

    def __init__(self, path: Path, state: RunState) -> None:
        """Open a checkpoint.

        Raises:
            DataError: a file is missing, or the pieces do not add up.
        """
        self._path, self._stage, self._world_size = path, state.zero_stage, state.world_size
        self._files: dict[int, dict[str, Any]] = {}
        name = "zero_pp_rank_0_mp_rank_00_model_states.pt" if self._stage == 3 else "mp_rank_00_model_states.pt"
        model_file = load_weights_only(path / name, mmap=True)
        self.counters = {key: int(model_file[key]) for key in ("global_steps", "global_samples", "skipped_steps")}
        self.shapes: dict[str, torch.Size] = {}
        self._whole: dict[str, dict[Kind, Tensor]] = {}
        self._stage_0_scale: float | None = None
        self._extents: dict[str, list[_Extent]] = {}
        self._ema: dict[int, dict[str, Any]] | None = None
        self._ema_extents: dict[str, list[_Extent]] = {}
        if self._stage == 0:
            self.updates = self._open_stage_0(model_file)
            return
        groups = model_file["param_shapes"]
        first = self._flat(0, "master")
        if len(first) != len(groups):
            raise DataError(f"checkpoint {path}: {len(first)} flat groups for {len(groups)} parameter groups")
        for number, group in enumerate(groups):
            self.shapes.update(group)
            extents = self._cut_by_parameter if self._stage == 3 else self._cut_by_group
            for extent_name, extent in extents(number, group):
                self._extents.setdefault(extent_name, []).append(extent)
        key = "optimizer_state_dict" if self._stage == 3 else "base_optimizer_state"
        self.updates = _updates(self._optimizer(0)[key])

    def read(self, name: str, kind: Kind, begin: int = 0, end: int | None = None) -> Tensor:
        """Return numbers `begin` to `end` of a parameter, flattened: float32 [end - begin], a copy.

        Args:
            name: of the parameter.
            kind: what of it.
            begin: first number.
            end: one past the last; None for all.
        """
        end = self.shapes[name].numel() if end is None else end
        if self._stage == 0 and kind != "ema":
            return self._whole[name][kind].detach().flatten()[begin:end].to(torch.float32, copy=True)
        out = torch.empty(end - begin, dtype=torch.float32)
        filled = 0
        for extent in self._extents_of(name, kind):
            low, high = max(begin, extent.begin), min(end, extent.begin + extent.count)
            if low < high:
                source = self._flat(extent.rank, kind)[extent.group]
                at = extent.offset + low - extent.begin
                out[low - begin : high - begin] = source[at : at + high - low]
                filled += high - low
        if filled != end - begin:
            raise DataError(f"checkpoint {self._path}: its pieces hold {filled} of {end - begin} numbers of {name}")
        return out

    @property
    def ema_decay(self) -> float | None:
        """Decay of the moving average that the checkpoint holds; None if it holds none."""
        files = self._ema_files()
        return float(files[0]["decay"]) if files else None

    @property
    def ema_updates(self) -> int:
        """Updates that the moving average has seen."""
        files = self._ema_files()
        return int(files[0]["updates"]) if files else 0

    @property
    def loss_scale(self) -> float | None:
        """Scale of the loss that an fp16 run had come to; 1 or None in other precisions."""
        if self._stage == 0:
            return self._stage_0_scale
        return float(self._optimizer(0)["loss_scaler"].cur_scale)

    def _open_stage_0(self, model_file: dict[str, Any]) -> float:
        module: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, tensor in model_file["module"].items():
            if tensor.data_ptr() not in seen:  # a shared parameter is listed under each of its names: the first counts
                module[name] = tensor
            seen.add(tensor.data_ptr())
        # The optimizer's order: all that decays, then the rest, each in the module's order.
        names = [name for wanted in (True, False) for name in module if decays(name) == wanted]
        optimizer = model_file["optimizer"]
        self._stage_0_scale = float(optimizer["cur_scale"]) if "cur_scale" in optimizer else None
        masters = [tensor for group in optimizer.get("fp32_groups", []) for tensor in group]
        adam_state = optimizer.get("optimizer_state_dict", optimizer)
        adam = adam_state["state"]
        if masters and [tuple(t.shape) for t in masters] != [tuple(module[name].shape) for name in names]:
            raise DataError(f"checkpoint {self._path}: its float32 masters do not match its parameters")
        for number, name in enumerate(names):
            self.shapes[name] = module[name].shape
            master = masters[number] if masters else module[name]
            if masters and not torch.equal(master.to(module[name].dtype), module[name]):
                raise DataError(f"checkpoint {self._path}: the float32 master of {name} does not round to its weight")
            moments = adam.get(number) or {}
            nothing = torch.zeros(()).expand(module[name].shape)
            self._whole[name] = {
                "master": master,
                "exp_avg": moments.get("exp_avg", nothing),
                "exp_avg_sq": moments.get("exp_avg_sq", nothing),
            }
        return _updates(adam_state)

    def _cut_by_group(self, number: int, group: OrderedDict[str, torch.Size]) -> Iterator[tuple[str, _Extent]]:
        """Stages 1 and 2: a group's parameters lie one after another in the ranks' vectors put together."""
        size = self._flat(0, "exp_avg")[number].numel()  # the masters lack the last rank's padding, the moments do not
        paddings = self._optimizer(0).get("param_alignment_paddings") or [[0] * len(group)] * (number + 1)
        position = 0
        for (name, shape), padding in zip(group.items(), paddings[number], strict=True):
            yield from ((name, extent) for extent in _over_ranks(number, position, shape.numel(), size))
            position += shape.numel() + padding
        if not 0 <= size * self._world_size - position < 2 * self._world_size * 128:
            raise DataError(
                f"checkpoint {self._path}: {size * self._world_size} numbers in its pieces, its parameters need "
                f"{position}"
            )

    def _cut_by_parameter(self, number: int, group: OrderedDict[str, torch.Size]) -> Iterator[tuple[str, _Extent]]:
        """Stage 3: each rank has an equal piece of each parameter, the last one padded."""
        offset = 0
        for name, shape in group.items():
            piece = -(-shape.numel() // self._world_size)
            for rank in range(self._world_size):
                count = min(piece, shape.numel() - rank * piece)
                if count > 0:
                    yield name, _Extent(rank, number, rank * piece, offset, count)
            offset += piece
        held = self._flat(0, "master")[number].numel()
        if held < offset:
            raise DataError(f"checkpoint {self._path}: {held} numbers in a piece, its parameters need {offset}")

    def _extents_of(self, name: str, kind: Kind) -> list[_Extent]:
        if kind != "ema":
            return self._extents[name]
        self._ema_files()
        return self._ema_extents.get(name, [])

    def _ema_files(self) -> dict[int, dict[str, Any]]:
        """Content of the moving average's files by rank, mapped; empty if there are none."""
        if self._ema is None:
            self._ema = {}
            if (self._path / ema_file(0)).is_file():
                for rank in range(self._world_size if self._stage else 1):
                    self._ema[rank] = self._open_ema(rank)
        return self._ema

    def _open_ema(self, rank: int) -> dict[str, Any]:
        file = self._path / ema_file(rank)
        if not file.is_file():
            raise DataError(f"checkpoint {self._path}: {file.name} is missing")
        content: dict[str, Any] = load_weights_only(file, mmap=True)
        if content.get("version") != EMA_VERSION:
            raise DataError(f"{file}: version {content.get('version')}, this release reads {EMA_VERSION}")
        for name, begin, vector, offset, count in content["extents"]:
            self._ema_extents.setdefault(name, []).append(_Extent(rank, vector, begin, offset, count))
        return content

    def _flat(self, rank: int, kind: Kind) -> list[Tensor]:
        """A rank's flat vectors, one per parameter group."""
        if kind == "ema":
            averages: list[Tensor] = self._ema_files()[rank]["vectors"]
            return averages
        optimizer = self._optimizer(rank)
        if kind == "master":
            vectors: list[Tensor] = optimizer["fp32_flat_groups" if self._stage == 3 else _PARTITION]
            return vectors
        adam = self._adam(rank)
        return [adam[number][kind] for number in sorted(adam)]

    def _adam(self, rank: int) -> dict[int, dict[str, Tensor]]:
        key = "optimizer_state_dict" if self._stage == 3 else "base_optimizer_state"
        state: dict[int, dict[str, Tensor]] = self._optimizer(rank)[key]["state"]
        return state

    def _optimizer(self, rank: int) -> dict[str, Any]:
        if rank not in self._files:
            for prefix in _PREFIXES:
                file = self._path / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
                if file.is_file():
                    self._files[rank] = load_weights_only(file, mmap=True)["optimizer_state_dict"]
                    break
            else:
                raise DataError(f"checkpoint {self._path}: no optimizer file of rank {rank}")
        return self._files[rank]


_PARTITION = "single_partition_of_fp32_groups"


def _updates(adam: dict[str, Any]) -> float:
    """Updates that an optimizer's state has seen; apex counts them once a group, others by parameter."""
    counted = [*adam["state"].values(), *adam.get("param_groups", [])]
    return max((float(entry["step"]) for entry in counted if "step" in entry), default=0.0)


def _over_ranks(group: int, position: int, numbers: int, size: int) -> Iterator[_Extent]:
    """Cut numbers that begin at `position` of a group by the borders of ranks, `size` numbers each."""
    begin = 0
    while begin < numbers:
        rank, offset = divmod(position + begin, size)
        count = min(numbers - begin, size - offset)
        yield _Extent(rank, group, begin, offset, count)
        begin += count


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
    pieces = ZeroPieces(path, state)
    return {name: pieces.read(name, "master").view(shape) for name, shape in pieces.shapes.items()}
