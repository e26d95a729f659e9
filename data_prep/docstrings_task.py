"""A classification task with real labels that every installation has: which package is this text from?

    python -m data_prep.docstrings_task --output DIR --packages numpy,scipy --per_class 50 --test_per_class 100

writes train.tsv, validation.tsv and test.tsv with the columns ``text`` and ``label``. Validation and test texts come
from a held-out share of the modules; ``electra-ds prep --inputs docstrings:... --docstrings_holdout SHARE`` leaves the
same modules out of the pretraining text. The packages' own names are replaced by a neutral word, so that the label is
not simply spelled out, and no text occurs twice.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from data_prep.docstrings import docstrings_of, find_packages, is_held_out
from electra_ds.command_line import parse, print_error
from electra_ds.errors import UserError
from electra_ds.files import atomic_write

PACKAGES = "matplotlib,numpy,pandas,python,scipy,sklearn,torch,transformers"
"""What the project itself always installs and has enough prose: see docs/preparing-data.md."""

ALIASES = {
    "matplotlib": ("mpl", "pyplot", "plt", "pylab"),
    "numpy": ("np",),
    "pandas": ("pd",),
    "python": ("cpython", "stdlib"),
    "sklearn": ("scikit-learn", "scikits.learn"),
    "torch": ("pytorch", "aten"),
    "transformers": ("transformer", "huggingface", "hugging face"),
    "datasets": ("dataset", "huggingface", "hugging face"),
    "deepspeed": ("ds",),
}
"""Names by which a package also goes."""

NEUTRAL = "package"
"""Stands for every name of a package."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskConfig:
    """Write a classification task: which package is this documentation string from?"""

    output: Path
    """Folder for train.tsv, validation.tsv and test.tsv; those that are there are replaced."""
    packages: str = PACKAGES
    """Comma-separated import names of installed packages, the labels; ``python`` is the standard library."""
    per_class: int = 50
    """Training texts of each label."""
    test_per_class: int = 100
    """Test texts of each label."""
    validation_per_class: int = 50
    """Validation texts of each label."""
    holdout: float = 0.2
    """Share of modules that only validation and test are taken from (``--docstrings_holdout`` of prep)."""
    min_words: int = 20
    """Words of the shortest text."""
    max_words: int = 80
    """Words at which a text is cut."""
    seed: int = 0
    """Seed of the draw."""
    workers: int = 1
    """Processes to parse packages with that are not in the cache."""

    def __post_init__(self) -> None:
        names = self.labels()
        if len(names) < 2 or len(set(names)) < len(names):
            raise UserError(f"packages: {self.packages!r} is not possible; expected two or more different names")
        for field in ("per_class", "test_per_class", "validation_per_class", "workers", "min_words"):
            if getattr(self, field) < 1:
                raise UserError(f"{field}: {getattr(self, field)} is not possible; expected 1 or more")
        if not 0 < self.holdout < 1:
            raise UserError(f"holdout: {self.holdout} is not possible; expected a share between 0 and 1")
        if self.max_words < self.min_words:
            raise UserError(
                f"max_words: {self.max_words} is not possible; expected min_words ({self.min_words}) or more"
            )

    def labels(self) -> list[str]:
        """Return the labels."""
        return [name.strip() for name in self.packages.split(",") if name.strip()]


def main(arguments: list[str], program: str) -> int:
    """Run the command; return 0, or raise `UserError`."""
    config = parse(TaskConfig, arguments, program)
    context = ProcessPoolExecutor(config.workers, get_context("spawn")) if config.workers > 1 else nullcontext()
    with context as executor:
        tables = draw(config, executor)
    config.output.mkdir(parents=True, exist_ok=True)
    for split, rows in tables.items():
        path = config.output / f"{split}.tsv"
        with atomic_write(path, "w") as file:
            # Neither field holds a tab or a line end, so nothing needs quotes.
            file.writelines(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows])
        each = len(rows) // len(config.labels())
        print(f"{path}: {len(rows):,} texts, {each:,} of each of {len(config.labels())} labels")
    return 0


def draw(config: TaskConfig, executor: Executor | None = None) -> dict[str, list[tuple[str, str]]]:
    """Return the rows (text, label) of each split, as many of each label, shuffled.

    Raises:
        UserError: a package is not installed or has too few texts.
    """
    pools = collect(config, executor)
    wanted = {"train": config.per_class, "validation": config.validation_per_class, "test": config.test_per_class}
    tables: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for label in config.labels():
        kept_out, rest = pools[label, True], pools[label, False]
        needed = wanted["validation"] + wanted["test"]
        if len(rest) < wanted["train"] or len(kept_out) < needed:
            raise UserError(
                f"packages: {label} has {len(rest):,} texts for training ({wanted['train']:,} asked) and "
                f"{len(kept_out):,} from held-out modules ({needed:,} asked for validation and test); "
                "ask for fewer per class, raise --holdout, or leave the package out"
            )
        chance = random.Random(f"{config.seed} {label}")
        chance.shuffle(kept_out)
        chance.shuffle(rest)
        tables["train"] += [(text, label) for text in rest[: wanted["train"]]]
        tables["validation"] += [(text, label) for text in kept_out[: wanted["validation"]]]
        tables["test"] += [(text, label) for text in kept_out[wanted["validation"] : needed]]
    for split, rows in tables.items():
        random.Random(f"{config.seed} {split}").shuffle(rows)
    return tables


def collect(config: TaskConfig, executor: Executor | None = None) -> dict[tuple[str, bool], list[str]]:
    """Return all texts of each (label, held out or not), in the order of the modules.

    A text that occurs under two labels says nothing of either and is left out; one that a held-out module has is
    left out of the others, and each is kept once.
    """
    labels = config.labels()
    pattern = name_pattern(labels)
    pools: dict[tuple[str, bool], dict[str, None]] = {(label, part): {} for label in labels for part in (True, False)}
    owners: dict[str, set[str]] = {}
    for label, package in zip(labels, find_packages(labels), strict=True):
        for docstring in docstrings_of(package, executor):
            text = prose(docstring.text, pattern, config.min_words, config.max_words)
            if text:
                pools[label, is_held_out(docstring.module, config.holdout)][text] = None
                owners.setdefault(text.lower(), set()).add(label)
    unique = {text for text, names in owners.items() if len(names) == 1}
    result = {}
    for label in labels:
        seen: set[str] = set()
        for part in (True, False):
            result[label, part] = list(
                _first_of_each((text for text in pools[label, part] if text.lower() in unique), seen)
            )
    return result


def _first_of_each(texts: Iterable[str], seen: set[str]) -> Iterator[str]:
    for text in texts:
        if text.lower() not in seen:
            seen.add(text.lower())
            yield text


def prose(docstring: str, pattern: re.Pattern[str], min_words: int, max_words: int) -> str:
    """Return the first words of a documentation string on one line, package names replaced; empty if too short."""
    words = pattern.sub(NEUTRAL, " ".join(docstring.split())).split()[:max_words]
    return " ".join(words) if len(words) >= min_words else ""


def name_pattern(packages: Iterable[str]) -> re.Pattern[str]:
    """Match the packages' names and aliases where no letter or digit adjoins them, in any case of letters."""
    names = Counter(name for package in packages for name in (package, *ALIASES.get(package, ())))
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, longest_first))})(?![^\W_])", re.IGNORECASE)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], "python -m data_prep.docstrings_task"))
    except UserError as problem:
        print_error(problem)
        sys.exit(2)
