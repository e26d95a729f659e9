"""Every parameter gets the learning rate the formula says, and the schedule is linear."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ElectraConfig, ElectraForSequenceClassification

from electra_ds.finetune.config import FinetuneConfig, size_defaults
from electra_ds.finetune.optimizer import build_optimizer, parameter_groups
from electra_ds.finetune.training import updates_of

LAYERS = 3
SHAPE = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def electra():
    return ElectraForSequenceClassification(ElectraConfig(embedding_size=8, **SHAPE))


def rates(model, prefix, **options):
    groups = parameter_groups(model, LAYERS, prefix, 1e-3, 0.8, **options)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters()), "each parameter in exactly one group"
    return {name: group["lr"] for group in groups for name in group["names"]}


@pytest.mark.parametrize(("kind", "top"), [("intended", LAYERS + 1), ("original", LAYERS + 2)])
def test_learning_rate_of_each_parameter_follows_the_formula(kind, top):
    found = rates(electra(), "electra", kind=kind)
    for name, rate in found.items():
        if name.startswith("classifier"):
            expected = 1e-3
        elif "encoder.layer" in name:
            expected = 1e-3 * 0.8 ** (top - (int(name.split("layer.")[1].split(".")[0]) + 1))
        else:
            assert "embeddings" in name
            expected = 1e-3 * 0.8**top
        assert rate == pytest.approx(expected, rel=1e-12), name


def test_the_last_layer_tells_the_two_kinds_apart():
    last = "electra.encoder.layer.2.output.dense.weight"
    assert rates(electra(), "electra", kind="intended")[last] == pytest.approx(1e-3 * 0.8)
    assert rates(electra(), "electra", kind="original")[last] == pytest.approx(1e-3 * 0.8**2)


def test_projection_of_the_embeddings_has_their_rate():
    found = rates(electra(), "electra")
    assert found["electra.embeddings_project.weight"] == found["electra.embeddings.word_embeddings.weight"]


def test_other_encoders_are_served_too_their_pooler_like_the_head():
    found = rates(BertForSequenceClassification(BertConfig(**SHAPE)), "bert")
    assert found["bert.pooler.dense.weight"] == found["classifier.weight"] == 1e-3
    assert found["bert.encoder.layer.2.output.dense.weight"] == pytest.approx(8e-4)


def test_weight_decay_spares_biases_and_layer_norm():
    model = electra()
    for group in parameter_groups(model, LAYERS, "electra", 1e-3, 0.8, weight_decay=0.01):
        for name in group["names"]:
            spared = name.endswith("bias") or "LayerNorm" in name
            assert group["weight_decay"] == (0.0 if spared else 0.01), name


def test_schedule_rises_from_zero_and_falls_to_zero():
    config = FinetuneConfig(model="m", train="t", validation="v", output="o", warmup=0.1)
    optimizer, scheduler = build_optimizer([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0}], config, 20)
    seen = []
    for _ in range(20):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen[:3] == pytest.approx([0.0, 0.5, 1.0])
    assert seen[11] == pytest.approx(0.5)
    assert optimizer.param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize(
    ("steps", "warmup", "expected"), [(1, 0.1, [1.0]), (2, 0.1, [0.0, 1.0]), (2, 0.99, [0.0, 1.0])]
)
def test_warmup_leaves_at_least_one_update_at_the_whole_rate(steps, warmup, expected):
    config = FinetuneConfig(model="m", train="t", validation="v", output="o", warmup=warmup)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer, scheduler = build_optimizer([{"params": [weight], "lr": 1.0}], config, steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    assert seen == expected and weight.item() != 1.0


@pytest.mark.parametrize(("examples", "epochs", "expected"), [(400, 3, 39), (5, 1, 1), (64, 0.5, 1), (65, 2, 6)])
def test_smaller_last_batches_are_updates_too(examples, epochs, expected):
    config = FinetuneConfig(model="m", train="t", validation="v", output="o", epochs=epochs)
    assert updates_of(examples, config) == expected


@pytest.mark.parametrize(
    ("hidden", "size", "rate", "decay"),
    [(256, "small", 3e-4, 0.8), (768, "base", 1e-4, 0.8), (1024, "large", 5e-5, 0.9)],
)
def test_defaults_by_size_are_the_papers(hidden, size, rate, decay):
    found = size_defaults(hidden)
    assert (found.size, found.learning_rate, found.layer_decay) == (size, rate, decay)
