"""Regression: one number for a text, or for a pair of texts."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from electra_ds.errors import DataError
from electra_ds.files import atomic_write
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.tasks.base import Encoded, Scored, Split
from electra_ds.finetune.tasks.texts import TextExample, TextTask

if TYPE_CHECKING:
    import numpy as np


class Regression(TextTask):
    """Text or pair in, a number out, by squared error.

    The network learns (label - shift) / scale: 0 and 5 for STS, as in Google's code; else mean and standard deviation
    of the training labels. Both stand in the saved model's config (``label_shift``, ``label_scale``).
    """

    metrics = ("spearman", "pearson")

    def __init__(self, config: FinetuneConfig):
        super().__init__(config)
        self.shift, self.scale = 0.0, (self.preset.scale if self.preset else None) or 1.0

    def learn(self, train: Split) -> None:
        """See `Task.learn`."""
        labels = [example.label for example in train.examples]
        if len(set(labels)) < 2:
            raise DataError(f"{train.source}: every row has the label {labels[0]:g}; there is nothing to learn")
        if self.preset is None or self.preset.scale is None:
            self.shift, self.scale = statistics.fmean(labels), statistics.pstdev(labels)

    def count(self, examples: Sequence[TextExample], labelled: bool) -> dict[str, Any]:
        """See `Task.count`."""
        counts = super().count(examples, labelled)
        if labelled:
            labels = [example.label for example in examples]
            counts |= {"label_minimum": min(labels), "label_maximum": max(labels)}
        return counts

    def read_label(self, value: Any, where: str, hint: str) -> float:
        """See `TextTask.read_label`."""
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{where}: label is {value!r}, expected a number{hint}")
        return number

    def head_config(self) -> dict[str, Any]:
        """See `Task.head_config`."""
        return {
            "num_labels": 1,
            "problem_type": "regression",
            "label_shift": self.shift,
            "label_scale": self.scale,
        }

    def target(self, label: float) -> float:
        """See `TextTask.target`."""
        return (label - self.shift) / self.scale

    def score(self, encoded: Encoded, outputs: np.ndarray) -> Scored:
        """See `Task.score`; outputs (texts, 1)."""
        truth = [example.label for example in encoded.split.examples]
        return correlations(truth, self._predicted(outputs))

    def _predicted(self, outputs: np.ndarray) -> list[float]:
        return [float(value) for value in outputs.reshape(-1).astype(float) * self.scale + self.shift]

    def write_predictions(self, path: Path, encoded: Encoded, outputs: np.ndarray) -> None:
        """Write index, label (empty where unknown) and predicted number."""
        with atomic_write(path, "w") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(["index", "label", "predicted"])
            for number, (example, value) in enumerate(
                zip(encoded.split.examples, self._predicted(outputs), strict=True)
            ):
                writer.writerow([number, "" if example.label is None else f"{example.label:g}", f"{value:.6f}"])

    def submission_rows(self, encoded: Encoded, outputs: np.ndarray) -> list[tuple[str, str]]:
        """See `Task.submission_rows`; numbers stay inside 0 to the largest label."""
        values = self._predicted(outputs)
        limit = self.preset.scale if self.preset and self.preset.scale else math.inf
        return [
            (example.index, f"{min(max(value, 0.0), limit):.3f}")
            for example, value in zip(encoded.split.examples, values, strict=True)
        ]

    def baselines(self, splits: dict[str, Split]) -> dict[str, dict[str, Any]]:
        """The mean of the training labels always: correlations are undefined and count as 0."""
        mean = statistics.fmean(example.label for example in splits["train"].examples)
        made: dict[str, Any] = {"description": f"always {mean:.3g}, the training mean; correlations count as 0"}
        for name, split in splits.items():
            if name != "train" and split.labelled:
                made[name] = dict.fromkeys(self.metrics, 0.0)
        return {"mean": made}


def correlations(truth: Sequence[float], predicted: Sequence[float]) -> Scored:
    """Spearman's and Pearson's correlation; 0, and named as undefined, where either side is constant."""
    if len(set(truth)) < 2 or len(set(predicted)) < 2:
        return Scored({"spearman": 0.0, "pearson": 0.0}, ("spearman", "pearson"))
    from scipy.stats import pearsonr, spearmanr

    found = {
        "spearman": float(spearmanr(truth, predicted).statistic),
        "pearson": float(pearsonr(truth, predicted).statistic),
    }
    return Scored(
        {name: value if math.isfinite(value) else 0.0 for name, value in found.items()},
        tuple(name for name, value in found.items() if not math.isfinite(value)),
    )
