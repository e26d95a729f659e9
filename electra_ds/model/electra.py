"""Replaced token detection: generator, sampling, discriminator and both losses in one module.

arXiv 2003.10555, section 2. The other objectives are in `model.objectives`; what they share with this one is in
`model.pretraining`.

Shape legend: B rows, L tokens, F hidden size.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from electra_ds.kernels.embedding import SharedMatrix
from electra_ds.model.batch import Batch
from electra_ds.model.heads import DiscriminatorHead
from electra_ds.model.pretraining import Corrupted, Guess, JointPretraining, Judgement

__all__ = ["Batch", "Electra"]


class Electra(JointPretraining):
    """Both networks; its forward pass is one joint step's loss.

    Rows that hold a translation pair (`Batch.pair_rows`) make two terms of their own, so that the loss is XLM-E's: MLM
    + weight x RTD over the other rows, and TLM + weight x TRTD over these.
    """

    parts = ("generator", "generator_head", "discriminator", "discriminator_head")

    def add_head(self) -> None:
        """A verdict for each token."""
        self.discriminator_head = DiscriminatorHead(self.config.hidden_size)

    def discriminator_logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [...] from hidden states [..., F]."""
        return self.discriminator_head.logits(hidden)

    def judge(
        self, batch: Batch, states: Tensor, corrupted: Corrupted, guess: Guess, shared: SharedMatrix | None
    ) -> Judgement:
        """Binary cross-entropy over all real tokens."""
        return self.verdicts(batch, states, corrupted.replaced, batch.segments > 0)

    def verdicts(
        self, batch: Batch, states: Tensor, labels: Tensor, judged: Tensor, offsets: Tensor | None = None
    ) -> Judgement:
        """Binary cross-entropy of the head on `states`.

        Args:
            batch: whose rows have weights.
            states: [B, L, F].
            labels: bool [B, L].
            judged: bool [B, L], tokens of the loss.
            offsets: float32 [B, L], added to the head's logits.
        """
        weights = batch.token_weights(judged)
        loss, logits = self.discriminator_head(states, labels, weights, offsets)

        def losses() -> Tensor:
            wrong = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
            return wrong * weights

        return Judgement(loss, losses, logits, judged, labels)
