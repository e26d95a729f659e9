"""Parameter names and shapes, ours to Hugging Face's and back.

Ours has query, key and value in one matrix, embeddings once for both networks, and vocabulary rows padded for speed;
Hugging Face has three matrices, a copy of the embeddings per model, and no padding. `Origin` says of one tensor of
Hugging Face's where it comes from, so that it can be read when it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from electra_ds.errors import DataError
from electra_ds.export.weights import CHUNK, TensorWeights, Weights
from electra_ds.model.config import ModelConfig

State = dict[str, Tensor]


@dataclass(frozen=True)
class Origin:
    """Where one tensor of a Hugging Face model comes from."""

    name: str
    """Our parameter."""
    begin: int = 0
    """First of its rows."""
    rows: int | None = None
    """How many of them; None takes all."""
    plus: str | None = None
    """A parameter of the same shape that is added in (gdes)."""

    def shape(self, weights: Weights) -> torch.Size:
        """Shape of the tensor."""
        whole = weights.shapes[self.name]
        return whole if self.rows is None else torch.Size([self.rows, *whole[1:]])

    def read(self, weights: Weights) -> Tensor:
        """Make the tensor, as wide as `weights` gives its numbers.

        Raises:
            DataError: `weights` does not have what it is made of.
        """
        absent = [name for name in (self.name, self.plus) if name is not None and name not in weights.shapes]
        if absent:
            raise DataError(f"the checkpoint has no parameter {absent[0]}: it is of another model than its state says")
        shape, row = self.shape(weights), weights.shapes[self.name][1:].numel()
        first, count = self.begin * row, shape.numel()
        value = weights.read(self.name, first, first + count)
        if self.plus is not None:
            for low in range(0, count, CHUNK):
                high = min(count, low + CHUNK)
                value[low:high] += weights.read(self.plus, first + low, first + high)
        return value.view(shape)


Origins = dict[str, Origin]

_EMBEDDINGS = {
    "word.weight": "word_embeddings.weight",
    "position.weight": "position_embeddings.weight",
    "token_type.weight": "token_type_embeddings.weight",
    "norm.weight": "LayerNorm.weight",
    "norm.bias": "LayerNorm.bias",
}
_LAYER = {
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_QKV = ("query", "key", "value")
_KINDS = ("weight", "bias")


def discriminator_origins(config: ModelConfig) -> Origins:
    """Of `ElectraForPreTraining`."""
    out = _full_size_origins(config)
    for ours, theirs in (("dense", "dense"), ("prediction", "dense_prediction")):
        for kind in _KINDS:
            out[f"discriminator_predictions.{theirs}.{kind}"] = Origin(f"discriminator_head.{ours}.{kind}")
    return out


def generator_origins(config: ModelConfig) -> Origins:
    """Of `ElectraForMaskedLM`, its tied output matrix left out (it is the word embeddings)."""
    out = embedding_origins(config, "embeddings")
    out.update(encoder_origins(config, "generator", config.generator_depth, config.generator_hidden_size))
    out.update(vocabulary_head_origins(config, "generator_head"))
    return out


def encoder_with_vocabulary_origins(config: ModelConfig) -> Origins:
    """Of `ElectraForMaskedLM` as large as the discriminator, its tied output matrix left out."""
    return {**_full_size_origins(config), **vocabulary_head_origins(config, "vocabulary_head")}


def _full_size_origins(config: ModelConfig) -> Origins:
    """Of the embeddings and the encoder of the network that a run is for."""
    encoder = "generator" if config.sharing == "all_tied" else "discriminator"
    out = _discriminator_embeddings(config)
    out.update(encoder_origins(config, encoder, config.layers, config.hidden_size))
    return out


def embedding_origins(config: ModelConfig, prefix: str) -> Origins:
    """Of the embeddings of a model whose own are complete; padded rows of the vocabulary are cut."""
    out = {f"electra.embeddings.{theirs}": Origin(f"{prefix}.{ours}") for ours, theirs in _EMBEDDINGS.items()}
    out["electra.embeddings.word_embeddings.weight"] = Origin(f"{prefix}.word.weight", rows=config.vocab_size)
    return out


def encoder_origins(config: ModelConfig, prefix: str, layers: int, hidden_size: int) -> Origins:
    """Of an encoder, query, key and value cut out of their one matrix."""
    out: Origins = {}
    for kind in _KINDS:
        if hidden_size != config.embedding_size:
            out[f"electra.embeddings_project.{kind}"] = Origin(f"{prefix}.embeddings_project.{kind}")
    for layer in range(layers):
        ours, theirs = f"{prefix}.layers.{layer}", f"electra.encoder.layer.{layer}"
        for kind in _KINDS:
            for number, name in enumerate(_QKV):
                origin = Origin(f"{ours}.qkv.{kind}", number * hidden_size, hidden_size)
                out[f"{theirs}.attention.self.{name}.{kind}"] = origin
            for mine, yours in _LAYER.items():
                out[f"{theirs}.{yours}.{kind}"] = Origin(f"{ours}.{mine}.{kind}")
    return out


def vocabulary_head_origins(config: ModelConfig, prefix: str) -> Origins:
    """Of the head of `ElectraForMaskedLM`."""
    out = {
        f"generator_predictions.{theirs}.{kind}": Origin(f"{prefix}.{ours}.{kind}")
        for ours, theirs in (("dense", "dense"), ("norm", "LayerNorm"))
        for kind in _KINDS
    }
    out["generator_lm_head.bias"] = Origin(f"{prefix}.bias", rows=config.vocab_size)
    return out


def _discriminator_embeddings(config: ModelConfig) -> Origins:
    """The discriminator's embeddings in full: shared, its own, or shared plus its difference."""
    own = "discriminator_embeddings"
    if config.sharing == "untied":
        return embedding_origins(config, own)
    out = embedding_origins(config, "embeddings")
    if config.sharing == "gdes":
        theirs = "electra.embeddings."
        out[f"{theirs}word_embeddings.weight"] = Origin(
            "embeddings.word.weight", rows=config.vocab_size, plus=f"{own}.word_delta.weight"
        )
        delta = f"{own}.position_delta.weight" if config.gdes_positions else None
        out[f"{theirs}position_embeddings.weight"] = Origin("embeddings.position.weight", plus=delta)
        for ours in ("token_type.weight", "norm.weight", "norm.bias"):
            out[theirs + _EMBEDDINGS[ours]] = Origin(f"{own}.{ours}")
    return out


def discriminator_to_huggingface(weights: State, config: ModelConfig) -> State:
    """State dict of `ElectraForPreTraining` from a full state dict of `Electra`."""
    return _read_all(discriminator_origins(config), weights)


def generator_to_huggingface(weights: State, config: ModelConfig) -> State:
    """State dict of `ElectraForMaskedLM` without its tied output matrix, from a full state dict of `Electra`."""
    return _read_all(generator_origins(config), weights)


def _read_all(origins: Origins, weights: State) -> State:
    stored = TensorWeights(weights)
    return {key: origin.read(stored) for key, origin in origins.items()}


def to_own(parts: Sequence[tuple[Origins, State]], shapes: Mapping[str, torch.Size], sharing: str) -> State:
    """Our parameters from state dicts of Hugging Face, each tensor put back where its `Origin` takes it from.

    What networks share must be the same in all of them; it is one tensor again. Padded rows of the vocabulary are zero.

    Args:
        parts: origins and state dict of each network.
        shapes: name of each of our parameters to its shape.
        sharing: ``model.sharing``, for the message.

    Returns:
        The parameters that the networks have. Others of `shapes` belong to none of them.

    Raises:
        DataError: a tensor is missing, or what should be one tensor differs.
    """
    out: State = {}
    written: set[tuple[str, int]] = set()
    # Differences come last: what they are added to is another network's.
    entries = [(key, origin, state) for origins, state in parts for key, origin in origins.items()]
    for key, origin, state in sorted(entries, key=lambda entry: entry[1].plus is not None):
        if key not in state:
            raise DataError(f"parameter {key} is missing; expected the networks of one export, whole")
        value, name = state[key], origin.name
        if origin.plus is not None:
            if name in out:
                value, name = value - out[name][origin.begin : origin.begin + len(value)], origin.plus
            else:  # no network has what the difference is from: it takes all, and there is no difference
                out[origin.plus] = value.new_zeros(shapes[origin.plus])
        if name not in out:
            out[name] = value.new_zeros(shapes[name])
        place = out[name][origin.begin : origin.begin + len(value)]
        if (name, origin.begin) not in written:
            place.copy_(value)
            written.add((name, origin.begin))
        elif not torch.equal(place, value):
            raise DataError(
                f"{name} differs between two networks, which share it (model.sharing={sharing}); they must come from "
                "one export; model.sharing untied keeps them apart"
            )
    return out


def huggingface_config(config: ModelConfig, special_ids: dict[str, int], network: str) -> dict[str, Any]:
    """Arguments of `ElectraConfig` for a network as large as ``generator`` or ``discriminator``."""
    generator = network == "generator"
    attention_dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
    return {
        "vocab_size": config.vocab_size,
        "embedding_size": config.embedding_size,
        "hidden_size": config.generator_hidden_size if generator else config.hidden_size,
        "num_hidden_layers": config.generator_depth if generator else config.layers,
        "num_attention_heads": config.generator_heads if generator else config.heads,
        "intermediate_size": config.generator_intermediate_size if generator else config.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": attention_dropout,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.token_types,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.layer_norm_eps,
        "pad_token_id": special_ids["pad"],
        "tie_word_embeddings": True,
    }
