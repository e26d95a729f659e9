"""ELECTRA 15%: replaced token detection at the selected positions only (arXiv 2003.10555, section 3.4).

Shape legend: B rows, L tokens, K slots for selected positions of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from electra_ds.kernels.embedding import SharedMatrix
from electra_ds.model.batch import Batch
from electra_ds.model.electra import Electra
from electra_ds.model.pretraining import Corrupted, Guess, Judgement


class Electra15(Electra):
    """Same networks as `Electra`.

    The sum over the selected positions is divided by the number of all real tokens, as in the paper: a mean over the
    selected ones would weigh each 1 / 0.15 = 6.7 times more.
    """

    def judge(
        self, batch: Batch, states: Tensor, corrupted: Corrupted, guess: Guess, shared: SharedMatrix | None
    ) -> Judgement:
        """Binary cross-entropy over the selected positions."""
        return self.verdicts(batch, states, corrupted.replaced, selected_tokens(batch))


def selected_tokens(batch: Batch) -> Tensor:
    """The selected positions as bool [B, L]."""
    length = batch.input_ids.shape[1]
    # One place more than the row holds takes the slots that are not valid.
    places = batch.selected.masked_fill(~batch.selected_valid, length)
    chosen = torch.zeros(len(places), length + 1, dtype=torch.bool, device=places.device)
    return chosen.scatter(1, places, True)[:, :length]
