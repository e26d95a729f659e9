"""``electra-ds evaluate heldout``: both networks on shards that training did not see."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from electra_ds.command_line import parse
from electra_ds.data.config import DataConfig
from electra_ds.data.loader import RowSource, open_shards
from electra_ds.data.shards import ShardSet
from electra_ds.data.vocabulary import continuation_table
from electra_ds.errors import DataError, UserError
from electra_ds.evaluate.config import EvaluationConfig
from electra_ds.evaluate.models import (
    ENCODER,
    READS_REPLACEMENTS,
    Pair,
    find_networks,
    left_out,
    load_pair,
    load_tokenizer,
    objective_name,
    read_export,
    require_limit,
)
from electra_ds.evaluate.output import Output
from electra_ds.evaluate.statistics import Resampling
from electra_ds.finetune.models import quiet_libraries
from electra_ds.model.config import ObjectiveConfig

if TYPE_CHECKING:
    from electra_ds.evaluate.corruption import Corrupted, Corruption

FREQUENCY_BLOCKS = 32
"""Most blocks of the training split that token frequencies are counted in, spread evenly over it."""
PORTION = 256
"""Rows that are corrupted and judged at a time."""

DEFINITIONS = {
    "perplexity": "exp of the mean cross-entropy (nats) at selected positions: those training selects, whatever became "
    "of them in the text that the network read",
    "masked_perplexity": "the same over positions that became [MASK] alone",
    "bits_per_token": "the mean cross-entropy at selected positions in bits",
    "accuracy": "share of selected positions at which no token has a greater logit than the original one",
    "sample_accuracy": "share of selected positions at which the token drawn is the original one: nothing is replaced",
    "encoder": "the full-size network of objectives that restore tokens, by its vocabulary head",
    "flagged": "the discriminator's logit is above 0: P(replaced) above one half",
    "calibration_error": "mean distance between P(replaced) and the share really replaced, over 15 bins of equal width "
    "weighted by their tokens",
    "brier": "mean squared distance between P(replaced) and 1 or 0",
    "frequency": "class of the original token for the generator, of the token that stands there after corruption for "
    "the discriminator; special tokens apart",
    "interval": "percentiles of a bootstrap over rows, as tokens of one row are not independent",
    "frequency_auc": "AUC of a judge that knows token frequencies alone: rarer tokens are held to be replaced",
}


@dataclass(frozen=True, kw_only=True)
class HeldoutConfig(EvaluationConfig):
    """Score generator and discriminator (or the encoder, by the objective) on a shard set, corrupted as in training."""

    shards: str
    """Shard set that 'electra-ds prep' wrote: a folder, or a URL that fsspec reads."""
    generator: str | None = None
    """Folder or ``hf:NAME`` of the generator, where it is not the model's own (default: MODEL/generator)."""
    split: str = "validation"
    """Split of the shard set."""
    rows: int | None = 2048
    """Rows to score, spread evenly over the split (count); null takes all."""
    sequence_length: int | None = None
    """Tokens of a row (default: 128, or what the model takes if that is less)."""
    pairs: bool = True
    """Segments are pairs with token types, as data.pairs of the run; false: one text a segment."""
    mask_fraction: float | None = None
    """Selected positions as a share of real tokens (default: that of the run, else 0.15)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("rows", self.rows is None or self.rows >= 1, "at least 1, or null")
        self._require("mask_fraction", self.mask_fraction is None or 0 < self.mask_fraction < 1, "above 0, below 1")


def main(arguments: list[str], program: str) -> int:
    """Run the command; see `HeldoutConfig` for its options."""
    config = parse(HeldoutConfig, arguments, program)
    networks = find_networks(config.model, config.generator)
    if ENCODER in networks and config.generator and objective_name(read_export(networks)) not in READS_REPLACEMENTS:
        raise UserError(
            f"generator: {config.generator}, but {networks[ENCODER]} was trained without one and fills masks in "
            "itself; leave --generator out"
        )
    shards = open_shards(DataConfig(path=config.shards), config.split)
    if not len(shards):
        raise UserError(f"split: '{config.split}' of {config.shards} holds nothing; choose another --split")
    output = Output("heldout", config)
    evaluate(config, load_pair(networks), shards, output)
    return 0


def evaluate(config: HeldoutConfig, pair: Pair, shards: ShardSet, output: Output) -> dict[str, Any]:
    """Score a pair on a split, write everything, and return the results."""
    from electra_ds.evaluate.corruption import Corruption
    from electra_ds.evaluate.heldout_scores import (
        frequency_classes,
        score_discriminator,
        score_encoder,
        score_generator,
    )
    from electra_ds.evaluate.machine import Machine, progress
    from electra_ds.model.masking import SpecialIds

    machine = Machine(config)
    notes = check_tokenizer(pair, shards)
    length = require_limit(config.sequence_length, pair.max_positions, "sequence_length")
    if config.sequence_length is None:
        length = min(128, length)
    objective, source_of_objective = objective_of(config, pair)
    info = shards.manifest.tokenizer
    special = SpecialIds(pad=info.pad_id, unk=info.unk_id, cls=info.cls_id, sep=info.sep_id, mask=info.mask_id)
    source = RowSource(shards, DataConfig(path=config.shards, pairs=config.pairs), length, seed=0)
    count = source.total if config.rows is None else min(config.rows, source.total)
    chosen = np.arange(count) * source.total // count
    frequencies, counted_in = token_frequencies(config, shards)
    continues = None
    if objective.masking != "token":
        import torch

        continues = torch.from_numpy(continuation_table(shards.tokenizer_folder(), info.vocab_size))
    notes += missing_networks(pair, objective) + objective_notes(pair, objective)
    placed = {name: machine.place(network) for name, network in pair.networks.items()}
    corrupt = Corruption(placed, objective, special, continues, frequencies, config.seed, machine)
    parts = _portions(corrupt, source, chosen)
    resampling = Resampling(config.bootstrap, config.confidence, config.seed)
    special_ids = np.array([special.pad, special.cls, special.sep, special.mask])
    classes = frequency_classes(frequencies, special_ids)
    results: dict[str, Any] = {
        "data": {
            "shards": config.shards,
            "fingerprint": shards.manifest.fingerprint,
            "split": config.split,
            "rows": count,
            "rows_of_split": source.total,
            "sequence_length": length,
            "tokens": int(sum(part.real.sum() for part in parts)),
            "frequencies_counted_in": counted_in,
        },
        "networks": pair.sources,
        "corruption": {
            "replacements": corrupt.replacements,
            "objective": {field.name: getattr(objective, field.name) for field in fields(objective)},
            "fates": list(objective.fates),
            "objective_of": source_of_objective,
            "noise_seed": config.seed,
        },
        "definitions": DEFINITIONS,
    }
    with progress(None, "intervals", "class") as advance:
        if pair.generator is not None:
            results["generator"] = score_generator(parts, classes, resampling, advance)
        if pair.encoder is not None:
            results["encoder"] = score_encoder(parts, classes, resampling, advance)
        if pair.discriminator is not None:
            results["discriminator"] = score_discriminator(
                parts, classes, frequencies, resampling, advance, are_probabilities=objective.name != "electric"
            )
    return output.finish(machine.describe(), notes, **results)


def missing_networks(pair: Pair, objective: ObjectiveConfig) -> list[str]:
    """One sentence for each network that the objective has and that is not there, and on what that means."""
    draws = (
        "tokens were replaced by draws from their frequencies instead, which is not what the {} was trained on; do not "
        "compare these numbers with others"
    )
    if pair.encoder is not None:
        return left_out(pair, {"generator": draws.format("encoder")}) if objective.name in READS_REPLACEMENTS else []
    without = {"generator": draws.format("discriminator"), "discriminator": "only the generator was scored"}
    return left_out(pair, without)


def objective_notes(pair: Pair, objective: ObjectiveConfig) -> list[str]:
    """What the objective means for the numbers, where they are not those of ELECTRA's own task."""
    notes = []
    if pair.encoder is not None and objective.name == "mlm":
        notes.append("Objective mlm trains one network: the encoder, which fills masks in, is all there is to score.")
    if pair.encoder is not None and objective.name in READS_REPLACEMENTS:
        notes.append(
            f"The encoder reads what objective {objective.name} showed it: the text with replacements at the selected "
            "positions, never [MASK]. It is scored where they stand, by the original token's probability."
        )
    if pair.encoder is not None and objective.name == "all_tokens_mlm":
        notes.append(
            "The copy gate of objective all_tokens_mlm has no place in an export: the encoder's vocabulary head is "
            "scored without it, so that its perplexity is not the loss of training."
        )
    if pair.discriminator is not None and objective.name == "electric":
        notes.append(
            "The logit of objective electric is an energy, not the log odds of having been replaced (training adds "
            "log q of the noise to it): it ranks tokens, which AUC and average precision measure. Precision, recall, "
            "accuracy, calibration, Brier score and log loss take a probability, and are left out."
        )
    if pair.discriminator is not None and objective.name == "electra_15":
        notes.append(
            "Objective electra_15 trains verdicts at selected positions alone, so only these are scored. A much larger "
            "share of them is replaced than of all tokens: compare with no model whose every token is scored."
        )
    if not (pair.state.get("objective") or {}):
        masked, random = objective.fates
        notes.append(
            "No electra_ds.json tells how this model was trained. Tokens are selected and masked as ELECTRA's paper "
            f"does it: {100 * objective.mask_fraction:g} % of them selected, {100 * masked:g} % of these masked, "
            f"{100 * random:g} % made a random token, the others kept."
        )
    return notes


def check_tokenizer(pair: Pair, shards: ShardSet) -> list[str]:
    """Refuse shards whose ids mean other tokens to the model; say where only the files differ.

    Raises:
        DataError: with both fingerprints, or the first token that differs.
    """
    info = shards.manifest.tokenizer
    known = pair.state.get("tokenizer_fingerprint")
    if known == info.fingerprint:
        return []
    with quiet_libraries():
        theirs, ours = load_tokenizer(str(shards.tokenizer_folder())).get_vocab(), pair.tokenizer.get_vocab()
    told = f"fingerprint {info.fingerprint[:16]}" + (f", the model's is {str(known)[:16]}" if known else "")
    if theirs != ours:
        token = min((name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name)), default="")
        raise DataError(
            f"shards: the tokenizer of {shards.folder} ({told}) is not the model's: {token!r} is "
            f"{theirs.get(token, 'not there')} in the shards and {ours.get(token, 'not there')} in the model; prepare "
            f"the text with the model's own tokenizer (--tokenizer.type existing)"
        )
    return (
        [] if known is None else [f"The tokenizer's files differ from those of training ({told}), its tokens do not."]
    )


def objective_of(config: HeldoutConfig, pair: Pair) -> tuple[ObjectiveConfig, str]:
    """What training selected and drew, as far as the export tells; and where that is from."""
    names = {field.name for field in fields(ObjectiveConfig)}
    told = {name: value for name, value in (pair.state.get("objective") or {}).items() if name in names}
    where = "the run (electra_ds.json)" if told else "the paper, as no electra_ds.json tells of the run"
    if config.mask_fraction is not None:
        told["mask_fraction"], where = config.mask_fraction, f"{where}, mask_fraction given"
    return ObjectiveConfig(**told), where


def token_frequencies(config: HeldoutConfig, shards: ShardSet) -> tuple[np.ndarray, str]:
    """Relative frequency of each token, float64 [V], and what was counted.

    In the training split, if the set has one; else in the split that is scored.
    """
    counted, name = shards, config.split
    if config.split != "train" and shards.manifest.total("train", "blocks"):
        counted, name = open_shards(DataConfig(path=config.shards), "train"), "train"
    blocks = min(len(counted), FREQUENCY_BLOCKS)
    counts = np.zeros(shards.manifest.tokenizer.vocab_size, np.int64)
    for block in np.arange(blocks) * len(counted) // blocks:
        counts += np.bincount(counted.read(int(block)).tokens, minlength=len(counts))
    if counted is not shards:
        counted.close()
    told = f"{counts.sum():,} tokens of split '{name}' ({blocks} of {len(counted)} blocks)"
    return counts / counts.sum(), told


def _portions(corrupt: Corruption, source: RowSource, rows: np.ndarray) -> list[Corrupted]:
    from electra_ds.evaluate.machine import progress

    parts = []
    with progress(len(rows), "held-out rows", "row") as advance:
        for begin in range(0, len(rows), PORTION):
            portion = source.unshuffled(rows[begin : begin + PORTION])
            parts.append(corrupt(portion))
            advance(len(portion.ids))
    return parts
