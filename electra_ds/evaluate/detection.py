"""How well replaced tokens are told from original ones, with intervals by a bootstrap over rows.

Shape legend: T tokens, U rows, K sums, G groups of tokens with equal logits, C bins of probability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from electra_ds.evaluate.statistics import Measure, Resampling

BINS = 15
"""Bins of equal width over the probability of "replaced" (Guo et al. 2017, arXiv 1706.04599, section 2)."""
_COUNT, _REPLACED, _FLAGGED, _FOUND, _SQUARES, _NATS = range(6)
_SUMS = 6


@dataclass(frozen=True)
class Judged:
    """Tokens with the discriminator's verdict and the truth."""

    logits: np.ndarray
    """float32 [T], of "replaced"."""
    replaced: np.ndarray
    """bool [T]."""
    rows: np.ndarray
    """int64 [T], the row that each stands in, from 0."""

    def part(self, which: np.ndarray) -> Judged:
        """Those tokens where bool [T] is true."""
        return Judged(self.logits[which], self.replaced[which], self.rows[which])


class Ranking:
    """Tokens ordered by their logit, so that the areas under curves of a weighted set take one pass."""

    def __init__(self, tokens: Judged) -> None:
        """Sort once."""
        order = np.argsort(-tokens.logits, kind="stable")
        logits = tokens.logits[order]
        self._rows, self._replaced = tokens.rows[order], tokens.replaced[order]
        # Tokens of equal logits are passed together: the last of each group.
        self._ends = np.flatnonzero(np.append(logits[1:] != logits[:-1], True)) if len(logits) else np.empty(0, int)

    def areas(self, weights: np.ndarray) -> tuple[float, float]:
        """ROC AUC (ties count half) and average precision; NaN without both kinds of tokens.

        Average precision is the sum of precision times the gain in recall at each distinct logit, without
        interpolation, as scikit-learn defines it.

        Args:
            weights: float64 [U], of each row.
        """
        weight = weights[self._rows]
        found = np.cumsum(np.where(self._replaced, weight, 0.0))[self._ends]
        passed = np.cumsum(weight)[self._ends]
        if not len(found) or not found[-1] or found[-1] == passed[-1]:
            return np.nan, np.nan
        alarms = passed - found
        gained = np.diff(found, prepend=0.0)
        area = float((np.diff(alarms, prepend=0.0) * (found - gained / 2)).sum() / (found[-1] * alarms[-1]))
        precision = np.divide(found, passed, out=np.zeros_like(found), where=passed > 0)
        return area, float((gained * precision).sum() / found[-1])


def probabilities(logits: np.ndarray) -> np.ndarray:
    """P(replaced), float64 [T]."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def bin_of(probability: np.ndarray) -> np.ndarray:
    """Number of the bin [c / C, (c + 1) / C), int64 [T]; 1 belongs to the last."""
    return np.minimum((probability * BINS).astype(np.int64), BINS - 1)


def row_sums(tokens: Judged, units: int) -> np.ndarray:
    """Sums over the tokens of each row, float64 [U, K]: counts, squared errors, nats, and three for each bin."""
    probability = probabilities(tokens.logits)
    flagged, truth = tokens.logits > 0, tokens.replaced.astype(np.float64)
    signed = np.where(tokens.replaced, -1.0, 1.0) * tokens.logits.astype(np.float64)
    columns = (
        np.ones(len(truth)), truth, flagged, flagged & tokens.replaced, (probability - truth) ** 2,
        np.logaddexp(0.0, signed),
    )  # fmt: skip
    sums = np.zeros((units, _SUMS + 3 * BINS))
    for number, column in enumerate(columns):
        sums[:, number] = np.bincount(tokens.rows, column, units)
    cell = tokens.rows * BINS + bin_of(probability)
    for number, column in enumerate((np.ones(len(truth)), probability, truth)):
        block = np.bincount(cell, column, units * BINS).reshape(units, BINS)
        sums[:, _SUMS + number * BINS : _SUMS + (number + 1) * BINS] = block
    return sums


def detect(tokens: Judged, units: int, resampling: Resampling) -> dict[str, Measure]:
    """Every measure of the discriminator over some tokens.

    Args:
        tokens: which.
        units: U, rows that are resampled; rows without any of the tokens count too.
        resampling: of the intervals.
    """
    ranking = Ranking(tokens)
    measures = resampling.of_sums(row_sums(tokens, units), FUNCTIONS)
    whole = ranking.areas(np.ones(units))
    drawn = [ranking.areas(row) for weights in resampling.weights(units) for row in weights]
    areas = np.array(drawn).reshape(len(drawn), 2)
    measures["auc"] = resampling.measure(whole[0], areas[:, 0])
    measures["average_precision"] = resampling.measure(whole[1], areas[:, 1])
    return measures


def reliability(tokens: Judged, units: int, resampling: Resampling) -> list[dict[str, Any]]:
    """The reliability curve: for each bin its tokens, their mean probability, and the share really replaced."""
    sums = row_sums(tokens, units)
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        str(number): _observed(number) for number in range(BINS)
    }
    observed = resampling.of_sums(sums, functions)
    counts, predicted, _ = _bins(sums.sum(0))
    return [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "tokens": int(counts[number]),
            "predicted": float(predicted[number] / counts[number]) if counts[number] else None,
            "observed": observed[str(number)],
        }
        for number in range(BINS)
    ]


def _observed(number: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda totals: _bins(totals)[2][..., number] / _bins(totals)[0][..., number]


def _bins(totals: np.ndarray) -> list[np.ndarray]:
    """Tokens, summed probability and replaced tokens of each bin, each [..., C]."""
    return [totals[..., _SUMS + number * BINS : _SUMS + (number + 1) * BINS] for number in range(3)]


def _calibration_error(totals: np.ndarray) -> np.ndarray:
    counts, predicted, observed = _bins(totals)
    return np.asarray(np.abs(predicted - observed).sum(-1) / counts.sum(-1))


def _f1(totals: np.ndarray) -> np.ndarray:
    return np.asarray(2 * totals[..., _FOUND] / (totals[..., _FLAGGED] + totals[..., _REPLACED]))


def _share(top: int, bottom: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda totals: totals[..., top] / totals[..., bottom]


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "precision": _share(_FOUND, _FLAGGED),
    "recall": _share(_FOUND, _REPLACED),
    "f1": _f1,
    "accuracy": lambda totals: (
        (totals[..., _COUNT] - totals[..., _FLAGGED] - totals[..., _REPLACED] + 2 * totals[..., _FOUND])
        / totals[..., _COUNT]
    ),
    "replaced_rate": _share(_REPLACED, _COUNT),
    "brier": _share(_SQUARES, _COUNT),
    "log_loss": _share(_NATS, _COUNT),
    "calibration_error": _calibration_error,
}
"""From sums over tokens to a measure; "flagged" is a logit above 0."""
RANKED = ("auc", "average_precision", "replaced_rate")
"""Measures that take the order of the logits alone, or no logit at all."""
