"""Rows of a shard set, corrupted as in training, and what both networks say of them.

A packed row is cut into its segments, each of which is one sequence for a network of stock transformers: attention is
confined to segments and positions restart in each, so this computes what training computes.

Shape legend: R rows, L tokens of a row, Q selected positions of all rows, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from electra_ds.data.loader import Rows
from electra_ds.evaluate.forward import fill_ins, verdicts
from electra_ds.evaluate.machine import Machine
from electra_ds.evaluate.models import READS_REPLACEMENTS
from electra_ds.evaluate.tokens import Tokens
from electra_ds.kernels.sampling import sample_tokens
from electra_ds.model import noise
from electra_ds.model.config import ObjectiveConfig
from electra_ds.model.masking import SpecialIds, select


@dataclass(frozen=True)
class Filled:
    """What became of the selected positions, in the order of rows and positions, and what a network said of them."""

    row: np.ndarray
    """int64 [Q], within the rows at hand."""
    position: np.ndarray
    """int64 [Q], within the row."""
    masked: np.ndarray
    """bool [Q], whether it became [MASK]; else it stayed as it was or became a random token, and was to be predicted
    too."""
    loss: np.ndarray
    """float64 [Q], cross-entropy in nats; NaN without a network."""
    correct: np.ndarray
    """bool [Q], whether no token has a greater logit than the original one."""
    token: np.ndarray
    """int64 [Q], what was drawn in its place; the original for an encoder, which draws nothing."""


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
    judged: np.ndarray
    """bool [R, L], where the objective trains a verdict: at every real token, or at the selected positions alone."""
    filled: Filled
    """By the generator, or by draws from a distribution."""
    restored: Filled | None
    """By the encoder; None without one."""
    reads_masks: bool
    """Whether the encoder reads the masked text; else the text with replacements."""
    logits: np.ndarray
    """float32 [R, L], of "replaced"; NaN at padding, and everywhere without a discriminator."""


class Corruption:
    """Corrupts rows by a generator, or by draws from a distribution where there is none; and asks the other networks.

    An encoder reads the masked text, that of `READS_REPLACEMENTS` the text with replacements.
    """

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
            networks: ``generator``, ``encoder`` and ``discriminator``, those that there are, placed.
            objective: what is selected and how samples are drawn.
            special: ids of special tokens.
            continues: bool [V], tokens that continue a word, for whole words and n-grams.
            frequencies: float64 [V], what is drawn from without a generator.
            seed: of masks and samples.
            machine: where to run.
        """
        self._networks, self._objective, self._special = networks, objective, special
        self._continues, self._frequencies, self._seed, self._machine = continues, frequencies, seed, machine

    @property
    def replacements(self) -> str:
        """What stands in the place of selected tokens."""
        if "generator" in self._networks:
            return "generator"
        return "none" if self._fills_masks else "token frequencies"

    @property
    def _fills_masks(self) -> bool:
        if "encoder" not in self._networks or "generator" in self._networks:
            return False
        return self._objective.name not in READS_REPLACEMENTS

    def __call__(self, rows: Rows) -> Corrupted:
        """Corrupt rows, let the encoder restore them and the discriminator judge them."""
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
            objective.fates[0],
            objective.masking,
            self._continues,
            objective.fates[1],
            len(self._frequencies),
        )
        generator_ids = selection.generator_ids.numpy()
        row, slot = np.nonzero(selection.valid.numpy())
        position = selection.positions.numpy()[row, slot]
        masked, targets = generator_ids[row, position] == self._special.mask, ids[row, position]
        uniforms = noise.uniform(keys[torch.from_numpy(row)], torch.from_numpy(position), noise.SAMPLE)
        places = pieces(segments)
        where = Filled(row, position, masked, np.full(len(row), np.nan), np.zeros(len(row), bool), targets)
        filled, restored = where, None
        if not self._fills_masks:
            filled = self._fill(generator_ids, types, places, where, targets, uniforms)
        corrupted = ids.copy()
        corrupted[row, position] = filled.token
        if (network := self._networks.get("encoder")) is not None:
            read = generator_ids if self._fills_masks else corrupted
            restored = self._ask(network, read, types, places, where, targets)
        logits = np.full(ids.shape, np.nan, np.float32)
        if (network := self._networks.get("discriminator")) is not None:
            found = verdicts(network, cut(corrupted, types, places), self._special.pad, self._machine)
            for (number, begin, end), values in zip(places, found, strict=True):
                logits[number, begin:end] = values
        judged = segments > 0
        if objective.name == "electra_15":
            judged = np.zeros_like(judged)
            judged[row, position] = True
        return Corrupted(
            ids,
            corrupted,
            segments > 0,
            rows.positions.astype(np.int64),
            judged,
            filled,
            restored,
            self._fills_masks,
            logits,
        )

    def _fill(
        self,
        generator_ids: np.ndarray,
        types: np.ndarray,
        places: Sequence[tuple[int, int, int]],
        where: Filled,
        targets: np.ndarray,
        uniforms: Tensor,
    ) -> Filled:
        """Draw what replaces the selected positions: from the generator, or from the frequencies of tokens."""
        if (network := self._networks.get("generator")) is not None:
            return self._ask(network, generator_ids, types, places, where, targets, uniforms)
        logits = torch.from_numpy(np.log(np.maximum(self._frequencies, 1e-300))).float()
        forbidden = torch.from_numpy(targets) if self._objective.disallow_correct else None
        token = sample_tokens(logits.expand(len(targets), -1), uniforms, 1.0, forbidden).numpy()
        return replace(where, token=token)

    def _ask(
        self,
        network: Any,
        ids: np.ndarray,
        types: np.ndarray,
        places: Sequence[tuple[int, int, int]],
        where: Filled,
        targets: np.ndarray,
        uniforms: Tensor | None = None,
    ) -> Filled:
        """Ask a masked language model for the originals [Q] at the selected positions of ids [R, L].

        With `uniforms` [Q] it also draws; without, the originals stand for what was drawn.
        """
        objective = self._objective

        def reduce(logits: Tensor, numbers: np.ndarray) -> tuple[Tensor, ...]:
            wanted = torch.from_numpy(targets[numbers]).to(logits.device)
            loss = functional.cross_entropy(logits, wanted, reduction="none").double()
            right = logits.gather(1, wanted[:, None])[:, 0] >= logits.amax(1)
            if uniforms is None:
                return loss, right, wanted
            drawn = sample_tokens(
                logits,
                uniforms[torch.from_numpy(numbers)].to(logits.device),
                objective.temperature,
                wanted if objective.disallow_correct else None,
            )
            return loss, right, drawn

        row, position = where.row, where.position
        asked = [position[(row == number) & (position >= begin) & (position < end)] - begin
                 for number, begin, end in places]  # fmt: skip
        loss, correct, token = fill_ins(
            network, cut(ids, types, places), asked, self._special.pad, self._machine, reduce
        ) or (np.empty(0), np.empty(0, bool), np.empty(0, np.int64))
        return replace(where, loss=loss, correct=correct, token=token)


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
