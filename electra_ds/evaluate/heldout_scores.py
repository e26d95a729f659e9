"""Scores of corrupted rows: over all, by token frequency, by position in the segment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from electra_ds.evaluate.corruption import Corrupted, Filled
from electra_ds.evaluate.detection import RANKED, Judged, Ranking, detect, reliability
from electra_ds.evaluate.machine import Advance
from electra_ds.evaluate.statistics import Resampling

PER_MILLION = (10_000, 1_000, 100, 10, 0)
"""Lower bounds of the frequency classes (occurrences per million tokens)."""
POSITIONS = (0, 1, 8, 16, 32, 64, 128, 256)
"""First positions of the position classes."""


def frequency_classes(frequencies: np.ndarray, special: np.ndarray) -> np.ndarray:
    """Class of each token, int64 [V]: place in `PER_MILLION`, or one more for special tokens."""
    bounds = np.array(PER_MILLION) / 1e6
    classes = (frequencies[:, None] < bounds[None, :]).sum(1)
    classes[special] = len(PER_MILLION)
    return classes


def score_generator(
    parts: list[Corrupted], classes: np.ndarray, resampling: Resampling, advance: Advance
) -> dict[str, Any]:
    """Perplexity and accuracies at selected positions: over all, by frequency of the original, by position."""
    return _score_filling(parts, [part.filled for part in parts], tuple(_FILLING), classes, resampling, advance)


def score_encoder(
    parts: list[Corrupted], classes: np.ndarray, resampling: Resampling, advance: Advance
) -> dict[str, Any]:
    """The same of a full-size network that restores tokens; perplexity at [MASK] only where it reads any."""
    restored = [part.restored for part in parts if part.restored is not None]
    left_out = {"sample_accuracy"} if parts[0].reads_masks else {"sample_accuracy", "masked_perplexity"}
    names = tuple(name for name in _FILLING if name not in left_out)
    return _score_filling(parts, restored, names, classes, resampling, advance)


def _score_filling(
    parts: list[Corrupted],
    filled: list[Filled],
    names: tuple[str, ...],
    classes: np.ndarray,
    resampling: Resampling,
    advance: Advance,
) -> dict[str, Any]:
    first = np.cumsum([0] + [len(part.original) for part in parts])
    row = np.concatenate([one.row + begin for one, begin in zip(filled, first, strict=False)])
    joined = {name: np.concatenate([getattr(one, name) for one in filled]) for name in ("loss", "correct", "masked")}
    targets = np.concatenate([part.original[one.row, one.position] for part, one in zip(parts, filled, strict=True)])
    drawn = np.concatenate([one.token for one in filled])
    places = np.concatenate([part.positions[one.row, one.position] for part, one in zip(parts, filled, strict=True)])
    units = int(first[-1])
    functions = {name: _FILLING[name] for name in names}

    def score(which: np.ndarray) -> dict[str, Any]:
        columns = (
            joined["loss"], np.ones(len(row)), joined["correct"], drawn == targets,
            np.where(joined["masked"], joined["loss"], 0.0), joined["masked"],
        )  # fmt: skip
        sums = np.stack([np.bincount(row[which], column[which], units) for column in columns], 1)
        measures: dict[str, Any] = dict(resampling.of_sums(sums, functions))
        measures["selected"] = int(which.sum())
        advance(1)
        return measures

    everywhere = np.ones(len(row), bool)
    return {
        **score(everywhere),
        "by_frequency": _by_class(classes[targets], _frequency_names(), score),
        "by_position": _by_class(np.searchsorted(POSITIONS, places, "right") - 1, _position_names(), score),
    }


_FILLING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "loss": lambda totals: totals[..., 0] / totals[..., 1],
    "perplexity": lambda totals: np.exp(totals[..., 0] / totals[..., 1]),
    "bits_per_token": lambda totals: totals[..., 0] / totals[..., 1] / np.log(2),
    "accuracy": lambda totals: totals[..., 2] / totals[..., 1],
    "sample_accuracy": lambda totals: totals[..., 3] / totals[..., 1],
    "masked_perplexity": lambda totals: np.exp(totals[..., 4] / totals[..., 5]),
}
"""From sums over selected positions to a measure."""


def score_discriminator(
    parts: list[Corrupted],
    classes: np.ndarray,
    frequencies: np.ndarray,
    resampling: Resampling,
    advance: Advance,
    are_probabilities: bool = True,
) -> dict[str, Any]:
    """Detection and calibration over judged tokens: over all, by frequency of the seen token, by position.

    Args:
        parts: rows as they became, with the verdicts.
        classes: int64 [V], from `frequency_classes`.
        frequencies: float64 [V], for a judge that knows nothing else.
        resampling: of the intervals.
        advance: told of each class that is done.
        are_probabilities: whether a logit is the log odds of "replaced"; else tokens are only ranked by it.
    """
    first = np.cumsum([0] + [len(part.original) for part in parts])
    units = int(first[-1])
    seen = np.concatenate([part.corrupted[part.judged] for part in parts])
    rows = np.concatenate([np.nonzero(part.judged)[0] + begin for part, begin in zip(parts, first, strict=False)])
    places = np.concatenate([part.positions[part.judged] for part in parts])
    tokens = Judged(
        np.concatenate([part.logits[part.judged] for part in parts]),
        np.concatenate([(part.corrupted != part.original)[part.judged] for part in parts]),
        rows,
    )

    def score(which: np.ndarray) -> dict[str, Any]:
        measures: dict[str, Any] = dict(detect(tokens.part(which), units, resampling))
        if not are_probabilities:
            measures = {name: measures[name] for name in RANKED}
        measures.update(tokens=int(which.sum()), replaced=int(tokens.replaced[which].sum()))
        advance(1)
        return measures

    # Special tokens are hardly ever replacements, and their frequency in text is none.
    rarity = Judged(
        np.where(classes[seen] == len(PER_MILLION), -1.0, -frequencies[seen]).astype(np.float32), tokens.replaced, rows
    )
    return {
        **score(np.ones(len(rows), bool)),
        "frequency_auc": Ranking(rarity).areas(np.ones(units))[0] if 0 < tokens.replaced.sum() < len(rows) else None,
        **({"reliability": reliability(tokens, units, resampling)} if are_probabilities else {}),
        "by_frequency": _by_class(classes[seen], _frequency_names(), score),
        "by_position": _by_class(np.searchsorted(POSITIONS, places, "right") - 1, _position_names(), score),
    }


def _by_class(
    classes: np.ndarray, names: list[str], score: Callable[[np.ndarray], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Scores of each class that has anything, in order."""
    return [{"class": name, **score(which)} for number, name in enumerate(names) if (which := classes == number).any()]


def _frequency_names() -> list[str]:
    upper = ["and more", *(f"to {bound:,}" for bound in PER_MILLION[:-1])]
    return [f"{bound:,} {more}" for bound, more in zip(PER_MILLION, upper, strict=True)] + ["special tokens"]


def _position_names() -> list[str]:
    ends = [*POSITIONS[1:], None]
    names = []
    for begin, end in zip(POSITIONS, ends, strict=True):
        names.append(f"{begin} and on" if end is None else str(begin) if end == begin + 1 else f"{begin}-{end - 1}")
    return names
