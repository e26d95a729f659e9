"""Useful FLOPs of a training step: matrix products at the positions that matter, backward twice forward.

Look-ups, softmax, LayerNorm, activations and the optimizer are not counted, nor is any recomputation. The vocabulary
head counts at selected positions only. Not Google's count (flops_computation.py), which takes training as twice forward
and look-ups as one-hot products. docs/flops.md has the formulas and a worked example.
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


def step_flops_per_token(
    config: ModelConfig, selected_share: float, attended: float, objective: str = "electra"
) -> float:
    """Useful FLOPs of forward and backward per real token, all networks and heads.

    Args:
        config: sizes; the vocabulary must be known.
        selected_share: selected positions over real tokens.
        attended: mean tokens that a token attends to.
        objective: ``objective.name``.
    """
    return sum(step_flops_by_part(config, selected_share, attended, objective).values())


def step_flops_by_part(
    config: ModelConfig, selected_share: float, attended: float, objective: str = "electra"
) -> dict[str, float]:
    """The same by the objective's `parts`.

    A head counts at the positions that its loss is over, at all real tokens with all_tokens_mlm and for electric's
    generator (whose candidates are all but the special tokens); a causal tower's attention over half the segment.
    """
    assert config.vocab_size is not None
    towers = 2 if objective == "electric" else 1
    generator = towers * encoder_flops(
        config.embedding_size,
        config.generator_hidden_size,
        config.generator_intermediate_size,
        config.generator_depth,
        attended / towers,
    )
    discriminator = encoder_flops(
        config.embedding_size, config.hidden_size, config.intermediate_size, config.layers, attended
    )

    def vocabulary_head(hidden: int, share: float) -> float:
        return 2 * config.embedding_size * (hidden + (config.vocab_size or 0)) * share

    forward = {}
    if objective != "mlm":
        everywhere = objective == "electric"
        forward["generator"] = generator
        forward["generator_head"] = vocabulary_head(
            towers * config.generator_hidden_size, 1.0 if everywhere else selected_share
        )
    forward["discriminator"] = discriminator
    if objective == "all_tokens_mlm":
        forward["vocabulary_head"] = vocabulary_head(config.hidden_size, 1.0) + 2 * config.hidden_size
    elif objective in ("mlm", "replace_mlm"):
        forward["vocabulary_head"] = vocabulary_head(config.hidden_size, selected_share)
    else:
        share = selected_share if objective == "electra_15" else 1.0
        forward["discriminator_head"] = 2 * config.hidden_size * (config.hidden_size + 1) * share
    return {part: 3 * flops for part, flops in forward.items()}


def peak_flops(device_name: str) -> float | None:
    """Known bf16 peak of a GPU (FLOP/s), or None."""
    return next((peak for name, peak in PEAK_BF16.items() if name in device_name), None)
