"""An exponential moving average of the float32 weights, kept where the optimizer keeps them: each rank its own part.

After update n the average moves by 1 - min(decay, (1 + n) / (10 + n)) of the way to the weights, so that the initial
ones are soon forgotten (Polyak averaging with the warm-up of tf.train.ExponentialMovingAverage). A step that the
optimizer left out is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_ds.checkpoint import RunState, load_weights_only
from electra_ds.training.optimizers import adam_of
from electra_ds.training.reshard import Target, targets
from electra_ds.zero_pieces import EMA_VERSION, ZeroPieces, ema_file


class MovingAverage:
    """This rank's part of the average, on the device of the weights."""

    def __init__(self, engine: Any, stage: int, decay: float) -> None:
        """Begin at the engine's weights as they are.

        Args:
            engine: DeepSpeed engine.
            stage: its ZeRO stage.
            decay: share of the average that stays in each update, in the long run.

        Raises:
            UserError: the weights lie where they cannot be read (NVMe).
        """
        self._engine, self._stage, self._decay = engine, stage, decay
        self._updates, self._skipped = 0, engine.skipped_steps
        self._owners: list[Tensor] = []
        self._targets: list[tuple[int, Target]] = []
        numbers: dict[int, int] = {}
        for target in targets(engine, stage):
            if id(target.owner) not in numbers:
                numbers[id(target.owner)] = len(self._owners)
                self._owners.append(target.owner)
            self._targets.append((numbers[id(target.owner)], target))
        self._averages = [owner.detach().clone() for owner in self._owners]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the update that was just made; does nothing after one that was left out."""
        if self._engine.skipped_steps != self._skipped:
            self._skipped = self._engine.skipped_steps
            return
        self._updates += 1
        share = 1 - min(self._decay, (1 + self._updates) / (10 + self._updates))
        left_out = getattr(adam_of(self._engine), "found_inf", None)
        if left_out is None:
            torch._foreach_lerp_(self._averages, self._owners, share)
            return
        for average, owner in zip(self._averages, self._owners, strict=True):  # only the device knows
            average.lerp_(owner, (share * (1 - left_out)).to(average.device))

    @property
    def stored(self) -> dict[str, Any] | None:
        """What this rank adds to a checkpoint, see `ZeroPieces`; None for ranks that hold what rank 0 holds."""
        if self._stage == 0 and torch.distributed.get_rank() != 0:
            return None
        return {
            "version": EMA_VERSION,
            "decay": self._decay,
            "updates": self._updates,
            "vectors": [average.view(-1) for average in self._averages],
            "extents": self._extents,
        }

    @property
    def _extents(self) -> list[tuple[str, int, int, int, int]]:
        return [(one.name, one.begin, number, one.offset, one.count) for number, one in self._targets]

    @property
    def file_name(self) -> str:
        """Of this rank's file."""
        return ema_file(0 if self._stage == 0 else torch.distributed.get_rank())

    @torch.no_grad()
    def restore(self, path: Path, state: RunState) -> bool:
        """Go on with a checkpoint's average, from any stage and world size; returns whether it holds one.

        If not, the average goes on from the weights that it was made of.

        Args:
            path: the checkpoint's folder, known to be whole.
            state: its run state.

        Raises:
            DataError: its pieces do not add up.
        """
        own = path / self.file_name
        if own.is_file():
            content = load_weights_only(own, mmap=True)
            if content["version"] == EMA_VERSION and content["extents"] == self._extents:  # saved by as many ranks
                for average, vector in zip(self._averages, content["vectors"], strict=True):
                    average.view(-1).copy_(vector)
                self._updates = int(content["updates"])
                return True
        pieces = ZeroPieces(path, state)
        if pieces.ema_decay is None:
            return False
        for number, target in self._targets:
            read = pieces.read(target.name, "ema", target.begin, target.begin + target.count)
            target.of(self._averages[number]).copy_(read)
        self._updates = pieces.ema_updates
        return True
