"""Sizes and options of the two networks. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from electra_ds.errors import divisors


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Generator and discriminator (arXiv 2003.10555, appendix A; configure_pretraining.py)."""

    layers: int = 12
    """Transformer layers of the discriminator (count)."""
    hidden_size: int = 256
    """Width of the discriminator's hidden states (features)."""
    heads: int = 4
    """Attention heads of the discriminator (count); must divide hidden_size."""
    intermediate_size: int = 1024
    """Width of the discriminator's feed-forward layers (features)."""
    embedding_size: int = 128
    """Width of word, position and type embeddings (features); projected where it differs from a hidden size."""
    generator_width: float = 0.25
    """Generator's hidden size as a fraction of the discriminator's; its heads are hidden/64, its feed-forward 4x."""
    generator_layers: int | None = None
    """Transformer layers of the generator (count); null takes the discriminator's depth, as the paper does."""
    vocab_size: int | None = None
    """Entries of the vocabulary (count); null takes it from the shards' tokenizer."""
    pad_vocab_to_multiple_of: int = 64
    """The embedding matrix gets rows up to a multiple of this (count), for speed; they are cut again on export."""
    max_positions: int = 512
    """Rows of the position table (tokens): the longest sequence the exported model takes."""
    token_types: int = 2
    """Rows of the token type table (count): first and second text of a pair."""
    dropout: float = 0.1
    """Dropout after embeddings and on both sublayer outputs (probability)."""
    attention_dropout: float | None = None
    """Dropout on attention probabilities (probability); null takes `dropout`."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in every LayerNorm (dimensionless)."""
    sharing: Literal["tied", "untied", "all_tied", "gdes"] = "tied"
    """What the networks share: tied (embeddings; the paper), untied, all_tied (the encoder too), gdes (DeBERTa v3)."""
    gdes_positions: bool = True
    """With gdes: the discriminator has its own difference on position embeddings too (CamemBERTa: word only)."""
    initialization: Literal["huggingface", "google"] = "huggingface"
    """huggingface: N(0, range). google: truncated at two sigma, Glorot for the projection and the last dense."""
    initializer_range: float = 0.02
    """Standard deviation of initial weights (dimensionless)."""

    def __post_init__(self) -> None:
        for name in ("layers", "hidden_size", "heads", "intermediate_size", "embedding_size", "token_types"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be at least 1")
        if self.hidden_size % self.heads:
            raise ValueError(
                f"model.heads={self.heads} does not divide model.hidden_size={self.hidden_size}; "
                f"these do: {divisors(self.hidden_size)}"
            )
        if not 0 < self.generator_width <= 1:
            raise ValueError(f"model.generator_width={self.generator_width}: must lie in (0, 1]")
        if self.generator_hidden_size % self.generator_heads:
            raise ValueError(
                f"model.generator_width={self.generator_width} makes a generator of hidden size "
                f"{self.generator_hidden_size}, which its {self.generator_heads} heads (hidden/64) do not divide; "
                "choose a width that gives a multiple of 64"
            )
        if self.generator_layers is not None and self.generator_layers < 1:
            raise ValueError(f"model.generator_layers={self.generator_layers}: must be at least 1, or null")
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"model.{name}={value}: must lie in [0, 1)")
        if self.vocab_size is not None and self.vocab_size < 8:
            raise ValueError(f"model.vocab_size={self.vocab_size}: must be at least 8, or null to take the tokenizer's")
        if self.max_positions < 16:
            raise ValueError(f"model.max_positions={self.max_positions}: must be at least 16")
        if self.pad_vocab_to_multiple_of < 1:
            raise ValueError(f"model.pad_vocab_to_multiple_of={self.pad_vocab_to_multiple_of}: must be at least 1")
        if self.sharing == "all_tied" and (self.generator_width != 1 or self.generator_depth != self.layers):
            raise ValueError(
                "model.sharing=all_tied needs networks of one size: set model.generator_width to 1 "
                f"(is {self.generator_width}) and leave model.generator_layers null"
            )

    @property
    def generator_hidden_size(self) -> int:
        """Width of the generator's hidden states (features)."""
        return int(self.hidden_size * self.generator_width + 1e-3)  # a third, as a decimal fraction, too

    @property
    def generator_heads(self) -> int:
        """Attention heads of the generator: max(1, hidden/64); all_tied takes the discriminator's."""
        return self.heads if self.sharing == "all_tied" else max(1, self.generator_hidden_size // 64)

    @property
    def generator_intermediate_size(self) -> int:
        """Width of the generator's feed-forward layers: four times its hidden size."""
        return self.intermediate_size if self.sharing == "all_tied" else 4 * self.generator_hidden_size

    @property
    def generator_depth(self) -> int:
        """Transformer layers of the generator (count)."""
        return self.layers if self.generator_layers is None else self.generator_layers

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding matrix (count)."""
        if self.vocab_size is None:
            raise ValueError("model.vocab_size is not known yet: it comes from the shards' tokenizer")
        return -(-self.vocab_size // self.pad_vocab_to_multiple_of) * self.pad_vocab_to_multiple_of


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is learned: replaced token detection (ELECTRA, section 2), or what it is compared with (section 3.4)."""

    name: Literal["electra", "mlm", "replace_mlm", "all_tokens_mlm", "electra_15", "electric"] = "electra"
    """electra: tell replaced tokens from original ones. electra_15: at the selected positions only. mlm: fill [MASK]s
    in, one network. replace_mlm: restore what a generator replaced. all_tokens_mlm: restore every token, with a copy
    gate. electric: an energy of each token, against noise of two causal towers (arXiv 2012.08561)."""
    mask_fraction: float = 0.15
    """Selected positions as a share of a row's real tokens; the paper's large uses 0.25."""
    mask_token_probability: float = 0.85
    """A selected position becomes [MASK] with this probability and else stays as it is."""
    masking: Literal["token", "whole_word", "ngram"] = "token"
    """What is selected: tokens, whole words, or n-grams of up to 3 words with p(n) proportional to 1/n (ALBERT)."""
    mlm_masking: Literal["paper", "google"] = "paper"
    """mlm only. paper: of the selected 80% become [MASK], 10% a random token, 10% stay (BERT's). google: as
    mask_token_probability says, none become random tokens (the original code without its discriminator)."""
    generator_weight: float = 1.0
    """Weight of the generator's loss."""
    discriminator_weight: float = 50.0
    """Weight of the discriminator's loss (electra, electra_15, electric)."""
    vocabulary_weight: float = 1.0
    """Weight of the full-size network's cross-entropy (mlm, replace_mlm, all_tokens_mlm)."""
    temperature: float = 1.0
    """Softmax temperature of the generator's samples; above 1 makes replacements easier to tell."""
    disallow_correct: bool = False
    """Never sample the original token."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_fraction < 1:
            raise ValueError(f"objective.mask_fraction={self.mask_fraction}: must lie in (0, 1)")
        if not 0 <= self.mask_token_probability <= 1:
            raise ValueError(f"objective.mask_token_probability={self.mask_token_probability}: must lie in [0, 1]")
        if self.temperature <= 0:
            raise ValueError(f"objective.temperature={self.temperature}: must be above 0")
        for name in ("generator_weight", "discriminator_weight", "vocabulary_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name}={getattr(self, name)}: must be at least 0")

    @property
    def has_generator(self) -> bool:
        """Whether a generator makes replacements."""
        return self.name != "mlm"

    @property
    def detects(self) -> bool:
        """Whether the full-size network gives each token a verdict; else it restores tokens."""
        return self.name in ("electra", "electra_15", "electric")

    @property
    def full_size_weight(self) -> float:
        """Weight of the full-size network's loss."""
        return self.discriminator_weight if self.detects else self.vocabulary_weight

    @property
    def fates(self) -> tuple[float, float]:
        """Chances of a selected position to become [MASK] and to become a random token, in the masked text."""
        return (0.8, 0.1) if self.name == "mlm" and self.mlm_masking == "paper" else (self.mask_token_probability, 0.0)


def check_objective(model: ModelConfig, objective: ObjectiveConfig) -> None:
    """Refuse ways of sharing that an objective has no use for.

    Raises:
        ValueError: says why.
    """
    if objective.name == "mlm" and model.sharing != "tied":
        raise ValueError(
            f"model.sharing={model.sharing}: objective.name=mlm trains one network, which has nothing to share; "
            "leave model.sharing tied"
        )
    if objective.name == "electric" and model.sharing == "all_tied":
        raise ValueError(
            "model.sharing=all_tied: the generator of objective.name=electric is two networks that see one side of a "
            "token each, the discriminator sees both; take tied, untied or gdes"
        )


def idle_settings(model: ModelConfig, objective: ObjectiveConfig) -> list[str]:
    """Settings that are not at their defaults and that the objective has no use for, as ``section.field=value``."""
    idle: list[tuple[str, str]] = []
    if not objective.has_generator:
        idle += [("objective", name) for name in ("generator_weight", "temperature", "disallow_correct")]
        idle += [("model", name) for name in ("generator_width", "generator_layers")]
    if objective.name != "mlm":
        idle.append(("objective", "mlm_masking"))
    elif objective.mlm_masking == "paper":
        idle.append(("objective", "mask_token_probability"))
    idle.append(("objective", "vocabulary_weight" if objective.detects else "discriminator_weight"))
    sections = {"model": (model, ModelConfig()), "objective": (objective, ObjectiveConfig())}
    found = []
    for section, name in idle:
        given, default = (getattr(one, name) for one in sections[section])
        if given != default:
            found.append(f"{section}.{name}={given}")
    return found


def decays(name: str) -> bool:
    """Whether weight decay applies to a parameter of that name: to all but biases and LayerNorm.

    The optimizer's two groups follow it, and so does the order of the float32 masters in a checkpoint.
    """
    return not (name.endswith("bias") or "norm" in name)
