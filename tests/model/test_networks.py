"""Sharing, initial weights, statistics, and the loss as a mean over the global batch."""

import dataclasses

import pytest
import torch
from sklearn.metrics import roc_auc_score

from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.electra import Electra
from electra_ds.model.flops import step_flops_per_token
from electra_ds.model.statistics import area_under_curve, logit_histogram
from tests.model.conftest import SPECIAL, make_batch, make_model


def gradients(model, batch):
    model.zero_grad()
    model(batch)["loss"].backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_gdes_sends_no_discriminator_gradient_into_the_generators_embeddings():
    objective = ObjectiveConfig(generator_weight=0.0)
    found = gradients(make_model(objective, sharing="gdes"), make_batch(objective))
    assert found["embeddings.word.weight"] is None or not found["embeddings.word.weight"].any()
    assert found["discriminator_embeddings.word_delta.weight"].any()
    assert found["discriminator_embeddings.position_delta.weight"].any()


def test_a_fresh_gdes_delta_is_zero_and_all_tied_networks_are_one_encoder():
    model = Electra(ModelConfig(vocab_size=50, sharing="gdes"), ObjectiveConfig(), SPECIAL)
    assert not model.discriminator_embeddings.word_delta.weight.any()
    tied = make_model(sharing="all_tied", generator_width=1.0)
    assert tied.discriminator is tied.generator


def test_tied_embeddings_collect_gradients_of_both_networks():
    joint = ObjectiveConfig(mask_fraction=0.25)
    batch = make_batch(joint)
    parts = []
    for generator, discriminator in ((1, 50), (1, 0), (0, 50)):
        objective = dataclasses.replace(joint, generator_weight=generator, discriminator_weight=discriminator)
        parts.append(gradients(make_model(objective).double(), batch)["embeddings.word.weight"])
    torch.testing.assert_close(parts[0], parts[1] + parts[2])


def test_the_generator_gets_no_gradient_through_its_samples():
    objective = ObjectiveConfig(generator_weight=0.0)
    found = gradients(make_model(objective), make_batch(objective))
    assert all(not g.any() for name, g in found.items() if name.startswith("generator") and g is not None)


@pytest.mark.parametrize("style", ["huggingface", "google"])
@torch.no_grad()
def test_initial_weights(style):
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=3000, initialization=style)
    model = Electra(config, ObjectiveConfig(), SPECIAL)
    layer = model.discriminator.layers[0]
    assert layer.intermediate.weight.std() == pytest.approx(0.02 if style == "huggingface" else 0.0176, rel=0.02)
    assert not layer.intermediate.bias.any()
    word = model.embeddings.word.weight
    projection = model.discriminator.embeddings_project.weight
    if style == "huggingface":
        assert not word[SPECIAL.pad].any()
        assert layer.intermediate.weight.abs().max() > 0.05, "untruncated"
        assert projection.std() == pytest.approx(0.02, rel=0.02)
    else:
        assert layer.intermediate.weight.abs().max() <= 0.04
        bound = (6 / (128 + 256)) ** 0.5
        assert bound * 0.95 < projection.abs().max() <= bound


def test_losses_of_micro_batches_add_up_to_the_global_mean():
    objective = ObjectiveConfig(mask_fraction=0.25)
    model, batch = make_model(objective).double(), make_batch(objective, rows=4)
    whole = model(batch)["loss"]
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        fields = {n: v[rows] if torch.is_tensor(v) and v.ndim else v for n, v in vars(batch).items()}
        parts.append(model(type(batch)(**fields))["loss"])
    torch.testing.assert_close(sum(parts), whole)


def test_padding_takes_no_part_in_any_loss():
    objective = ObjectiveConfig(mask_fraction=0.25)
    model, batch = make_model(objective), make_batch(objective)
    padding = batch.segments == 0
    assert padding.any()
    other = dataclasses.replace(batch, positions=batch.positions.masked_fill(padding, 3))
    assert torch.equal(model(batch)["loss"], model(other)["loss"])


def test_auc_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    replaced = torch.rand(8, 500, generator=generator) < 0.2
    logits = torch.randn(8, 500, generator=generator) + replaced * 1.3
    real = torch.rand(8, 500, generator=generator) < 0.9
    ours = area_under_curve(logit_histogram(logits, real, replaced))
    assert ours == pytest.approx(roc_auc_score(replaced[real].numpy(), logits[real].numpy()), abs=1e-3)
    assert area_under_curve(logit_histogram(logits, real, torch.zeros_like(replaced))) is None


def test_useful_flops_of_small_count_every_matrix_product_once():
    config = ModelConfig(vocab_size=30522)
    counted = step_flops_per_token(config, 0.15, 128)
    discriminator = 12 * 2 * (4 * 256 * 256 + 2 * 256 * 1024) + 12 * 4 * 128 * 256 + 2 * 128 * 256
    generator = 12 * 2 * (4 * 64 * 64 + 2 * 64 * 256) + 12 * 4 * 128 * 64 + 2 * 128 * 64
    heads = 2 * 128 * (64 + 30522) * 0.15 + 2 * 256 * 257
    assert counted == pytest.approx(3 * (discriminator + generator + heads))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 5}, r"model\.heads=5 does not divide model\.hidden_size=256; these do: 1, 2, 4"),
        ({"generator_width": 0.0}, r"model\.generator_width=0\.0: must lie in \(0, 1\]"),
        ({"dropout": 1.0}, r"model\.dropout=1\.0: must lie in \[0, 1\)"),
        ({"sharing": "all_tied"}, "all_tied needs networks of one size"),
        ({"vocab_size": 3}, r"model\.vocab_size=3"),
    ],
)
def test_impossible_sizes_are_refused_with_what_is_allowed(wrong, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**wrong)
