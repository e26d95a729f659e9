"""``electra-ds evaluate zero-shot``: classification by a prompt with label words."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from electra_ds.command_line import parse
from electra_ds.errors import UserError
from electra_ds.evaluate.config import ColumnsConfig, EvaluationConfig
from electra_ds.evaluate.examples import Texts, read_texts
from electra_ds.evaluate.models import (
    DISCRIMINATOR,
    GENERATOR,
    Pair,
    find_scorers,
    left_out,
    load_pair,
    random_pair,
    require_limit,
    scorer_notes,
)
from electra_ds.evaluate.output import Output
from electra_ds.evaluate.prompts import Filled, Template, encode
from electra_ds.evaluate.statistics import Resampling, compared, confusions, scored
from electra_ds.evaluate.tokens import Tokens
from electra_ds.files import atomic_write

if TYPE_CHECKING:
    from electra_ds.evaluate.machine import Machine

BOTH = "both"
"""The method that adds the standardised scores of the two networks."""
PLAIN, CORRECTED = "plain", "corrected"

DEFINITIONS = {
    "discriminator": "sum over the label word's tokens of log P(original): the least replaced wins",
    "discriminator, sentence": "the same sum over every token of the prompt but the special ones",
    "generator": "pseudo-log-likelihood of the label word: each of its tokens is predicted with itself and the label "
    "tokens to its right masked (Kauf and Ivanova 2023, arXiv 2305.10588), so that a later piece of a word does not "
    "give an earlier one away",
    "both": "each network's scores less their mean over the labels of the text, divided by the standard deviation of "
    "these differences over the file, and added",
    "combine": "sum adds the log-probabilities of a label word's tokens, which favours words of fewer tokens; mean "
    "divides by their number",
    "corrected": "each score less the score of the same label word in the prompt with an empty text (contextual "
    "calibration, Zhao et al. 2021, arXiv 2102.09690): no label is used",
    "interval": "percentiles of a bootstrap over texts; differences from the majority label see the same resamples",
    "majority": "always the most frequent label of the scored file, which the method does not know",
    "random": "networks of the same shape with random weights",
}


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(EvaluationConfig, ColumnsConfig):
    """Classify texts without fine-tuning: which label word fits best into a prompt."""

    data: str
    """Texts with labels: a TSV, CSV or JSON lines file, or ``hf:NAME[/CONFIG]:SPLIT``."""
    labels: str
    """Label words, as in ``0=terrible,1=great``: the file's labels, and the word that stands for each in the prompt."""
    prompt: str = "{text} It was {label}."
    """Where text, second text ({text_pair}) and label word stand."""
    generator: str | None = None
    """Folder or ``hf:NAME`` of the generator, where it is not the model's own (default: MODEL/generator)."""
    scope: Literal["label", "sentence"] = "label"
    """Tokens whose log P(original) the discriminator adds up: the label word's, or all of the prompt's."""
    combine: Literal["sum", "mean"] = "sum"
    """What becomes of the log-probabilities of several tokens."""
    empty_prompt: str = ""
    """The text in the prompt by which scores are corrected."""
    random_models: int = 3
    """How many models of the same shape with random weights to score beside it (count)."""
    max_length: int | None = None
    """Longest input in tokens; longer ones lose tokens of the text, and are counted (default: what the model takes)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("random_models", self.random_models >= 0, "0 or more")
        self._require("max_length", self.max_length is None or self.max_length >= 4, "at least 4")


def main(arguments: list[str], program: str) -> int:
    """Run the command; see `ZeroShotConfig` for its options."""
    config = parse(ZeroShotConfig, arguments, program)
    template = Template.parse(config.prompt)
    words = label_words(config.labels)
    networks = find_scorers(config.model, config.generator)
    texts = read_texts(config.data, config, list(words), "--labels")
    if template.takes_pairs and texts.pairs is None:
        raise UserError(f"prompt: it has {{text_pair}}, but {config.data} has single texts; see --text_pair_column")
    if texts.pairs is not None and not template.takes_pairs:
        raise UserError(f"prompt: {config.data} has pairs of texts, but no {{text_pair}} stands in {config.prompt!r}")
    output = Output("zero-shot", config)
    evaluate(config, template, words, texts, load_pair(networks), output)
    return 0


def label_words(given: str) -> dict[str, str]:
    """Read ``0=terrible,1=great``.

    Raises:
        UserError: not of that form, fewer than two labels, or one twice.
    """
    words: dict[str, str] = {}
    for entry in given.split(","):
        label, equals, word = entry.partition("=")
        label, word = label.strip(), word.strip()
        if not (equals and label and word):
            raise UserError(f"labels: {entry!r} in {given!r}, expected label=word, as in 0=terrible,1=great")
        if label in words:
            raise UserError(f"labels: {label!r} comes twice in {given!r}")
        words[label] = word
    if len(words) < 2:
        raise UserError(f"labels: {given!r} names one label, expected two or more")
    return words


def evaluate(
    config: ZeroShotConfig, template: Template, words: dict[str, str], texts: Texts, pair: Pair, output: Output
) -> dict[str, Any]:
    """Score every text with every label word, write everything, and return the results."""
    from electra_ds.evaluate.machine import Machine

    machine = Machine(config)
    limit = require_limit(config.max_length, pair.max_positions, "max_length")
    spoken = list(words.values())
    filled, truncated = encode(pair.tokenizer, template, texts.texts, texts.pairs, spoken, limit)
    nothing = [config.empty_prompt]
    empty, _ = encode(pair.tokenizer, template, nothing, nothing if template.takes_pairs else None, spoken, limit)
    notes = scorer_notes(pair) + left_out(
        pair,
        {
            "generator": "neither its scores nor those of both networks together were computed",
            "discriminator": "neither its scores nor those of both networks together were computed",
        },
    )
    resampling = Resampling(config.bootstrap, config.confidence, config.seed)
    labels = len(words)
    counts = np.bincount(texts.truth, minlength=labels)
    majority = confusions(texts.truth, np.full(len(texts), int(counts.argmax())), labels)
    scores = all_scores(config, pair, [*filled, *empty], machine)
    predictions = {
        name: {PLAIN: choose(values[:-1]), CORRECTED: choose(values[:-1] - values[-1])}
        for name, values in _with_both(scores).items()
    }
    methods = {
        name: {
            variant: {
                **scored(confusions(texts.truth, predicted, labels), labels, resampling),
                "above_majority": compared(confusions(texts.truth, predicted, labels), majority, labels, resampling),
                "predicted": np.bincount(predicted, minlength=labels).tolist(),
            }
            for variant, predicted in variants.items()
        }
        for name, variants in predictions.items()
    }
    _write_predictions(output, words, texts, scores, predictions)
    return output.finish(
        machine.describe(),
        notes,
        data={
            "source": texts.source,
            "rows": len(texts),
            "pairs": texts.pairs is not None,
            "labels": dict(zip(words, counts.tolist(), strict=True)),
            "empty_texts": texts.empty,
            "truncated": truncated,
            "max_length": limit,
        },
        networks=pair.sources,
        labels=[
            {
                "label": label,
                "word": word,
                "tokens": pair.tokenizer.convert_ids_to_tokens(one.tokens.ids[one.label].tolist()),
            }
            for (label, word), one in zip(words.items(), filled[0], strict=True)
        ],
        methods=methods,
        majority={
            "label": list(words)[int(counts.argmax())],
            **scored(majority, labels, resampling),
        },
        random=_random(config, pair, filled, empty, texts, machine, labels),
        definitions=DEFINITIONS,
    )


def all_scores(
    config: ZeroShotConfig, pair: Pair, filled: list[list[Filled]], machine: Machine
) -> dict[str, np.ndarray]:
    """Score of each label for each text, float64 [texts, labels], by each network that is there."""
    scores = {}
    if pair.discriminator is not None:
        scores[DISCRIMINATOR] = discriminator_scores(config, pair, filled, machine)
    if pair.generator is not None:
        scores[GENERATOR] = generator_scores(config, pair, filled, machine)
    return scores


def discriminator_scores(
    config: ZeroShotConfig, pair: Pair, filled: list[list[Filled]], machine: Machine
) -> np.ndarray:
    """Log P(original) of the label word's tokens, or of the whole prompt's: float64 [texts, labels]."""
    from electra_ds.evaluate.forward import original, verdicts
    from electra_ds.evaluate.machine import progress

    flat = [one for row in filled for one in row]
    network = machine.place(pair.discriminator)
    with progress(len(flat), DISCRIMINATOR, "prompt") as advance:
        logits = verdicts(network, [one.tokens for one in flat], pair.tokenizer.pad_token_id, machine, advance)
    scores = []
    for one, values in zip(flat, logits, strict=True):
        said = original(values[one.label if config.scope == "label" else one.content])
        scores.append(said.sum() if config.combine == "sum" else said.mean())
    return np.array(scores).reshape(len(filled), -1)


def generator_scores(config: ZeroShotConfig, pair: Pair, filled: list[list[Filled]], machine: Machine) -> np.ndarray:
    """Pseudo-log-likelihood of the label word's tokens, left to right: float64 [texts, labels]."""
    from electra_ds.evaluate.forward import log_probabilities
    from electra_ds.evaluate.machine import progress

    mask, pad = pair.tokenizer.mask_token_id, pair.tokenizer.pad_token_id
    # Label words of as many tokens leave the same masked prompt: it is run once and asked for each of them.
    asked: dict[tuple[bytes, int], int] = {}
    sequences: list[Tokens] = []
    queries: list[list[tuple[int, int, int]]] = []
    flat = [one for row in filled for one in row]
    for number, one in enumerate(flat):
        for place in range(len(one.label)):
            ids = one.tokens.ids.copy()
            ids[one.label[place:]] = mask
            position = int(one.label[place])
            key = (ids.tobytes(), position)
            if key not in asked:
                asked[key] = len(sequences)
                sequences.append(Tokens(ids, one.tokens.types))
                queries.append([])
            queries[asked[key]].append((position, int(one.tokens.ids[position]), number))
    targets = np.array([target for own in queries for _, target, _ in own], np.int64)
    owners = np.array([number for own in queries for _, _, number in own], np.int64)
    network = machine.place(pair.generator)
    with progress(len(sequences), GENERATOR, "prompt") as advance:
        values = log_probabilities(
            network,
            sequences,
            [[position for position, _, _ in own] for own in queries],
            targets,
            pad,
            machine,
            advance,
        )
    scores = np.bincount(owners, values, len(flat))
    if config.combine == "mean":
        scores = scores / np.array([len(one.label) for one in flat])
    return scores.reshape(len(filled), -1)


def _with_both(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each network's scores and, with two, their standardised sum; the last row is the empty text's."""
    if len(scores) < 2:
        return scores
    return {**scores, BOTH: np.sum([standardised(values) for values in scores.values()], 0)}


def standardised(scores: np.ndarray) -> np.ndarray:
    """Scores [texts and the empty text, labels] less their mean over labels, in units of their spread."""
    centred = scores - scores.mean(1, keepdims=True)
    spread = float(centred[:-1].std())
    return centred / spread if spread else centred


def choose(scores: np.ndarray) -> np.ndarray:
    """Label with the greatest score, int64 [texts]; the first among equals."""
    return np.asarray(scores.argmax(1))


def _random(
    config: ZeroShotConfig,
    pair: Pair,
    filled: list[list[Filled]],
    empty: list[list[Filled]],
    texts: Texts,
    machine: Machine,
    labels: int,
) -> list[dict[str, Any]]:
    """Scores of models with random weights, without intervals: their spread over seeds is shown instead."""
    plain = Resampling(0, config.confidence, config.seed)
    found = []
    for seed in range(config.seed, config.seed + config.random_models):
        scores = _with_both(all_scores(config, random_pair(pair, seed), [*filled, *empty], machine))
        methods = {
            name: {
                variant: {
                    metric: measure["value"]
                    for metric, measure in scored(
                        confusions(texts.truth, choose(chosen), labels), labels, plain
                    ).items()
                }
                for variant, chosen in ((PLAIN, values[:-1]), (CORRECTED, values[:-1] - values[-1]))
            }
            for name, values in scores.items()
        }
        found.append({"seed": seed, "methods": methods})
    return found


def _write_predictions(
    output: Output,
    words: dict[str, str],
    texts: Texts,
    scores: dict[str, np.ndarray],
    predictions: dict[str, dict[str, np.ndarray]],
) -> None:
    """One line a text: its label, what each method chose, and each network's score of each label word (nats)."""
    labels = list(words)
    chosen = {
        f"{name}_{variant}": value for name, variants in predictions.items() for variant, value in variants.items()
    }
    columns = [f"{name}_score_{label}" for name in scores for label in labels]
    with atomic_write(output.folder / "predictions.tsv", "w") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "label", *chosen, *columns])
        for number in range(len(texts)):
            picked = [labels[int(value[number])] for value in chosen.values()]
            values = [f"{score:.6f}" for one in scores.values() for score in one[number]]
            writer.writerow([number, labels[int(texts.truth[number])], *picked, *values])
        # The correction, so that it can be repeated.
        values = [f"{score:.6f}" for one in scores.values() for score in one[-1]]
        writer.writerow(["empty text", "", *[""] * len(chosen), *values])
