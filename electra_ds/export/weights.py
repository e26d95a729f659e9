"""Where an export reads full parameters from: a ZeRO or a universal checkpoint, several of them averaged, or memory.

All of them give any part of any parameter, so that nobody needs to hold more than the part at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from electra_ds.checkpoint import RunState, load_weights_only
from electra_ds.errors import DataError, UserError
from electra_ds.zero_pieces import Kind, ZeroPieces

CHUNK = 1 << 20
"""Numbers that are added up at a time."""


class Weights(Protocol):
    """The parameters of `Electra` by their own names."""

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Name of each parameter to its shape."""

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Tensor:
        """Numbers `begin` to `end` of a parameter, flattened: [end - begin], a copy on the CPU."""


class StoredWeights:
    """Weights of one ZeRO checkpoint that is known to be whole."""

    def __init__(self, path: Path, state: RunState, kind: Kind = "master") -> None:
        """Open it; `kind` is ``master`` or ``ema``.

        Raises:
            UserError: the run kept no moving average. DataError: a file is missing, or the pieces do not add up.
        """
        self._pieces, self._kind = ZeroPieces(path, state), kind
        if kind == "ema" and self._pieces.ema_decay is None:
            raise UserError(
                f"--weights ema: {path} holds no moving average; the recipe keeps one with training.ema_decay, for "
                "example 0.999"
            )

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Name of each parameter to its shape."""
        return self._pieces.shapes

    @property
    def ema_decay(self) -> float | None:
        """Decay of the moving average that lies beside the weights."""
        return self._pieces.ema_decay

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Tensor:
        """See `Weights.read`; float32."""
        return self._pieces.read(name, self._kind, begin, end)


class UniversalWeights:
    """Weights of a folder that ``deepspeed.checkpoint.ds_to_universal`` wrote from a checkpoint of stage 1, 2 or 3.

    It has ``zero/NAME/fp32.pt`` for each parameter: in its shape, or flat where it comes from stage 3.
    """

    def __init__(self, path: Path) -> None:
        """Open the folder.

        Raises:
            DataError: something else, or a parameter's file is missing.
        """
        self._path = path
        model_file = model_file_of_universal(path)
        if model_file is None:
            raise DataError(f"{path}: no *_model_states.pt in it; expected what ds_to_universal wrote")
        groups = load_weights_only(model_file, mmap=True)["param_shapes"]
        self.shapes: dict[str, torch.Size] = {name: shape for group in groups for name, shape in group.items()}
        missing = [name for name in self.shapes if not self._file(name).is_file()]
        if missing:
            raise DataError(
                f"{path}: zero/{missing[0]}/fp32.pt is missing (with {len(missing) - 1} others); run ds_to_universal "
                "again"
            )
        self._open: tuple[str, Tensor] | None = None

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Tensor:
        """See `Weights.read`; float32."""
        if self._open is None or self._open[0] != name:
            content = load_weights_only(self._file(name), mmap=True)
            value = content["param"] if isinstance(content, dict) else content
            if not isinstance(value, Tensor) or value.numel() != self.shapes[name].numel():
                raise DataError(
                    f"{self._file(name)}: expected one tensor of {self.shapes[name].numel():,} numbers; run "
                    "ds_to_universal again"
                )
            self._open = (name, value.detach().flatten())
        return self._open[1][begin : self.shapes[name].numel() if end is None else end].to(torch.float32, copy=True)

    def _file(self, name: str) -> Path:
        return self._path / "zero" / name / "fp32.pt"


def model_file_of_universal(path: Path) -> Path | None:
    """The model file of a universal checkpoint; None for any other folder."""
    if not (path / "zero").is_dir():
        return None
    return next(iter(sorted(path.glob("*mp_rank_00_model_states.pt"))), None)


class AverageWeights:
    """Mean of several checkpoints' weights, added up in float64."""

    def __init__(self, members: Sequence[Weights], names: Sequence[str]) -> None:
        """Average `members`, which errors call by `names`.

        Raises:
            UserError: their parameters or shapes differ.
        """
        self._members = members
        self.shapes = members[0].shapes
        for member, name in zip(members, names, strict=True):
            if dict(member.shapes) != dict(self.shapes):
                differing = sorted(
                    key
                    for key in member.shapes.keys() | self.shapes.keys()
                    if member.shapes.get(key) != self.shapes.get(key)
                )
                raise UserError(
                    f"--average: {name} has other parameters than {names[0]} ({', '.join(differing[:3])}); only "
                    "checkpoints of one model can be averaged"
                )

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Tensor:
        """See `Weights.read`; float32."""
        end = self.shapes[name].numel() if end is None else end
        out = torch.empty(end - begin, dtype=torch.float32)
        for low in range(begin, end, CHUNK):
            high = min(end, low + CHUNK)
            total = torch.zeros(high - low, dtype=torch.float64)
            for member in self._members:
                total += member.read(name, low, high)
            out[low - begin : high - begin] = total / len(self._members)
        return out


class TensorWeights:
    """Weights that are in memory, in whatever type they have."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Args: tensors: name of each parameter to its value."""
        self._tensors = tensors

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Name of each parameter to its shape."""
        return {name: value.shape for name, value in self._tensors.items()}

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Tensor:
        """See `Weights.read`."""
        value = self._tensors[name]
        return value.reshape(-1)[begin : value.numel() if end is None else end].clone()
