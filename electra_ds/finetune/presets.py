"""Named tasks: what their files are called, which columns they have, how they are scored and trained.

The published layouts: GLUE's own archives (gluebenchmark.com), the MSR paraphrase corpus, the CoLA release, SQuAD,
XQuAD, CoNLL-2003 and WNUT-17; and the columns of the copies on the hub.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from electra_ds.finetune.config import FinetuneConfig

Config = TypeVar("Config", bound="FinetuneConfig")

HELD_OUT = 0.1
"""Share of the training texts set aside where a named task has no validation file."""
EPOCHS = {"question_answering": 2.0}
"""Passes by kind where they are not 3 (arXiv 2003.10555, table 7)."""
LENGTHS = {"question_answering": 512}
"""Longest input by kind where it is not 128."""
LANGUAGE = "en"
"""Of answers, where none is named."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a named task brings."""

    kind: str
    """Key of TASKS."""
    title: str
    """Its published name; GLUE's folder name too."""
    hub: str | None
    """Data set of the hub: ``NAME[/CONFIG][@REVISION]``, None where there is none."""
    hub_splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "validation": "validation"})
    """Our split name to the hub's."""
    files: Mapping[str, tuple[str, ...]]
    """Split name to the names under which its file is published, the first found is taken."""
    text: tuple[str, ...] = ()
    """Names of the column of the text."""
    pair: tuple[str, ...] = ()
    """Names of the column of the second text; empty for single texts."""
    label: tuple[str, ...] = ()
    """Names of the column of the label."""
    index: tuple[str, ...] = ("index", "id", "idx")
    """Names of the column that numbers the rows for a submission."""
    headerless: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Files without a header line: number of columns to the indexes of (text, label)."""
    labels: tuple[str, ...] = ()
    """The closed set of labels, in the order of the head; empty: those of the training data."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Other names of labels (the hub's) to ours."""
    metric: str | None = None
    """Score that names the best seed and enters the table; None: the kind's first."""
    epochs: float | None = None
    """Passes over the training texts; None: the kind's."""
    both_orders: bool = False
    """Whether training sees every pair in both orders."""
    scale: float | None = None
    """Regression: the largest label, by which targets are divided."""
    submission: dict[str, str] = field(default_factory=dict)
    """Split name to GLUE's name of the file of predictions."""
    partial: tuple[str, ...] = ()
    """Names of published validation files that are only a part of GLUE's."""
    in_glues_order: tuple[str, ...] = ()
    """Names of published files without a column of numbers whose rows GLUE numbers as they stand, from 0."""
    languages: str | None = None
    """Regular expression with a group for the language, for files that are evaluated one by one."""


_GLUE_FILES = {"train": ("train.tsv",), "validation": ("dev.tsv",), "test": ("test.tsv",)}
_HUB = {"train": "train", "validation": "validation", "test": "test"}
_ENTAILMENT = ("entailment", "not_entailment")

PRESETS: dict[str, Preset] = {
    "cola": Preset(
        kind="classification",
        title="CoLA",
        hub="nyu-mll/glue/cola",
        hub_splits=_HUB,
        files={
            "train": ("train.tsv", "in_domain_train.tsv"),
            "validation": ("dev.tsv", "in_domain_dev.tsv"),
            "test": ("test.tsv",),
            "out_of_domain": ("out_of_domain_dev.tsv",),
        },
        text=("sentence",),
        label=("label",),
        headerless={4: (3, 1)},
        labels=("0", "1"),
        aliases={"unacceptable": "0", "acceptable": "1"},
        metric="matthews",
        submission={"test": "CoLA.tsv"},
        partial=("in_domain_dev.tsv",),
    ),
    "sst2": Preset(
        kind="classification",
        title="SST-2",
        hub="nyu-mll/glue/sst2",
        hub_splits=_HUB,
        files=_GLUE_FILES,
        text=("sentence", "text"),
        label=("label",),
        headerless={2: (0, 1)},
        labels=("0", "1"),
        aliases={"negative": "0", "positive": "1"},
        metric="accuracy",
        submission={"test": "SST-2.tsv"},
    ),
    "mrpc": Preset(
        kind="classification",
        title="MRPC",
        hub="nyu-mll/glue/mrpc",
        hub_splits=_HUB,
        files={
            "train": ("train.tsv", "msr_paraphrase_train.txt"),
            "validation": ("dev.tsv",),
            "test": ("test.tsv", "msr_paraphrase_test.txt"),
        },
        text=("#1 String", "sentence1"),
        pair=("#2 String", "sentence2"),
        label=("Quality", "label"),
        index=("index", "idx"),
        labels=("0", "1"),
        aliases={"not_equivalent": "0", "equivalent": "1"},
        metric="accuracy",
        both_orders=True,
        submission={"test": "MRPC.tsv"},
        in_glues_order=("msr_paraphrase_test.txt",),
    ),
    "stsb": Preset(
        kind="regression",
        title="STS-B",
        hub="nyu-mll/glue/stsb",
        hub_splits=_HUB,
        files=_GLUE_FILES,
        text=("sentence1",),
        pair=("sentence2",),
        label=("score", "label"),
        metric="spearman",
        epochs=10.0,
        both_orders=True,
        scale=5.0,
        submission={"test": "STS-B.tsv"},
    ),
    "qqp": Preset(
        kind="classification",
        title="QQP",
        hub="nyu-mll/glue/qqp",
        hub_splits=_HUB,
        files=_GLUE_FILES,
        text=("question1",),
        pair=("question2",),
        label=("is_duplicate", "label"),
        labels=("0", "1"),
        aliases={"not_duplicate": "0", "duplicate": "1"},
        metric="accuracy",
        submission={"test": "QQP.tsv"},
    ),
    "mnli": Preset(
        kind="classification",
        title="MNLI",
        hub="nyu-mll/glue/mnli",
        hub_splits={
            "train": "train",
            "validation": "validation_matched",
            "test": "test_matched",
            "mismatched": "validation_mismatched",
            "test_mismatched": "test_mismatched",
        },
        files={
            "train": ("train.tsv",),
            "validation": ("dev_matched.tsv",),
            "test": ("test_matched.tsv",),
            "mismatched": ("dev_mismatched.tsv",),
            "test_mismatched": ("test_mismatched.tsv",),
            "diagnostic": ("diagnostic.tsv", "AX.tsv"),
        },
        text=("sentence1", "premise"),
        pair=("sentence2", "hypothesis"),
        label=("gold_label", "label"),
        labels=("entailment", "neutral", "contradiction"),
        metric="accuracy",
        submission={"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv", "diagnostic": "AX.tsv"},
    ),
    "qnli": Preset(
        kind="classification",
        title="QNLI",
        hub="nyu-mll/glue/qnli",
        hub_splits=_HUB,
        files=_GLUE_FILES,
        text=("question",),
        pair=("sentence",),
        label=("label",),
        labels=_ENTAILMENT,
        metric="accuracy",
        submission={"test": "QNLI.tsv"},
    ),
    "rte": Preset(
        kind="classification",
        title="RTE",
        hub="nyu-mll/glue/rte",
        hub_splits=_HUB,
        files=_GLUE_FILES,
        text=("sentence1",),
        pair=("sentence2",),
        label=("label",),
        labels=_ENTAILMENT,
        metric="accuracy",
        epochs=10.0,
        submission={"test": "RTE.tsv"},
    ),
    "wnli": Preset(
        kind="classification",
        title="WNLI",
        hub="nyu-mll/glue/wnli",
        hub_splits=_HUB,
        files=_GLUE_FILES,
        text=("sentence1",),
        pair=("sentence2",),
        label=("label",),
        labels=("0", "1"),
        aliases={"not_entailment": "0", "entailment": "1"},
        metric="accuracy",
        submission={"test": "WNLI.tsv"},
    ),
    "squad_v1": Preset(
        kind="question_answering",
        title="SQuAD 1.1",
        hub="rajpurkar/squad",
        files={"train": ("train-v1.1.json",), "validation": ("dev-v1.1.json",), "test": ("test-v1.1.json",)},
        metric="f1",
    ),
    "squad_v2": Preset(
        kind="question_answering",
        title="SQuAD 2.0",
        hub="rajpurkar/squad_v2",
        files={"train": ("train-v2.0.json",), "validation": ("dev-v2.0.json",), "test": ("test-v2.0.json",)},
        metric="best_f1",
    ),
    "xquad": Preset(
        kind="question_answering",
        title="XQuAD",
        hub=None,
        files={"train": ("train-v1.1.json",), "validation": ("dev-v1.1.json",)},
        metric="f1",
        languages=r"xquad[.-]([a-z]{2,3})\.json",
    ),
    "conll2003": Preset(
        kind="tagging",
        title="CoNLL-2003",
        hub="eriktks/conll2003@refs/convert/parquet",
        hub_splits=_HUB,
        files={
            "train": ("eng.train", "train.txt", "train.conll"),
            "validation": ("eng.testa", "valid.txt", "dev.txt", "dev.conll"),
            "test": ("eng.testb", "test.txt", "test.conll"),
        },
        text=("tokens",),
        label=("ner_tags", "tags"),
        metric="f1",
    ),
    "wnut17": Preset(
        kind="tagging",
        title="WNUT-17",
        hub="leondz/wnut_17@refs/convert/parquet",
        hub_splits=_HUB,
        files={
            "train": ("wnut17train.conll",),
            "validation": ("emerging.dev.conll",),
            "test": ("emerging.test.annotated", "emerging.test"),
        },
        text=("tokens",),
        label=("ner_tags", "tags"),
        metric="f1",
    ),
}

GLUE_AVERAGE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
"""Tasks of the average that the paper reports: GLUE without WNLI."""
SUITES: dict[str, tuple[str, ...]] = {
    "glue": (*GLUE_AVERAGE, "wnli"),
    "all": (*GLUE_AVERAGE, "wnli", "squad_v1", "squad_v2", "conll2003", "wnut17"),
}
"""Suites of ``--suite``, in the order of their tables."""


def resolve(config: Config) -> Config:
    """Fill in what the task decides (epochs, length, orders, language, metric); what was given stays."""
    preset = PRESETS.get(config.task)
    kind = config.kind
    epochs = (preset.epochs if preset else None) or EPOCHS.get(kind, 3.0)
    changes = {
        "epochs": epochs if config.epochs is None else config.epochs,
        "max_length": LENGTHS.get(kind, 128) if config.max_length is None else config.max_length,
        "both_orders": bool(preset and preset.both_orders) if config.both_orders is None else config.both_orders,
        "language": config.language or LANGUAGE,
        "metric": config.metric or (preset.metric if preset else None),
    }
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]
