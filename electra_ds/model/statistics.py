"""Sums that become metrics once they are added over micro-batches, ranks and steps.

Sums, never means: a mean of per-rank means is another number when counts differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

STATISTICS = (
    "generator_sum",
    "discriminator_sum",
    "selected",
    "masked_correct",
    "sample_correct",
    "real",
    "replaced",
    "flagged",
    "flagged_replaced",
)
"""Entries of a statistics vector: sums of losses (nats), and counts of tokens."""

HISTOGRAM_BINS = 1024
HISTOGRAM_RANGE = 20.0
"""Discriminator logits are counted in bins over [-20, 20]; the AUC's error is below a bin's share of pairs."""


def batch_statistics(
    *,
    generator_sum: Tensor,
    discriminator_sum: Tensor,
    valid: Tensor,
    masked_correct: Tensor,
    sample_correct: Tensor,
    real: Tensor,
    replaced: Tensor,
    verdict: Tensor,
) -> Tensor:
    """Stack the sums into float64 [len(STATISTICS)], in that order; masks are bool."""
    flagged = verdict & real
    values = (
        generator_sum.detach(),
        discriminator_sum.detach(),
        valid.sum(),
        masked_correct.sum(),
        sample_correct.sum(),
        real.sum(),
        replaced.sum(),
        flagged.sum(),
        (flagged & replaced).sum(),
    )
    return torch.stack([value.to(torch.float64) for value in values])


def logit_histogram(logits: Tensor, real: Tensor, replaced: Tensor) -> Tensor:
    """Count logits of original (row 0) and replaced (row 1) real tokens: float64 [2, HISTOGRAM_BINS]."""
    scaled = (logits.float() + HISTOGRAM_RANGE) * (HISTOGRAM_BINS / (2 * HISTOGRAM_RANGE))
    index = scaled.nan_to_num(0.0).clamp(0, HISTOGRAM_BINS - 1).to(torch.int64) + HISTOGRAM_BINS * replaced
    counts = torch.zeros(2 * HISTOGRAM_BINS, dtype=torch.float64, device=logits.device)
    counts.scatter_add_(0, index.flatten(), real.flatten().to(torch.float64))
    return counts.view(2, HISTOGRAM_BINS)


def area_under_curve(histogram: Tensor) -> float | None:
    """ROC AUC from `logit_histogram` counts (ties within a bin count half); None without both classes."""
    negatives, positives = histogram.double()
    if not negatives.sum() or not positives.sum():
        return None
    below = negatives.cumsum(0) - negatives
    return float((positives * (below + negatives / 2)).sum() / (negatives.sum() * positives.sum()))


def metrics(
    statistics: Tensor, histogram: Tensor, generator_weight: float, discriminator_weight: float
) -> dict[str, float | None]:
    """Turn summed statistics into the metrics that are logged; a ratio without a denominator is None."""
    sums = dict(zip(STATISTICS, statistics.tolist(), strict=True))

    def ratio(top: float, bottom: float) -> float | None:
        return top / bottom if bottom else None

    generator_loss = ratio(sums["generator_sum"], sums["selected"])
    discriminator_loss = ratio(sums["discriminator_sum"], sums["real"])
    wrong = sums["flagged"] + sums["replaced"] - 2 * sums["flagged_replaced"]
    return {
        "loss": generator_weight * (generator_loss or 0.0) + discriminator_weight * (discriminator_loss or 0.0),
        "generator_loss": generator_loss,
        "discriminator_loss": discriminator_loss,
        "generator_accuracy": ratio(sums["masked_correct"], sums["selected"]),
        "sample_accuracy": ratio(sums["sample_correct"], sums["selected"]),
        "discriminator_accuracy": ratio(sums["real"] - wrong, sums["real"]),
        "discriminator_precision": ratio(sums["flagged_replaced"], sums["flagged"]),
        "discriminator_recall": ratio(sums["flagged_replaced"], sums["replaced"]),
        "discriminator_auc": area_under_curve(histogram),
        "replaced_rate": ratio(sums["replaced"], sums["real"]),
    }
