"""Electric: an energy of each token in its context, by noise-contrastive estimation (arXiv 2012.08561).

Shape legend: B rows, L tokens, E embedding size, F hidden size of a tower, K slots for selected positions of a row.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from electra_ds.kernels.attention import Layout, causal_layout
from electra_ds.kernels.config import Backends
from electra_ds.kernels.embedding import SharedMatrix
from electra_ds.model import noise
from electra_ds.model.batch import Batch
from electra_ds.model.electra import Electra
from electra_ds.model.encoder import Encoder
from electra_ds.model.heads import ClozeHead
from electra_ds.model.masking import selectable
from electra_ds.model.objectives.electra_15 import selected_tokens
from electra_ds.model.pretraining import Corrupted, Guess, Judgement


class Towers(nn.Module):
    """Two encoders, each of which sees one side of a token: the generator's distribution at every position at once."""

    def __init__(self, forwards: Encoder, backwards: Encoder) -> None:
        super().__init__()
        self.forwards, self.backwards = forwards, backwards

    def forward(
        self, embedded: Tensor, layouts: tuple[Layout, ...], keys: tuple[Tensor | None, ...], segments: Tensor
    ) -> Tensor:
        """Map embeddings [B, L, E] of the text itself to states [B, L, 2 F] that know everything but their own token.

        The state of the token before, from the left, and of the token after, from the right; zeros where the segment
        ends. `layouts` are `causal_layout`'s, both ways.
        """
        left = self.forwards(embedded, layouts[0], keys[0])
        right = self.backwards(embedded, layouts[1], keys[1])
        same = (segments[:, 1:] == segments[:, :-1])[..., None]
        before = functional.pad(left[:, :-1] * same, (0, 0, 1, 0))
        after = functional.pad(right[:, 1:] * same, (0, 0, 0, 1))
        return torch.cat([before, after], -1)


class Electric(Electra):
    """The discriminator's logit is energy + log q(token) + log(p / (1 - p)), without gradient into q.

    p is the masked share, and q the distribution that replacements are drawn from (with objective.temperature; not
    without the original, which `disallow_correct` leaves out of the draw only, as the original code does). A selected
    position has label 1 even where the sample is the original token. The towers' cross-entropy runs over all candidates
    of the unmasked text and stands for the generator's loss. Their attention takes a dense causal mask on every device.
    """

    def add_generator(self) -> None:
        """Two causal towers of the generator's sizes, and a head on both their states."""
        self.generator: Towers = Towers(self.generator_encoder(), self.generator_encoder())  # type: ignore[assignment]
        self.generator_head: ClozeHead = ClozeHead(*self.head_sizes(2 * self.config.generator_hidden_size))

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """Both towers and the discriminator."""
        return self.generator.forwards, self.generator.backwards, self.discriminator

    def use(self, backends: Backends) -> None:
        """Choose the backends; the towers' attention stays with the one that takes a mask."""
        super().use(backends)
        for module in self.generator.modules():
            if hasattr(module, "backends"):
                module.backends = dataclasses.replace(backends, attention="torch")  # type: ignore[assignment]

    def layouts(self, batch: Batch) -> tuple[Layout, ...]:
        """Causal for the towers."""
        causal = (causal_layout(batch.segments, self.dtype, forwards) for forwards in (True, False))
        return (*causal, self.layout(batch.segments, batch.slots))

    def guess(
        self,
        batch: Batch,
        layouts: tuple[Layout, ...],
        keys: tuple[Tensor | None, ...],
        shared: SharedMatrix | None,
    ) -> Guess:
        """The towers' loss at all candidates, samples at the selected positions, and log q of what stands where."""
        ids, objective = batch.input_ids, self.objective
        embedded = self.embeddings(ids, batch.positions, batch.token_types, shared)
        hidden = self.generator(embedded, layouts, keys, batch.segments)
        candidates = selectable(ids, batch.segments, self.special)
        everywhere = torch.arange(ids.shape[1], device=ids.device)
        output = self.generator_head(
            hidden.flatten(0, 1),
            self.embeddings.word,
            ids.flatten(),
            batch.generator_weights(candidates).flatten(),
            noise.uniform(batch.keys[:, None], everywhere, noise.SAMPLE).flatten(),
            selected_tokens(batch).flatten(),
            objective.temperature,
            objective.disallow_correct,
            shared,
        )
        tokens, correct, log_q, losses = (
            value.view_as(ids) for value in (output.tokens, output.correct, output.log_q, output.losses)
        )
        samples, right = tokens.gather(1, batch.selected), correct.gather(1, batch.selected)
        return Guess(output.loss, losses, candidates, samples, right, log_q)

    def judge(
        self, batch: Batch, states: Tensor, corrupted: Corrupted, guess: Guess, shared: SharedMatrix | None
    ) -> Judgement:
        """Binary cross-entropy over all real tokens."""
        assert guess.log_q is not None
        share = self.objective.mask_fraction
        offsets = guess.log_q + math.log(share / (1 - share))
        return self.verdicts(batch, states, selected_tokens(batch), batch.segments > 0, offsets)
