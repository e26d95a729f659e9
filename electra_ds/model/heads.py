"""Pretraining heads of generator and discriminator.

Shape legend: N positions, E embedding size, F hidden size, V padded vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from electra_ds.model.embeddings import TiedEmbedding


class GeneratorHead(nn.Module):
    """Dense, GELU, LayerNorm, the tied embedding matrix and a bias; padded vocabulary columns are -inf."""

    def __init__(self, hidden_size: int, embedding_size: int, vocab_size: int, padded_vocab_size: int, eps: float):
        super().__init__()
        self.vocab_size = vocab_size
        self.dense = nn.Linear(hidden_size, embedding_size)
        self.norm = nn.LayerNorm(embedding_size, eps=eps)
        self.bias = nn.Parameter(torch.zeros(padded_vocab_size))

    def forward(self, hidden: Tensor, word: TiedEmbedding) -> Tensor:
        """Map [N, F] to float32 logits [N, V]."""
        logits = word(hidden=self.norm(functional.gelu(self.dense(hidden))), bias=self.bias).float()
        if self.vocab_size < logits.shape[-1]:
            padding = torch.arange(logits.shape[-1], device=logits.device) >= self.vocab_size
            logits = logits.masked_fill(padding, -torch.inf)
        return logits


class DiscriminatorHead(nn.Module):
    """Dense, GELU, dense to one number; no LayerNorm."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.prediction = nn.Linear(hidden_size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., F] to float32 logits [...]; above 0 means "replaced"."""
        return self.prediction(functional.gelu(self.dense(hidden))).float().squeeze(-1)
