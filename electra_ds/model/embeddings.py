"""Word, position and type embeddings, and the ways the networks share them.

Shape legend: B rows, L tokens, E embedding size, V padded vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from electra_ds.kernels.embedding import SharedMatrix, look_up
from electra_ds.model.config import ModelConfig


class Embedding(nn.Embedding):
    """torch's, whose gradient is summed in float32 on every device."""

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings [..., E] of int64 `ids` [...]."""
        return look_up(self.weight, ids, self.padding_idx)


class TiedEmbedding(nn.Module):
    """Word embeddings that also serve as the output matrix of the generator's head.

    Both uses go through this module's call and never reach for `.weight` from outside, so that a sharded engine
    (ZeRO-3) gathers the parameter for each.
    """

    def __init__(self, entries: int, features: int, padding_id: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, features))
        self.padding_id = padding_id

    def forward(self, ids: Tensor | None = None, use: Callable[[Tensor], Any] | None = None) -> Any:
        """Look `ids` [...] up, or call `use` with the matrix [V, E].

        Returns:
            [..., E] embeddings, or what `use` returned. The padding row gets no gradient from look-ups.
        """
        if ids is not None:
            return look_up(self.weight, ids, self.padding_id)
        assert use is not None
        return use(self.weight)


class Embeddings(nn.Module):
    """LayerNorm(word + position + type); dropout is each network's own."""

    def __init__(self, config: ModelConfig, padding_id: int) -> None:
        super().__init__()
        self.word = TiedEmbedding(config.padded_vocab_size, config.embedding_size, padding_id)
        self.position = Embedding(config.max_positions, config.embedding_size)
        self.token_type = Embedding(config.token_types, config.embedding_size)
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)

    def forward(
        self, ids: Tensor, positions: Tensor, token_types: Tensor, shared: SharedMatrix | None = None
    ) -> Tensor:
        """Embed int64 [B, L] ids, positions and token types into [B, L, E]; `shared` stands for the word matrix."""
        words = self.word(ids) if shared is None else shared.look_up(ids)
        embedded: Tensor = self.norm(words + self.token_type(token_types) + self.position(positions))
        return embedded


class DeltaEmbeddings(nn.Module):
    """Gradient-disentangled sharing (DeBERTa v3, section 3.2): E(ids).detach() + delta(ids), delta from zero.

    The discriminator reads the generator's embeddings but sends no gradient into them; its own difference, types and
    LayerNorm learn instead. On export the difference is added in.
    """

    def __init__(self, config: ModelConfig, padding_id: int) -> None:
        super().__init__()
        self.word_delta = Embedding(config.padded_vocab_size, config.embedding_size, padding_idx=padding_id)
        self.position_delta = Embedding(config.max_positions, config.embedding_size) if config.gdes_positions else None
        self.token_type = Embedding(config.token_types, config.embedding_size)
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)

    def matrix(self, base: Embeddings) -> Tensor:
        """All word embeddings as looked up, [V, E], for a vocabulary head: gradients reach the difference only."""
        everything = torch.arange(self.word_delta.num_embeddings, device=self.norm.weight.device)
        delta = self.word_delta(everything)
        whole: Tensor = base.word(use=lambda matrix: matrix.detach() + delta)
        return whole

    def forward(self, base: Embeddings, ids: Tensor, positions: Tensor, token_types: Tensor) -> Tensor:
        """Embed int64 [B, L] into [B, L, E], on top of `base`'s detached embeddings."""
        word = base.word(ids).detach() + self.word_delta(ids)
        position = base.position(positions).detach()
        if self.position_delta is not None:
            position = position + self.position_delta(positions)
        return self.norm(word + self.token_type(token_types) + position)
