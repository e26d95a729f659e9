"""Drawing tokens from the generator's logits."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_tokens(logits: Tensor, uniforms: Tensor, temperature: float = 1.0, forbidden: Tensor | None = None) -> Tensor:
    """Draw one token per row from softmax(logits / temperature) by the inverse of its cumulative distribution.

    One uniform per position draws from the same distribution as Gumbel-max with one number per vocabulary entry. No
    gradient flows.

    Args:
        logits: [N, V] of any floating dtype; computed in float32. Entries of -inf are never drawn.
        uniforms: float32 [N] in [0, 1).
        temperature: divides the logits.
        forbidden: int64 [N], a token that row n must not draw; null allows all.

    Returns:
        int64 [N].
    """
    with torch.no_grad():
        scores = logits.detach().float() / temperature
        if forbidden is not None:
            scores = scores.scatter(1, forbidden[:, None], -torch.inf)
        cumulative = scores.softmax(-1).cumsum(-1)
        # The last sum differs from 1 by rounding; scaling by it keeps the draw inside the vocabulary, and the last
        # token with any probability is where the sum first reaches its maximum.
        threshold = uniforms[:, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
        last = torch.searchsorted(cumulative, cumulative[:, -1:])[:, 0]
        return torch.minimum(drawn, last)
