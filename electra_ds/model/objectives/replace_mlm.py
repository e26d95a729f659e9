"""Replace MLM: restore what a generator put in at the selected positions (arXiv 2003.10555, section 3.4).

Shape legend: B rows, L tokens, F hidden size, K slots for selected positions of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from electra_ds.kernels.embedding import SharedMatrix
from electra_ds.model.batch import Batch
from electra_ds.model.heads import GeneratorHead
from electra_ds.model.pretraining import Corrupted, Guess, JointPretraining, Judgement, at_positions


class ReplaceMLM(JointPretraining):
    """A full-size network with a vocabulary head reads the corrupted text; the generator trains jointly.

    Mean cross-entropy against the originals over the selected positions, also where the generator was right. Selected
    positions hold no [MASK]: what fine-tuning will never see, pretraining does not see either.
    """

    parts = ("generator", "generator_head", "discriminator", "vocabulary_head")

    def add_head(self) -> None:
        """A second vocabulary head, tied to the word matrix that the full-size network reads."""
        self.vocabulary_head = GeneratorHead(*self.head_sizes(self.config.hidden_size))

    def full_size_scales(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """A mean over the selected positions, as the generator's."""
        return batch.generator_scale, batch.pair_generator_scale

    def judge(
        self, batch: Batch, states: Tensor, corrupted: Corrupted, guess: Guess, shared: SharedMatrix | None
    ) -> Judgement:
        """Cross-entropy at the selected positions."""
        originals, valid = batch.input_ids.gather(1, batch.selected), batch.selected_valid
        word, shared = self.output_matrix(shared)
        output = self.vocabulary_head(
            at_positions(states, batch.selected),
            word,
            originals.flatten(),
            batch.generator_weights(valid).flatten(),
            torch.zeros(originals.numel(), device=originals.device),
            1.0,
            False,
            shared,
        )
        losses: Tensor = output.losses.view_as(originals)
        return Judgement(output.loss, lambda: losses, correct=output.correct.view_as(originals))
