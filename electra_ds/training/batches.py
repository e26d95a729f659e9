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
from electra_ds.kernels.attention import check_slots, count_segments
from electra_ds.model import noise
from electra_ds.model.batch import Batch
from electra_ds.model.config import ObjectiveConfig
from electra_ds.model.masking import SpecialIds, select, selectable
from electra_ds.training import feeding
from electra_ds.training.room import SegmentRoom

SCALES = ("generator_scale", "discriminator_scale", "pair_generator_scale", "pair_discriminator_scale")
"""Fields of `Batch`."""


@dataclass(frozen=True)
class PreparedRows:
    """What one rank trains on in one step, masks drawn.

    Attributes:
        tensors: the fields of `Batch` up to `generator_ids`, and `pair_rows` where the set has any, each [R, ...], on
            the CPU unless `feeding` sent them.
        counts: float64 [5], on the CPU: positions of the generator's loss (the selected ones, for electric all
            candidates), real tokens, skipped rows; and the first two of rows that hold translation pairs.
        row_ids: int64 [R] (numpy). epochs: int64 [R] (numpy).
        sent: passes once the tensors have arrived on the GPU; None where they are on the CPU.
        segments: int64 [R] (numpy): segments of each row, its padding counted as one more; None if not known.
    """

    tensors: dict[str, Tensor]
    counts: Tensor
    row_ids: np.ndarray
    epochs: np.ndarray
    sent: torch.cuda.Event | None = None
    segments: np.ndarray | None = None


def prepare(
    rows: Rows,
    objective: ObjectiveConfig,
    special: SpecialIds,
    seed: int,
    continues: Tensor | None = None,
    pin: bool = False,
    vocab_size: int | None = None,
) -> PreparedRows:
    """Draw the masks of a rank's rows: a pure function of (seed, epoch, row), whoever computes it.

    Args:
        rows: of this rank.
        objective: what to select.
        special: ids of special tokens.
        seed: of the run.
        continues: bool [V], see `fit.word_table`; None for objective.masking=token.
        pin: put the tensors into page-locked memory, from which a GPU copies while it computes.
        vocab_size: entries that random tokens are drawn from; None where the objective puts none in.
    """
    input_ids, segments = _int64(rows.ids), _int64(rows.segments)
    keys = noise.row_keys(seed, torch.from_numpy(rows.epochs), torch.from_numpy(rows.row_ids))
    selection = select(
        input_ids,
        segments,
        keys,
        special,
        objective.mask_fraction,
        objective.fates[0],
        objective.masking,
        continues,
        objective.fates[1],
        vocab_size,
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
    if rows.pair_rows is not None:
        tensors["pair_rows"] = torch.from_numpy(rows.pair_rows)
    if pin:
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    skipped = torch.tensor(int(rows.skipped.sum()))
    real = segments > 0
    predicted = selectable(input_ids, segments, special) if objective.name == "electric" else selection.valid
    of_pairs = torch.zeros(2, dtype=torch.int64)
    if rows.pair_rows is not None:
        pairs = torch.from_numpy(rows.pair_rows)
        of_pairs = torch.stack([predicted[pairs].sum(), real[pairs].sum()])
    counts = torch.cat([torch.stack([predicted.sum(), real.sum(), skipped]), of_pairs]).to(torch.float64)
    return PreparedRows(tensors, counts, rows.row_ids, rows.epochs, segments=count_segments(segments).numpy())


def _int64(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def micro_batches(
    prepared: PreparedRows,
    size: int,
    counts: Tensor,
    world_size: int,
    device: torch.device,
    room: SegmentRoom | None = None,
) -> Iterator[Batch]:
    """Cut a rank's step into micro-batches whose losses, summed here and averaged over ranks, are the global means.

    The engine averages gradients over ranks, so each sum is multiplied by world_size / (count of the global batch); a
    mean of per-rank means would be another number. Rows that hold translation pairs have means of their own.

    Args:
        prepared: rows of this rank.
        size: B.
        counts: float64 [5], `PreparedRows.counts` added up over the global batch; those of pairs may be left out.
        world_size: ranks.
        device: where the model lies.
        room: of the run, so that the shapes of a phase stay what they are; None makes room for these rows alone.
    """
    # Filled in by a kernel: a copy from ordinary memory would wait for the GPU.
    of_pairs = counts[3:5] if len(counts) > 3 else torch.zeros(2, dtype=counts.dtype)
    numbers = torch.cat([counts[:2] - of_pairs, of_pairs])
    wanted = dict(zip(SCALES, (world_size / numbers.clamp(min=1)).tolist(), strict=True))
    names = SCALES if "pair_rows" in prepared.tensors else SCALES[:2]
    scales = {name: torch.full((), wanted[name], dtype=torch.float32, device=device) for name in names}
    tensors, room = feeding.received(prepared.tensors, prepared.sent), room or SegmentRoom()
    for begin in range(0, len(prepared.row_ids), size):
        here = slice(begin, begin + size)
        part = {name: tensor[here].to(device, non_blocking=True) for name, tensor in tensors.items()}
        slots = None
        if prepared.segments is not None:
            count = int(prepared.segments[here].sum())
            rows, length = part["segments"].shape
            slots = room.slots(rows, length, count)
            check_slots(count, slots)  # on a GPU nobody looks again
        yield Batch(**part, **scales, slots=slots)
