"""Sequence classification: one label for a text, or for a pair of texts."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from electra_ds.errors import DataError
from electra_ds.files import atomic_write
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.tables import Table
from electra_ds.finetune.tasks.base import Encoded, Scored, Split
from electra_ds.finetune.tasks.texts import TextExample, TextTask

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Classification", "TextExample", "classification_scores"]


class Classification(TextTask):
    """Text or pair in, one of a closed set of labels out: a named task's own, else those of the training data."""

    metrics = ("accuracy", "f1_macro", "f1", "matthews")

    def __init__(self, config: FinetuneConfig):
        super().__init__(config)
        self.labels: tuple[str, ...] = self.preset.labels if self.preset else ()

    def available_metrics(self) -> tuple[str, ...]:
        """See `Task.available_metrics`."""
        return self.metrics if len(self.labels) == 2 else tuple(name for name in self.metrics if name != "f1")

    def learn(self, train: Split) -> None:
        """See `Task.learn`; a single label cannot be learned."""
        found = _sorted_labels(example.label for example in train.examples)
        if len(found) < 2:
            raise DataError(
                f"{train.source}: every row has the label '{found[0]}'; a classifier needs at least two labels"
            )
        self.labels = self.labels or found

    def count(self, examples: Sequence[TextExample], labelled: bool) -> dict[str, Any]:
        """See `Task.count`."""
        labels = {"labels": dict(sorted(Counter(e.label for e in examples).items()))} if labelled else {}
        return {**super().count(examples, labelled), **labels}

    def read_label(self, value: Any, where: str, hint: str) -> str:
        """See `TextTask.read_label`."""
        if value is None or (isinstance(value, str) and not value.strip()) or not isinstance(value, (str, int)):
            raise DataError(f"{where}: label is {value!r}, expected a name or a whole number{hint}")
        label = str(value).lower() if isinstance(value, bool) else str(value).strip()
        return self.preset.aliases.get(label, label) if self.preset else label

    def check_labels(self, table: Table, labels: list[str], hint: str) -> None:
        """See `TextTask.check_labels`."""
        known = set(self.labels)
        unknown = Counter(label for label in labels if label not in known)
        if known and unknown:
            first = next(row for row, label in enumerate(labels) if label in unknown)
            counted = ", ".join(f"'{label}' ({count} rows)" for label, count in unknown.most_common(5))
            owner = f"{self.config.task}" if self.preset else "the training data"
            raise DataError(
                f"{table.where(first)}: labels that {owner} does not have: {counted}; "
                f"it has {', '.join(map(repr, self.labels[:10]))}{hint}"
            )

    def head_config(self) -> dict[str, Any]:
        """See `Task.head_config`."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def target(self, label: str) -> int:
        """See `TextTask.target`."""
        return self.labels.index(label)

    def score(self, encoded: Encoded, outputs: np.ndarray) -> Scored:
        """See `Task.score`; outputs (texts, labels)."""
        truth = [self.target(example.label) for example in encoded.split.examples]
        predicted = outputs.argmax(-1).tolist()
        return Scored(classification_scores(truth, predicted, len(self.labels)), undefined(truth, predicted))

    def write_predictions(self, path: Path, encoded: Encoded, outputs: np.ndarray) -> None:
        """Write index, label (empty where unknown), predicted label and the probability of each label."""
        import numpy as np

        shifted = np.exp(outputs - outputs.max(-1, keepdims=True))
        probabilities = shifted / shifted.sum(-1, keepdims=True)
        with atomic_write(path, "w") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(["index", "label", "predicted", *(f"probability_{label}" for label in self.labels)])
            for number, (example, row) in enumerate(zip(encoded.split.examples, probabilities, strict=True)):
                predicted = self.labels[int(row.argmax())]
                writer.writerow([number, example.label or "", predicted, *(f"{value:.6f}" for value in row)])

    def submission_rows(self, encoded: Encoded, outputs: np.ndarray) -> list[tuple[str, str]]:
        """See `Task.submission_rows`."""
        examples = encoded.split.examples
        return [(e.index, self.labels[int(outputs[i].argmax())]) for i, e in enumerate(examples)]

    def baselines(self, splits: dict[str, Split]) -> dict[str, dict[str, Any]]:
        """The most frequent label always; a bag of words where configured."""
        from electra_ds.finetune import baseline

        made = {"majority": baseline.majority(splits)}
        if self.config.baseline:
            made["bag_of_words"] = baseline.bag_of_words(splits)
        return {name: self._score_baseline(splits, *entry) for name, entry in made.items()}

    def _score_baseline(
        self, splits: dict[str, Split], description: str, predicted: dict[str, list[str]]
    ) -> dict[str, Any]:
        result: dict[str, Any] = {"description": description}
        for name, labels in predicted.items():
            truth = [self.target(example.label) for example in splits[name].examples]
            result[name] = classification_scores(truth, [self.target(label) for label in labels], len(self.labels))
        return result


def classification_scores(truth: list[int], predicted: list[int], labels: int) -> dict[str, float]:
    """Accuracy, macro F1, Matthews' correlation and, for two labels, the F1 of the second (shares, 0 to 1).

    Macro F1 averages over every label of the training data; one that neither occurs nor is predicted counts as 0.
    Matthews' correlation of constant predictions is 0.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    scores = {
        "accuracy": accuracy_score(truth, predicted),
        "f1_macro": f1_score(truth, predicted, labels=range(labels), average="macro", zero_division=0),
        "matthews": 0.0 if undefined(truth, predicted) else matthews_corrcoef(truth, predicted),
    }
    if labels == 2:
        scores["f1"] = f1_score(truth, predicted, pos_label=1, average="binary", zero_division=0)
    return {name: float(value) for name, value in scores.items()}


def undefined(truth: list[int], predicted: list[int]) -> tuple[str, ...]:
    """Name the scores that are undefined and count as 0: Matthews' correlation where either side is constant."""
    return ("matthews",) if len(set(truth)) < 2 or len(set(predicted)) < 2 else ()


def _sorted_labels(labels: Any) -> tuple[str, ...]:
    """Distinct labels, as numbers if all are numbers, so that '10' does not come before '2'."""
    distinct = set(labels)
    if all(re.fullmatch(r"-?\d+", label) for label in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))
