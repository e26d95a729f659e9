"""Sequence classification: one label for a text, or for a pair of texts."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from electra_ds.errors import DataError
from electra_ds.files import atomic_write
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.tables import Table, read_table
from electra_ds.finetune.tasks.base import Encoded, Split, Task

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TextExample:
    """One row: a text or a pair, and its label."""

    text: str
    text_pair: str | None
    """None for single texts."""
    label: str | None
    """None where the split has no labels."""


class Classification(Task):
    """Text or pair in, one of a closed set of labels out; the labels are those of the training data."""

    auto_model = "AutoModelForSequenceClassification"
    head = "transformers: [CLS], dropout, dense, GELU, dropout, linear"
    metrics = ("accuracy", "f1_macro", "f1", "matthews")

    def __init__(self, config: FinetuneConfig):
        super().__init__(config)
        self.labels: tuple[str, ...] = ()

    def read(self) -> dict[str, Split]:
        """See `Task.read`."""
        config = self.config
        train = self._table(config.train)
        pair: int | str | None = config.text_pair_column
        if pair == "":
            pair = "text_pair" if train.has("text_pair") else None
        splits = {"train": self._split("train", train, pair, labelled=True)}
        self.labels = _sorted_labels(example.label for example in splits["train"].examples)
        if len(self.labels) < 2:
            raise DataError(
                f"{train.source}: every row has the label '{self.labels[0]}'; a classifier needs at least two labels"
            )
        splits["validation"] = self._split("validation", self._table(config.validation), pair, labelled=True)
        if config.test is not None:
            splits["test"] = self._split("test", self._table(config.test), pair, labelled=config.test_labels)
        return splits

    def _table(self, source: str) -> Table:
        return read_table(source, self.config.format, self.config.has_header, self.config.quotes)

    def _split(self, name: str, table: Table, pair: int | str | None, labelled: bool) -> Split:
        texts, empty = self._texts(table, self.config.text_column, "text_column")
        pairs: list[str | None] = [None] * len(table)
        if pair is not None:
            second, empty_pairs = self._texts(table, pair, "text_pair_column")
            pairs, empty = list(second), empty + empty_pairs
        labels: list[str | None] = [None] * len(table)
        if labelled:
            labels = list(self._labels(name, table))
        examples = [TextExample(*row) for row in zip(texts, pairs, labels, strict=True)]
        counts: dict[str, Any] = {
            "source": table.source,
            "rows": len(table),
            "pairs": pair is not None,
            "empty_texts": empty,
        }
        if labelled:
            counts["labels"] = dict(sorted(Counter(label for label in labels if label is not None).items()))
        return Split(name, table.source, examples, counts, labelled)

    def _texts(self, table: Table, column: int | str, option: str) -> tuple[list[str], int]:
        values = table.column(column, option)
        empty = 0
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise DataError(f"{table.where(row)}: {column!r} is {value!r}, expected a text (see --{option})")
            if not value.strip():
                if self.config.empty_texts == "refuse":
                    raise DataError(
                        f"{table.where(row)}: column {column!r} is empty; remove the row, or keep such rows with "
                        "--empty_texts keep"
                    )
                empty += 1
        return values, empty

    def _labels(self, name: str, table: Table) -> list[str]:
        labels = []
        for row, value in enumerate(table.column(self.config.label_column, "label_column")):
            if value is None or (isinstance(value, str) and not value.strip()) or not isinstance(value, (str, int)):
                hint = "; a test file without labels needs --test_labels false" if name == "test" else ""
                raise DataError(f"{table.where(row)}: label is {value!r}, expected a name or a whole number{hint}")
            labels.append(str(value).lower() if isinstance(value, bool) else str(value).strip())
        if self.labels:
            unknown = Counter(label for label in labels if label not in set(self.labels))
            if unknown:
                first = next(row for row, label in enumerate(labels) if label in unknown)
                counted = ", ".join(f"'{label}' ({count} rows)" for label, count in unknown.most_common(5))
                raise DataError(
                    f"{table.where(first)}: labels that the training data does not have: {counted}; "
                    f"it has {', '.join(map(repr, self.labels[:10]))}"
                    + ("; a test file without labels needs --test_labels false" if name == "test" else "")
                )
        return labels

    def head_config(self) -> dict[str, Any]:
        """See `Task.head_config`."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def encode(self, split: Split, tokenizer: Any) -> Encoded:
        """See `Task.encode`; a pair that is too long loses tokens of its longer text, one by one."""
        index = {label: number for number, label in enumerate(self.labels)}
        features = _tokenize(tokenizer, split.examples, {})
        too_long = [i for i, feature in enumerate(features) if len(feature["input_ids"]) > self.config.max_length]
        limits = {"truncation": "longest_first", "max_length": self.config.max_length}
        shortened = _tokenize(tokenizer, [split.examples[i] for i in too_long], limits)
        for position, feature in zip(too_long, shortened, strict=True):
            features[position] = feature
        if split.labelled:
            for feature, example in zip(features, split.examples, strict=True):
                feature["labels"] = index[example.label]
        return Encoded(split, features, truncated=len(too_long))

    def score(self, encoded: Encoded, logits: np.ndarray) -> dict[str, float]:
        """See `Task.score`; logits (texts, labels)."""
        truth = [feature["labels"] for feature in encoded.features]
        return classification_scores(truth, logits.argmax(-1).tolist(), len(self.labels))

    def write_predictions(self, path: Path, encoded: Encoded, logits: np.ndarray) -> None:
        """Write index, label (empty where unknown), predicted label and the probability of each label."""
        import numpy as np

        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities = shifted / shifted.sum(-1, keepdims=True)
        with atomic_write(path, "w") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(["index", "label", "predicted", *(f"probability_{label}" for label in self.labels)])
            for number, (example, row) in enumerate(zip(encoded.split.examples, probabilities, strict=True)):
                predicted = self.labels[int(row.argmax())]
                writer.writerow([number, example.label or "", predicted, *(f"{value:.6f}" for value in row)])

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
            truth = [self.labels.index(example.label) for example in splits[name].examples]
            result[name] = classification_scores(
                truth, [self.labels.index(label) for label in labels], len(self.labels)
            )
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
        "matthews": matthews_corrcoef(truth, predicted),
    }
    if labels == 2:
        scores["f1"] = f1_score(truth, predicted, pos_label=1, average="binary", zero_division=0)
    return {name: float(value) for name, value in scores.items()}


def _sorted_labels(labels: Any) -> tuple[str, ...]:
    """Distinct labels, as numbers if all are numbers, so that '10' does not come before '2'."""
    distinct = set(labels)
    if all(re.fullmatch(r"-?\d+", label) for label in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def _tokenize(tokenizer: Any, examples: Any, limits: dict[str, Any]) -> list[dict[str, Any]]:
    if not examples:
        return []
    pairs = [example.text_pair for example in examples] if examples[0].text_pair is not None else None
    encoding = tokenizer([example.text for example in examples], pairs, verbose=False, **limits)
    return [{key: values[i] for key, values in encoding.items()} for i in range(len(examples))]
