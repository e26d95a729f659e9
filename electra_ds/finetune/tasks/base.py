"""What a task is: the part of fine-tuning that differs between kinds of problems."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np

    from electra_ds.finetune.config import FinetuneConfig


@dataclass(frozen=True)
class Split:
    """Examples of one split."""

    name: str
    """``train``, ``validation`` or ``test``."""
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
    """Inputs that lost tokens to `max_length`."""


class Task(ABC):
    """Reads its data, encodes it, names its head, scores and writes what the head says.

    Reading and checking (`read`) come before torch is imported, so that a mistake in the data answers at once.
    """

    auto_model: ClassVar[str]
    """Class of `transformers` that puts the task's head on an encoder."""
    head: ClassVar[str]
    """The head in words, for results: implementations differ."""
    metrics: ClassVar[tuple[str, ...]]
    """Names of the scores, each better when higher; the first names the best seed by default."""

    def __init__(self, config: FinetuneConfig):
        self.config = config

    @abstractmethod
    def read(self) -> dict[str, Split]:
        """Read ``train``, ``validation`` and, where configured, ``test``.

        Raises:
            UserError: anything that would make a row be dropped or a score meaningless.
        """

    @abstractmethod
    def head_config(self) -> dict[str, Any]:
        """Entries of the model's config that shape the head (number and names of labels); known after `read`."""

    @abstractmethod
    def encode(self, split: Split, tokenizer: Any) -> Encoded:
        """Tokenize a split once; inputs are padded per batch later."""

    @abstractmethod
    def score(self, encoded: Encoded, logits: np.ndarray) -> dict[str, float]:
        """Compute the scores of `metrics` from the head's output (inputs, ...) float32."""

    @abstractmethod
    def write_predictions(self, path: Path, encoded: Encoded, logits: np.ndarray) -> None:
        """Write one line per example."""

    def baselines(self, splits: dict[str, Split]) -> dict[str, dict[str, Any]]:
        """Scores of methods without a network, by name: ``{name: {description, validation: scores, test: scores}}``."""
        return {}
