"""Small networks, packed rows, and the same weights in stock transformers."""

import pytest
import torch

from electra_ds.export.huggingface import build_huggingface
from electra_ds.model import noise
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.electra import Batch
from electra_ds.model.masking import SpecialIds, select
from electra_ds.model.objectives import build

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
SPECIAL_DICT = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


def make_model(objective=None, seed=0, **sizes):
    """A network in float64-free evaluation mode, with weights large enough to tell errors."""
    torch.manual_seed(seed)
    defaults = {"layers": 2, "hidden_size": 128, "heads": 2, "intermediate_size": 256, "embedding_size": 64}
    config = ModelConfig(**{**defaults, "generator_width": 0.5, "vocab_size": 101, "dropout": 0.0, **sizes})
    model = build(config, objective or ObjectiveConfig(), SPECIAL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        model.embeddings.word.weight[0].zero_()
    return model.eval()


def packed_rows(rows=3, length=48, vocab=101, seed=0):
    """Rows of segments of random lengths, some pairs, padding at the end of the last row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(rows, length, dtype=torch.long)
    segments, positions, types = torch.zeros_like(ids), torch.zeros_like(ids), torch.zeros_like(ids)
    for row in range(rows):
        begin, number = 0, 0
        limit = length - (7 if row == rows - 1 else 0)
        while limit - begin >= 3:
            size = int(torch.randint(3, 20, (1,), generator=generator))
            size = limit - begin if limit - begin - size < 3 else size
            number += 1
            here = slice(begin, begin + size)
            ids[row, here] = torch.randint(5, vocab, (size,), generator=generator)
            ids[row, begin], ids[row, begin + size - 1] = SPECIAL.cls, SPECIAL.sep
            segments[row, here] = number
            positions[row, here] = torch.arange(size)
            if size > 6:
                ids[row, begin + size // 2] = SPECIAL.sep
                types[row, begin + size // 2 + 1 : begin + size] = 1
            begin += size
    return ids, segments, positions, types


def make_batch(objective, rows=3, length=48, vocab=101, seed=0):
    """A micro-batch whose losses are means over itself."""
    ids, segments, positions, types = packed_rows(rows, length, vocab, seed)
    keys = noise.row_keys(seed, torch.zeros(rows, dtype=torch.long), torch.arange(rows))
    chosen = select(ids, segments > 0, keys, SPECIAL, objective.mask_fraction, objective.mask_token_probability)
    return Batch(
        ids,
        segments,
        positions,
        types,
        keys,
        chosen.positions,
        chosen.valid,
        chosen.generator_ids,
        1.0 / chosen.valid.sum(),
        1.0 / (segments > 0).sum(),
    )


def to_huggingface(model):
    """Both networks in stock transformers, with eager attention."""
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    networks = {}
    for network in ("generator", "discriminator"):
        networks[network] = build_huggingface(weights, model.config, SPECIAL_DICT, network)
        networks[network].set_attn_implementation("eager")
    return networks["generator"], networks["discriminator"]


@pytest.fixture
def objective():
    return ObjectiveConfig(mask_fraction=0.25)
