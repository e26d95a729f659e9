"""``electra-ds evaluate robustness``: a fine-tuned model on texts that are not quite like those it knew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from electra_ds.command_line import parse, several
from electra_ds.errors import UserError, did_you_mean
from electra_ds.evaluate.config import ColumnsConfig, EvaluationConfig
from electra_ds.evaluate.models import require_limit, usable_positions
from electra_ds.evaluate.output import Output
from electra_ds.evaluate.perturb import CASINGS, TYPOS, Typist, without_punctuation
from electra_ds.evaluate.statistics import Resampling, apart, paired
from electra_ds.evaluate.subjects import (
    CASING,
    PUNCTUATION,
    Change,
    Examples,
    Judged,
    Subject,
    check_finetuned,
    load_subject,
    named_labels,
)
from electra_ds.evaluate.subjects import TYPOS as TYPING
from electra_ds.finetune.tables import HUB

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
    "f1 and accuracy of tagging": "of whole entities, as conlleval and seqeval count them, and of single tags",
    "f1 of questions": "words that the answer shares with a right one, by SQuAD's rules, which know no case; 1 or 0 "
    "where there is no answer",
    "interval": "percentiles of a bootstrap over texts (sentences, questions): paired for changed texts, independent "
    "for other corpora",
    "draws": "typos are drawn so many times, and what is counted of their texts averaged",
}


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig(EvaluationConfig, ColumnsConfig):
    """Score a fine-tuned model on changed texts and other corpora: classification, tagging or question answering."""

    data: str
    """Test texts like those that the model was trained on: TSV, CSV, JSON lines, or ``hf:NAME[/CONFIG]:SPLIT``; for
    tagging CoNLL columns, for question answering SQuAD's JSON too."""
    other: list[str] = field(default_factory=list)
    """Test texts of other corpora (domain shift); with the same columns and labels, unless the options below say
    otherwise."""
    other_text_column: int | str | None = None
    """Column of the text in the files of ``other`` (default: that of ``data``)."""
    other_text_pair_column: int | str | None = None
    """Column of the second text in the files of ``other`` (default: that of ``data``)."""
    other_label_column: int | str | None = None
    """Column of the label in the files of ``other`` (default: that of ``data``)."""
    other_format: Literal["auto", "tsv", "csv", "jsonl"] | None = None
    """Format of the files of ``other`` (default: that of ``data``)."""
    other_header: bool | None = None
    """Whether the files of ``other`` begin with a line of column names (default: as of ``data`` where that is said;
    else yes, unless all columns are indexes)."""
    other_label_names: str = ""
    """Names that the files of ``other`` give to the model's labels, in its order, with commas (default: those of
    ``data``)."""
    typos: str = "typo,neighbour,transpose,drop,insert"
    """Kinds of typos, with commas: neighbour, transpose, drop, insert, or typo for any of them; empty: none."""
    rates: str = "0.1,0.3"
    """Shares of words that are mistyped, with commas."""
    draws: int = 3
    """How often typos are drawn (count)."""
    keyboard: str = "qwerty"
    """Whose neighbouring keys are hit: qwerty, qwertz or azerty."""
    casing: bool = True
    """Score lower, upper and title case; of questions lower case alone."""
    punctuation: bool = True
    """Score texts without their punctuation."""
    metric: str | None = None
    """Score that is shown first: accuracy, f1_macro, matthews, or f1 (of the second of two labels); for tagging f1 (of
    entities) or accuracy, for question answering f1 (default: the first of these)."""
    label_names: str = ""
    """Names that the files give to the model's labels, in its order, with commas (default: the model's own)."""
    max_length: int | None = None
    """Longest input in tokens; longer ones lose tokens of the longer text, and are counted; contexts of questions and
    sentences of tagging become windows (default: 128, for questions 512, or what the model takes if that is less)."""

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

    @property
    def columns_of_other(self) -> ColumnsConfig:
        """Where texts and labels stand in the files of ``other``."""
        names = ("text_column", "text_pair_column", "label_column", "format", "header")
        given = {name: value for name in names if (value := getattr(self, f"other_{name}")) is not None}
        own = {one.name: getattr(self, one.name) for one in dataclasses.fields(ColumnsConfig)}
        return ColumnsConfig(**{**own, **given})


@dataclass(frozen=True)
class Variant:
    """One way to change texts."""

    group: str
    """``typos``, ``casing`` or ``punctuation``."""
    name: str
    rate: float | None
    """Share of words, for typos."""
    change: Change
    draws: int = 1


def main(arguments: list[str], program: str) -> int:
    """Run the command; see `RobustnessConfig` for its options."""
    config = parse(RobustnessConfig, several(arguments, "--other"), program)
    typist = Typist(config.keyboard, config.seed)
    if not config.model.startswith(HUB):
        check_finetuned(config.model)
    subject = load_subject(config.model, config.label_names)
    if config.metric is not None and config.metric not in subject.metrics:
        raise UserError(f"metric: {config.metric!r}, expected one of {', '.join(subject.metrics)}")
    subject.limit = require_limit(config.max_length, usable_positions(subject.network), "max_length")
    if config.max_length is None:
        subject.limit = min(subject.usual_length, subject.limit)
    labels = named_labels(config.other_label_names, subject.labels, "other_label_names")
    files = [subject.read(config.data, config, subject.labels)]
    files += [subject.read(path, config.columns_of_other, labels) for path in config.other]
    output = Output("robustness", config)
    evaluate(config, subject, files, variants_of(config, typist, subject), output)
    return 0


def variants_of(config: RobustnessConfig, typist: Typist, subject: Subject) -> list[Variant]:
    """Every change that is asked for and that leaves what is asked of the subject as it is."""
    made = []
    if TYPING in subject.changes:
        for kind in config.kinds:
            for rate in config.shares:
                made.append(Variant(TYPING, kind, rate, _typing(typist, kind, rate), config.draws))
    if config.casing:
        made += [Variant(CASING, name, None, _ignoring_number(CASINGS[name])) for name in subject.casings]
    if config.punctuation and PUNCTUATION in subject.changes:
        made.append(Variant(PUNCTUATION, "dropped", None, _ignoring_number(without_punctuation)))
    return made


def _typing(typist: Typist, kind: str, rate: float) -> Change:
    return lambda text, number: typist(text, number, kind, rate)


def _ignoring_number(change: Callable[[str], str]) -> Change:
    return lambda text, _: change(text)


def evaluate(
    config: RobustnessConfig, subject: Subject, files: Sequence[Examples], variants: Sequence[Variant], output: Output
) -> dict[str, Any]:
    """Score every variant and every file, write everything, and return the results."""
    from electra_ds.evaluate.machine import Machine, progress

    machine = Machine(config)
    machine.place(subject.network)
    resampling = Resampling(config.bootstrap, config.confidence, config.seed)
    runs = len(files) + sum(variant.draws for variant in variants)
    with progress(runs, "variants", "variant") as advance:

        def judge(examples: Examples) -> Judged:
            found = subject.judge(examples, machine)
            advance(1)
            return found

        clean, *others = files
        base = judge(clean)
        found = [_score_variant(subject, variant, clean, base, judge, resampling) for variant in variants]
        shifted = [(examples, judge(examples)) for examples in others]
    return output.finish(
        machine.describe(),
        _notes(config, subject, base, found),
        metric=config.metric or subject.metrics[0],
        labels=list(subject.labels),
        units=subject.units,
        data={
            "source": clean.source,
            "rows": len(base.sums),
            "pairs": clean.pairs,
            "empty_texts": clean.empty,
            "truncated": base.truncated,
            "max_length": subject.limit,
        },
        clean=resampling.of_sums(base.sums, subject.scores),
        variants=found,
        other=[
            {
                "source": examples.source,
                "rows": len(run.sums),
                "empty_texts": examples.empty,
                "truncated": run.truncated,
                "scores": resampling.of_sums(run.sums, subject.scores),
                "drop_of_score": apart(base.sums, run.sums, subject.scores, resampling),
            }
            for examples, run in shifted
        ],
        definitions=DEFINITIONS,
    )


def _notes(config: RobustnessConfig, subject: Subject, base: Judged, found: list[dict[str, Any]]) -> list[str]:
    notes = []
    casing = [one for one in found if one["group"] == CASING]
    if casing and not any(one["texts_changed"] for one in casing):
        named = [one["name"] for one in casing]
        listed = " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]
        notes.append(
            f"Casing changes nothing: the tokenizer is uncased, every text has the same tokens in {listed} case."
        )
    notes += subject.notes(base)
    asked = {TYPING: bool(config.kinds and config.shares), CASING: config.casing, PUNCTUATION: config.punctuation}
    if any(asked[group] and group not in subject.changes for group in asked):
        notes.append(subject.why_not)
    for one in found:
        if one["left_out"]:
            notes.append(
                f"{one['left_out']:,} of {len(base.sums):,} {subject.units} were left out in {one['name']} case, on "
                "both sides of the comparison: a text gets longer by it, and its answers would move."
            )
    return notes


def _score_variant(
    subject: Subject,
    variant: Variant,
    clean: Examples,
    base: Judged,
    judge: Callable[[Examples], Judged],
    resampling: Resampling,
) -> dict[str, Any]:
    changed = truncated = emptied = 0
    sums: Any = 0.0
    able = np.ones(len(base.sums), bool)
    for draw in range(variant.draws):
        examples, able, empty = subject.changed(clean, variant.change, draw)
        emptied += empty
        if not able.any():
            break
        run = judge(examples)
        sums = sums + run.sums / variant.draws
        truncated += run.truncated
        before = [one for one, kept in zip(base.inputs, able, strict=True) if kept]
        changed += sum(one != other for one, other in zip(run.inputs, before, strict=True))
    if not able.any():
        sums = np.zeros((0, base.sums.shape[1]))
    return {
        "group": variant.group,
        "name": variant.name,
        "rate": variant.rate,
        "draws": variant.draws,
        "texts_changed": changed / max(1, len(sums) * variant.draws),
        "empty_texts": emptied / variant.draws,
        "truncated": truncated / variant.draws,
        "left_out": int((~able).sum()),
        "scores": resampling.of_sums(sums, subject.scores),
        "drop_of_score": paired(base.sums[able], sums, subject.scores, resampling),
    }
