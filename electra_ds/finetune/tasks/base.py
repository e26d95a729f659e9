"""What a task is: the part of fine-tuning that differs between kinds of problems."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from electra_ds.errors import DataError, UserError, did_you_mean
from electra_ds.finetune.presets import PRESETS, Preset, resolve

if TYPE_CHECKING:
    from electra_ds.finetune.config import FinetuneConfig


@dataclass(frozen=True)
class Split:
    """Examples of one split."""

    name: str
    """``train``, ``validation``, ``test``, or a name from ``evaluate``."""
    source: str
    """Where they come from."""
    examples: Sequence[Any]
    """In the order of the source, each row once; what an example is, its task knows."""
    counts: dict[str, Any]
    """What the reader counted, for results.json: rows, labels, ..."""
    labelled: bool = True
    """Whether it can be scored."""


@dataclass(frozen=True)
class Encoded:
    """A split as the network reads it."""

    split: Split
    """What was encoded."""
    features: list[dict[str, Any]]
    """One dict of id lists per input (plus ``labels``); a task may make several inputs of one example."""
    truncated: int
    """Texts that lost tokens to a limit."""
    notes: dict[str, int] = field(default_factory=dict)
    """What else was counted while encoding, for results.json: windows, questions cut, ..."""


class Scored(dict[str, float]):
    """Scores of one split by name, every one a finite number, better when higher."""

    def __init__(self, scores: Mapping[str, float], undefined: Iterable[str] = ()):
        """Take the scores, and the names of those that the predictions leave undefined; these count as 0."""
        super().__init__(scores)
        self.undefined = tuple(undefined)


class Task(ABC):
    """Reads its data, encodes it, names its head, scores and writes what the head says.

    Reading and checking (`read`) come before torch is imported, so that a mistake in the data answers at once.
    """

    auto_model: ClassVar[str]
    """Class of `transformers` that puts the task's head on an encoder."""
    original_model: ClassVar[str | None] = None
    """Class of `electra_ds.finetune.heads` with the head of Google's code, None where that does not differ."""
    head: ClassVar[str]
    """The head in words, for results: implementations differ."""
    original_head: ClassVar[str] = ""
    """The head of Google's code in words."""
    metrics: ClassVar[tuple[str, ...]]
    """Names of the scores, each better when higher; the first names the best seed by default."""
    units: ClassVar[str] = "texts"
    """What the rows are, in the plural."""
    ending: ClassVar[str] = "tsv"
    """Ending of the files of predictions."""

    def __init__(self, config: FinetuneConfig):
        self.config: FinetuneConfig = resolve(config)
        self.preset: Preset | None = PRESETS.get(config.task)
        if config.head == "original" and self.original_model is None:
            raise UserError(
                f"head: 'original', but for {config.task} Google's head is the same linear layer; leave it out"
            )

    @property
    def loads_by(self) -> str:
        """Class that loads the saved model with its head."""
        if self.config.head == "original" and self.original_model is not None:
            return f"electra_ds.finetune.heads.{self.original_model}"
        return f"transformers.{self.auto_model}"

    @property
    def max_length(self) -> int:
        """Longest input in tokens."""
        assert self.config.max_length is not None
        return self.config.max_length

    def available_metrics(self) -> tuple[str, ...]:
        """Scores that this data allows; known after `read`."""
        return self.metrics

    @property
    def metric(self) -> str:
        """Score that names the best seed.

        Raises:
            UserError: the configured one is not among those that this data allows.
        """
        allowed = self.available_metrics()
        name = self.config.metric or allowed[0]
        if name not in allowed:
            if name == "f1" and name in self.metrics:
                raise UserError("metric: 'f1' is the F1 of the second of two labels; with more labels use f1_macro")
            raise UserError(f"metric: '{name}', expected one of {', '.join(allowed)}{did_you_mean(name, allowed)}")
        return name

    def read(self) -> dict[str, Split]:
        """Read ``train``, ``validation`` and, where there are any, ``test`` and the texts to evaluate on.

        Raises:
            UserError: anything that would make a row be dropped or a score meaningless.
        """
        from electra_ds.finetune.sources import find_sources

        sources = find_sources(self.config)
        train = self.read_split("train", sources.train)
        self.learn(train)
        if sources.validation is None:
            assert sources.held_out is not None
            train, validation = self.hold_out(train, sources.held_out)
        else:
            validation = self.read_split("validation", sources.validation)
        splits = {"train": train, "validation": validation}
        for name, source in sources.further.items():
            splits[name] = self.read_split(name, source)
        if not validation.labelled:
            raise DataError(f"validation: {validation.source} has no labels, so no seed can be chosen by it")
        return splits

    @abstractmethod
    def read_split(self, name: str, source: str) -> Split:
        """Read one split; its labels are checked against those that `learn` took from the training texts."""

    def learn(self, train: Split) -> None:  # noqa: B027  (a task may have nothing to learn)
        """Take from the training texts what later splits are checked against, such as the set of labels."""

    def group_of(self, example: Any, index: int) -> Any:
        """What must not be torn apart when validation texts are set aside: by default each row is its own group."""
        return index

    def hold_out(self, train: Split, share: float) -> tuple[Split, Split]:
        """Set a share of the training texts aside for validation, by groups, drawn with ``held_out_seed``."""
        groups = [self.group_of(example, index) for index, example in enumerate(train.examples)]
        names = list(dict.fromkeys(groups))
        if len(names) < 2:
            raise DataError(f"{train.source}: too few texts to set some aside for validation; name some: --validation")
        count = min(max(1, round(share * len(names))), len(names) - 1)
        chosen = set(random.Random(self.config.held_out_seed).sample(range(len(names)), count))
        aside = {name for number, name in enumerate(names) if number in chosen}
        parts = []
        for name, inside in (("train", False), ("validation", True)):
            examples = [
                example for example, group in zip(train.examples, groups, strict=True) if (group in aside) == inside
            ]
            drawn = f" ({100 * share:g} % set aside, seed {self.config.held_out_seed})"
            said = train.source + (drawn if inside else "")
            known = ("dropped_rows", "tag_scheme")
            kept: dict[str, Any] = {key: train.counts[key] for key in known if key in train.counts}
            aside_rows = len(examples) if inside else len(train.examples) - len(examples)
            counts = {**self.count(examples, True), **kept, "source": said, "held_out": aside_rows}
            parts.append(Split(name, said, examples, counts, True))
        return parts[0], parts[1]

    @abstractmethod
    def count(self, examples: Sequence[Any], labelled: bool) -> dict[str, Any]:
        """Count rows and labels, for results.json."""

    @abstractmethod
    def head_config(self) -> dict[str, Any]:
        """Entries of the model's config that shape the head (number and names of labels); known after `read`."""

    def label_names(self) -> list[str]:
        """Names of the labels that the head chooses among; empty where it does not choose among labels."""
        return list(self.head_config().get("id2label", {}).values())

    @abstractmethod
    def encode(self, split: Split, tokenizer: Any) -> Encoded:
        """Tokenize a split once; inputs are padded per batch later."""

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Return what pads inputs to a batch."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    @abstractmethod
    def score(self, encoded: Encoded, outputs: Any) -> Scored:
        """Compute the scores of `available_metrics`.

        Args:
            encoded: a labelled split.
            outputs: the head's output (inputs, ...) float32, or a tuple of such arrays; shorter inputs are padded.
        """

    @abstractmethod
    def write_predictions(self, path: Path, encoded: Encoded, outputs: Any) -> None:
        """Write the predictions of one split."""

    def submission_name(self, split: Split) -> str | None:
        """GLUE's name of the file for a split; None where its server does not take that split."""
        return self.preset.submission.get(split.name) if self.preset else None

    def without_numbers(self, split: Split) -> str | None:
        """Say why rows cannot be named to GLUE's server, which goes by its own numbers; None where they can."""
        return None

    def submission_rows(self, encoded: Encoded, outputs: Any) -> list[tuple[str, str]]:
        """Return (index, prediction) in the words of GLUE's server."""
        raise NotImplementedError

    def write_submission(self, folder: Path, encoded: Encoded, outputs: Any) -> str | None:
        """Write a split in the form of GLUE's server, if it takes it and rows have its numbers; return the name."""
        from electra_ds.files import atomic_write

        name = self.submission_name(encoded.split)
        if name is None or self.without_numbers(encoded.split) is not None:
            return None
        folder.mkdir(exist_ok=True)
        with atomic_write(folder / name, "w") as file:
            file.write("index\tprediction\n")
            file.writelines(f"{index}\t{value}\n" for index, value in self.submission_rows(encoded, outputs))
        return name

    def baselines(self, splits: dict[str, Split]) -> dict[str, dict[str, Any]]:
        """Scores of methods without a network, by name: ``{name: {description, validation: scores, test: scores}}``."""
        return {}
