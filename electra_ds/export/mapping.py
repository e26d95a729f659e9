"""Parameter names and shapes, ours to Hugging Face's and back.

Ours has query, key and value in one matrix, embeddings once for both networks, and vocabulary rows padded for speed;
Hugging Face has three matrices, a copy of the embeddings per model, and no padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from electra_ds.errors import DataError
from electra_ds.model.config import ModelConfig

Weights = dict[str, Tensor]

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


def discriminator_to_huggingface(weights: Weights, config: ModelConfig) -> Weights:
    """State dict of `ElectraForPreTraining` from a full state dict of `Electra`."""
    encoder = "generator" if config.sharing == "all_tied" else "discriminator"
    out = _embeddings_out(_discriminator_embeddings(weights, config), config)
    out.update(_encoder_out(weights, encoder, config.layers))
    for ours, theirs in (("dense", "dense"), ("prediction", "dense_prediction")):
        for kind in ("weight", "bias"):
            out[f"discriminator_predictions.{theirs}.{kind}"] = weights[f"discriminator_head.{ours}.{kind}"]
    return out


def generator_to_huggingface(weights: Weights, config: ModelConfig) -> Weights:
    """State dict of `ElectraForMaskedLM`, its tied output matrix left out (it is the word embeddings)."""
    out = _embeddings_out(_under(weights, "embeddings."), config)
    out.update(_encoder_out(weights, "generator", config.generator_depth))
    for ours, theirs in (("dense", "dense"), ("norm", "LayerNorm")):
        for kind in ("weight", "bias"):
            out[f"generator_predictions.{theirs}.{kind}"] = weights[f"generator_head.{ours}.{kind}"]
    out["generator_lm_head.bias"] = weights["generator_head.bias"][: config.vocab_size].clone()
    return out


def from_huggingface(generator: Weights, discriminator: Weights, config: ModelConfig) -> Weights:
    """Full state dict of `Electra` from both Hugging Face state dicts.

    With shared embeddings both must hold the same; the shared tensor is one again.

    Raises:
        DataError: a parameter is missing, or embeddings that should be one tensor differ.
    """
    try:
        out = {f"embeddings.{k}": v for k, v in _embeddings_in(generator, config).items()}
        theirs = _embeddings_in(discriminator, config)
        if config.sharing in ("tied", "all_tied"):
            for key, value in theirs.items():
                if not torch.equal(value, out[f"embeddings.{key}"]):
                    raise DataError(
                        f"embeddings.{key} differs between generator and discriminator, which share it "
                        f"(model.sharing={config.sharing}); both must come from one export"
                    )
        elif config.sharing == "untied":
            out.update({f"discriminator_embeddings.{key}": value for key, value in theirs.items()})
        else:
            out.update(_deltas(theirs, out, config))
        out.update(_encoder_in(generator, "generator", config.generator_depth))
        if config.sharing == "all_tied":
            # One encoder under both of its names, as the module's own state dict lists it.
            out.update(
                {k.replace("generator.", "discriminator.", 1): v for k, v in out.items() if k.startswith("generator.")}
            )
        else:
            out.update(_encoder_in(discriminator, "discriminator", config.layers))
        for kind in ("weight", "bias"):
            out[f"generator_head.dense.{kind}"] = generator[f"generator_predictions.dense.{kind}"]
            out[f"generator_head.norm.{kind}"] = generator[f"generator_predictions.LayerNorm.{kind}"]
            out[f"discriminator_head.dense.{kind}"] = discriminator[f"discriminator_predictions.dense.{kind}"]
            out[f"discriminator_head.prediction.{kind}"] = discriminator[
                f"discriminator_predictions.dense_prediction.{kind}"
            ]
        out["generator_head.bias"] = _pad_rows(generator["generator_lm_head.bias"], config.padded_vocab_size)
    except KeyError as error:
        raise DataError(f"parameter {error} is missing; expected an exported generator and discriminator") from error
    return out


def huggingface_config(config: ModelConfig, special_ids: dict[str, int], network: str) -> dict[str, Any]:
    """Arguments of `ElectraConfig` for ``generator`` or ``discriminator``."""
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


def _under(weights: Weights, prefix: str) -> Weights:
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def _discriminator_embeddings(weights: Weights, config: ModelConfig) -> Weights:
    """The discriminator's embeddings in full: shared, its own, or shared plus its difference."""
    if config.sharing == "untied":
        return _under(weights, "discriminator_embeddings.")
    shared = _under(weights, "embeddings.")
    if config.sharing != "gdes":
        return shared
    own = _under(weights, "discriminator_embeddings.")
    position = shared["position.weight"]
    if "position_delta.weight" in own:
        position = position + own["position_delta.weight"]
    return {
        "word.weight": shared["word.weight"] + own["word_delta.weight"],
        "position.weight": position,
        **{key: own[key] for key in ("token_type.weight", "norm.weight", "norm.bias")},
    }


def _deltas(theirs: Weights, out: Weights, config: ModelConfig) -> Weights:
    deltas = {
        f"discriminator_embeddings.{key}": theirs[key] for key in ("token_type.weight", "norm.weight", "norm.bias")
    }
    deltas["discriminator_embeddings.word_delta.weight"] = theirs["word.weight"] - out["embeddings.word.weight"]
    if config.gdes_positions:
        difference = theirs["position.weight"] - out["embeddings.position.weight"]
        deltas["discriminator_embeddings.position_delta.weight"] = difference
    return deltas


def _embeddings_out(embeddings: Weights, config: ModelConfig) -> Weights:
    out = {f"electra.embeddings.{theirs}": embeddings[ours] for ours, theirs in _EMBEDDINGS.items()}
    word = "electra.embeddings.word_embeddings.weight"
    out[word] = out[word][: config.vocab_size].clone()
    return out


def _embeddings_in(weights: Weights, config: ModelConfig) -> Weights:
    out = {ours: weights[f"electra.embeddings.{theirs}"] for ours, theirs in _EMBEDDINGS.items()}
    out["word.weight"] = _pad_rows(out["word.weight"], config.padded_vocab_size)
    return out


def _pad_rows(value: Tensor, rows: int) -> Tensor:
    padding = value.new_zeros((rows - len(value), *value.shape[1:]))
    return torch.cat([value, padding])


def _encoder_out(weights: Weights, prefix: str, layers: int) -> Weights:
    out: Weights = {}
    for kind in ("weight", "bias"):
        if f"{prefix}.embeddings_project.{kind}" in weights:
            out[f"electra.embeddings_project.{kind}"] = weights[f"{prefix}.embeddings_project.{kind}"]
        for layer in range(layers):
            ours, theirs = f"{prefix}.layers.{layer}", f"electra.encoder.layer.{layer}"
            for name, part in zip(_QKV, weights[f"{ours}.qkv.{kind}"].chunk(3), strict=True):
                out[f"{theirs}.attention.self.{name}.{kind}"] = part.clone()
            for mine, yours in _LAYER.items():
                out[f"{theirs}.{yours}.{kind}"] = weights[f"{ours}.{mine}.{kind}"]
    return out


def _encoder_in(weights: Weights, prefix: str, layers: int) -> Weights:
    out: Weights = {}
    for kind in ("weight", "bias"):
        if f"electra.embeddings_project.{kind}" in weights:
            out[f"{prefix}.embeddings_project.{kind}"] = weights[f"electra.embeddings_project.{kind}"]
        for layer in range(layers):
            ours, theirs = f"{prefix}.layers.{layer}", f"electra.encoder.layer.{layer}"
            parts = [weights[f"{theirs}.attention.self.{name}.{kind}"] for name in _QKV]
            out[f"{ours}.qkv.{kind}"] = torch.cat(parts)
            for mine, yours in _LAYER.items():
                out[f"{ours}.{mine}.{kind}"] = weights[f"{theirs}.{yours}.{kind}"]
    return out
