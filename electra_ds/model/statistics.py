"""Sums that become metrics once they are added over micro-batches, ranks and steps.

Sums, never means: a mean of per-rank means is another number when counts differ.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from electra_ds.model.config import ObjectiveConfig

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
    "predicted",
    "judged",
    "labelled",
    "restored",
    "pair_generator_sum",
    "pair_discriminator_sum",
    "pair_predicted",
    "pair_real",
)
"""Entries of a statistics vector: sums of losses (nats), and counts of tokens.

``discriminator_sum`` is the full-size network's loss, whatever it learns. ``predicted``: positions of the generator's
loss (for mlm of the only network's); ``judged``: tokens that a verdict is scored on, ``labelled`` those whose label is
"replaced", ``flagged`` those called so, ``flagged_replaced`` both; ``restored``: selected positions where the full-size
network's most probable token is the original. Those of ``pair_`` are of rows that hold translation pairs, which the
others contain too.
"""

HISTOGRAM_BINS = 1024
HISTOGRAM_RANGE = 20.0
"""Discriminator logits are counted in bins over [-20, 20]; the AUC's error is below a bin's share of pairs."""


def batch_statistics(**sums: Tensor) -> Tensor:
    """Stack sums by their names into float64 [len(STATISTICS)], in that order; what is not given is 0."""
    unknown = sums.keys() - set(STATISTICS)
    if unknown:
        raise ValueError(f"no such statistics: {sorted(unknown)}; expected some of {STATISTICS}")
    zero = next(iter(sums.values())).new_zeros((), dtype=torch.float64)
    return torch.stack([sums[name].detach().to(torch.float64) if name in sums else zero for name in STATISTICS])


def verdict_counts(verdict: Tensor, judged: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Counts of a discriminator's verdicts, and the histogram of its logits.

    Args:
        verdict: float32 [B, L], logits.
        judged: bool [B, L], tokens that count.
        labels: bool [B, L], of "replaced"; false where not `judged`.
    """
    flagged = (verdict > 0) & judged
    counts = {
        "flagged": flagged.sum(),
        "flagged_replaced": (flagged & labels).sum(),
        "judged": judged.sum(),
        "labelled": labels.sum(),
    }
    return counts, logit_histogram(verdict, judged, labels)


def no_histogram(device: torch.device) -> Tensor:
    """What stands for `logit_histogram` where no verdicts are given."""
    return torch.zeros(2, HISTOGRAM_BINS, dtype=torch.float64, device=device)


def loss_sums(
    loss: Tensor, losses: Tensor | None, pair_rows: Tensor | None, pair_weight: Tensor | None
) -> list[Tensor]:
    """Sum of a loss over all rows with every position weighing the same, and of rows with pairs.

    Args:
        loss: scalar, the sum as it is trained on.
        losses: float32 [B, ...], what it sums up; needed where there are pairs.
        pair_rows: bool [B], or None.
        pair_weight: scalar, what a position of these rows weighed, those of others having weighed 1.
    """
    if pair_rows is None:
        return [loss]
    assert losses is not None and pair_weight is not None
    by_row = losses.flatten(1).sum(1)
    pairs = (by_row * pair_rows).sum() / pair_weight
    return [(by_row * ~pair_rows).sum() + pairs, pairs]


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


def metrics(statistics: Tensor, histogram: Tensor, objective: ObjectiveConfig) -> dict[str, float | None]:
    """Turn summed statistics into the metrics that are logged.

    A metric that an objective does not have is absent; a ratio without a denominator is None.
    """
    sums = dict(zip(STATISTICS, statistics.tolist(), strict=True))

    def ratio(top: float, bottom: float) -> float | None:
        return top / bottom if bottom else None

    weights = (objective.generator_weight, objective.full_size_weight)
    losses = _losses(sums, objective, ratio)
    found: dict[str, float | None] = {
        "loss": sum(weights[0] * (generator or 0.0) + weights[1] * (own or 0.0) for generator, own in losses.values())
    }
    full_size = "discriminator_loss" if objective.detects else "vocabulary_loss"
    for prefix, (generator, own) in losses.items():
        if objective.has_generator:
            found[f"{prefix}generator_loss"] = generator
        found[f"{prefix}{full_size}"] = own
    if objective.has_generator:
        found["generator_accuracy"] = ratio(sums["masked_correct"], sums["selected"])
        found["sample_accuracy"] = ratio(sums["sample_correct"], sums["selected"])
    if objective.detects:
        wrong = sums["flagged"] + sums["labelled"] - 2 * sums["flagged_replaced"]
        found["discriminator_accuracy"] = ratio(sums["judged"] - wrong, sums["judged"])
        found["discriminator_precision"] = ratio(sums["flagged_replaced"], sums["flagged"])
        found["discriminator_recall"] = ratio(sums["flagged_replaced"], sums["labelled"])
        found["discriminator_auc"] = area_under_curve(histogram)
    else:
        found["vocabulary_accuracy"] = ratio(sums["restored"], sums["selected"])
    if objective.has_generator:
        found["replaced_rate"] = ratio(sums["replaced"], sums["real"])
    return found


def _losses(
    sums: dict[str, float], objective: ObjectiveConfig, ratio: Callable[[float, float], float | None]
) -> dict[str, tuple[float | None, float | None]]:
    """The generator's and the full-size network's losses, of rows without pairs ("") and, if any, with ("pair_")."""
    over = "predicted" if objective.name in ("mlm", "replace_mlm") else "real"
    found = {}
    for prefix in ("", "pair_") if sums["pair_real"] else ("",):
        generator, predicted, full_size, tokens = (
            sums[f"pair_{name}"] if prefix else sums[name] - sums[f"pair_{name}"]
            for name in ("generator_sum", "predicted", "discriminator_sum", over)
        )
        found[prefix] = (ratio(generator, predicted), ratio(full_size, tokens))
    return found
