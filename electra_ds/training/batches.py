"""From rows to micro-batches: masks drawn, counts agreed, losses scaled.

Shape legend: R rows of this rank in a step, B rows of a micro-batch, L tokens, K slots for selected positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from electra_ds.data.loader import Rows
from electra_ds.model import noise
from electra_ds.model.config import ObjectiveConfig
from electra_ds.model.electra import Batch
from electra_ds.model.masking import SpecialIds, select


@dataclass(frozen=True)
class PreparedRows:
    """What one rank trains on in one step, on the CPU, masks drawn.

    Attributes:
        tensors: the fields of `Batch` up to `generator_ids`, each [R, ...].
        counts: float64 [3], selected positions, real tokens and skipped rows.
        row_ids: int64 [R] (numpy). epochs: int64 [R] (numpy).
    """

    tensors: dict[str, Tensor]
    counts: Tensor
    row_ids: np.ndarray
    epochs: np.ndarray


def prepare(
    rows: Rows,
    objective: ObjectiveConfig,
    special: SpecialIds,
    seed: int,
    continues: Tensor | None = None,
    pin: bool = False,
) -> PreparedRows:
    """Draw the masks of a rank's rows: a pure function of (seed, epoch, row), whoever computes it.

    Args:
        rows: of this rank.
        objective: what to select.
        special: ids of special tokens.
        seed: of the run.
        continues: bool [V], see `fit.word_table`; None for objective.masking=token.
        pin: put the tensors into page-locked memory, from which a GPU copies while it computes.
    """
    input_ids, segments = _int64(rows.ids), _int64(rows.segments)
    keys = noise.row_keys(seed, torch.from_numpy(rows.epochs), torch.from_numpy(rows.row_ids))
    selection = select(
        input_ids,
        segments,
        keys,
        special,
        objective.mask_fraction,
        objective.mask_token_probability,
        objective.masking,
        continues,
    )
    tensors = {
        "input_ids": input_ids,
        "segments": segments,
        "positions": _int64(rows.positions),
        "token_types": _int64(rows.token_types),
        "keys": keys,
        "selected": selection.positions,
        "selected_valid": selection.valid,
        "generator_ids": selection.generator_ids,
    }
    if pin:
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    skipped = torch.tensor(int(rows.skipped.sum()))
    counts = torch.stack([selection.valid.sum(), (segments > 0).sum(), skipped]).to(torch.float64)
    return PreparedRows(tensors, counts, rows.row_ids, rows.epochs)


def _int64(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def micro_batches(
    prepared: PreparedRows, size: int, counts: Tensor, world_size: int, device: torch.device
) -> Iterator[Batch]:
    """Cut a rank's step into micro-batches whose losses, summed here and averaged over ranks, are the global means.

    The engine averages gradients over ranks, so each sum is multiplied by world_size / (count of the global batch); a
    mean of per-rank means would be another number.

    Args:
        prepared: rows of this rank.
        size: B.
        counts: float64 [3], selected positions, real tokens and skipped rows of the global batch.
        world_size: ranks.
        device: where the model lies.
    """
    scales = (world_size / counts.clamp(min=1)).to(device, torch.float32)
    for begin in range(0, len(prepared.row_ids), size):
        part = {
            name: tensor[begin : begin + size].to(device, non_blocking=True)
            for name, tensor in prepared.tensors.items()
        }
        yield Batch(**part, generator_scale=scales[0], discriminator_scale=scales[1])
