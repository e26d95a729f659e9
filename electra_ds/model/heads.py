"""Pretraining heads of generator and discriminator.

Shape legend: B rows, L tokens, N positions, E embedding size, F hidden size, V padded vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from electra_ds.kernels.config import Backends
from electra_ds.kernels.discriminator import DiscriminatorOutput, binary_loss, discriminator_loss
from electra_ds.kernels.embedding import SharedMatrix
from electra_ds.kernels.every_position import ClozeOutput, CopyOutput, cloze_head, copy_head
from electra_ds.kernels.vocabulary import VocabularyOutput, vocabulary_head


class GeneratorHead(nn.Module):
    """Dense, GELU, LayerNorm, the tied embedding matrix and a bias."""

    def __init__(self, hidden_size: int, embedding_size: int, vocab_size: int, padded_vocab_size: int, eps: float):
        super().__init__()
        self.vocab_size = vocab_size
        self.backends = Backends()
        self.dense = nn.Linear(hidden_size, embedding_size)
        self.norm = nn.LayerNorm(embedding_size, eps=eps)
        self.bias = nn.Parameter(torch.zeros(padded_vocab_size))

    def forward(
        self,
        hidden: Tensor,
        word: Callable[..., Any],
        targets: Tensor,
        weights: Tensor,
        uniforms: Tensor,
        temperature: float,
        disallow_correct: bool,
        shared: SharedMatrix | None = None,
    ) -> VocabularyOutput:
        """Loss and samples at hidden states [N, F], see `vocabulary_head`.

        `word` is a `TiedEmbedding` or calls its argument `use` with a matrix [V, E] likewise; `shared` stands for it.
        """
        transformed, backends = self.transform(hidden), self.backends

        def use(matrix: Tensor) -> VocabularyOutput:
            return vocabulary_head(
                transformed,
                matrix,
                self.bias,
                targets,
                weights,
                uniforms,
                self.vocab_size,
                temperature,
                disallow_correct,
                backends.vocabulary_head,
                backends.compiled and self.training,
            )

        output: VocabularyOutput = self.with_matrix(word, shared, use)
        return output

    @staticmethod
    def with_matrix(word: Callable[..., Any], shared: SharedMatrix | None, use: Callable[[Tensor], Any]) -> Any:
        """Call `use` with the matrix, through its module or as `shared` hands it on."""
        if shared is None:
            return word(use=use)
        output = use(shared.weight)
        if output.weight is not None:
            shared.weight = output.weight
        return output

    def transform(self, hidden: Tensor) -> Tensor:
        """Map [..., F] to [..., E]."""
        transformed: Tensor = self.norm(functional.gelu(self.dense(hidden)))
        return transformed

    def logits(self, hidden: Tensor, word: Callable[..., Any]) -> Tensor:
        """Map [..., F] to float32 logits [..., V]; padded vocabulary columns are -inf."""
        transformed = self.transform(hidden)
        logits: Tensor = word(use=lambda matrix: functional.linear(transformed, matrix, self.bias)).float()
        padding = torch.arange(logits.shape[-1], device=logits.device) >= self.vocab_size
        return logits.masked_fill(padding, -torch.inf)


class CopyHead(GeneratorHead):
    """A vocabulary head with a gate that copies the input; it runs at every position."""

    def __init__(self, hidden_size: int, embedding_size: int, vocab_size: int, padded_vocab_size: int, eps: float):
        super().__init__(hidden_size, embedding_size, vocab_size, padded_vocab_size, eps)
        self.copy_gate = nn.Linear(hidden_size, 1)

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,
        word: Callable[..., Any],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        shared: SharedMatrix | None = None,
    ) -> CopyOutput:
        """Loss at hidden states [N, F], see `copy_head`; `word` and `shared` as in `GeneratorHead`."""
        transformed, compiled = self.transform(hidden), self.backends.compiled and self.training
        gate = self.copy_gate(hidden).float().squeeze(-1)

        def use(matrix: Tensor) -> CopyOutput:
            return copy_head(transformed, matrix, self.bias, gate, inputs, targets, weights, self.vocab_size, compiled)

        output: CopyOutput = self.with_matrix(word, shared, use)
        return output


class ClozeHead(GeneratorHead):
    """A vocabulary head that runs at every position, and says how probable it finds what is put in."""

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,
        word: Callable[..., Any],
        targets: Tensor,
        weights: Tensor,
        uniforms: Tensor,
        sampled: Tensor,
        temperature: float,
        disallow_correct: bool,
        shared: SharedMatrix | None = None,
    ) -> ClozeOutput:
        """Loss and samples at hidden states [N, F], see `cloze_head`; `word` and `shared` as in `GeneratorHead`."""
        transformed, compiled = self.transform(hidden), self.backends.compiled and self.training
        draws = (uniforms, sampled, self.vocab_size, temperature, disallow_correct, compiled)

        def use(matrix: Tensor) -> ClozeOutput:
            return cloze_head(transformed, matrix, self.bias, targets, weights, *draws)

        output: ClozeOutput = self.with_matrix(word, shared, use)
        return output


class DiscriminatorHead(nn.Module):
    """Dense, GELU, dense to one number; no LayerNorm."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.backends = Backends()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.prediction = nn.Linear(hidden_size, 1)

    def forward(
        self, hidden: Tensor, replaced: Tensor, weights: Tensor, offsets: Tensor | None = None
    ) -> DiscriminatorOutput:
        """Loss and logits of hidden states [B, L, F]; `replaced` bool and `weights` float32 are [B, L].

        `offsets`, float32 [B, L], are added to the logits; no fused kernel takes them.
        """
        backends = self.backends
        if offsets is not None:
            return binary_loss(self.logits(hidden) + offsets, replaced, weights)
        if not backends.takes_bias("discriminator_head"):
            return binary_loss(self.logits(hidden), replaced, weights)
        product = functional.linear(hidden, self.dense.weight)
        last = self.prediction
        return discriminator_loss(
            product, self.dense.bias, last.weight[0], last.bias, replaced, weights, backends.discriminator_head
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Map [..., F] to float32 logits [...]; above 0 means "replaced"."""
        verdict: Tensor = self.prediction(functional.gelu(self.dense(hidden)))
        return verdict.float().squeeze(-1)
