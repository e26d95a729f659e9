"""Does the export compute what the checkpoint computes?"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from electra_ds.export.huggingface import NETWORKS, assert_tied
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.electra import Electra
from electra_ds.model.masking import SpecialIds

TOLERANCE = 1e-4
"""Greatest difference in float32 logits that passes, as a share of the largest logit."""


def load_electra(weights: dict[str, Tensor], config: ModelConfig, special_ids: dict[str, int]) -> Electra:
    """The project's own module with a full state dict, in evaluation mode."""
    model = Electra(config, ObjectiveConfig(), SpecialIds(**special_ids))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    known = {name for name, _ in model.named_parameters()}
    assert not unexpected and not [name for name in missing if name in known], (missing, unexpected)
    return model.eval()


@torch.no_grad()
def greatest_differences(
    folder: Path, weights: dict[str, Tensor], config: ModelConfig, special_ids: dict[str, int], rows: int = 4
) -> dict[str, tuple[float, float]]:
    """Load both folders with stock transformers and compare logits on random text in pairs.

    Args:
        folder: holds generator/ and discriminator/.
        weights: of the checkpoint.
        config: of the model.
        special_ids: ids of special tokens.
        rows: sequences of up to 128 tokens that are tried.

    Returns:
        Per network the greatest absolute difference, and the largest absolute logit it is held against.
    """
    from transformers import ElectraForMaskedLM, ElectraForPreTraining

    ours = load_electra(weights, config, special_ids)
    length = min(128, config.max_positions)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size or 0, (rows, length), generator=generator)
    segments = torch.ones_like(ids)
    positions = torch.arange(length).expand_as(ids)
    types = (positions >= length // 2).long() * (config.token_types > 1)
    found = {}
    for network in NETWORKS:
        kind = ElectraForMaskedLM if network == "generator" else ElectraForPreTraining
        theirs = kind.from_pretrained(str(folder / network), dtype=torch.float32).eval()
        assert_tied(theirs, network)
        logits = theirs(input_ids=ids, token_type_ids=types).logits
        if network == "generator":
            own = ours.generator_logits(ours.generator_states(ids, segments, positions, types))
            own = own[..., : config.vocab_size]
        else:
            own = ours.discriminator_head(ours.discriminator_states(ids, segments, positions, types))
        found[network] = (float((logits - own).abs().max()), float(own.abs().max()))
    return found
