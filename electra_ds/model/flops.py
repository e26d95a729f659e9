"""Useful FLOPs of a training step: matrix products at the positions that matter, backward twice forward.

Look-ups, softmax, LayerNorm, activations and the optimizer are not counted, nor is any recomputation. The vocabulary
head counts at selected positions only. Not Google's count (flops_computation.py), which takes training as twice forward
and look-ups as one-hot products.
"""

from __future__ import annotations

from electra_ds.model.config import ModelConfig

PEAK_BF16 = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "V100": 125e12,
}
"""Dense tensor-core peak by a part of the device's name (FLOP/s), from the vendor's data sheets; V100 in fp16."""


def encoder_flops(embedding: int, hidden: int, intermediate: int, layers: int, attended: float) -> float:
    """Forward FLOPs of an encoder per token.

    Args:
        embedding: features of the embeddings.
        hidden: features of the states.
        intermediate: features of the feed-forward layers.
        layers: count.
        attended: tokens that a token attends to (its segment's length).
    """
    projection = 2 * embedding * hidden if embedding != hidden else 0
    dense = 2 * (4 * hidden * hidden + 2 * hidden * intermediate)
    attention = 2 * 2 * attended * hidden
    return projection + layers * (dense + attention)


def step_flops_per_token(config: ModelConfig, selected_share: float, attended: float) -> float:
    """Useful FLOPs of forward and backward per real token, both networks and heads.

    Args:
        config: sizes; the vocabulary must be known.
        selected_share: selected positions over real tokens.
        attended: mean tokens that a token attends to.
    """
    assert config.vocab_size is not None
    generator = encoder_flops(
        config.embedding_size,
        config.generator_hidden_size,
        config.generator_intermediate_size,
        config.generator_depth,
        attended,
    )
    discriminator = encoder_flops(
        config.embedding_size, config.hidden_size, config.intermediate_size, config.layers, attended
    )
    generator_head = 2 * config.embedding_size * (config.generator_hidden_size + config.vocab_size) * selected_share
    discriminator_head = 2 * config.hidden_size * (config.hidden_size + 1)
    return 3 * (generator + discriminator + generator_head + discriminator_head)


def peak_flops(device_name: str) -> float | None:
    """Known bf16 peak of a GPU (FLOP/s), or None."""
    return next((peak for name, peak in PEAK_BF16.items() if name in device_name), None)
