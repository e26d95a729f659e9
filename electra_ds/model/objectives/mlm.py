"""Masked language modelling: the baseline that the paper compares with (arXiv 2003.10555, section 3.4).

Shape legend: B rows, L tokens, K slots for selected positions of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from electra_ds.model.batch import Batch
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.encoder import Encoder
from electra_ds.model.heads import GeneratorHead
from electra_ds.model.initialization import initialize
from electra_ds.model.masking import SpecialIds
from electra_ds.model.pretraining import Pretraining, at_positions
from electra_ds.model.statistics import batch_statistics, loss_sums, no_histogram


class MaskedLM(Pretraining):
    """One full-size network with a vocabulary head; mean cross-entropy over the selected positions.

    What stands at those positions in the masked text is `objective.mlm_masking`'s.
    """

    parts = ("discriminator", "vocabulary_head")

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig, special: SpecialIds) -> None:
        """Build and initialise from torch's global generator; `config.vocab_size` must be known."""
        super().__init__(config, objective, special)
        self.discriminator = self.full_size_encoder()
        self.vocabulary_head = GeneratorHead(*self.head_sizes(config.hidden_size))
        initialize(self, config)

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """The only network."""
        return (self.discriminator,)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Pretraining.forward`."""
        (layout,), (keys,), shared = self.layouts(batch), self.dropout_keys(batch.keys), self.shared_matrix()
        hidden = self.discriminator_states(
            batch.generator_ids, layout, batch.positions, batch.token_types, keys, shared
        )
        originals, valid = batch.input_ids.gather(1, batch.selected), batch.selected_valid
        output = self.vocabulary_head(
            at_positions(hidden, batch.selected),
            self.embeddings.word,
            originals.flatten(),
            batch.generator_weights(valid).flatten(),
            torch.zeros(originals.numel(), device=originals.device),
            1.0,
            False,
            shared,
        )
        with torch.no_grad():
            pairs, scale, pair_scale = batch.pair_rows, batch.generator_scale, batch.pair_generator_scale
            weight = None if pair_scale is None else pair_scale / scale
            found = loss_sums(output.loss, output.losses.view_as(originals), pairs, weight)
            sums = dict(zip(("discriminator_sum", "pair_discriminator_sum"), found, strict=False))
            sums["selected"] = sums["predicted"] = valid.sum()
            sums["restored"] = (output.correct.view_as(originals) & valid).sum()
            real = batch.segments > 0
            sums["real"] = real.sum()
            if pairs is not None:
                sums["pair_predicted"] = (valid & pairs[:, None]).sum()
                sums["pair_real"] = (real & pairs[:, None]).sum()
        return {
            "loss": self.objective.vocabulary_weight * scale * output.loss,
            "statistics": batch_statistics(**sums),
            "histogram": no_histogram(valid.device),
        }
