"""``electra-ds evaluate robustness``: a fine-tuned classifier on texts that are not quite like those it knew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from electra_ds.command_line import parse, several
from electra_ds.errors import DataError, UserError, did_you_mean
from electra_ds.evaluate.config import ColumnsConfig, EvaluationConfig
from electra_ds.evaluate.examples import Texts, read_texts
from electra_ds.evaluate.models import load_tokenizer, require_limit, usable_positions
from electra_ds.evaluate.output import Output
from electra_ds.evaluate.perturb import CASINGS, TYPOS, Typist, without_punctuation
from electra_ds.evaluate.statistics import Resampling, apart, compared, confusions, score_names, scored
from electra_ds.evaluate.tokens import Tokens
from electra_ds.finetune.models import check_vocabulary, first_line, quiet_libraries
from electra_ds.finetune.tables import HUB

if TYPE_CHECKING:
    from electra_ds.evaluate.machine import Machine

TYPO = "typo"
"""A typo of any kind."""

DEFINITIONS = {
    "rate": "share of words that are mistyped, once each; a word is two letters or more in a row, each with its marks "
    "(vowel signs, accents)",
    "neighbour": "a letter becomes one beside it on the keyboard",
    "transpose": "two letters that follow each other, and differ, change places",
    "drop": "a letter is left out",
    "insert": "a letter beside it on the keyboard comes before a letter",
    "typo": "one of these four, drawn for each word",
    "texts_changed": "share of texts whose tokens differ from the unchanged text's",
    "drop_of_score": "score on the unchanged texts less score on the changed ones; positive is a loss",
    "interval": "percentiles of a bootstrap over texts: paired for changed texts, independent for other corpora",
    "draws": "typos are drawn so many times, and their confusion matrices averaged",
}


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig(EvaluationConfig, ColumnsConfig):
    """Score a fine-tuned classifier under typos, other casing, without punctuation, and on other corpora."""

    data: str
    """Test texts like those that the model was trained on: TSV, CSV, JSON lines, or ``hf:NAME[/CONFIG]:SPLIT``."""
    other: list[str] = field(default_factory=list)
    """Test texts of other corpora, with the same columns and labels (domain shift)."""
    typos: str = "typo,neighbour,transpose,drop,insert"
    """Kinds of typos, with commas: neighbour, transpose, drop, insert, or typo for any of them; empty: none."""
    rates: str = "0.1,0.3"
    """Shares of words that are mistyped, with commas."""
    draws: int = 3
    """How often typos are drawn (count)."""
    keyboard: str = "qwerty"
    """Whose neighbouring keys are hit: qwerty, qwertz or azerty."""
    casing: bool = True
    """Score lower, upper and title case."""
    punctuation: bool = True
    """Score texts without their punctuation."""
    metric: str | None = None
    """Score that is shown first: accuracy, f1_macro, matthews, or f1 (of the second of two labels)."""
    label_names: str = ""
    """Names that the files give to the model's labels, in its order, with commas (default: the model's own)."""
    max_length: int | None = None
    """Longest input in tokens; longer ones lose tokens of the longer text, and are counted (default: 128, or what the
    model takes if that is less)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("draws", self.draws >= 1, "at least 1")
        for kind in self.kinds:
            if kind not in (TYPO, *TYPOS):
                raise UserError(
                    f"typos: {kind!r}, expected {TYPO}, {', '.join(TYPOS)}{did_you_mean(kind, (TYPO, *TYPOS))}"
                )
        self._require("rates", all(0 < rate <= 1 for rate in self.shares), "shares above 0, at most 1, with commas")
        self._require("max_length", self.max_length is None or self.max_length >= 4, "at least 4")

    @property
    def kinds(self) -> list[str]:
        """Kinds of typos."""
        return [kind.strip() for kind in self.typos.split(",") if kind.strip()]

    @property
    def shares(self) -> list[float]:
        """Shares of mistyped words."""
        try:
            return [float(rate) for rate in self.rates.split(",") if rate.strip()]
        except ValueError:
            raise UserError(f"rates: {self.rates!r}, expected shares with commas, such as 0.1,0.3") from None


@dataclass(frozen=True)
class Variant:
    """One way to change texts."""

    group: str
    """``typos``, ``casing`` or ``punctuation``."""
    name: str
    rate: float | None
    """Share of words, for typos."""
    change: Callable[[str, str], str]
    """From a text and its number in the file to the changed text."""
    draws: int = 1


def main(arguments: list[str], program: str) -> int:
    """Run the command; see `RobustnessConfig` for its options."""
    config = parse(RobustnessConfig, several(arguments, "--other"), program)
    typist = Typist(config.keyboard, config.seed)
    if not config.model.startswith(HUB) and not (Path(config.model) / "config.json").is_file():
        inner = Path(config.model) / "model"
        hint = f"; did you mean {inner}?" if (inner / "config.json").is_file() else ""
        raise DataError(f"model: no config.json in {config.model}; name a folder of a fine-tuned model{hint}")
    network, tokenizer, labels = load_classifier(config)
    names = score_names(len(labels))
    if config.metric is not None and config.metric not in names:
        raise UserError(f"metric: {config.metric!r}, expected one of {', '.join(names)}")
    files = [read_texts(path, config, labels, "the model") for path in (config.data, *config.other)]
    output = Output("robustness", config)
    evaluate(config, network, tokenizer, labels, files, variants_of(config, typist), output)
    return 0


def load_classifier(config: RobustnessConfig) -> tuple[Any, Any, list[str]]:
    """Load a fine-tuned model, with either head: network, tokenizer, and its labels under the files' names.

    Raises:
        DataError: no classifier, or weights or tokenizer that do not fit. UserError: names that do not fit its labels.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from electra_ds.finetune.heads import ElectraForLinearClassification

    source = config.model.removeprefix(HUB)
    with quiet_libraries():
        try:
            names = AutoConfig.from_pretrained(source).architectures or ()
            original = ElectraForLinearClassification.__name__ in names  # of finetune --head original
            kind = ElectraForLinearClassification if original else AutoModelForSequenceClassification
            network, report = kind.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
        except Exception as error:  # transformers, safetensors and the hub's client each raise their own kinds
            raise DataError(f"model: {config.model} cannot be loaded as a classifier ({first_line(error)})") from error
        tokenizer = load_tokenizer(config.model)
    if report["missing_keys"]:
        raise DataError(
            f"model: {config.model} has no weights for {', '.join(sorted(report['missing_keys'])[:3])}; expected a "
            "classifier that 'electra-ds finetune' trained (its OUTPUT/model)"
        )
    check_vocabulary(config.model, tokenizer, network.config.vocab_size)
    labels = [str(network.config.id2label[number]) for number in range(network.config.num_labels)]
    if len(labels) < 2:
        raise DataError(f"model: {config.model} has one output, a regression; robustness is measured for classifiers")
    if config.label_names:
        given = [name.strip() for name in config.label_names.split(",")]
        if len(given) != len(labels) or len(set(given)) < len(given):
            raise UserError(
                f"label_names: {config.label_names!r}, expected {len(labels)} different names, for {', '.join(labels)}"
            )
        labels = given
    return network, tokenizer, labels


def variants_of(config: RobustnessConfig, typist: Typist) -> list[Variant]:
    """Every change that is asked for."""
    made = []
    for kind in config.kinds:
        for rate in config.shares:
            made.append(Variant("typos", kind, rate, _typing(typist, kind, rate), config.draws))
    if config.casing:
        made += [Variant("casing", name, None, _ignoring_number(change)) for name, change in CASINGS.items()]
    if config.punctuation:
        made.append(Variant("punctuation", "dropped", None, _ignoring_number(without_punctuation)))
    return made


def _typing(typist: Typist, kind: str, rate: float) -> Callable[[str, str], str]:
    return lambda text, number: typist(text, number, kind, rate)


def _ignoring_number(change: Callable[[str], str]) -> Callable[[str, str], str]:
    return lambda text, _: change(text)


def evaluate(
    config: RobustnessConfig,
    network: Any,
    tokenizer: Any,
    labels: Sequence[str],
    files: Sequence[Texts],
    variants: Sequence[Variant],
    output: Output,
) -> dict[str, Any]:
    """Score every variant and every file, write everything, and return the results."""
    from electra_ds.evaluate.machine import Machine, progress

    machine = Machine(config)
    limit = require_limit(config.max_length, usable_positions(network), "max_length")
    if config.max_length is None:
        limit = min(128, limit)
    network = machine.place(network)
    resampling = Resampling(config.bootstrap, config.confidence, config.seed)
    runs = len(files) + sum(variant.draws for variant in variants)
    with progress(runs, "variants", "variant") as advance:
        judge = _Judge(network, tokenizer, limit, machine, len(labels), advance)
        clean, *others = files
        base = judge(clean.texts, clean.pairs, clean.truth)
        found = [_score_variant(variant, clean, base, judge, resampling) for variant in variants]
        shifted = [(texts, judge(texts.texts, texts.pairs, texts.truth)) for texts in others]
    notes = []
    casing = [one for one in found if one["group"] == "casing"]
    if casing and not any(one["texts_changed"] for one in casing):
        notes.append(
            "Casing changes nothing: the tokenizer is uncased, every text has the same tokens in lower, upper and "
            "title case."
        )
    chosen = base.cells.sum(0).reshape(len(labels), -1).sum(0)
    if chosen.max() == len(clean):
        notes.append(
            f"The model gives every unchanged text the label '{labels[int(chosen.argmax())]}': it has learned nothing "
            "of this task that could be lost. Matthews' correlation, undefined there, is given as 0."
        )
    metric = config.metric or "accuracy"
    return output.finish(
        machine.describe(),
        notes,
        metric=metric,
        labels=list(labels),
        data={
            "source": clean.source,
            "rows": len(clean),
            "pairs": clean.pairs is not None,
            "empty_texts": clean.empty,
            "truncated": base.truncated,
            "max_length": limit,
        },
        clean=scored(base.cells, len(labels), resampling),
        variants=found,
        other=[
            {
                "source": texts.source,
                "rows": len(texts),
                "empty_texts": texts.empty,
                "truncated": run.truncated,
                "scores": scored(run.cells, len(labels), resampling),
                "drop_of_score": apart(base.cells, run.cells, len(labels), resampling),
            }
            for texts, run in shifted
        ],
        definitions=DEFINITIONS,
    )


@dataclass(frozen=True)
class _Judged:
    """What the model made of some texts."""

    cells: np.ndarray
    """`confusions`."""
    sequences: list[Tokens]
    truncated: int
    """Texts that lost tokens."""


class _Judge:
    """Tokenizes texts and classifies them."""

    def __init__(
        self, network: Any, tokenizer: Any, limit: int, machine: Machine, labels: int, advance: Callable[[int], None]
    ) -> None:
        self._network, self._tokenizer, self._limit = network, tokenizer, limit
        self._machine, self._labels, self._advance = machine, labels, advance

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None, truth: np.ndarray) -> _Judged:
        from electra_ds.evaluate.forward import class_logits

        sequences, truncated = self._encode(texts, pairs)
        logits = class_logits(self._network, sequences, self._tokenizer.pad_token_id, self._machine)
        self._advance(1)
        return _Judged(confusions(truth, logits.argmax(1), self._labels), sequences, truncated)

    def _encode(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[list[Tokens], int]:
        found = self._tokenize(texts, pairs)
        long = [number for number, one in enumerate(found) if len(one.ids) > self._limit]
        if long:
            own = None if pairs is None else [pairs[number] for number in long]
            limits = {"truncation": "longest_first", "max_length": self._limit}
            for number, one in zip(long, self._tokenize([texts[i] for i in long], own, **limits), strict=True):
                found[number] = one
        return found, len(long)

    def _tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None, **limits: Any) -> list[Tokens]:
        made = self._tokenizer(list(texts), None if pairs is None else list(pairs), verbose=False, **limits)
        types = made["token_type_ids"] if "token_type_ids" in made else [[0] * len(ids) for ids in made["input_ids"]]
        return [
            Tokens(np.array(ids, np.int64), np.array(kinds, np.int64))
            for ids, kinds in zip(made["input_ids"], types, strict=True)
        ]


def _score_variant(
    variant: Variant, clean: Texts, base: _Judged, judge: _Judge, resampling: Resampling
) -> dict[str, Any]:
    labels = round(base.cells.shape[1] ** 0.5)
    cells, changed, truncated, emptied = np.zeros_like(base.cells), 0, 0, 0
    for draw in range(variant.draws):
        texts = [variant.change(text, f"{draw}/{number}") for number, text in enumerate(clean.texts)]
        pairs = None
        if clean.pairs is not None:
            pairs = [variant.change(text, f"{draw}/{number}/pair") for number, text in enumerate(clean.pairs)]
        run = judge(texts, pairs, clean.truth)
        cells += run.cells / variant.draws
        truncated += run.truncated
        emptied += sum(not text.strip() for text in texts)
        changed += sum(
            not np.array_equal(one.ids, other.ids) for one, other in zip(run.sequences, base.sequences, strict=True)
        )
    number = len(clean) * variant.draws
    return {
        "group": variant.group,
        "name": variant.name,
        "rate": variant.rate,
        "draws": variant.draws,
        "texts_changed": changed / number,
        "empty_texts": emptied / variant.draws,
        "truncated": truncated / variant.draws,
        "scores": scored(cells, labels, resampling),
        "drop_of_score": compared(base.cells, cells, labels, resampling),
    }
