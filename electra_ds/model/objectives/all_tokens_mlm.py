"""All-tokens MLM: restore every token of the corrupted text, with a gate that copies (arXiv 2003.10555, section 3.4).

Shape legend: B rows, L tokens, F hidden size, K slots for selected positions of a row.
"""

from __future__ import annotations

from torch import Tensor

from electra_ds.kernels.embedding import SharedMatrix
from electra_ds.model.batch import Batch
from electra_ds.model.heads import CopyHead
from electra_ds.model.pretraining import Corrupted, Guess, JointPretraining, Judgement


class AllTokensMLM(JointPretraining):
    """As `ReplaceMLM`, at every real token: p(y) = D [y = input] + (1 - D) softmax(y), D = sigmoid(dense(h)).

    Mean negative log probability of the originals over all real tokens. The vocabulary head runs at all positions, in
    portions: see `kernels.every_position`.
    """

    parts = ("generator", "generator_head", "discriminator", "vocabulary_head")

    def add_head(self) -> None:
        """A vocabulary head with a copy gate, tied to the word matrix that the full-size network reads."""
        self.vocabulary_head = CopyHead(*self.head_sizes(self.config.hidden_size))

    def judge(
        self, batch: Batch, states: Tensor, corrupted: Corrupted, guess: Guess, shared: SharedMatrix | None
    ) -> Judgement:
        """Negative log probability at all real tokens."""
        weights = batch.token_weights(batch.segments > 0)
        word, shared = self.output_matrix(shared)
        output = self.vocabulary_head(
            states.flatten(0, 1),
            word,
            corrupted.ids.flatten(),
            batch.input_ids.flatten(),
            weights.flatten(),
            shared,
        )
        losses: Tensor = output.losses.view_as(weights)
        correct = output.correct.view_as(weights).gather(1, batch.selected)
        return Judgement(output.loss, lambda: losses, correct=correct)
