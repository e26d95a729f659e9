"""Drawing tokens from the generator's logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_GROUP = 64
"""Vocabulary entries summed together before the search: a running sum over the whole vocabulary is a serial loop."""


def sample_tokens(
    logits: Tensor, uniforms: Tensor, temperature: float = 1.0, forbidden: Tensor | None = None
) -> Tensor:
    """Draw one token per row from softmax(logits / temperature) by the inverse of its cumulative distribution.

    One uniform per position draws from the same distribution as Gumbel-max with one number per vocabulary entry. The
    search runs over sums of groups of 64 entries, then inside one group. No gradient flows.

    Args:
        logits: [N, V] of any floating dtype; computed in float32. Entries of -inf are never drawn.
        uniforms: float32 [N] in [0, 1).
        temperature: divides the logits.
        forbidden: int64 [N], a token that row n must not draw; null allows all.

    Returns:
        int64 [N].
    """
    with torch.no_grad():
        scores = logits.detach().float()
        if temperature != 1.0:
            scores = scores / temperature
        if forbidden is not None:
            scores = scores.scatter(1, forbidden[:, None], -torch.inf)
        probabilities = scores.softmax(-1)
        if probabilities.shape[1] % _GROUP:
            probabilities = functional.pad(probabilities, (0, -probabilities.shape[1] % _GROUP))
        groups = probabilities.view(len(probabilities), -1, _GROUP)
        sums = groups.sum(-1)
        upto = sums.cumsum(-1)
        # The sums differ from 1 by rounding: the threshold is a share of what they really add up to.
        threshold = uniforms[:, None] * upto[:, -1:]
        group = _first_above(upto, threshold)
        before = (upto - sums).gather(1, group)
        inside = groups.gather(1, group[..., None].expand(-1, -1, _GROUP))[:, 0].cumsum(-1)
        # Rounding may put the threshold a hair before the group; a negative one would draw an entry without weight.
        entry = _first_above(inside, (threshold - before).clamp(min=0))
        return (group * _GROUP + entry)[:, 0]


def _first_above(cumulative: Tensor, threshold: Tensor) -> Tensor:
    """Index [N, 1] of the first sum above the threshold [N, 1], at most that of the last entry with any weight."""
    drawn = torch.searchsorted(cumulative, threshold.contiguous(), right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(drawn, last)
