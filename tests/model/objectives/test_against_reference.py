"""Every objective against loops over rows, positions and vocabulary entries: losses, texts, verdicts and gradients."""

import pytest
import torch

from electra_ds.model.config import ObjectiveConfig
from tests.model.objectives.reference import Reference, batch_of, make

CASES = [
    ("electra", "tied"),
    ("electra_15", "tied"),
    ("electra_15", "gdes"),
    ("mlm", "tied"),
    *(("replace_mlm", sharing) for sharing in ("tied", "untied", "all_tied", "gdes")),
    *(("all_tokens_mlm", sharing) for sharing in ("tied", "untied", "all_tied", "gdes")),
    *(("electric", sharing) for sharing in ("tied", "untied", "gdes")),
]
WITH_PAIRS = ("electra", "electra_15", "mlm", "replace_mlm", "all_tokens_mlm", "electric")


def compare(objective, sharing, hands_on=True, **fields):
    model = make(objective, sharing=sharing)
    model.hands_on = hands_on
    batch = batch_of(objective, **fields)
    reference = Reference(model)
    wanted, corrupted, logits = reference.step(batch)
    output = model(batch)
    torch.testing.assert_close(output["loss"].double(), wanted.detach(), rtol=1e-5, atol=0)
    if objective.has_generator:
        assert torch.equal(output["corrupted_ids"], corrupted)
        assert (corrupted != batch.input_ids).any()
    if objective.detects:
        real = batch.segments > 0
        torch.testing.assert_close(output["discriminator_logits"][real].double(), logits[real], rtol=1e-4, atol=1e-4)
    wanted.backward()
    output["loss"].backward()
    for name, parameter in model.named_parameters():
        slope = reference.leaves[name].grad
        assert slope is not None and slope.any(), name
        scale = float(slope.abs().max())
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-4, atol=2e-5 * scale, msg=f"{name}, {scale}")


@pytest.mark.parametrize(("name", "sharing"), CASES)
def test_losses_texts_and_gradients_are_the_plain_ones(name, sharing):
    compare(ObjectiveConfig(name=name), sharing)


@pytest.mark.parametrize("name", ["electra", "electra_15", "replace_mlm", "all_tokens_mlm", "electric"])
def test_temperature_and_samples_that_are_never_right(name):
    compare(ObjectiveConfig(name=name, temperature=10 / 7, disallow_correct=True), "tied", seed=1)


def test_masked_text_of_the_original_code_without_random_tokens():
    compare(ObjectiveConfig(name="mlm", mlm_masking="google"), "tied", seed=2)


@pytest.mark.parametrize("name", WITH_PAIRS)
def test_rows_with_translation_pairs_make_terms_of_their_own(name):
    """Four terms: both networks' losses over rows without pairs, and over rows with pairs, each a mean of its own."""
    pairs = torch.tensor([False, True, True])
    compare(ObjectiveConfig(name=name, temperature=10 / 7), "tied", seed=3, pairs=pairs)


@pytest.mark.parametrize(("name", "sharing"), [case for case in CASES if case[1] in ("tied", "all_tied")])
def test_a_word_matrix_that_is_not_handed_on_gives_the_same_gradients(name, sharing):
    """As under ZeRO-3."""
    compare(ObjectiveConfig(name=name), sharing, hands_on=False, rows=2, length=64)


def test_the_generator_of_xlm_e_is_a_plain_setting():
    """Four layers of full width beside a deeper discriminator."""
    objective = ObjectiveConfig(temperature=10 / 7)
    model = make(objective, layers=3, generator_width=1.0, generator_layers=2)
    assert (len(model.generator.layers), len(model.discriminator.layers)) == (2, 3)
    batch = batch_of(objective, pairs=torch.tensor([True, False, False]))
    wanted, _, _ = Reference(model).step(batch)
    torch.testing.assert_close(model(batch)["loss"].double(), wanted.detach(), rtol=1e-5, atol=0)


def test_all_pairs_or_none_leave_the_other_terms_out():
    objective = ObjectiveConfig()
    model, nothing = make(objective), torch.zeros(3, dtype=torch.bool)
    losses = [model(batch_of(objective, pairs=pairs))["loss"] for pairs in (None, nothing, ~nothing)]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])
