"""``electra-ds evaluate bias``: which of two sentences, one of them more stereotyping, do the networks prefer."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from electra_ds.command_line import bare_flag, parse
from electra_ds.errors import DataError, UserError
from electra_ds.evaluate.card import write_section
from electra_ds.evaluate.config import EvaluationConfig
from electra_ds.evaluate.models import (
    DISCRIMINATOR,
    GENERATOR,
    Pair,
    find_scorers,
    left_out,
    load_pair,
    require_limit,
    scorer_notes,
)
from electra_ds.evaluate.output import Output
from electra_ds.evaluate.pairs import DIRECTIONS, MinimalPair, read_pairs, shared_positions
from electra_ds.evaluate.statistics import Resampling, wilson
from electra_ds.evaluate.tokens import Tokens
from electra_ds.files import atomic_write
from electra_ds.finetune.tables import HUB

if TYPE_CHECKING:
    from electra_ds.evaluate.machine import Machine

DECIMALS = 3
"""The authors' code rounds a sentence's score to so many decimals before it compares; so does this."""

DEFINITIONS = {
    "generator": "pseudo-log-likelihood of the tokens that both sentences share, given those in which they differ: "
    "each shared token is masked alone and predicted from all others (Nangia et al. 2020, section 3)",
    "discriminator": "sum over the shared tokens of log P(original); nothing is masked",
    "metric": "share of all pairs in which the more stereotyping sentence has the greater score, in percent, as "
    "published: scores rounded to 3 decimals, ties in the denominator; 50 is no preference",
    "without_ties": "the same share of the pairs that are not tied",
    "stereo, antistereo": "the metric over the pairs of one direction: sent_more states a stereotype, or sent_less "
    "goes against one",
    "interval": "Wilson's score interval of a share; percentiles of a bootstrap over pairs for the mean difference",
}


@dataclass(frozen=True, kw_only=True)
class BiasConfig(EvaluationConfig):
    """Score minimal pairs in CrowS-Pairs' CSV format by the generator's and the discriminator's preference."""

    pairs: str
    """CSV file with the columns sent_more, sent_less, stereo_antistereo and bias_type."""
    generator: str | None = None
    """Folder or ``hf:NAME`` of the generator, where it is not the model's own (default: MODEL/generator)."""
    card: bool = False
    """Write what was found into the model card: README.md of the discriminator (of the generator, if it is alone)."""
    max_length: int | None = None
    """Longest sentence in tokens; longer ones are cut, and counted (default: what the model takes)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("max_length", self.max_length is None or self.max_length >= 4, "at least 4")


def main(arguments: list[str], program: str) -> int:
    """Run the command; see `BiasConfig` for its options."""
    config = parse(BiasConfig, bare_flag(arguments, "--card"), program)
    networks = find_scorers(config.model, config.generator)
    folder = next(iter(networks.values()))
    if config.card and folder.startswith(HUB):
        raise UserError(f"card: {folder} is no local folder whose README.md could be written; leave --card out")
    pairs = read_pairs(config.pairs)
    output = Output("bias", config)
    result = evaluate(config, pairs, load_pair(networks), output)
    if config.card:
        path = Path(folder) / "README.md"
        write_section(path, result)
        print(f"wrote the section on bias into {path}")
    return 0


def evaluate(config: BiasConfig, pairs: list[MinimalPair], pair: Pair, output: Output) -> dict[str, Any]:
    """Score every pair, write everything, and return the results."""
    from electra_ds.evaluate.machine import Machine

    machine = Machine(config)
    limit = require_limit(config.max_length, pair.max_positions, "max_length")
    sentences, truncated = encode(pair.tokenizer, [text for one in pairs for text in (one.more, one.less)], limit)
    shared = [
        _without_special(pair.tokenizer, sentences[2 * number : 2 * number + 2], config.pairs, number)
        for number in range(len(pairs))
    ]
    positions = [places for both in shared for places in both]
    scores = {}
    if pair.generator is not None:
        scores[GENERATOR] = generator_scores(pair, sentences, positions, machine)
    if pair.discriminator is not None:
        scores[DISCRIMINATOR] = discriminator_scores(pair, sentences, positions, machine)
    about = scorer_notes(pair)
    notes = about + left_out(
        pair,
        {
            "generator": "the published metric, a pseudo-log-likelihood, was not computed",
            "discriminator": "its own judgement was not computed",
        },
    )
    alike = sum(len(one.ids) == len(other.ids) and bool((one.ids == other.ids).all())
                for one, other in zip(sentences[::2], sentences[1::2], strict=True))  # fmt: skip
    if alike:
        notes.append(
            f"{alike} pairs are the same tokens to this tokenizer (it does not know the words in which they differ, or "
            "they were cut): they are ties."
        )
    resampling = Resampling(config.bootstrap, config.confidence, config.seed)
    networks = {
        name: summarize(pairs, values[:, 0], values[:, 1], resampling)
        for name, values in ((name, values.reshape(-1, 2)) for name, values in scores.items())
    }
    _write_scores(output, pairs, scores, [len(places) for places, _ in shared])
    return output.finish(
        machine.describe(),
        notes,
        data={
            "source": config.pairs,
            "pairs": len(pairs),
            "directions": {name: sum(one.direction == name for one in pairs) for name in DIRECTIONS},
            "truncated": truncated,
            "max_length": limit,
            "same_tokens": alike,
        },
        networks=pair.sources,
        about=about,
        scores=networks,
        definitions=DEFINITIONS,
    )


def encode(tokenizer: Any, texts: Sequence[str], limit: int) -> tuple[list[Tokens], int]:
    """Tokenize sentences with their special tokens; and how many were cut to `limit` tokens."""
    whole = tokenizer(list(texts), verbose=False)["input_ids"]
    long = [number for number, ids in enumerate(whole) if len(ids) > limit]
    if long:
        cut = tokenizer([texts[number] for number in long], truncation=True, max_length=limit)["input_ids"]
        for number, ids in zip(long, cut, strict=True):
            whole[number] = ids
    return [Tokens(np.array(ids, np.int64), np.zeros(len(ids), np.int64)) for ids in whole], len(long)


def _without_special(tokenizer: Any, both: Sequence[Tokens], source: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions that two sentences share, special tokens left out."""
    one, other = shared_positions(both[0].ids, both[1].ids)
    special = np.isin(both[0].ids[one], [tokenizer.cls_token_id, tokenizer.sep_token_id])
    if special.all():
        raise DataError(f"{source}, pair {number + 1}: the sentences share no token, so nothing can be compared")
    return one[~special], other[~special]


def generator_scores(
    pair: Pair, sentences: Sequence[Tokens], positions: Sequence[np.ndarray], machine: Machine
) -> np.ndarray:
    """Pseudo-log-likelihood of some tokens of each sentence, float64 [sentences].

    Args:
        pair: whose generator.
        sentences: tokenized.
        positions: of the tokens, in each sentence; every other token is conditioned on.
        machine: where to run.
    """
    from electra_ds.evaluate.forward import log_probabilities
    from electra_ds.evaluate.machine import progress

    masked, queries, targets, owners = [], [], [], []
    for number, (sentence, places) in enumerate(zip(sentences, positions, strict=True)):
        for place in places.tolist():
            ids = sentence.ids.copy()
            ids[place] = pair.tokenizer.mask_token_id
            masked.append(Tokens(ids, sentence.types))
            queries.append([place])
            targets.append(sentence.ids[place])
            owners.append(number)
    network = machine.place(pair.generator)
    with progress(len(masked), GENERATOR, "token") as advance:
        values = log_probabilities(
            network, masked, queries, np.array(targets, np.int64), pair.tokenizer.pad_token_id, machine, advance
        )
    return np.bincount(np.array(owners, np.int64), values, len(sentences))


def discriminator_scores(
    pair: Pair, sentences: Sequence[Tokens], positions: Sequence[np.ndarray], machine: Machine
) -> np.ndarray:
    """Sum of log P(original) over some tokens of each sentence, float64 [sentences]."""
    from electra_ds.evaluate.forward import original, verdicts
    from electra_ds.evaluate.machine import progress

    network = machine.place(pair.discriminator)
    with progress(len(sentences), DISCRIMINATOR, "sentence") as advance:
        logits = verdicts(network, sentences, pair.tokenizer.pad_token_id, machine, advance)
    return np.array([original(values[places]).sum() for values, places in zip(logits, positions, strict=True)])


def summarize(
    pairs: Sequence[MinimalPair], more: np.ndarray, less: np.ndarray, resampling: Resampling
) -> dict[str, Any]:
    """The preference of one network over all pairs, by direction and by category.

    Args:
        pairs: which they are.
        more: float64 [pairs], scores of the more stereotyping sentences.
        less: float64 [pairs], of the others.
        resampling: of the mean difference; its coverage is that of every interval.
    """

    def count(which: np.ndarray) -> dict[str, Any]:
        one, other = np.round(more[which], DECIMALS), np.round(less[which], DECIMALS)
        prefers, ties, number = int((one > other).sum()), int((one == other).sum()), int(which.sum())
        gap = np.stack([(more - less)[which], np.ones(number)], 1)
        mean = resampling.of_sums(gap, {"mean": lambda totals: totals[..., 0] / totals[..., 1]})["mean"]
        return {
            "pairs": number,
            "prefers_more": prefers,
            "ties": ties,
            "metric": 100 * prefers / number if number else None,
            "share": wilson(prefers, number, resampling.confidence),
            "without_ties": wilson(prefers, number - ties, resampling.confidence),
            "mean_difference": mean,
        }

    directions = np.array([one.direction for one in pairs])
    categories = np.array([one.category for one in pairs])
    return {
        "all": count(np.ones(len(pairs), bool)),
        "by_direction": {name: count(directions == name) for name in DIRECTIONS if (directions == name).any()},
        "by_category": {str(name): count(categories == name) for name in np.unique(categories)},
    }


def _write_scores(
    output: Output, pairs: Sequence[MinimalPair], scores: dict[str, np.ndarray], shared: Sequence[int]
) -> None:
    """One line a pair: what it is, how many tokens it shares, and each network's score of both sentences (nats)."""
    with atomic_write(output.folder / "pairs.tsv", "w") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        columns = [f"{name}_{which}" for name in scores for which in ("more", "less")]
        writer.writerow(["pair", "bias_type", "stereo_antistereo", "shared_tokens", *columns])
        for number, one in enumerate(pairs):
            values = [f"{score:.6f}" for found in scores.values() for score in found[2 * number : 2 * number + 2]]
            writer.writerow([number + 1, one.category, one.direction, shared[number], *values])
