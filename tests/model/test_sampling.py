"""Samples come from the softmax, follow the row's key, and never leave the vocabulary."""

import pytest
import torch
from scipy import stats

from electra_ds.kernels.sampling import sample_tokens
from electra_ds.model import noise
from electra_ds.model.config import ObjectiveConfig
from tests.model.conftest import make_batch, make_model


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.7])
@pytest.mark.parametrize("vocab", [37, 64, 200])
def test_samples_are_distributed_as_the_softmax(temperature, vocab):
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(vocab, generator=generator) * 2
    logits[3] = -torch.inf
    draws = 200_000
    keys = noise.row_keys(7, torch.zeros(draws, dtype=torch.long), torch.arange(draws))
    uniforms = noise.uniform(keys, torch.tensor(5), noise.SAMPLE)
    counts = torch.zeros(vocab)
    for part in uniforms.split(20_000):
        counts += torch.bincount(sample_tokens(logits.expand(len(part), -1), part, temperature), minlength=vocab)
    expected = (logits.double() / temperature).softmax(-1) * draws
    assert counts[3] == 0
    often = expected >= 5
    observed = torch.cat([counts[often].double(), counts[~often].double().sum()[None]])
    wanted = torch.cat([expected[often], expected[~often].sum()[None]])
    keep = wanted > 0
    assert stats.chisquare(observed[keep], wanted[keep]).pvalue > 1e-3


def test_the_forbidden_token_is_never_drawn_and_the_rest_keep_their_odds():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(50_000, -1)
    uniforms = torch.rand(50_000, generator=torch.Generator().manual_seed(0))
    drawn = sample_tokens(logits, uniforms, forbidden=torch.zeros(50_000, dtype=torch.long))
    counts = torch.bincount(drawn, minlength=4).double()
    assert counts[0] == 0
    assert stats.chisquare(counts[1:], logits[0, 1:].double().softmax(-1) * 50_000).pvalue > 1e-3


def test_a_threshold_on_the_border_of_a_group_draws_no_entry_without_weight():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 512, generator=generator)
    forbidden = 64 * torch.randint(1, 8, (4000,), generator=generator)
    probabilities = logits.scatter(1, forbidden[:, None], -torch.inf).softmax(-1)
    upto = probabilities.view(4000, 8, 64).sum(-1).cumsum(-1)
    border = upto.gather(1, forbidden[:, None] // 64 - 1)[:, 0] / upto[:, -1]
    for nudge in (-(2**-24), 0.0, 2**-24):
        drawn = sample_tokens(logits, (border + nudge).clamp(0, 1 - 2**-24), forbidden=forbidden)
        assert (drawn != forbidden).all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_extreme_uniforms_stay_inside_the_vocabulary(uniform):
    logits = torch.full((3, 128), -torch.inf)
    logits[:, 17:21] = torch.randn(3, 4)
    drawn = sample_tokens(logits, torch.full((3,), uniform))
    assert drawn.tolist() == [17 if uniform == 0 else 20] * 3


def test_low_precision_logits_are_sampled_in_float32():
    logits = torch.randn(64, 500)
    uniforms = torch.rand(64)
    low = logits.bfloat16()
    assert torch.equal(sample_tokens(low, uniforms), sample_tokens(low.float(), uniforms))


def test_every_selected_position_is_sampled_and_only_changed_ones_count_as_replaced():
    objective = ObjectiveConfig(mask_fraction=0.4)
    batch = make_batch(objective)
    output = make_model(objective)(batch)
    original = batch.input_ids.gather(1, batch.selected)
    at = output["corrupted_ids"].gather(1, batch.selected)
    assert torch.equal(at[batch.selected_valid], output["samples"][batch.selected_valid])
    statistics = output["statistics"]
    changed = ((output["samples"] != original) & batch.selected_valid).sum()
    assert statistics[6] == changed
    assert statistics[2] == batch.selected_valid.sum()
    unselected = torch.ones_like(batch.input_ids, dtype=torch.bool).scatter(1, batch.selected, False)
    assert torch.equal(output["corrupted_ids"][unselected], batch.input_ids[unselected])


def test_samples_do_not_depend_on_the_micro_batch():
    objective = ObjectiveConfig(mask_fraction=0.25)
    model, batch = make_model(objective), make_batch(objective, rows=4)
    whole = model(batch)["corrupted_ids"]
    for row in range(4):
        fields = {n: v[row : row + 1] if torch.is_tensor(v) and v.ndim else v for n, v in vars(batch).items()}
        assert torch.equal(model(type(batch)(**fields))["corrupted_ids"][0], whole[row])


def test_disallow_correct_replaces_every_selected_position():
    objective = ObjectiveConfig(mask_fraction=0.25, disallow_correct=True)
    output = make_model(objective)(make_batch(objective))
    assert output["statistics"][4] == 0
    assert output["statistics"][6] == output["statistics"][2]
