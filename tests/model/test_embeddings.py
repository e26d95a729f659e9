"""Embeddings of tokens, positions and types learn from every token of a step, in 16 bits as in 32."""

import pytest
import torch

from electra_ds.model.config import ModelConfig
from electra_ds.model.embeddings import DeltaEmbeddings, Embeddings

SIZES = ModelConfig(vocab_size=50, embedding_size=4, hidden_size=8, heads=2, layers=1, intermediate_size=16)
PADDING = 0


class Plain(torch.nn.Module):
    """In the place of the LayerNorm, which would hide what arrives."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, embedded):
        return embedded


def gradients(module, *arguments):
    module.norm = Plain()
    module(*arguments).sum().backward()
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_sum_over_many_tokens_does_not_stall(dtype):
    """Torch's own embeddings end at 256 in bfloat16 on a CPU, and at 2,048 in float16."""
    shape = (40, 128)
    ids, types = torch.full(shape, 7), torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    whole = torch.full((4,), 5120.0).to(dtype)
    base = Embeddings(SIZES, PADDING).to(dtype)
    found = gradients(base, ids, positions, types)
    assert torch.equal(found["word.weight"][7], whole)
    assert torch.equal(found["position.weight"][0], whole) and torch.equal(found["token_type.weight"][0], whole)
    delta = DeltaEmbeddings(SIZES, PADDING).to(dtype)
    found = gradients(delta, base, ids, positions, types)
    assert torch.equal(found["word_delta.weight"][7], whole) and torch.equal(found["token_type.weight"][0], whole)


def test_padding_gets_no_gradient():
    ids = torch.tensor([[PADDING, 3]])
    found = gradients(Embeddings(SIZES, PADDING), ids, torch.tensor([[0, 1]]), torch.zeros(1, 2, dtype=torch.long))
    assert not found["word.weight"][PADDING].any() and found["word.weight"][3].all()
    assert found["position.weight"][:2].all()
