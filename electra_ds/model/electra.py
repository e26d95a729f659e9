"""Generator, sampling, discriminator and both losses in one module (arXiv 2003.10555, section 2).

Shape legend: B rows, L tokens, K slots for selected positions of a row, F hidden size, V padded vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from electra_ds.kernels.attention import segment_bias
from electra_ds.kernels.sampling import sample_tokens
from electra_ds.model import noise
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.embeddings import DeltaEmbeddings, Embeddings
from electra_ds.model.encoder import Encoder
from electra_ds.model.heads import DiscriminatorHead, GeneratorHead
from electra_ds.model.initialization import initialize
from electra_ds.model.masking import SpecialIds, scatter_tokens
from electra_ds.model.statistics import batch_statistics, logit_histogram


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
        discriminator_scale: float32 scalar, likewise for the discriminator.
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


class Electra(nn.Module):
    """Both networks; its forward pass is one joint step's loss."""

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig, special: SpecialIds) -> None:
        """Build and initialise from torch's global generator; `config.vocab_size` must be known."""
        super().__init__()
        self.config, self.objective, self.special = config, objective, special
        assert config.vocab_size is not None
        attention_dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        common = (config.dropout, attention_dropout, config.layer_norm_eps)
        self.embeddings = Embeddings(config, special.pad)
        self.generator = Encoder(
            config.embedding_size,
            config.generator_hidden_size,
            config.generator_heads,
            config.generator_intermediate_size,
            config.generator_depth,
            *common,
        )
        self.generator_head = GeneratorHead(
            config.generator_hidden_size,
            config.embedding_size,
            config.vocab_size,
            config.padded_vocab_size,
            config.layer_norm_eps,
        )
        self.discriminator_embeddings: Embeddings | DeltaEmbeddings | None = None
        if config.sharing == "untied":
            self.discriminator_embeddings = Embeddings(config, special.pad)
        elif config.sharing == "gdes":
            self.discriminator_embeddings = DeltaEmbeddings(config, special.pad)
        if config.sharing == "all_tied":
            self.discriminator = self.generator
        else:
            self.discriminator = Encoder(
                config.embedding_size,
                config.hidden_size,
                config.heads,
                config.intermediate_size,
                config.layers,
                *common,
            )
        self.discriminator_head = DiscriminatorHead(config.hidden_size)
        initialize(self, config)

    def generator_states(self, ids: Tensor, segments: Tensor, positions: Tensor, token_types: Tensor) -> Tensor:
        """Hidden states of the generator, [B, L, F of the generator]."""
        embedded = self.embeddings(ids, positions, token_types)
        return self.generator(embedded, segment_bias(segments, embedded.dtype))

    def discriminator_states(self, ids: Tensor, segments: Tensor, positions: Tensor, token_types: Tensor) -> Tensor:
        """Hidden states of the discriminator, [B, L, F]."""
        if isinstance(self.discriminator_embeddings, DeltaEmbeddings):
            embedded = self.discriminator_embeddings(self.embeddings, ids, positions, token_types)
        elif self.discriminator_embeddings is not None:
            embedded = self.discriminator_embeddings(ids, positions, token_types)
        else:
            embedded = self.embeddings(ids, positions, token_types)
        return self.discriminator(embedded, segment_bias(segments, embedded.dtype))

    def generator_logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [..., V] over the padded vocabulary from hidden states [..., F of the generator]."""
        return self.generator_head(hidden, self.embeddings.word)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and statistics of a micro-batch.

        Returns:
            loss: float32 scalar, the share of this micro-batch in the global batch's loss.
            statistics: float64 [len(STATISTICS)], sums over the micro-batch, see `statistics.STATISTICS`.
            histogram: float64 [2, bins], discriminator logits of original and of replaced tokens, for the AUC.
            samples: int64 [B, K], the generator's tokens. corrupted_ids: int64 [B, L].
            discriminator_logits: float32 [B, L], detached.
        """
        objective = self.objective
        layout = (batch.segments, batch.positions, batch.token_types)
        hidden = self.generator_states(batch.generator_ids, *layout)
        gathered = hidden.gather(1, batch.selected[..., None].expand(-1, -1, hidden.shape[-1]))
        logits = self.generator_logits(gathered.flatten(0, 1))
        originals = batch.input_ids.gather(1, batch.selected)
        valid = batch.selected_valid
        cross_entropy = functional.cross_entropy(logits, originals.flatten(), reduction="none").view_as(originals)
        generator_sum = (cross_entropy * valid).sum()

        uniforms = noise.uniform(batch.keys[:, None], batch.selected, noise.SAMPLE)
        forbidden = originals.flatten() if objective.disallow_correct else None
        samples = sample_tokens(logits, uniforms.flatten(), objective.temperature, forbidden).view_as(originals)
        corrupted = scatter_tokens(batch.input_ids, batch.selected, samples, valid)
        replaced = corrupted != batch.input_ids
        real = batch.segments > 0

        discriminator_logits = self.discriminator_head(self.discriminator_states(corrupted, *layout))
        binary = functional.binary_cross_entropy_with_logits(
            discriminator_logits, replaced.to(discriminator_logits.dtype), reduction="none"
        )
        discriminator_sum = (binary * real).sum()
        loss = (
            objective.generator_weight * batch.generator_scale * generator_sum
            + objective.discriminator_weight * batch.discriminator_scale * discriminator_sum
        )
        with torch.no_grad():
            verdict = discriminator_logits.detach()
            statistics = batch_statistics(
                generator_sum=generator_sum,
                discriminator_sum=discriminator_sum,
                valid=valid,
                masked_correct=(logits.argmax(-1).view_as(originals) == originals) & valid,
                sample_correct=(samples == originals) & valid,
                real=real,
                replaced=replaced,
                verdict=verdict > 0,
            )
            histogram = logit_histogram(verdict, real, replaced)
        return {
            "loss": loss,
            "statistics": statistics,
            "histogram": histogram,
            "samples": samples,
            "corrupted_ids": corrupted,
            "discriminator_logits": verdict,
        }
