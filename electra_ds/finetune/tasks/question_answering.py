"""Extractive question answering: the answer is a span of the context, or there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from electra_ds.errors import DataError, UserError
from electra_ds.files import write_json
from electra_ds.finetune import answers, spans, squad
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.models import require_offsets
from electra_ds.finetune.sources import find_sources
from electra_ds.finetune.squad import Question
from electra_ds.finetune.tasks.base import Encoded, Scored, Split, Task


class QuestionAnswering(Task):
    """SQuAD 1.1 and, where the training questions have unanswerable ones among them, 2.0."""

    auto_model = "AutoModelForQuestionAnswering"
    original_model = "ElectraForJointQuestionAnswering"
    head = "transformers: one linear layer to start and end"
    original_head = (
        "Google's: linear start, end from GELU of [token; start], a beam, for SQuAD 2.0 an answerability classifier"
    )
    metrics = ("f1", "exact_match")
    units = "questions"
    ending = "json"

    def __init__(self, config: FinetuneConfig):
        super().__init__(config)
        self.null_answers = False
        self._trained: set[str] = set()
        self._one_language = config.language is not None or config.answer_rules == "squad"

    def available_metrics(self) -> tuple[str, ...]:
        """See `Task.available_metrics`."""
        if not self.null_answers:
            return self.metrics
        return ("best_f1", "best_exact_match", *self.metrics, "answerable_f1", "answerable_exact_match", "unanswerable")

    def read(self) -> dict[str, Split]:
        """See `Task.read`; names of further texts must say their language where answers are compared by language."""
        for name, source in find_sources(self.config).further.items():
            if name != "test" and name not in answers.LANGUAGES and not self._one_language:
                raise UserError(
                    f"evaluate: the texts {source} are called '{name}', which is no language that --answer_rules mlqa "
                    f"knows ({', '.join(answers.LANGUAGES)}); call them by theirs, or give --language, by whose rules "
                    "texts of other names are compared"
                )
        return super().read()

    def read_split(self, name: str, source: str) -> Split:
        """See `Task.read_split`."""
        config = self.config
        read = squad.read_questions(source, config.format, config.empty_texts == "keep")
        questions = read.questions
        counts: dict[str, Any] = {"source": source}
        if read.mismatched and name == "train":
            if config.bad_rows != "drop":
                raise DataError(
                    f"{source}: {squad.describe_mismatch(read)}. Correct the file, or leave such questions out with "
                    "--bad_rows drop"
                )
            left_out = set(read.mismatched)
            questions = [question for question in questions if question.id not in left_out]
            counts["dropped_rows"] = len(read.mismatched)
        elif read.mismatched:
            counts["misplaced_answers"] = len(read.mismatched)  # scores compare texts, not places
        if name not in ("train", "validation", "test") and config.evaluate_unseen:
            unseen = [question for question in questions if question.id not in self._trained]
            counts["seen_in_training"] = len(questions) - len(unseen)
            questions = unseen
            if not questions:
                raise DataError(
                    f"{source}: every question's id is in the training texts too, so none is left for evaluate_unseen; "
                    "set some aside with --held_out 0.2"
                )
        elif name != "train" and (shared := sum(question.id in self._trained for question in questions)):
            counts["also_in_training"] = shared
        labelled = all(question.answers is not None for question in questions)
        if name == "test" and config.test_labels is False:
            labelled = False
        if not labelled and name in ("train", "validation"):
            bad = next(question.id for question in questions if question.answers is None)
            raise DataError(f"{source}, id '{bad}': no answers")
        if not questions:
            raise DataError(f"{source}: no questions are left")
        if labelled:
            self._check_null(name, source, questions)
        counts |= self.count(questions, labelled)
        return Split(name, source, questions, counts, labelled)

    def _check_null(self, name: str, source: str, questions: Sequence[Question]) -> None:
        without = [question.id for question in questions if not question.answers]
        if self.config.task in ("squad_v1", "xquad") and without:
            raise DataError(
                f"{source}: {len(without)} questions without an answer ('{without[0]}', ...), which {self.config.task} "
                "does not have; use --task squad_v2"
            )
        if name != "train" and without and not self.null_answers:
            raise DataError(
                f"{source}: {len(without)} questions without an answer ('{without[0]}', ...), but every training "
                "question has one, so the network would never learn to give none"
            )

    def learn(self, train: Split) -> None:
        """See `Task.learn`."""
        self.null_answers = any(not question.answers for question in train.examples)
        if not any(question.answers for question in train.examples):
            raise DataError(f"{train.source}: no question has an answer; there is nothing to learn")
        self._trained = {question.id for question in train.examples}

    def hold_out(self, train: Split, share: float) -> tuple[Split, Split]:
        """See `Task.hold_out`; whole articles are set aside."""
        parts = super().hold_out(train, share)
        self._trained = {question.id for question in parts[0].examples}
        return parts

    def group_of(self, example: Question, index: int) -> str:
        """See `Task.group_of`."""
        return example.article

    def count(self, examples: Sequence[Question], labelled: bool) -> dict[str, Any]:
        """See `Task.count`."""
        counts: dict[str, Any] = {"rows": len(examples), "contexts": len({example.context for example in examples})}
        counts["empty_texts"] = sum(not example.question.strip() for example in examples)
        if labelled:
            counts["without_answer"] = sum(not example.answers for example in examples)
        return counts

    def head_config(self) -> dict[str, Any]:
        """See `Task.head_config`."""
        original = (
            {"answerability": self.null_answers, "beam": self.config.n_best} if self.config.head == "original" else {}
        )
        return {"num_labels": 2, **original}

    def label_names(self) -> list[str]:
        """See `Task.label_names`."""
        return []

    def encode(self, split: Split, tokenizer: Any) -> Encoded:
        """See `Task.encode` and `spans.WindowMaker`."""
        require_offsets(tokenizer, self.config.model)
        training = split.name == "train"
        make = spans.WindowMaker(tokenizer, self.max_length, self.config.max_query_length, self.config.stride)
        features: list[dict[str, Any]] = []
        cut = windowed = unreachable = 0
        for number, example in enumerate(split.examples):
            found, shortened = make(example.question, example.context)
            cut += shortened
            windowed += len(found) > 1
            if training:
                first = example.answers[0] if example.answers else None
                inside = [spans.label(window, first) for window in found]
                unreachable += first is not None and not any(inside)
            for window in found:
                window["example"] = number
            features += found
        notes = {"windowed": windowed, "inputs": len(features)}
        if training:
            notes["answers_in_no_window"] = unreachable
        return Encoded(split, features, cut, notes)

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """See `Task.collator`."""
        return spans.collator(tokenizer, self.null_answers and self.config.head == "original")

    def predict(self, encoded: Encoded, outputs: Any) -> tuple[dict[str, str], dict[str, float]]:
        """Return each question's best answer (empty where no span qualifies), and its odds of having none."""
        decode = spans.decode_joint if self.config.head == "original" else spans.decode_independent
        return decode(encoded, outputs, self.config.n_best, self.config.max_answer_length)

    def score(self, encoded: Encoded, outputs: Any) -> Scored:
        """See `Task.score`; at threshold 0 of the odds, and for SQuAD 2.0 also at the best one."""
        found, odds = self.predict(encoded, outputs)
        name = encoded.split.name
        assert self.config.language is not None
        language = name if name in answers.LANGUAGES else self.config.language
        words = answers.normalizer(self.config.answer_rules, language)
        truth = {q.id: [text for text, _ in q.answers] for q in encoded.split.examples}
        if not self.null_answers:
            return Scored({
                "f1": _mean([answers.f1(truth[key], found[key], words) for key in truth]),
                "exact_match": _mean([answers.exact_match(truth[key], found[key], words) for key in truth]),
            })  # fmt: skip
        return score_with_null(truth, found, odds, words)

    def write_predictions(self, path: Path, encoded: Encoded, outputs: Any) -> None:
        """Write SQuAD's form, ``{id: answer}``.

        For 2.0 every question has its best answer there, as Google's code writes them and the official script wants
        them for its best threshold; beside them the odds of no answer, and the answers with empty ones at odds above 0.
        """
        found, odds = self.predict(encoded, outputs)
        write_json(path, found)
        if self.null_answers:
            beside = {"null-odds": odds, "answers": {key: "" if odds[key] > 0 else found[key] for key in found}}
            for name, content in beside.items():
                write_json(path.with_name(path.name.replace("predictions", name, 1)), content)


def score_with_null(
    truth: dict[str, list[str]], found: dict[str, str], odds: dict[str, float], words: answers.Normalize
) -> Scored:
    """Scores of SQuAD 2.0: ``f1`` and ``exact_match`` at odds 0, and the best that any threshold gives.

    A score over questions that do not occur (none answerable, or none unanswerable) is undefined and counts as 0.
    """
    answerable = {key: bool(right) for key, right in truth.items()}
    guessed = {key: bool(text) for key, text in found.items()}
    values: dict[str, float] = {}
    for name, measure in (("f1", answers.f1), ("exact_match", answers.exact_match)):
        raw = {key: measure(right, found[key], words, null=True) for key, right in truth.items()}
        at_zero = {key: (float(not answerable[key]) if odds[key] > 0 else raw[key]) for key in raw}
        values[name] = _mean(list(at_zero.values()))
        values[f"best_{name}"], values[f"threshold_{name}"] = answers.best_threshold(raw, odds, answerable, guessed)
        values[f"answerable_{name}"] = _mean([value for key, value in at_zero.items() if answerable[key]])
        values["unanswerable"] = _mean([value for key, value in at_zero.items() if not answerable[key]])
    undefined = []
    if not any(answerable.values()):
        undefined += ["answerable_f1", "answerable_exact_match"]
    if all(answerable.values()):
        undefined.append("unanswerable")
    return Scored(values, tuple(undefined))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
