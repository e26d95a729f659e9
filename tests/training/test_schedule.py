"""Schedules, Adam's per-step settings and phases, each against its own definition."""

import itertools
import math

import pytest
import torch

from electra_ds.errors import UserError
from electra_ds.recipe import parse_recipe
from electra_ds.training.config import OptimizerConfig, ScheduleConfig
from electra_ds.training.schedule import adam_settings, learning_rate, phase_at, plan_phases


def rates(name, steps=1000, **fields):
    config = ScheduleConfig(name=name, **fields)
    return [learning_rate(config, 2.0, step, steps) for step in range(steps)]


@pytest.mark.parametrize("name", ["original", "linear", "cosine", "wsd"])
def test_the_first_update_has_rate_zero_and_the_peak_is_never_passed(name):
    curve = rates(name, warmup=0.1)
    assert curve[0] == 0
    assert max(curve) <= 2.0
    assert all(a < b for a, b in itertools.pairwise(curve[:101]))


def test_original_decays_during_warmup_too():
    curve = rates("original", warmup=100.0)
    assert curve[50] == pytest.approx(2.0 * 0.5 * (1 - 50 / 1000))
    assert curve[500] == pytest.approx(2.0 * 0.5)


def test_linear_cosine_and_wsd_reach_the_peak_and_end_where_asked():
    assert rates("linear", warmup=0.1)[100] == 2.0
    assert rates("linear", warmup=0.1)[550] == pytest.approx(1.0)
    assert rates("cosine", warmup=0.1)[550] == pytest.approx(1.0)
    assert rates("cosine", warmup=0.1)[325] == pytest.approx(1 + math.cos(math.pi / 4))
    wsd = rates("wsd", warmup=0.1, decay=0.2, final=0.1)
    assert wsd[100] == wsd[800] == 2.0
    assert wsd[900] == pytest.approx(2.0 * 0.55)
    assert learning_rate(ScheduleConfig(name="wsd", final=0.1), 2.0, 1000, 1000) == pytest.approx(0.2)


@pytest.mark.parametrize("correct", [True, False])
def test_torch_adamw_with_our_settings_is_adam_with_or_without_bias_correction(correct):
    """Against Adam written out (Kingma and Ba 2015; model/optimization.py), decay times the rate."""
    config = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1, bias_correction=correct)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=generator, dtype=torch.float64)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.0)
    plain, mean, square = start.clone(), torch.zeros(50).double(), torch.zeros(50).double()
    for update in range(1, 40):
        gradient = torch.randn(50, generator=generator, dtype=torch.float64)
        rate = 1e-2 / update
        effective, eps, decay = adam_settings(config, rate, update)
        optimizer.param_groups[0].update(lr=effective, eps=eps, weight_decay=decay, betas=(0.9, 0.999))
        theirs.grad = gradient.clone()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        b1, b2 = (1 - 0.9**update, 1 - 0.999**update) if correct else (1.0, 1.0)
        plain = plain * (1 - rate * 0.1) - rate * (mean / b1) / ((square / b2).sqrt() + 1e-6)
        torch.testing.assert_close(theirs.detach(), plain, rtol=1e-9, atol=1e-12)


def recipe(*options):
    return parse_recipe(["--config", "small", "--data.path=x", "--output=y", *options], "electra-ds pretrain")


def test_phases_cover_all_steps_and_take_their_own_lengths():
    phases = '[{"share": 0.9, "sequence_length": 128}, {"share": 0.1, "sequence_length": 512, "global_batch_size": 32}]'
    plans = plan_phases(recipe("--training.steps=1000", f"--training.phases={phases}"), world_size=4)
    assert [(p.begin, p.end, p.sequence_length, p.global_batch, p.micro_batch) for p in plans] == [
        (0, 900, 128, 128, 32),
        (900, 1000, 512, 32, 8),
    ]
    assert phase_at(plans, 899) is plans[0]
    assert phase_at(plans, 900) is plans[1]
    assert phase_at(plans, 1000) is plans[1]


def test_accumulation_makes_up_the_global_batch():
    plan = plan_phases(recipe("--training.micro_batch_size=8"), world_size=4)[0]
    assert plan.micro_batch * plan.accumulation * 4 == 128


def test_a_batch_that_the_ranks_do_not_divide_is_refused_with_the_counts_that_do():
    with pytest.raises(UserError, match=r"global_batch_size=128 cannot be divided among 3 ranks.*1, 2, 4, 8, 16"):
        plan_phases(recipe(), world_size=3)
    with pytest.raises(UserError, match=r"micro_batch_size=5 does not divide the 64 rows.*these do: 1, 2, 4"):
        plan_phases(recipe("--training.micro_batch_size=5"), world_size=2)
