"""Drawing tokens from the generator's logits.

Shape legend: N positions, V entries, G groups of 64 entries.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

GROUP = 64
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
        if forbidden is not None:
            scores = scores.scatter(1, forbidden[:, None], -torch.inf)
        highest = scores.amax(-1)
        return draw(scores, highest, group_sums(scores, highest, temperature), uniforms, temperature)


def group_sums(scores: Tensor, highest: Tensor, temperature: float = 1.0) -> Tensor:
    """Sums of exp((score - highest) / temperature) of float32 scores [N, V] over groups of entries, float32 [N, G]."""
    powers = ((scores - highest[:, None]) / temperature).exp()
    return functional.pad(powers, (0, -powers.shape[1] % GROUP)).view(len(powers), -1, GROUP).sum(-1)


def draw(logits: Tensor, highest: Tensor, groups: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
    """Find the group, then the entry, in which each uniform falls.

    Args:
        logits: [N, V].
        highest: float32 [N], the highest logit of each row.
        groups: float32 [N, G], from `group_sums` at the same temperature.
        uniforms: float32 [N] in [0, 1).
        temperature: divides the logits.

    Returns:
        int64 [N].
    """
    upto = groups.cumsum(-1)
    # The sums are not normalised: the threshold is a share of what they really add up to.
    threshold = uniforms[:, None] * upto[:, -1:]
    group = _first_above(upto, groups, threshold)
    before = (upto - groups).gather(1, group)
    place = group * GROUP + torch.arange(GROUP, device=logits.device)
    inside = logits.gather(1, place.clamp(max=logits.shape[1] - 1)).float()
    inside = inside.masked_fill(place >= logits.shape[1], -torch.inf)
    powers = ((inside - highest[:, None]) / temperature).exp()
    # Rounding may put the threshold a hair before the group; a negative one would draw an entry without weight.
    entry = _first_above(powers.cumsum(-1), powers, (threshold - before).clamp(min=0))
    # Scores that are not numbers give any entry, but one that exists: the loss tells of them, not an error here.
    return (group * GROUP + entry)[:, 0].clamp(max=logits.shape[1] - 1)


def _first_above(cumulative: Tensor, weights: Tensor, threshold: Tensor) -> Tensor:
    """Index [N, 1] of the first entry with weight whose sum is above the threshold [N, 1], or of the last with weight.

    A GPU adds up in parallel, where a sum may step up by rounding at an entry that weighs nothing.
    """
    place = torch.arange(weights.shape[1], device=weights.device)
    weighs = weights > 0
    first = torch.where(weighs & (cumulative > threshold), place, weights.shape[1]).amin(-1, keepdim=True)
    return torch.minimum(first, torch.where(weighs, place, 0).amax(-1, keepdim=True))
