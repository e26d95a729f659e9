"""What a model's forward pass takes.

Shape legend: B rows, L tokens, K slots for selected positions of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch. All tensors live on the model's device.

    Attributes:
        input_ids: int64 [B, L], the text.
        segments: int64 [B, L], 1, 2, ... within a row, 0 at padding.
        positions: int64 [B, L], restarting in each segment.
        token_types: int64 [B, L].
        keys: int64 [B], noise key of each row.
        selected: int64 [B, K], positions the generator must fill in.
        selected_valid: bool [B, K].
        generator_ids: int64 [B, L], the text with [MASK]s.
        generator_scale: float32 scalar, multiplies the sum of cross-entropies: see `training.batches`.
        discriminator_scale: float32 scalar, likewise for losses over all tokens.
        slots: room for segments in the layout of kernels for packed segments, see `kernels.attention.segment_borders`.
        pair_rows: bool [B], rows that hold translation pairs, whose losses are means of their own (XLM-E, arXiv
            2106.16138, section 3); None where there are none.
        pair_generator_scale: float32 scalar, stands for `generator_scale` in those rows.
        pair_discriminator_scale: float32 scalar, likewise.
    """

    input_ids: Tensor
    segments: Tensor
    positions: Tensor
    token_types: Tensor
    keys: Tensor
    selected: Tensor
    selected_valid: Tensor
    generator_ids: Tensor
    generator_scale: Tensor
    discriminator_scale: Tensor
    slots: int | None = None
    pair_rows: Tensor | None = None
    pair_generator_scale: Tensor | None = None
    pair_discriminator_scale: Tensor | None = None

    def generator_weights(self, counts: Tensor) -> Tensor:
        """Weights, as `generator_scale` multiplies them, of bool [B, ...]: float32, 0 where it is false."""
        return self._weights(counts, self.generator_scale, self.pair_generator_scale)

    def token_weights(self, counts: Tensor) -> Tensor:
        """The same as `discriminator_scale` multiplies them."""
        return self._weights(counts, self.discriminator_scale, self.pair_discriminator_scale)

    def _weights(self, counts: Tensor, scale: Tensor, pair_scale: Tensor | None) -> Tensor:
        if self.pair_rows is None:
            return counts.float()
        assert pair_scale is not None
        return counts * torch.where(self.pair_rows, pair_scale / scale, 1.0)[:, None]
