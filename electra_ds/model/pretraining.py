"""What the objectives share: the module that an engine takes, and the joint step of generator and full-size network.

Every objective has one call, `forward(batch)`, and returns the same kind of dictionary. The full-size network, the one
that a run is for, is named ``discriminator`` in all of them, whatever it learns: one name in every checkpoint.

Shape legend: B rows, L tokens, K slots for selected positions of a row, F hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from electra_ds.kernels.attention import Layout, attention_layout
from electra_ds.kernels.config import Backends
from electra_ds.kernels.embedding import SharedMatrix
from electra_ds.model import noise
from electra_ds.model.batch import Batch
from electra_ds.model.config import ModelConfig, ObjectiveConfig, check_objective
from electra_ds.model.embeddings import DeltaEmbeddings, Embeddings
from electra_ds.model.encoder import Encoder
from electra_ds.model.heads import GeneratorHead
from electra_ds.model.initialization import initialize
from electra_ds.model.masking import SpecialIds, scatter_tokens
from electra_ds.model.statistics import batch_statistics, loss_sums, no_histogram, verdict_counts

Place = tuple[Layout, Tensor, Tensor]
"""Where tokens stand: layout, positions and token types."""


class Guess(NamedTuple):
    """What a generator says of a batch."""

    loss: Tensor
    """float32 scalar, sum of the weighted cross-entropies."""
    losses: Tensor
    """float32 [B, ...], what `loss` sums up, without gradient."""
    predicted: Tensor
    """bool [B, ...], positions of the loss."""
    samples: Tensor
    """int64 [B, K], a token for each selected position."""
    correct: Tensor
    """bool [B, K], whether the original is the most probable token."""
    log_q: Tensor | None = None
    """float32 [B, L], log probability of the token that then stands there; electric only."""


class Corrupted(NamedTuple):
    """The text with the generator's tokens in it."""

    ids: Tensor
    """int64 [B, L]."""
    replaced: Tensor
    """bool [B, L], where it differs from the original."""


class Judgement(NamedTuple):
    """What the full-size network says of the corrupted text, or of the masked one."""

    loss: Tensor
    """float32 scalar, sum of its weighted losses."""
    losses: Callable[[], Tensor]
    """float32 [B, ...], what `loss` sums up, without gradient."""
    logits: Tensor | None = None
    """float32 [B, L], detached; above 0 means "replaced". None where it restores tokens instead."""
    judged: Tensor | None = None
    """bool [B, L], tokens that the verdicts are scored on."""
    labels: Tensor | None = None
    """bool [B, L]."""
    correct: Tensor | None = None
    """bool [B, K], whether the original is the most probable token, where it restores tokens."""


class Pretraining(nn.Module):
    """Embeddings and what an engine, a compiler or a plan asks of every objective."""

    discriminator: Encoder
    """The full-size network."""
    parts: ClassVar[tuple[str, ...]]
    """Children in the order in which they run; what runs between them goes with the one before."""

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig, special: SpecialIds) -> None:
        """Build and initialise from torch's global generator; `config.vocab_size` must be known."""
        super().__init__()
        check_objective(config, objective)
        self.config, self.objective, self.special = config, objective, special
        assert config.vocab_size is not None
        attention_dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.common = (config.dropout, attention_dropout, config.layer_norm_eps)
        self.drops = bool(config.dropout or attention_dropout)
        self.backends = Backends()
        self.hands_on = True
        """Uses of the word matrix hand it on, so that their gradients meet in one buffer; not where an engine takes
        the matrix apart (ZeRO-3) and must see every use go through its module."""
        self.embeddings = Embeddings(config, special.pad)
        self.discriminator_embeddings: Embeddings | DeltaEmbeddings | None = None

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """Every run of an encoder in a step, in order; one encoder may run twice."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and statistics of a micro-batch.

        Returns:
            loss: float32 scalar, the share of this micro-batch in the global batch's loss.
            statistics: float64 [len(STATISTICS)], sums over the micro-batch, see `statistics.STATISTICS`.
            histogram: float64 [2, bins], the discriminator's logits of tokens by label, for the AUC; zeros where the
                objective has no discriminator.
            samples: int64 [B, K], the generator's tokens, and corrupted_ids: int64 [B, L]; where there is a generator.
            discriminator_logits: float32 [B, L], detached; where there is a discriminator.
        """
        raise NotImplementedError

    def use(self, backends: Backends) -> None:
        """Choose the backends of the fused operations."""
        for module in self.modules():
            if hasattr(module, "backends"):
                module.backends = backends  # type: ignore[assignment]

    def recompute_layers(self, recomputes: bool) -> None:
        """Keep only the layers' inputs for the backward pass, or everything."""
        for encoder in self.encoders:
            encoder.recomputes = recomputes

    def layout(self, segments: Tensor, slots: int | None = None) -> Layout:
        """Where the segments [B, L] lie, for all encoders that see both sides of a token."""
        return attention_layout(segments, self.dtype, self.backends.attention, slots)

    def layouts(self, batch: Batch) -> tuple[Layout, ...]:
        """The layout of each of `encoders`."""
        return (self.layout(batch.segments, batch.slots),) * len(self.encoders)

    @property
    def dtype(self) -> torch.dtype:
        """Type that the weights are computed with."""
        return self.embeddings.norm.weight.dtype

    def dropout_keys(self, keys: Tensor) -> tuple[Tensor | None, ...]:
        """Keys int32 [sites, B, 2] of each encoder's dropout from the rows' keys; None where nothing is dropped."""
        if not self.training or not self.drops:
            return (None,) * len(self.encoders)
        sites = [encoder.sites for encoder in self.encoders]
        return noise.dropout_keys(keys, sum(sites)).split(sites)

    def shared_matrix(self) -> SharedMatrix | None:
        """The word matrix at the beginning of a forward pass, or None where each use goes through its module."""
        word = self.embeddings.word
        return SharedMatrix(word.weight, word.padding_id) if self.hands_on else None

    def full_size_encoder(self) -> Encoder:
        """A new encoder of the sizes that a run is for."""
        config = self.config
        return Encoder(
            config.embedding_size,
            config.hidden_size,
            config.heads,
            config.intermediate_size,
            config.layers,
            *self.common,
        )

    def generator_encoder(self) -> Encoder:
        """A new encoder of the generator's sizes."""
        config = self.config
        return Encoder(
            config.embedding_size,
            config.generator_hidden_size,
            config.generator_heads,
            config.generator_intermediate_size,
            config.generator_depth,
            *self.common,
        )

    def head_sizes(self, hidden_size: int) -> tuple[int, int, int, int, float]:
        """Arguments of a vocabulary head on states of `hidden_size` features."""
        config = self.config
        assert config.vocab_size is not None
        return hidden_size, config.embedding_size, config.vocab_size, config.padded_vocab_size, config.layer_norm_eps

    def discriminator_states(
        self,
        ids: Tensor,
        layout: Layout,
        positions: Tensor,
        token_types: Tensor,
        keys: Tensor | None = None,
        shared: SharedMatrix | None = None,
    ) -> Tensor:
        """Hidden states of the full-size network, [B, L, F]; `keys` int32 [sites, B, 2] for dropout."""
        if isinstance(self.discriminator_embeddings, DeltaEmbeddings):
            embedded = self.discriminator_embeddings(self.embeddings, ids, positions, token_types)
        elif self.discriminator_embeddings is not None:
            embedded = self.discriminator_embeddings(ids, positions, token_types)
        else:
            embedded = self.embeddings(ids, positions, token_types, shared)
        hidden: Tensor = self.discriminator(embedded, layout, keys)
        return hidden

    def output_matrix(self, shared: SharedMatrix | None) -> tuple[Callable[..., Any], SharedMatrix | None]:
        """The word matrix of the full-size network as a vocabulary head takes it, and what stands for it, if anything.

        With gdes it is E without gradient plus the difference, as in its look-ups.
        """
        own = self.discriminator_embeddings
        if isinstance(own, DeltaEmbeddings):
            matrix = own.matrix(self.embeddings)
            return lambda use: use(matrix), None
        if own is not None:
            return own.word, None
        return self.embeddings.word, shared


class JointPretraining(Pretraining):
    """A generator fills masked positions in, and a full-size network reads the result.

    A subclass says what the full-size network's head is and what it learns: `add_head` and `judge`.
    """

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig, special: SpecialIds) -> None:
        """Build and initialise from torch's global generator; `config.vocab_size` must be known."""
        super().__init__(config, objective, special)
        self.add_generator()
        if config.sharing == "untied":
            self.discriminator_embeddings = Embeddings(config, special.pad)
        elif config.sharing == "gdes":
            self.discriminator_embeddings = DeltaEmbeddings(config, special.pad)
        if config.sharing == "all_tied":
            self.discriminator = self.generator
        else:
            self.discriminator = self.full_size_encoder()
        self.add_head()
        initialize(self, config)

    def add_generator(self) -> None:
        """Make ``generator`` and ``generator_head``."""
        self.generator = self.generator_encoder()
        self.generator_head = GeneratorHead(*self.head_sizes(self.config.generator_hidden_size))

    def add_head(self) -> None:
        """Make the full-size network's head."""
        raise NotImplementedError

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """Generator and full-size network."""
        return self.generator, self.discriminator

    def generator_states(
        self,
        ids: Tensor,
        layout: Layout,
        positions: Tensor,
        token_types: Tensor,
        keys: Tensor | None = None,
        shared: SharedMatrix | None = None,
    ) -> Tensor:
        """Hidden states of the generator, [B, L, F of the generator]; `keys` int32 [sites, B, 2] for dropout."""
        hidden: Tensor = self.generator(self.embeddings(ids, positions, token_types, shared), layout, keys)
        return hidden

    def generator_logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [..., V] over the padded vocabulary from hidden states [..., F of the generator]."""
        return self.generator_head.logits(hidden, self.embeddings.word)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Pretraining.forward`."""
        objective = self.objective
        layouts = self.layouts(batch)
        keys = self.dropout_keys(batch.keys)
        shared = self.shared_matrix()
        guess = self.guess(batch, layouts[:-1], keys[:-1], shared)
        valid, originals = batch.selected_valid, batch.input_ids.gather(1, batch.selected)
        ids = scatter_tokens(batch.input_ids, batch.selected, guess.samples, valid)
        corrupted = Corrupted(ids, ids != batch.input_ids)

        place = (layouts[-1], batch.positions, batch.token_types)
        states = self.discriminator_states(ids, *place, keys[-1], shared)
        judgement = self.judge(batch, states, corrupted, guess, shared)
        scale, _ = self.full_size_scales(batch)
        loss = (
            objective.generator_weight * batch.generator_scale * guess.loss
            + objective.full_size_weight * scale * judgement.loss
        )
        with torch.no_grad():
            sums, histogram = self._sums(batch, guess, judgement)
            sums["masked_correct"] = (guess.correct & valid).sum()
            sums["sample_correct"] = ((guess.samples == originals) & valid).sum()
            sums["replaced"] = corrupted.replaced.sum()
            statistics = batch_statistics(**sums)
        output = {
            "loss": loss,
            "statistics": statistics,
            "histogram": histogram,
            "samples": guess.samples,
            "corrupted_ids": ids,
        }
        if judgement.logits is not None:
            output["discriminator_logits"] = judgement.logits
        return output

    def guess(
        self,
        batch: Batch,
        layouts: tuple[Layout, ...],
        keys: tuple[Tensor | None, ...],
        shared: SharedMatrix | None,
    ) -> Guess:
        """The generator's part: its loss at the selected positions, and samples there."""
        hidden = self.generator_states(
            batch.generator_ids, layouts[0], batch.positions, batch.token_types, keys[0], shared
        )
        originals, valid, objective = batch.input_ids.gather(1, batch.selected), batch.selected_valid, self.objective
        output = self.generator_head(
            at_positions(hidden, batch.selected),
            self.embeddings.word,
            originals.flatten(),
            batch.generator_weights(valid).flatten(),
            noise.uniform(batch.keys[:, None], batch.selected, noise.SAMPLE).flatten(),
            objective.temperature,
            objective.disallow_correct,
            shared,
        )
        losses, samples, correct = (
            value.view_as(originals) for value in (output.losses, output.samples, output.correct)
        )
        return Guess(output.loss, losses, valid, samples, correct)

    def judge(
        self, batch: Batch, states: Tensor, corrupted: Corrupted, guess: Guess, shared: SharedMatrix | None
    ) -> Judgement:
        """The full-size network's part, from its hidden states [B, L, F] of the corrupted text."""
        raise NotImplementedError

    def full_size_scales(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """What multiplies the full-size network's loss, in rows without and with translation pairs."""
        return batch.discriminator_scale, batch.pair_discriminator_scale

    def _sums(self, batch: Batch, guess: Guess, judgement: Judgement) -> tuple[dict[str, Tensor], Tensor]:
        """Statistics that both networks' losses and counts make, and the histogram of verdicts."""
        real, valid, pairs = batch.segments > 0, batch.selected_valid, batch.pair_rows
        sums = {"selected": valid.sum(), "real": real.sum()}
        sums["predicted"] = sums["selected"] if guess.predicted is valid else guess.predicted.sum()
        named = [
            ("generator_sum", guess.loss, lambda: guess.losses, batch.generator_scale, batch.pair_generator_scale),
            ("discriminator_sum", judgement.loss, judgement.losses, *self.full_size_scales(batch)),
        ]
        for name, loss, losses, scale, pair_scale in named:
            weight = None if pair_scale is None else pair_scale / scale
            found = loss_sums(loss, None if pairs is None else losses(), pairs, weight)
            sums.update(zip((name, f"pair_{name}"), found, strict=False))
        if pairs is not None:
            sums["pair_predicted"] = (guess.predicted & pairs[:, None]).sum()
            sums["pair_real"] = (real & pairs[:, None]).sum()
        if judgement.correct is not None:
            sums["restored"] = (judgement.correct & valid).sum()
        if judgement.logits is None:
            return sums, no_histogram(valid.device)
        assert judgement.judged is not None and judgement.labels is not None
        counts, histogram = verdict_counts(judgement.logits, judgement.judged, judgement.labels)
        return {**sums, **counts}, histogram


def at_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """Hidden states [B x K, F] at int64 [B, K] of [B, L, F]."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1)
