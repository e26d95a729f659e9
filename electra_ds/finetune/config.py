"""What ``electra-ds finetune`` can be told; the paper's settings are the defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from electra_ds.errors import UserError, did_you_mean
from electra_ds.finetune.presets import PRESETS, SUITES
from electra_ds.finetune.tasks import TASKS

RESERVED_SPLITS = ("train", "validation", "test")
WITH_BASELINE = ("classification", "tagging")
"""Kinds of tasks that `baseline` adds a method without a network to."""
_ALWAYS = {
    "regression": "the training mean, which is always there",
    "question_answering": "the network's own random start (--compare_from_scratch true)",
    "multiple_choice": "the most frequent place, which is always there",
}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Train a task head on a Hugging Face folder with several seeds, and score it; or do so for a whole suite."""

    model: str
    """Folder with an encoder in Hugging Face form (config.json, weights, tokenizer), or ``hf:NAME`` for the hub. With
    ``suite`` several may be compared: ``FOLDER,FOLDER`` or ``NAME=FOLDER,NAME=FOLDER``."""
    output: str
    """Folder for results.json, the predictions of each seed, and the best seed's model: new, empty, or an interrupted
    run's own, whose finished seeds are kept."""
    task: str = "classification"
    """Kind of problem (classification, regression, tagging, question_answering, multiple_choice) or a named task (sst2,
    cola, mrpc, stsb, qqp, mnli, qnli, rte, wnli, squad_v1, squad_v2, xquad, conll2003, wnut17)."""
    suite: str | None = None
    """Several named tasks in one go, with one table of results: ``glue`` or ``all`` (default: one task)."""
    tasks: str | None = None
    """Tasks of the suite to run, with commas (default: those whose files ``data`` has; without it all)."""

    data: str | None = None
    """Folder with a named task's files under their published names; for a suite, a folder of such folders."""
    train: str | None = None
    """Training texts: a file, or ``hf:NAME[/CONFIG][@REVISION]:SPLIT`` for `datasets` (default: the named task's)."""
    validation: str | None = None
    """Texts to score on and to choose the best seed by; same forms as ``train`` (default: the named task's)."""
    test: str | None = None
    """Texts scored once more, never used for a choice; same forms as ``train`` (default: the named task's, or none)."""
    evaluate: str | None = None
    """Further texts to score: ``NAME=SOURCE,NAME=SOURCE``, for example ``de=xquad-de.json`` (default: none)."""
    test_labels: bool | None = None
    """Whether ``test`` has labels; ``false``: they are not read, only predictions are written (default: true, and for
    named tasks what the file shows)."""
    held_out: float | None = None
    """Share of the training texts to set aside for validation where there are no validation texts (default: 0.1 for
    named tasks, which is said; other tasks need ``validation`` or this)."""
    held_out_seed: int = 0
    """Seed of the draw of ``held_out``; the same for every run."""
    evaluate_unseen: bool = False
    """Score in ``evaluate`` only questions whose id is not in the training texts (parallel data); count the others."""

    text_column: int | str = ""
    """Column of the text: a name, or an index from 0 in files without a header line (default: ``text``, or the named
    task's)."""
    text_pair_column: int | str = ""
    """Column of the second text (default: ``text_pair`` where the training data has it, or the named task's)."""
    label_column: int | str = ""
    """Column of the label: a name or an index from 0 (default: ``label``, or the named task's)."""
    choice_columns: str = ""
    """Columns of the choices of ``multiple_choice``, with commas (default: the lists in column ``choices``)."""
    format: Literal["auto", "tsv", "csv", "jsonl", "conll", "squad"] = "auto"
    """File format; ``auto`` goes by the ending (.tsv and .txt, .csv, .jsonl and .json); for tagging it is CoNLL columns
    unless the ending is .jsonl or .json, for question answering SQuAD's JSON unless it is .jsonl."""
    header: bool | None = None
    """Whether the first line of a TSV or CSV names the columns (default: yes, unless all columns are indexes; for named
    tasks what the line shows)."""
    quotes: bool | None = None
    """Whether double quotes enclose fields (default: yes in CSV, no in TSV, where they are part of the text)."""
    empty_texts: Literal["refuse", "keep"] = "refuse"
    """What an empty text is: an error, or a text of no tokens, kept and counted."""
    bad_rows: Literal["refuse", "drop"] = "refuse"
    """What a line with too few or too many fields, or a training answer that does not match its context, is: an error,
    or dropped and counted."""
    tag_scheme: Literal["auto", "bio", "iob1", "bioes"] = "auto"
    """How tags mark entities; what is not BIO is rewritten to BIO, and ``auto`` says what it found."""
    max_length: int | None = None
    """Longest input in tokens, special tokens included (default: 128, question answering 512, at most the model's
    positions). Longer texts are cut and counted; contexts of questions, and sentences of tagging, become windows."""
    both_orders: bool | None = None
    """Train on every pair in both orders (default: true for mrpc and stsb)."""

    max_query_length: int = 64
    """Longest question in tokens; longer ones are cut and counted."""
    stride: int = 128
    """Step from one window of a context to the next, in tokens; at most half a window."""
    max_answer_length: int = 30
    """Longest answer in tokens."""
    n_best: int = 20
    """How many starts and how many ends of an answer are tried per window."""
    answer_rules: Literal["squad", "mlqa"] = "squad"
    """How answers are normalized before they are compared: SQuAD's own rules, or MLQA's by language."""
    language: str | None = None
    """Language of validation and test for ``mlqa`` rules: ar, de, en, es, hi, vi, zh (default: en). Texts of
    ``evaluate`` are of the language that is their name; other names are refused unless this is given, for them."""

    head: Literal["transformers", "original"] = "transformers"
    """The head of stock `transformers`, or that of Google's code (classification, regression, question answering)."""
    seeds: int = 3
    """How many runs, each with its own head, order of texts and dropout."""
    first_seed: int = 0
    """Seed of the first run; the others count up."""
    from_scratch: bool = False
    """Start from random weights of the same shape instead of the pretrained ones."""
    compare_from_scratch: bool = False
    """Run both, pretrained and from scratch, with the same seeds, and report both."""
    baseline: bool = False
    """Add the score of a bag of words (TF-IDF, naive Bayes) on the same texts; for tagging, of a list of entities.
    Other kinds of tasks have none beyond the one that is always there; a suite adds it where there is one."""
    metric: str | None = None
    """Score that names the best seed (default: the task's own, ``accuracy`` for classification)."""

    learning_rate: float | None = None
    """Peak learning rate of the head (default: 3e-4 small, 1e-4 base, 5e-5 large, by hidden size)."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer to the one below (default: 0.8 small and base, 0.9 large)."""
    layer_decay_kind: Literal["intended", "original"] = "intended"
    """``intended``: lr * d^(n + 1 - depth); ``original``: Google's code, off by one, lr * d^(n + 2 - depth)."""
    batch_size: int = 32
    """Texts per update, over all processes."""
    micro_batch_size: int | None = None
    """Texts per forward pass and process; smaller saves memory. Times the number of processes it must divide
    ``batch_size`` (default: ``batch_size`` over the number of processes)."""
    epochs: float | None = None
    """Passes over the training texts (default: 3; rte and stsb 10, question answering 2)."""
    evaluations_per_epoch: int = 0
    """How often to score the validation texts while training; the best weights are then kept (default: only at the end,
    and the last weights count)."""
    patience: int | None = None
    """Stop a run after so many evaluations without a better score (default: never)."""
    warmup: float = 0.1
    """Share of the updates in which the learning rate rises from 0, rounded up to whole updates, at most all but one;
    it then falls linearly to 0. A single update thus has no warmup and the whole rate."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    dropout: float = 0.1
    """Dropout probability in the encoder and the head: every one that the model's config has."""
    weight_decay: float = 0.0
    """Decoupled weight decay, not on biases and LayerNorm."""
    adam_epsilon: float = 1e-6
    """Epsilon of Adam (betas .9 and .999, with bias correction)."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Arithmetic of the forward and backward pass; fp16 needs a GPU."""

    save_steps: int | None = None
    """Save a checkpoint after every so many updates, from which the same command goes on within a seed that was killed;
    it takes three times the model's room, twice (default: none, and such a seed begins again)."""
    threads: int | None = None
    """CPU threads; 1 is fastest for networks of a few layers on shared cores (default: torch's choice)."""

    def __post_init__(self) -> None:
        known = [*TASKS, *PRESETS]
        if self.task not in known:
            raise UserError(f"task: '{self.task}', expected one of {', '.join(known)}{did_you_mean(self.task, known)}")
        self._check_numbers()
        for name in ("text_column", "text_pair_column", "label_column"):
            value = getattr(self, name)
            self._require(name, not isinstance(value, int) or value >= 0, "a column's name, or its index from 0")
        if self.from_scratch and self.compare_from_scratch:
            raise UserError(
                "from_scratch: true runs from scratch only, compare_from_scratch: true runs both; choose one"
            )
        if self.patience is not None and not self.evaluations_per_epoch:
            raise UserError("patience: counts evaluations, but there are none; give --evaluations_per_epoch too")
        if self.suite is None:
            self._check_single()
        else:
            self._check_suite()
        self._check_answers()

    def _check_numbers(self) -> None:
        self._require("seeds", self.seeds >= 1, "at least 1")
        self._require("first_seed", 0 <= self.first_seed < 2**31, "0 or more, below 2^31")
        self._require("max_length", self.max_length is None or self.max_length >= 4, "at least 4")
        self._require("learning_rate", self.learning_rate is None or 0 < self.learning_rate < 1, "above 0, below 1")
        self._require("layer_decay", self.layer_decay is None or 0 < self.layer_decay <= 1, "above 0, at most 1")
        self._require("batch_size", self.batch_size >= 1, "at least 1")
        micro = self.batch_size if self.micro_batch_size is None else self.micro_batch_size
        self._require(
            "micro_batch_size",
            micro >= 1 and self.batch_size % micro == 0,
            f"a divisor of batch_size {self.batch_size}",
        )
        self._require("threads", self.threads is None or self.threads >= 1, "at least 1")
        self._require("save_steps", self.save_steps is None or self.save_steps >= 1, "at least 1")
        self._require("epochs", self.epochs is None or 0 < self.epochs <= 10_000, "above 0, at most 10000")
        self._require("evaluations_per_epoch", 0 <= self.evaluations_per_epoch <= 1000, "0 to 1000")
        self._require("patience", self.patience is None or self.patience >= 1, "at least 1")
        self._require("warmup", 0 <= self.warmup < 1, "0 or more, below 1")
        self._require("clip", 0 <= self.clip < float("inf"), "0 or more")
        self._require("dropout", 0 <= self.dropout < 1, "0 or more, below 1")
        self._require("weight_decay", 0 <= self.weight_decay < 1, "0 or more, below 1")
        self._require("adam_epsilon", 0 < self.adam_epsilon < 1, "above 0, below 1")
        self._require("held_out", self.held_out is None or 0 < self.held_out < 1, "above 0, below 1")
        self._require("held_out_seed", 0 <= self.held_out_seed < 2**31, "0 or more, below 2^31")

    def _check_single(self) -> None:
        if self.tasks is not None:
            raise UserError(f"tasks: {self.tasks!r} without a suite; give --suite glue or all, or one task with --task")
        if self.data is not None and self.task not in PRESETS:
            raise UserError(
                f"data: a folder serves named tasks ({', '.join(PRESETS)}); for --task {self.task} name --train and "
                "--validation"
            )
        if self.task not in PRESETS:
            if self.train is None:
                raise UserError("train: no training texts; name them with --train, or a named task with --task")
            if self.validation is None and self.held_out is None:
                raise UserError(
                    "validation: no validation texts; name them with --validation, or set a share of the training "
                    "texts aside with --held_out 0.1"
                )
            if self.test_labels is False and self.test is None:
                raise UserError("test_labels: false, but there is no test; name one with --test")
        if self.validation is not None and self.held_out is not None:
            raise UserError("held_out: sets training texts aside for validation, but --validation names some; choose")
        if self.evaluate_unseen and self.kind != "question_answering":
            raise UserError("evaluate_unseen: goes by the ids of questions; it serves question answering only")
        if self.baseline and self.kind not in WITH_BASELINE:
            raise UserError(
                f"baseline: true, but {self.task} has none beyond {_ALWAYS[self.kind]}; leave it out (it serves "
                f"{' and '.join(WITH_BASELINE)})"
            )
        self.evaluation_sources  # noqa: B018  (checks the names)

    def _check_suite(self) -> None:
        if self.suite not in SUITES:
            raise UserError(
                f"suite: '{self.suite}', expected {' or '.join(SUITES)}{did_you_mean(str(self.suite), SUITES)}"
            )
        for name in (
            "train", "validation", "test", "evaluate", "metric", "text_column", "text_pair_column", "label_column",
        ):  # fmt: skip
            if getattr(self, name) not in (None, ""):
                raise UserError(f"{name}: belongs to one task; a suite finds each task's files in --data")
        if self.task != "classification":
            raise UserError(f"task: '{self.task}' beside a suite; choose the suite's tasks with --tasks")
        for name in self.task_names:
            if name not in SUITES[self.suite]:
                raise UserError(
                    f"tasks: '{name}' is not in the suite {self.suite}: {', '.join(SUITES[self.suite])}"
                    f"{did_you_mean(name, SUITES[self.suite])}"
                )

    def _check_answers(self) -> None:
        from electra_ds.finetune.answers import LANGUAGES

        self._require("max_query_length", self.max_query_length >= 1, "at least 1")
        self._require("stride", self.stride >= 1, "at least 1")
        self._require("max_answer_length", self.max_answer_length >= 1, "at least 1")
        self._require("n_best", self.n_best >= 1, "at least 1")
        self._require("language", self.language in (None, *LANGUAGES), f"one of {', '.join(LANGUAGES)}")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise UserError(f"{name}: {getattr(self, name)!r}, expected {allowed}")

    @property
    def kind(self) -> str:
        """Kind of problem, a key of TASKS."""
        return PRESETS[self.task].kind if self.task in PRESETS else self.task

    @property
    def task_names(self) -> tuple[str, ...]:
        """Tasks that were asked for by name."""
        return tuple(name.strip() for name in (self.tasks or "").split(",") if name.strip())

    @property
    def evaluation_sources(self) -> dict[str, str]:
        """Further texts to score, by name.

        Raises:
            UserError: not of the form NAME=SOURCE, a name twice or one that has a meaning already.
        """
        found: dict[str, str] = {}
        for entry in (self.evaluate or "").split(","):
            name, equals, source = (part.strip() for part in entry.partition("="))
            if not entry.strip():
                continue
            if not equals or not source or not re.fullmatch(r"[\w-]+", name):
                raise UserError(f"evaluate: {entry!r}, expected NAME=SOURCE, for example de=xquad-de.json")
            if name in RESERVED_SPLITS or name in found:
                raise UserError(f"evaluate: the name '{name}' is taken; choose another")
            found[name] = source
        return found

    @property
    def has_header(self) -> bool | None:
        """Whether TSV and CSV files start with a line of column names; None: as the line shows."""
        if self.header is not None:
            return self.header
        given = [c for c in (self.text_column, self.text_pair_column, self.label_column) if c != ""]
        if not given:
            return None if self.task in PRESETS else True
        return any(isinstance(column, str) for column in given)


@dataclass(frozen=True, kw_only=True)
class SizeDefaults:
    """Fine-tuning settings that the paper gives by model size."""

    size: str
    """``small``, ``base`` or ``large``."""
    learning_rate: float
    """Peak learning rate."""
    layer_decay: float
    """Layer-wise learning rate decay."""


SIZES = (
    (512, SizeDefaults(size="small", learning_rate=3e-4, layer_decay=0.8)),
    (1023, SizeDefaults(size="base", learning_rate=1e-4, layer_decay=0.8)),
    (2**31, SizeDefaults(size="large", learning_rate=5e-5, layer_decay=0.9)),
)
"""(largest hidden size, settings): arXiv 2003.10555, table 7 (Google's code has 1e-4 for small too); other hidden
sizes go with the nearest above."""


def size_defaults(hidden_size: int) -> SizeDefaults:
    """Return the paper's fine-tuning settings for an encoder of this hidden size."""
    return next(defaults for limit, defaults in SIZES if hidden_size <= limit)
