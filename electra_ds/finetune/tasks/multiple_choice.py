"""Multiple choice: which of a few continuations or answers fits a text."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from electra_ds.errors import DataError
from electra_ds.files import atomic_write
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.tables import Table, read_table
from electra_ds.finetune.tasks.base import Encoded, Scored, Split, Task

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ChoiceExample:
    """One row."""

    text: str
    """What all choices follow."""
    choices: tuple[str, ...]
    """As many in every row."""
    label: int | None
    """Number of the right one from 0, None where it is not known."""
    empty: int = field(default=0, repr=False)
    """How many of its texts were empty, that before the choices included."""


class MultipleChoice(Task):
    """A text and a fixed number of choices in, the number of the right one out.

    The choices are one column each (``choice_columns``), or lists in a column ``choices`` (JSON lines, hub). A second
    text column, where configured, begins every choice, as in SWAG. Labels are numbers from 0, or letters from A.
    """

    auto_model = "AutoModelForMultipleChoice"
    head = "transformers: a summary of the text and each choice, linear to one score, softmax over the choices"
    metrics = ("accuracy",)
    units = "questions"

    def __init__(self, config: FinetuneConfig):
        super().__init__(config)
        self.choices = 0

    def read_split(self, name: str, source: str) -> Split:
        """See `Task.read_split`."""
        config = self.config
        table = read_table(source, config.format, config.has_header, config.quotes, (), config.bad_rows)
        text = "text" if config.text_column == "" else config.text_column
        column = "label" if config.label_column == "" else config.label_column
        labelled = name in ("train", "validation") or (
            config.test_labels is not False if name == "test" else table.has(column)
        )
        texts = [
            self._text(table, row, value, "text_column") for row, value in enumerate(table.column(text, "text_column"))
        ]
        starts: list[str | None] = [None] * len(table)
        if config.text_pair_column != "":
            cells = table.column(config.text_pair_column, "text_pair_column")
            starts = [self._text(table, row, value, "text_pair_column") for row, value in enumerate(cells)]
        choices = self._choices(table)
        labels = table.column(column, "label_column") if labelled else [None] * len(table)
        examples = []
        for row, (context, start, offered, label) in enumerate(zip(texts, starts, choices, labels, strict=True)):
            self.choices = self.choices or len(offered)
            if len(offered) != self.choices or len(offered) < 2:
                raise DataError(
                    f"{table.where(row)}: {len(offered)} choices, expected {max(self.choices, 2)} in every row"
                )
            number = self._number(label, table.where(row), name) if labelled else None
            empty = sum(value is not None and not value.strip() for value in (context, start, *offered))
            whole = tuple(f"{start} {choice}".strip() for choice in offered) if start else offered
            examples.append(ChoiceExample(context, whole, number, empty))
        counts = {"source": source, **self.count(examples, labelled)}
        if table.dropped:
            counts["dropped_rows"] = table.dropped
        return Split(name, source, examples, counts, labelled)

    def _choices(self, table: Table) -> list[tuple[str, ...]]:
        config = self.config
        names = [name.strip() for name in config.choice_columns.split(",") if name.strip()]
        if names:
            columns = [
                table.column(name if table.has(name) or _whole(name) is None else int(name), "choice_columns")
                for name in names
            ]
            offered = [list(values) for values in zip(*columns, strict=True)]
        else:
            offered = table.column("choices", "choice_columns")
        found = []
        for row, values in enumerate(offered):
            if not isinstance(values, (list, tuple)):
                raise DataError(f"{table.where(row)}: choices are {values!r:.60}, expected a list of texts")
            found.append(tuple(self._text(table, row, value, "choice_columns") for value in values))
        return found

    def _text(self, table: Table, row: int, value: Any, option: str) -> str:
        if not isinstance(value, str) or (not value.strip() and self.config.empty_texts == "refuse"):
            raise DataError(
                f"{table.where(row)}: {value!r:.60}, expected a text (see --{option}; empty ones: --empty_texts keep)"
            )
        return value

    def _number(self, label: Any, where: str, split: str) -> int:
        hint = "; a test file without labels needs --test_labels false" if split == "test" else ""
        text = str(label).strip()
        number = _whole(text)
        if number is None:
            number = ord(text.upper()) - ord("A") if re.fullmatch("[A-Za-z]", text) else -1
        if isinstance(label, bool) or not 0 <= number < self.choices:
            raise DataError(
                f"{where}: label is {label!r}, expected a number from 0 to {self.choices - 1}, or a letter from A to "
                f"{chr(ord('A') + self.choices - 1)}{hint}"
            )
        return number

    def count(self, examples: Sequence[ChoiceExample], labelled: bool) -> dict[str, Any]:
        """See `Task.count`."""
        counts: dict[str, Any] = {"rows": len(examples), "choices": self.choices}
        counts["empty_texts"] = sum(example.empty for example in examples)
        if labelled:
            counts["labels"] = {str(k): v for k, v in sorted(Counter(e.label for e in examples).items())}
        return counts

    def head_config(self) -> dict[str, Any]:
        """See `Task.head_config`."""
        return {"num_labels": 1, "problem_type": None}

    def label_names(self) -> list[str]:
        """See `Task.label_names`."""
        return [str(number) for number in range(self.choices)]

    def encode(self, split: Split, tokenizer: Any) -> Encoded:
        """See `Task.encode`; a feature holds one list of ids for each choice."""
        texts = [example.text for example in split.examples for _ in range(self.choices)]
        choices = [choice for example in split.examples for choice in example.choices]
        whole = tokenizer(texts, choices, verbose=False)["input_ids"]
        cut = {i // self.choices for i, ids in enumerate(whole) if len(ids) > self.max_length}
        encoding = tokenizer(texts, choices, truncation="longest_first", max_length=self.max_length, verbose=False)
        features: list[dict[str, Any]] = []
        for number, example in enumerate(split.examples):
            here = slice(number * self.choices, (number + 1) * self.choices)
            feature: dict[str, Any] = {key: values[here] for key, values in encoding.items()}
            if example.label is not None:
                feature["labels"] = example.label
            features.append(feature)
        return Encoded(split, features, len(cut))

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """See `Task.collator`; ids come out as (questions, choices, length)."""

        def collate(features: list[dict[str, Any]]) -> dict[str, Any]:
            import torch

            keys = [key for key in features[0] if key != "labels"]
            flat = [{key: feature[key][i] for key in keys} for feature in features for i in range(self.choices)]
            padded = tokenizer.pad(flat, return_tensors="pt")
            batch = {key: value.view(len(features), self.choices, -1) for key, value in padded.items()}
            if "labels" in features[0]:
                batch["labels"] = torch.tensor([feature["labels"] for feature in features])
            return batch

        return collate

    def score(self, encoded: Encoded, outputs: np.ndarray) -> Scored:
        """See `Task.score`; outputs (questions, choices)."""
        truth = [example.label for example in encoded.split.examples]
        right = sum(int(a == b) for a, b in zip(truth, outputs.argmax(-1).tolist(), strict=True))
        return Scored({"accuracy": right / len(truth)})

    def write_predictions(self, path: Path, encoded: Encoded, outputs: np.ndarray) -> None:
        """Write index, label (empty where unknown), predicted label and the score of each choice."""
        with atomic_write(path, "w") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(["index", "label", "predicted", *(f"score_{i}" for i in range(self.choices))])
            for number, (example, row) in enumerate(zip(encoded.split.examples, outputs, strict=True)):
                label = "" if example.label is None else example.label
                writer.writerow([number, label, int(row.argmax()), *(f"{value:.6f}" for value in row)])

    def baselines(self, splits: dict[str, Split]) -> dict[str, dict[str, Any]]:
        """The most frequent place of the right choice."""
        counted = Counter(example.label for example in splits["train"].examples)
        place = min(counted, key=lambda label: (-counted[label], label))
        made: dict[str, Any] = {"description": f"always choice {place}"}
        for name, split in splits.items():
            if name != "train" and split.labelled:
                labels = [example.label for example in split.examples]
                made[name] = {"accuracy": labels.count(place) / len(labels)}
        return {"majority": made}


def _whole(text: str) -> int | None:
    """A whole number of ASCII digits, else None; `str.isdigit` also takes "²", which `int` does not."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None
