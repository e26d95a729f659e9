"""Fine-tuned models whose robustness can be measured: each reads its files, changes its texts and is judged by them.

Shape legend: U units (texts, sentences or questions), K sums.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from electra_ds.errors import DataError, UserError
from electra_ds.evaluate.config import ColumnsConfig
from electra_ds.evaluate.examples import Texts, read_texts
from electra_ds.evaluate.statistics import Scores, confusions, scores_of
from electra_ds.evaluate.tokens import Tokens
from electra_ds.finetune import answers, conll
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.tasks import build_task
from electra_ds.finetune.tasks.base import Encoded, Split, Task

if TYPE_CHECKING:
    from electra_ds.evaluate.machine import Machine
    from electra_ds.finetune.conll import Sentence
    from electra_ds.finetune.squad import Question

Change = Callable[[str, str], str]
"""From a text and its number in the file to the changed text."""
TYPOS, CASING, PUNCTUATION = "typos", "casing", "punctuation"
LINEAR, JOINT = "ElectraForLinearClassification", "ElectraForJointQuestionAnswering"
"""Heads of Google's code, by the names in the config."""


@dataclass(frozen=True)
class Examples:
    """What one file holds."""

    source: str
    """File or data set name."""
    content: Any
    """What its subject reads: `Texts`, or a `Split` of a task."""
    empty: int = 0
    """Empty texts that were kept."""
    pairs: bool = False
    """Whether texts come in pairs."""


@dataclass(frozen=True)
class Judged:
    """What the model made of some examples."""

    sums: np.ndarray
    """float64 [U, K], whose totals scores are functions of."""
    inputs: list[Any]
    """Token ids of each unit, which are equal where nothing has changed."""
    truncated: int
    """Units that lost tokens to the limit."""
    cut: int = 0
    """Questions that lost tokens to a limit of their own."""


class Subject(ABC):
    """A fine-tuned model with its tokenizer."""

    units: ClassVar[str]
    """What is judged, in the plural."""
    changes: ClassVar[tuple[str, ...]] = (TYPOS, CASING, PUNCTUATION)
    """Groups of changes that leave the question as it was."""
    casings: ClassVar[tuple[str, ...]] = ("lower", "upper", "title")
    why_not: ClassVar[str] = ""
    """Why other changes are not made."""
    metrics: tuple[str, ...]
    """Scores that may be shown first; the first of them by default."""
    usual_length: ClassVar[int] = 128
    """Longest input in tokens, unless another is given or the model takes less."""

    def __init__(self, model: str, network: Any, tokenizer: Any, labels: list[str]) -> None:
        """Take a loaded model; `labels` are its labels under the files' names, empty where it has none."""
        self.model, self.network, self.tokenizer, self.labels = model, network, tokenizer, labels
        self.limit = 0
        """Longest input, in tokens; to be set before anything is judged."""

    @abstractmethod
    def read(self, source: str, columns: ColumnsConfig, labels: Sequence[str]) -> Examples:
        """Read a file whose labels have the names `labels`, in the model's order.

        Raises:
            DataError: with its line, whatever would make a score meaningless.
        """

    @abstractmethod
    def size(self, examples: Examples) -> int:
        """U."""

    @abstractmethod
    def changed(self, examples: Examples, change: Change, draw: int) -> tuple[Examples, np.ndarray, int]:
        """Change every text; also which units could be changed, bool [U], and how many texts are empty now."""

    @abstractmethod
    def judge(self, examples: Examples, machine: Machine) -> Judged:
        """Run the model, which lies on the machine."""

    @property
    @abstractmethod
    def scores(self) -> Scores:
        """From total sums to each score."""

    def notes(self, base: Judged) -> list[str]:
        """What a reader must know of the model's answers to the unchanged texts."""
        return []


class Classifier(Subject):
    """Texts or pairs of texts with a label."""

    units = "texts"

    def __init__(self, model: str, network: Any, tokenizer: Any, labels: list[str]) -> None:
        """See `Subject`."""
        super().__init__(model, network, tokenizer, labels)
        self.metrics = tuple(self.scores)

    @property
    def scores(self) -> Scores:
        """See `Subject.scores`."""
        return scores_of(len(self.labels))

    def read(self, source: str, columns: ColumnsConfig, labels: Sequence[str]) -> Examples:
        """See `Subject.read`."""
        texts = read_texts(source, columns, labels, "the model")
        return Examples(texts.source, texts, texts.empty, texts.pairs is not None)

    def size(self, examples: Examples) -> int:
        """See `Subject.size`."""
        return len(examples.content)

    def changed(self, examples: Examples, change: Change, draw: int) -> tuple[Examples, np.ndarray, int]:
        """See `Subject.changed`."""
        clean: Texts = examples.content
        texts = [change(text, f"{draw}/{number}") for number, text in enumerate(clean.texts)]
        pairs = None
        if clean.pairs is not None:
            pairs = [change(text, f"{draw}/{number}/pair") for number, text in enumerate(clean.pairs)]
        made = dataclasses.replace(examples, content=dataclasses.replace(clean, texts=texts, pairs=pairs))
        return made, np.ones(len(texts), bool), sum(not text.strip() for text in texts)

    def judge(self, examples: Examples, machine: Machine) -> Judged:
        """See `Subject.judge`."""
        from electra_ds.evaluate.forward import class_logits

        texts: Texts = examples.content
        sequences, truncated = self._encode(texts.texts, texts.pairs)
        logits = class_logits(self.network, sequences, self.tokenizer.pad_token_id, machine)
        cells = confusions(texts.truth, logits.argmax(1), len(self.labels))
        return Judged(cells, [one.ids.tolist() for one in sequences], truncated)

    def _encode(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[list[Tokens], int]:
        found = self._tokenize(texts, pairs)
        long = [number for number, one in enumerate(found) if len(one.ids) > self.limit]
        if long:
            own = None if pairs is None else [pairs[number] for number in long]
            limits = {"truncation": "longest_first", "max_length": self.limit}
            for number, one in zip(long, self._tokenize([texts[i] for i in long], own, **limits), strict=True):
                found[number] = one
        return found, len(long)

    def _tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None, **limits: Any) -> list[Tokens]:
        made = self.tokenizer(list(texts), None if pairs is None else list(pairs), verbose=False, **limits)
        types = made["token_type_ids"] if "token_type_ids" in made else [[0] * len(ids) for ids in made["input_ids"]]
        return [
            Tokens(np.array(ids, np.int64), np.array(kinds, np.int64))
            for ids, kinds in zip(made["input_ids"], types, strict=True)
        ]

    def notes(self, base: Judged) -> list[str]:
        """See `Subject.notes`."""
        chosen = base.sums.sum(0).reshape(len(self.labels), -1).sum(0)
        if chosen.max() < len(base.sums):
            return []
        return [
            f"The model gives every unchanged text the label '{self.labels[int(chosen.argmax())]}': it has learned "
            "nothing of this task that could be lost. Matthews' correlation, undefined there, is given as 0."
        ]


class TaskSubject(Subject):
    """A model of a kind of task that reads, encodes and decodes by its `Task`."""

    kind: ClassVar[str]
    """Key of `TASKS`."""
    unit_of: ClassVar[str]
    """Key under which a feature names its unit."""

    def _task(self, source: str, columns: ColumnsConfig) -> Task:
        """The task of one file, told what training would have taught it."""
        # The names that tables have by default; a task has defaults of its own.
        text, label = columns.text_column, columns.label_column
        config = FinetuneConfig(
            model=self.model,
            output="",
            task=self.kind,
            train=source,
            validation=source,
            format=columns.format,
            empty_texts=columns.empty_texts,
            head="original" if type(self.network).__name__ == JOINT else "transformers",
            max_length=self.limit or None,
            text_column="" if text == "text" else text,
            label_column="" if label == "label" else label,
        )
        return build_task(config)

    def size(self, examples: Examples) -> int:
        """See `Subject.size`."""
        return len(examples.content.examples)

    def judge(self, examples: Examples, machine: Machine) -> Judged:
        """See `Subject.judge`."""
        from electra_ds.evaluate.forward import task_outputs

        split: Split = examples.content
        task = self._taught(self._task(split.source, ColumnsConfig()))
        encoded = task.encode(split, self.tokenizer)
        outputs = task_outputs(self.network, encoded.features, task.collator(self.tokenizer), machine)
        inputs: list[list[list[int]]] = [[] for _ in split.examples]
        for feature in encoded.features:
            inputs[feature[self.unit_of]].append(feature["input_ids"])
        return Judged(self._sums(task, encoded, outputs), inputs, encoded.truncated)

    @abstractmethod
    def _taught(self, task: Task) -> Task:
        """Give a task what it would have learned from the training texts."""

    @abstractmethod
    def _sums(self, task: Task, encoded: Encoded, outputs: Any) -> np.ndarray:
        """`Judged.sums`."""


class Tagger(TaskSubject):
    """Sentences with a tag for each word; words are changed one by one, so that tags stay where they are."""

    kind, unit_of, units = "tagging", "sentence", "sentences"
    changes = (TYPOS, CASING)
    why_not = "Punctuation was not dropped: words of it would be none, and every word has a tag."
    metrics = ("f1", "accuracy")

    def read(self, source: str, columns: ColumnsConfig, labels: Sequence[str]) -> Examples:
        """See `Subject.read`."""
        task = self._task(source, columns)
        task.labels = tuple(labels)  # type: ignore[attr-defined]
        return Examples(source, task.read_split("validation", source))

    def changed(self, examples: Examples, change: Change, draw: int) -> tuple[Examples, np.ndarray, int]:
        """See `Subject.changed`."""
        split: Split = examples.content
        made = []
        for number, sentence in enumerate(split.examples):
            made.append(dataclasses.replace(sentence, tokens=_changed_words(sentence, change, f"{draw}/{number}")))
        return (
            dataclasses.replace(examples, content=dataclasses.replace(split, examples=made)),
            np.ones(len(made), bool),
            0,
        )

    def _taught(self, task: Task) -> Task:
        task.labels = tuple(self.labels)  # type: ignore[attr-defined]
        return task

    def _sums(self, task: Task, encoded: Encoded, outputs: Any) -> np.ndarray:
        """Entities found and right, found, there; tags right, tags: float64 [U, 5]."""
        rows = []
        predicted = task.predicted_tags(encoded, outputs)  # type: ignore[attr-defined]
        for sentence, tags in zip(encoded.split.examples, predicted, strict=True):
            found, there = set(conll.entities(tags)), set(conll.entities(sentence.tags))
            right = sum(one == other for one, other in zip(tags, sentence.tags, strict=True))
            rows.append((len(found & there), len(found), len(there), right, len(tags)))
        return np.array(rows, np.float64)

    @property
    def scores(self) -> Scores:
        """See `Subject.scores`; of whole entities, as seqeval and conlleval count them, and of tags."""
        return {
            "f1": lambda totals: _share(2 * totals[..., 0], totals[..., 1] + totals[..., 2]),
            "precision": lambda totals: _share(totals[..., 0], totals[..., 1]),
            "recall": lambda totals: _share(totals[..., 0], totals[..., 2]),
            "accuracy": lambda totals: _share(totals[..., 3], totals[..., 4]),
        }

    def notes(self, base: Judged) -> list[str]:
        """See `Subject.notes`."""
        if base.sums[:, 1].any():
            return []
        return ["The model finds no entity in the unchanged sentences: there is nothing that could be lost."]


class Answerer(TaskSubject):
    """Questions on contexts; lower case alone is tried, as nothing else leaves the answers where they are."""

    kind, unit_of, units = "question_answering", "example", "questions"
    changes = (CASING,)
    casings = ("lower",)
    why_not = (
        "Of the changes only lower case was made, to context, question and answers alike: typos and dropped "
        "punctuation would change or move the answers. Answers are compared by SQuAD's rules, which know no case."
    )
    metrics = ("f1",)
    usual_length = 512
    _null_answers = False

    def read(self, source: str, columns: ColumnsConfig, labels: Sequence[str]) -> Examples:
        """See `Subject.read`."""
        task = self._task(source, columns)
        task.null_answers = True  # type: ignore[attr-defined]  # questions without an answer may be there
        split = task.read_split("validation", source)
        self._null_answers = self._null_answers or any(not question.answers for question in split.examples)
        return Examples(source, split)

    def changed(self, examples: Examples, change: Change, draw: int) -> tuple[Examples, np.ndarray, int]:
        """See `Subject.changed`; a question is left out where a text gets longer, as its answers would move."""
        split: Split = examples.content
        made = [_changed_question(question, lambda text: change(text, "")) for question in split.examples]
        able = np.array([question is not None for question in made], bool)
        kept = [question for question in made if question is not None]
        return dataclasses.replace(examples, content=dataclasses.replace(split, examples=kept)), able, 0

    def judge(self, examples: Examples, machine: Machine) -> Judged:
        """See `Subject.judge`."""
        found = super().judge(examples, machine)
        return dataclasses.replace(found, truncated=0, cut=found.truncated)

    def _taught(self, task: Task) -> Task:
        task.null_answers = self._null_answers  # type: ignore[attr-defined]
        return task

    def _sums(self, task: Task, encoded: Encoded, outputs: Any) -> np.ndarray:
        """F1, exact match, 1 of each question: float64 [U, 3]; without an answer at odds of none above 0."""
        found, odds = task.predict(encoded, outputs)  # type: ignore[attr-defined]
        null, rows = self._null_answers, []
        for question in encoded.split.examples:
            right = [text for text, _ in question.answers]
            if null and odds[question.id] > 0:
                rows.append((float(not right), float(not right), 1.0))
            else:
                measures = (answers.f1, answers.exact_match)
                f1, exact = (measure(right, found[question.id], null=null) for measure in measures)
                rows.append((f1, exact, 1.0))
        return np.array(rows, np.float64).reshape(-1, 3)

    @property
    def scores(self) -> Scores:
        """See `Subject.scores`."""
        return {
            "f1": lambda totals: totals[..., 0] / totals[..., 2],
            "exact_match": lambda totals: totals[..., 1] / totals[..., 2],
        }

    def notes(self, base: Judged) -> list[str]:
        """See `Subject.notes`."""
        return [f"Questions that lost tokens, as 64 (or half an input) is the most: {base.cut:,}."] if base.cut else []


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A share that counts as 0 where there is nothing, as the scores of fine-tuning do."""
    return np.asarray(np.divide(part, whole, out=np.zeros_like(np.asarray(part, float)), where=whole > 0))


def _changed_words(sentence: Sentence, change: Change, number: str) -> tuple[str, ...]:
    """As many words as before: a change has no say over the line breaks between them."""
    if any("\n" in word for word in sentence.tokens):
        return tuple(change(word, f"{number}/{place}") for place, word in enumerate(sentence.tokens))
    return tuple(change("\n".join(sentence.tokens), number).split("\n"))


def _changed_question(question: Question, change: Callable[[str], str]) -> Question | None:
    """The question with its texts changed; None where one of them has another length then."""
    context = change(question.context)

    def moved(text: str, start: int) -> str:
        stands = start >= 0 and question.context.startswith(text, start)
        return context[start : start + len(text)] if stands else change(text)

    made = [(moved(*answer), answer[1]) for answer in question.answers or ()]
    kept = all(len(text) == len(other) for (text, _), (other, _) in zip(question.answers or (), made, strict=True))
    if len(context) != len(question.context) or not kept:
        return None
    return dataclasses.replace(question, question=change(question.question), context=context, answers=tuple(made))


def check_finetuned(model: str) -> None:
    """Refuse a folder that holds no model.

    Raises:
        DataError: with the folder that was meant, if it is there.
    """
    if not (Path(model) / "config.json").is_file():
        inner = Path(model) / "model"
        hint = f"; did you mean {inner}?" if (inner / "config.json").is_file() else ""
        raise DataError(f"model: no config.json in {model}; name a folder of a fine-tuned model{hint}")


def load_subject(model: str, label_names: str) -> Subject:
    """Load a fine-tuned model, with the head of transformers or of Google's code.

    Args:
        model: folder, or ``hf:NAME``.
        label_names: names that the files give to its labels, with commas; empty: its own.

    Raises:
        DataError: no such model, or weights or tokenizer that do not fit. UserError: names that do not fit its labels.
    """
    import torch
    from transformers import AutoConfig

    from electra_ds.evaluate.models import load_tokenizer
    from electra_ds.finetune.models import check_vocabulary, first_line, quiet_libraries, refuse_code
    from electra_ds.finetune.tables import HUB

    source = model.removeprefix(HUB)
    refuse_code(model)
    with quiet_libraries():
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            kind, factory = _head_of(model, str((config.architectures or ("",))[0]))
            network, report = factory.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
        except UserError:
            raise
        except Exception as error:  # transformers, safetensors and the hub's client each raise their own kinds
            raise DataError(f"model: {model} cannot be loaded as a fine-tuned model ({first_line(error)})") from error
        tokenizer = load_tokenizer(model)
    if report["missing_keys"]:
        raise DataError(
            f"model: {model} has no weights for {', '.join(sorted(report['missing_keys'])[:3])}; expected a "
            "model that 'electra-ds finetune' trained (its OUTPUT/model)"
        )
    check_vocabulary(model, tokenizer, network.config.vocab_size)
    labels = [str(network.config.id2label[number]) for number in range(network.config.num_labels)]
    if kind is Answerer:
        if label_names:
            raise UserError(f"label_names: {label_names!r}, but {model} answers questions and has no labels")
        return Answerer(model, network, tokenizer, [])
    if len(labels) < 2:
        raise DataError(
            f"model: {model} has one output, a regression; robustness is measured of classification, tagging and "
            "question answering"
        )
    labels = named_labels(label_names, labels, "label_names")
    if kind is Tagger:
        types = {name[2:] for name in labels if name != "O"}
        if set(labels) != {"O", *(f"{prefix}-{name}" for name in types for prefix in "BI")}:
            raise DataError(
                f"model: {model} has the tags {', '.join(labels)}; expected O, and B- and I- with each type, as "
                "'electra-ds finetune' has them"
            )
    return kind(model, network, tokenizer, labels)


def named_labels(given: str, labels: list[str], option: str) -> list[str]:
    """Names with commas for some labels, in their order; the labels themselves where none are given.

    Raises:
        UserError: another number of names, or one twice.
    """
    names = [name.strip() for name in given.split(",")] if given else labels
    if len(names) != len(labels) or len(set(names)) < len(names):
        raise UserError(f"{option}: {given!r}, expected {len(labels)} different names, for {', '.join(labels)}")
    return names


def _head_of(model: str, name: str) -> tuple[type[Subject], Any]:
    """The subject of an architecture, and the class that loads it."""
    import transformers

    from electra_ds.finetune import heads

    if name in (LINEAR, JOINT):  # of finetune --head original
        return (Classifier if name == LINEAR else Answerer), getattr(heads, name)
    if name.endswith("ForTokenClassification"):
        return Tagger, transformers.AutoModelForTokenClassification
    if name.endswith(("ForQuestionAnswering", "ForQuestionAnsweringSimple")):
        return Answerer, transformers.AutoModelForQuestionAnswering
    if name.endswith("ForMultipleChoice"):
        raise DataError(
            f"model: {model} chooses among answers ({name}); robustness is measured of classification, tagging and "
            "question answering"
        )
    return Classifier, transformers.AutoModelForSequenceClassification
