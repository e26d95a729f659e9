"""What classification and regression share: a text or a pair of texts in, read from tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_ds.errors import DataError
from electra_ds.finetune.tables import Table, read_table
from electra_ds.finetune.tasks.base import Encoded, Split, Task


@dataclass(frozen=True)
class TextExample:
    """One row: a text or a pair, and its label."""

    text: str
    text_pair: str | None
    """None for single texts."""
    label: Any
    """A label's name or a number, None where the split has no labels."""
    index: str = ""
    """Its number on GLUE's server, empty where the source has none."""


class TextTask(Task):
    """Texts or pairs from the columns of a table."""

    auto_model = "AutoModelForSequenceClassification"
    original_model = "ElectraForLinearClassification"
    head = "transformers: [CLS], dropout, dense, GELU, dropout, linear"
    original_head = "Google's: [CLS], dropout, linear"

    def read_label(self, value: Any, where: str, hint: str) -> Any:
        """Turn a cell into a label.

        Raises:
            DataError: not a label; the message ends with `hint`.
        """
        raise NotImplementedError

    def check_labels(self, table: Table, labels: list[Any], hint: str) -> None:
        """Refuse labels that the training texts do not have."""

    def read_split(self, name: str, source: str) -> Split:
        """See `Task.read_split`."""
        config, preset = self.config, self.preset
        names = {*preset.text, *preset.pair, *preset.label} if preset else set()
        table = read_table(source, config.format, config.has_header, config.quotes, names, config.bad_rows)
        text_column, pair_column, label_column = self._columns(name, table)
        labelled = self._labelled(name, table, label_column)
        texts, empty = self._texts(table, text_column, "text_column")
        pairs: list[str | None] = [None] * len(table)
        if pair_column is not None:
            second, empty_pairs = self._texts(table, pair_column, "text_pair_column")
            pairs, empty = list(second), empty + empty_pairs
        labels: list[Any] = [None] * len(table)
        if labelled:
            labels = self._labels(name, table, label_column)
        examples = [TextExample(*row) for row in zip(texts, pairs, labels, self._numbers(table), strict=True)]
        counts = {"source": table.source, **self.count(examples, labelled), "empty_texts": empty}
        if table.dropped:
            counts["dropped_rows"] = table.dropped
        return Split(name, table.source, examples, counts, labelled)

    def count(self, examples: Sequence[TextExample], labelled: bool) -> dict[str, Any]:
        """See `Task.count`."""
        empty = sum(not text.strip() for e in examples for text in (e.text, e.text_pair) if text is not None)
        return {"rows": len(examples), "pairs": examples[0].text_pair is not None, "empty_texts": empty}

    def _numbers(self, table: Table) -> list[str]:
        """Return GLUE's number of each row, empty where the source does not say it."""
        preset = self.preset
        index = next((c for c in (preset.index if preset else ()) if table.has(c)), None)
        if index is not None:
            return [str(value) for value in table.column(index, "text_column")]
        in_order = preset is not None and Path(table.source).name in preset.in_glues_order and not table.dropped
        return [str(row) if in_order else "" for row in range(len(table))]

    def _columns(self, split: str, table: Table) -> tuple[int | str, int | str | None, int | str]:
        """Columns of text, second text and label: those that were named, else the preset's, else the plain names."""
        config, preset = self.config, self.preset
        pair: int | str | None = config.text_pair_column if config.text_pair_column != "" else None
        if preset is None:
            if pair is None and split != "train":
                pair = self._trained_pair
            elif pair is None:
                pair = "text_pair" if table.has("text_pair") else None
            self._trained_pair = pair
            text = "text" if config.text_column == "" else config.text_column
            return text, pair, "label" if config.label_column == "" else config.label_column
        places: tuple[int | str, int | str] | None = None
        if table.header is None and config.text_column == "":
            places = preset.headerless.get(table.width)
            if places is None:
                expected = ", ".join(map(repr, (preset.text[0], *preset.pair[:1], preset.label[0])))
                raise DataError(
                    f"{table.source}: {table.width} columns without a line of names ({expected}), which is no "
                    f"published form of {config.task}; say which column is which with --text_column and --label_column"
                )
        text = config.text_column if config.text_column != "" else places[0] if places else _first(table, preset.text)
        label = (
            config.label_column if config.label_column != "" else places[1] if places else _first(table, preset.label)
        )
        if pair is None and preset.pair:
            pair = _first(table, preset.pair)
        return text, pair, label

    _trained_pair: int | str | None = None

    def _labelled(self, split: str, table: Table, column: int | str) -> bool:
        """Whether a split has labels; only test and further texts may be without."""
        if split == "test" and self.config.test_labels is not None:
            return self.config.test_labels
        if split in ("train", "validation") or (split == "test" and self.preset is None):
            return True
        return table.has(column) and any(value is not None for value in table.column(column, "label_column"))

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

    def _labels(self, name: str, table: Table, column: int | str) -> list[Any]:
        hint = "; a test file without labels needs --test_labels false" if name == "test" else ""
        labels = []
        for row, value in enumerate(table.column(column, "label_column")):
            labels.append(self.read_label(value, table.where(row), hint))
        self.check_labels(table, labels, hint)
        return labels

    def without_numbers(self, split: Split) -> str | None:
        """See `Task.without_numbers`."""
        numbers = [example.index for example in split.examples]
        bad = next((number for number in numbers if not number.isdecimal()), None)
        if bad is None:
            return None if len(set(numbers)) == len(numbers) else "two rows have the same number"
        names = " or ".join(self.preset.index) if self.preset else "index"
        return f"a row has the number {bad!r}" if bad else f"no column {names} with GLUE's number of each row"

    def target(self, label: Any) -> int | float:
        """Return what the network is to say for a label."""
        raise NotImplementedError

    def encode(self, split: Split, tokenizer: Any) -> Encoded:
        """See `Task.encode`; a pair that is too long loses tokens of its longer text, one by one."""
        examples, notes = list(split.examples), {}
        if split.name == "train" and self.config.both_orders and examples[0].text_pair is not None:
            examples += [TextExample(e.text_pair, e.text, e.label) for e in split.examples]
            notes["in_both_orders"] = len(split.examples)
        features = _tokenize(tokenizer, examples, {})
        too_long = [i for i, feature in enumerate(features) if len(feature["input_ids"]) > self.max_length]
        limits = {"truncation": "longest_first", "max_length": self.max_length}
        shortened = _tokenize(tokenizer, [examples[i] for i in too_long], limits)
        for position, feature in zip(too_long, shortened, strict=True):
            features[position] = feature
        if split.labelled:
            for feature, example in zip(features, examples, strict=True):
                feature["labels"] = self.target(example.label)
        return Encoded(split, features, sum(i < len(split.examples) for i in too_long), notes)


def _first(table: Table, names: tuple[str, ...]) -> str:
    """Return the first of `names` that a table has, else the first of them, for the message."""
    return next((name for name in names if table.has(name)), names[0])


def _tokenize(tokenizer: Any, examples: Any, limits: dict[str, Any]) -> list[dict[str, Any]]:
    if not examples:
        return []
    pairs = [example.text_pair for example in examples] if examples[0].text_pair is not None else None
    encoding = tokenizer([example.text for example in examples], pairs, verbose=False, **limits)
    return [{key: values[i] for key, values in encoding.items()} for i in range(len(examples))]
