"""Rows of a shard set, corrupted as in training, and what both networks say of them.

A packed row is cut into its segments, each of which is one sequence for a network of stock transformers: attention is
confined to segments and positions restart in each, so this computes what training computes.

Shape legend: R rows, L tokens of a row, Q selected positions of all rows, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from electra_ds.data.loader import Rows
from electra_ds.evaluate.forward import fill_ins, verdicts
from electra_ds.evaluate.machine import Machine
from electra_ds.evaluate.tokens import Tokens
from electra_ds.kernels.sampling import sample_tokens
from electra_ds.model import noise
from electra_ds.model.config import ObjectiveConfig
from electra_ds.model.masking import SpecialIds, select


@dataclass(frozen=True)
class Filled:
    """What became of the selected positions, in the order of rows and positions."""

    row: np.ndarray
    """int64 [Q], within the rows at hand."""
    position: np.ndarray
    """int64 [Q], within the row."""
    masked: np.ndarray
    """bool [Q], whether it became [MASK]; else it stayed as it was, and was to be predicted all the same."""
    loss: np.ndarray
    """float64 [Q], the generator's cross-entropy in nats; NaN without a generator."""
    correct: np.ndarray
    """bool [Q], whether no token has a greater logit than the original one."""
    token: np.ndarray
    """int64 [Q], what was drawn in its place."""


@dataclass(frozen=True)
class Corrupted:
    """Rows as they were, as they became, and the discriminator's opinion."""

    original: np.ndarray
    """int64 [R, L]."""
    corrupted: np.ndarray
    """int64 [R, L]."""
    real: np.ndarray
    """bool [R, L], false at padding."""
    positions: np.ndarray
    """int64 [R, L], within the segment."""
    filled: Filled
    logits: np.ndarray
    """float32 [R, L], of "replaced"; NaN at padding, and everywhere without a discriminator."""


class Corruption:
    """Corrupts rows by a generator, or by draws from a distribution where there is none."""

    def __init__(
        self,
        networks: dict[str, Any],
        objective: ObjectiveConfig,
        special: SpecialIds,
        continues: Tensor | None,
        frequencies: np.ndarray,
        seed: int,
        machine: Machine,
    ) -> None:
        """Describe it.

        Args:
            networks: ``generator`` and ``discriminator``, those that there are, placed.
            objective: what is selected and how samples are drawn.
            special: ids of special tokens.
            continues: bool [V], tokens that continue a word, for whole words and n-grams.
            frequencies: float64 [V], what is drawn from without a generator.
            seed: of masks and samples.
            machine: where to run.
        """
        self._networks, self._objective, self._special = networks, objective, special
        self._continues, self._frequencies, self._seed, self._machine = continues, frequencies, seed, machine

    def __call__(self, rows: Rows) -> Corrupted:
        """Corrupt rows and let the discriminator judge them."""
        ids, segments = rows.ids.astype(np.int64), rows.segments.astype(np.int64)
        types = rows.token_types.astype(np.int64)
        keys = noise.row_keys(self._seed, torch.from_numpy(rows.epochs), torch.from_numpy(rows.row_ids))
        objective = self._objective
        selection = select(
            torch.from_numpy(ids),
            torch.from_numpy(segments),
            keys,
            self._special,
            objective.mask_fraction,
            objective.mask_token_probability,
            objective.masking,
            self._continues,
        )
        generator_ids = selection.generator_ids.numpy()
        row, slot = np.nonzero(selection.valid.numpy())
        position = selection.positions.numpy()[row, slot]
        masked = generator_ids[row, position] != ids[row, position]
        uniforms = noise.uniform(keys[torch.from_numpy(row)], torch.from_numpy(position), noise.SAMPLE)
        places = pieces(segments)
        filled = self._fill(generator_ids, types, places, row, position, masked, ids[row, position], uniforms)
        corrupted = ids.copy()
        corrupted[row, position] = filled.token
        logits = np.full(ids.shape, np.nan, np.float32)
        if (network := self._networks.get("discriminator")) is not None:
            found = verdicts(network, cut(corrupted, types, places), self._special.pad, self._machine)
            for (number, begin, end), values in zip(places, found, strict=True):
                logits[number, begin:end] = values
        return Corrupted(ids, corrupted, segments > 0, rows.positions.astype(np.int64), filled, logits)

    def _fill(
        self,
        generator_ids: np.ndarray,
        types: np.ndarray,
        places: Sequence[tuple[int, int, int]],
        row: np.ndarray,
        position: np.ndarray,
        masked: np.ndarray,
        targets: np.ndarray,
        uniforms: Tensor,
    ) -> Filled:
        objective = self._objective

        def reduce(logits: Tensor, numbers: np.ndarray) -> tuple[Tensor, ...]:
            wanted = torch.from_numpy(targets[numbers]).to(logits.device)
            drawn = sample_tokens(
                logits,
                uniforms[torch.from_numpy(numbers)].to(logits.device),
                objective.temperature,
                wanted if objective.disallow_correct else None,
            )
            loss = functional.cross_entropy(logits, wanted, reduction="none").double()
            return loss, logits.gather(1, wanted[:, None])[:, 0] >= logits.amax(1), drawn

        count = len(row)
        if (network := self._networks.get("generator")) is None:
            logits = torch.from_numpy(np.log(np.maximum(self._frequencies, 1e-300))).float()
            wanted = torch.from_numpy(targets)
            forbidden = wanted if objective.disallow_correct else None
            token = sample_tokens(logits.expand(count, -1), uniforms, 1.0, forbidden).numpy()
            return Filled(row, position, masked, np.full(count, np.nan), np.zeros(count, bool), token)
        asked = [position[(row == number) & (position >= begin) & (position < end)] - begin
                 for number, begin, end in places]  # fmt: skip
        loss, correct, token = fill_ins(
            network, cut(generator_ids, types, places), asked, self._special.pad, self._machine, reduce
        ) or (np.empty(0), np.empty(0, bool), np.empty(0, np.int64))
        return Filled(row, position, masked, loss, correct, token)


def pieces(segments: np.ndarray) -> list[tuple[int, int, int]]:
    """Row, first and last position (the latter exclusive) of each segment of int [R, L], in order; padding is none."""
    found = []
    for row, line in enumerate(segments):
        borders = np.flatnonzero(np.diff(line, prepend=-1, append=-1)).tolist()
        found += [(row, begin, end) for begin, end in itertools.pairwise(borders) if line[begin]]
    return found


def cut(ids: np.ndarray, types: np.ndarray, places: Sequence[tuple[int, int, int]]) -> list[Tokens]:
    """The segments of int64 [R, L] as sequences."""
    return [Tokens(ids[row, begin:end], types[row, begin:end]) for row, begin, end in places]
