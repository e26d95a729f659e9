"""The joint steps of others, as a user of `transformers` or of `electra-pytorch` would write them.

Shape legend: B rows, L tokens, K slots for selected positions of a row, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from electra_ds.export.mapping import huggingface_config
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.masking import SpecialIds, scatter_tokens

IGNORED = -100
"""Label that torch's cross-entropy leaves out, as Hugging Face's models expect it."""
FIELDS = ("input_ids", "generator_ids", "token_types", "selected", "selected_valid")
"""What a peer's step takes of a prepared batch."""


class JointStep(nn.Module):
    """`ElectraForMaskedLM` and `ElectraForPreTraining` with one set of embeddings; the forward pass is the joint loss.

    No attention mask: rows are packed full, and without one their attention is at its fastest. So attention is not
    confined to segments, positions do not restart, and what little padding there is counts in the loss.
    """

    def __init__(
        self,
        config: ModelConfig,
        special: SpecialIds,
        objective: ObjectiveConfig,
        attention: str = "sdpa",
        masked_head: bool = False,
        compiled: bool = False,
    ) -> None:
        """Build both with Hugging Face's own initialisation.

        Args:
            config: sizes; the vocabulary must be known.
            special: ids of special tokens.
            objective: loss weights.
            attention: ``sdpa`` or ``eager``.
            masked_head: whether the vocabulary head runs at the selected positions alone; else it runs everywhere, as
                `ElectraForMaskedLM` does by itself.
            compiled: whether each network goes through torch.compile.
        """
        super().__init__()
        self.objective, self.masked_head = objective, masked_head
        generator, self.discriminator = build_networks(config, special, attention)
        self.generator: Any = SelectedLogits(generator) if masked_head else generator
        if compiled:
            self.generator.compile()
            self.discriminator.compile()

    def forward(
        self, input_ids: Tensor, generator_ids: Tensor, token_types: Tensor, selected: Tensor, selected_valid: Tensor
    ) -> Tensor:
        """Joint loss (scalar).

        Args:
            input_ids: int64 [B, L], the text.
            generator_ids: int64 [B, L], the text with [MASK]s.
            token_types: int64 [B, L].
            selected: int64 [B, K], positions that the generator fills in.
            selected_valid: bool [B, K].
        """
        loss, logits = self.generator_loss(input_ids, generator_ids, token_types, selected, selected_valid)
        corrupted = scatter_tokens(input_ids, selected, gumbel_samples(logits), selected_valid)
        verdict = self.discriminator(
            input_ids=corrupted, token_type_ids=token_types, labels=(corrupted != input_ids).long()
        )
        return self.objective.generator_weight * loss + self.objective.discriminator_weight * verdict.loss

    def generator_loss(
        self, input_ids: Tensor, generator_ids: Tensor, token_types: Tensor, selected: Tensor, selected_valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy over the selected positions, and the logits there [B, K, V]."""
        if self.masked_head:
            logits = self.generator(generator_ids, token_types, selected)
            labels = input_ids.gather(1, selected).masked_fill(~selected_valid, IGNORED)
            return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED), logits
        labels = _labels(input_ids, selected, selected_valid)
        output = self.generator(input_ids=generator_ids, token_type_ids=token_types, labels=labels)
        rows = torch.arange(len(selected), device=selected.device)[:, None]
        return output.loss, output.logits.detach()[rows, selected]


class SelectedLogits(nn.Module):
    """The generator, its vocabulary head run at some positions only."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, ids: Tensor, token_types: Tensor, selected: Tensor) -> Tensor:
        """Map int64 [B, L] ids and token types to logits [B, K, V] at `selected` [B, K]."""
        hidden = self.generator.electra(input_ids=ids, token_type_ids=token_types).last_hidden_state
        hidden = hidden.gather(1, selected[..., None].expand(-1, -1, hidden.shape[-1]))
        return self.generator.generator_lm_head(self.generator.generator_predictions(hidden))


def _labels(input_ids: Tensor, selected: Tensor, selected_valid: Tensor) -> Tensor:
    """The text at the selected positions, and the ignored label elsewhere; int64 [B, L]."""
    empty = torch.full_like(input_ids, IGNORED)
    return scatter_tokens(empty, selected, input_ids.gather(1, selected), selected_valid).contiguous()


def gumbel_samples(logits: Tensor) -> Tensor:
    """Draw a token from softmax(logits) [..., V] by Gumbel-max; int64 [...]."""
    with torch.no_grad():
        scores = logits.detach().float()
        return (scores - torch.empty_like(scores).exponential_().log()).argmax(-1)


def build_networks(config: ModelConfig, special: SpecialIds, attention: str) -> tuple[Any, Any]:
    """Hugging Face's generator and discriminator, which share one embeddings module (LayerNorm included)."""
    from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

    networks = []
    for kind, network in ((ElectraForMaskedLM, "generator"), (ElectraForPreTraining, "discriminator")):
        settings = ElectraConfig(**huggingface_config(config, asdict(special), network))
        settings._attn_implementation = attention
        networks.append(kind(settings).train())
    generator, discriminator = networks
    discriminator.electra.embeddings = generator.electra.embeddings
    assert generator.generator_lm_head.weight is discriminator.electra.embeddings.word_embeddings.weight
    return generator, discriminator


class ElectraPytorchStep(nn.Module):
    """`electra-pytorch`'s joint step around the same two models, as its own pretraining script sets it up.

    It draws its masks itself, of 15% of the positions, and runs both heads everywhere.
    """

    def __init__(self, config: ModelConfig, special: SpecialIds, objective: ObjectiveConfig) -> None:
        """Args: config: sizes. special: ids of special tokens. objective: masked share and loss weights."""
        super().__init__()
        from electra_pytorch import Electra  # type: ignore[import-not-found]

        generator, discriminator = build_networks(config, special, "sdpa")
        self.step = Electra(
            _LogitsOnly(generator),
            _LogitsOnly(discriminator),
            num_tokens=config.vocab_size,
            mask_token_id=special.mask,
            pad_token_id=special.pad,
            mask_prob=objective.mask_fraction,
            mask_ignore_token_ids=[special.cls, special.sep],
            disc_weight=objective.discriminator_weight,
            gen_weight=objective.generator_weight,
        )

    def forward(
        self, input_ids: Tensor, generator_ids: Tensor, token_types: Tensor, selected: Tensor, selected_valid: Tensor
    ) -> Tensor:
        """Joint loss (scalar) of int64 [B, L] ids and token types; the masks drawn before are not used."""
        return self.step(input_ids, token_type_ids=token_types).loss


class _LogitsOnly(nn.Module):
    """A Hugging Face model that returns its logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        return self.model(*arguments, **keywords)[0]


class ModernBertStep(nn.Module):
    """Masked language modelling with transformers' ModernBERT of the discriminator's width and depth.

    One network instead of two, and so another objective: a speed to know, not a rival. Loss at the selected positions
    (`sparse_prediction`), every sequence a row.
    """

    def __init__(self, config: ModelConfig, special: SpecialIds) -> None:
        """Args: config: sizes. special: ids of special tokens."""
        super().__init__()
        from transformers import ModernBertConfig, ModernBertForMaskedLM

        settings = ModernBertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            # Its feed-forward layers have a gate: two matrices in, so two thirds of the width make the same products.
            intermediate_size=2 * config.intermediate_size // 3,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_positions,
            pad_token_id=special.pad,
            cls_token_id=special.cls,
            sep_token_id=special.sep,
            bos_token_id=special.cls,
            eos_token_id=special.sep,
            sparse_prediction=True,
            reference_compile=False,
        )
        settings._attn_implementation = "sdpa"
        self.model = ModernBertForMaskedLM(settings).train()

    def forward(
        self, input_ids: Tensor, generator_ids: Tensor, token_types: Tensor, selected: Tensor, selected_valid: Tensor
    ) -> Tensor:
        """Masked-LM loss (scalar) at the selected positions of int64 [B, L]."""
        labels = _labels(input_ids, selected, selected_valid)
        return self.model(input_ids=generator_ids, attention_mask=torch.ones_like(input_ids), labels=labels).loss
