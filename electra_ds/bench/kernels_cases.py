"""What `bench kernels` measures: each fused operation at a model's shapes, beside the plain composition of torch.

Shape legend: B rows, L tokens, F hidden size, I feed-forward size, H heads, D features of a head, N selected positions,
E embedding size, V padded vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from electra_ds.bench.plan import TINY
from electra_ds.bench.step_peers import gumbel_samples
from electra_ds.bench.text import VOCABULARY
from electra_ds.kernels.attention import Layout, attention, attention_layout, count_segments, segment_slots
from electra_ds.kernels.discriminator import discriminator_loss
from electra_ds.kernels.dropout import dropout
from electra_ds.kernels.gelu import bias_gelu
from electra_ds.kernels.layer_norm import dropout_add_layer_norm
from electra_ds.kernels.vocabulary import vocabulary_head
from electra_ds.model.config import ModelConfig
from electra_ds.recipe import parse_recipe

PLAIN, TORCH = "plain", "torch"
COMPILED = ", compiled"
_EPS = 1e-12


@dataclass(frozen=True)
class Shape:
    """Sizes of the tensors."""

    rows: int
    length: int
    model: ModelConfig
    selected: float
    """Share of the tokens."""
    dtype: torch.dtype
    device: torch.device

    def random(self, *sizes: int, learns: bool = True) -> Tensor:
        """Normal numbers."""
        return torch.randn(sizes, device=self.device).to(self.dtype).requires_grad_(learns)

    @property
    def keys(self) -> Tensor:
        """Dropout keys, int32 [B, 2]."""
        return torch.randint(2**31 - 1, (self.rows, 2), dtype=torch.int32, device=self.device)


def shape_of(
    name: str, program: str, tokens: int, dtype: torch.dtype, device: torch.device, tiny: bool = False
) -> Shape:
    """The shape of a recipe's model, with the paper's vocabulary.

    Args:
        name: of a shipped recipe, or a file.
        program: what errors name.
        tokens: of a micro-batch; one row at least.
        dtype: of the tensors.
        device: where they lie.
        tiny: a few small layers on rows of 32, for tests.

    Raises:
        UserError: the recipe is wrong.
    """
    options = [*TINY[1:], "--data.sequence_length=32"] if tiny else []
    recipe = parse_recipe([f"--config={name}", "--output=unused", "--data.path=unused", *options], program)
    length = recipe.data.sequence_length
    model = replace(recipe.model, vocab_size=VOCABULARY)
    return Shape(max(1, tokens // length), length, model, recipe.objective.mask_fraction, dtype, device)


@dataclass(frozen=True)
class Case:
    """One operation at one shape."""

    operation: str
    """As `kernels.backends` names it; its backends."""
    shape: str
    """For people."""
    inputs: Sequence[Tensor]
    """What gets a gradient."""
    ways: dict[str, Callable[[], Tensor]]
    """The same result, up to dropout and samples, by the name of the way."""
    work: float
    """Of forward and backward: bytes that must be moved, or FLOPs."""
    unit: str
    """Of `work` in a nanosecond: ``GB/s`` or ``GFLOP/s``."""
    compiles: bool = True
    """Whether torch.compile is put around ``torch``; else it is asked for by name."""


def packed_layouts(segments: Tensor, dtype: torch.dtype, backends: Sequence[str]) -> dict[str, Layout]:
    """The layout of segments [B, L] for each backend of attention, with as much room for them as training makes."""
    slots = segment_slots(int(count_segments(segments).sum()))
    return {name: attention_layout(segments, dtype, name, slots) for name in backends}


def attention_case(shape: Shape, backends: Sequence[str]) -> Case:
    """Attention over rows of which every other one has two segments; plain: torch's fused attention without a mask."""
    heads, length = shape.model.heads, shape.length
    features, probability = shape.model.hidden_size // heads, shape.model.dropout
    projected, keys = shape.random(shape.rows, length, 3, heads, features), shape.keys
    segments = torch.ones(shape.rows, length, dtype=torch.long, device=shape.device)
    segments[1::2, length // 2 :] = 2
    layouts = packed_layouts(segments, shape.dtype, backends)

    def plain() -> Tensor:
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        context = functional.scaled_dot_product_attention(query, key, value, dropout_p=probability)
        return context.transpose(1, 2).flatten(2)

    def own(name: str) -> Callable[[], Tensor]:
        return lambda: attention(projected, layouts[name], probability, keys, name)

    squares = ((shape.rows + 1) // 2) * length**2 + (shape.rows // 2) * length**2 / 2
    flops = 3 * 4 * squares * heads * features
    text = f"[{shape.rows}, {length}, 3, {heads}, {features}]"
    return Case("attention", text, [projected], _ways(plain, own, backends), flops, "GFLOP/s")


def layer_norm_case(shape: Shape, backends: Sequence[str]) -> Case:
    """Bias, dropout, residual and LayerNorm."""
    width, probability = shape.model.hidden_size, shape.model.dropout
    hidden, residual = (shape.random(shape.rows, shape.length, width) for _ in range(2))
    bias, weight, shift = (shape.random(width) for _ in range(3))
    keys = shape.keys

    def plain() -> Tensor:
        total = residual + functional.dropout(hidden + bias, probability)
        return functional.layer_norm(total, (width,), weight, shift, _EPS)

    def own(name: str) -> Callable[[], Tensor]:
        return lambda: dropout_add_layer_norm(hidden, bias, residual, weight, shift, _EPS, keys, probability, name)

    # Forward: two read, one written. Backward: the gradient and both inputs read, two gradients written.
    return Case(
        "layer_norm",
        str(list(hidden.shape)),
        [hidden, residual, bias, weight, shift],
        _ways(plain, own, backends),
        8 * _bytes(hidden),
        "GB/s",
    )


def gelu_case(shape: Shape, backends: Sequence[str]) -> Case:
    """Bias and GELU between the matrix products of the feed-forward layers."""
    hidden = shape.random(shape.rows, shape.length, shape.model.intermediate_size)
    bias = shape.random(shape.model.intermediate_size)

    def own(name: str) -> Callable[[], Tensor]:
        return lambda: bias_gelu(hidden, bias, name)

    ways = _ways(lambda: functional.gelu(hidden + bias), own, backends)
    return Case("gelu", str(list(hidden.shape)), [hidden, bias], ways, 5 * _bytes(hidden), "GB/s")


def dropout_case(shape: Shape, backends: Sequence[str]) -> Case:
    """Dropout by itself, from counters; plain: from torch's generator, which keeps a mask."""
    hidden, keys = shape.random(shape.rows, shape.length, shape.model.hidden_size), shape.keys
    probability = shape.model.dropout

    def own(_: str) -> Callable[[], Tensor]:
        return lambda: dropout(hidden, keys, probability)

    ways = _ways(lambda: functional.dropout(hidden, probability), own, [TORCH])
    return Case("dropout", str(list(hidden.shape)), [hidden], ways, 4 * _bytes(hidden), "GB/s")


def vocabulary_case(shape: Shape, backends: Sequence[str]) -> Case:
    """Projection onto the vocabulary, cross-entropy and one sample a position; plain: with Gumbel's noise."""
    model = shape.model
    assert model.vocab_size is not None
    count = max(1, round(shape.selected * shape.rows * shape.length))
    entries = model.padded_vocab_size
    hidden, weight = shape.random(count, model.embedding_size), shape.random(entries, model.embedding_size)
    bias = shape.random(entries)
    targets = torch.randint(model.vocab_size, (count,), device=shape.device)
    weights = torch.full((count,), 1.0 / count, device=shape.device)
    uniforms = torch.rand(count, device=shape.device)
    vocabulary = model.vocab_size

    def plain() -> Tensor:
        logits = functional.linear(hidden, weight, bias)
        drawn = gumbel_samples(logits) + logits.detach().argmax(-1)
        # Into the result, or the compiler leaves the sample out; too small to change it.
        return functional.cross_entropy(logits, targets) + 1e-30 * drawn.sum()

    def own(name: str) -> Callable[[], Tensor]:
        compiled = name.endswith(COMPILED)
        backend = name.removesuffix(COMPILED)
        return lambda: (
            vocabulary_head(
                hidden, weight, bias, targets, weights, uniforms, vocabulary, backend=backend, compiled=compiled
            ).loss
        )

    flops = 3 * 2.0 * count * model.embedding_size * vocabulary
    ways = _ways(plain, own, [*backends, TORCH + COMPILED])
    text = f"[{count}, {model.embedding_size}] x [{entries}, {model.embedding_size}]"
    return Case("vocabulary_head", text, [hidden, weight, bias], ways, flops, "GFLOP/s", compiles=False)


def discriminator_case(shape: Shape, backends: Sequence[str]) -> Case:
    """GELU, last dense and binary cross-entropy over the tokens."""
    width = shape.model.hidden_size
    hidden, bias, weight, shift = (
        shape.random(shape.rows, shape.length, width),
        shape.random(width),
        shape.random(width),
        shape.random(1),
    )
    replaced = torch.rand(shape.rows, shape.length, device=shape.device) < shape.selected
    weights = torch.full((shape.rows, shape.length), 1.0 / replaced.numel(), device=shape.device)

    def plain() -> Tensor:
        logits = functional.linear(functional.gelu(hidden + bias), weight[None], shift).squeeze(-1)
        return functional.binary_cross_entropy_with_logits(logits.float(), replaced.float())

    def own(name: str) -> Callable[[], Tensor]:
        return lambda: discriminator_loss(hidden, bias, weight, shift, replaced, weights, name).loss

    ways = _ways(plain, own, backends)
    inputs = [hidden, bias, weight, shift]
    return Case("discriminator_head", str(list(hidden.shape)), inputs, ways, 3 * _bytes(hidden), "GB/s")


CASES: dict[str, Callable[[Shape, Sequence[str]], Case]] = {
    "attention": attention_case,
    "layer_norm": layer_norm_case,
    "gelu": gelu_case,
    "dropout": dropout_case,
    "vocabulary_head": vocabulary_case,
    "discriminator_head": discriminator_case,
}
"""By operation, as `kernels.backends` names it."""


def _ways(
    plain: Callable[[], Tensor], own: Callable[[str], Callable[[], Tensor]], backends: Sequence[str]
) -> dict[str, Callable[[], Tensor]]:
    return {PLAIN: plain, **{name: own(name) for name in backends}}


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
