"""What a rank holds, by stage and micro-batch."""

import pytest

from electra_ds.plan.memory import divisors_of, largest_fit, step_peak
from electra_ds.plan.trace import TracedModel

STAGES = [0, 1, 2, 3]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_more_rows_never_hold_less(traced, zero, stage, ranks):
    peaks = [step_peak(zero(stage, ranks), traced.timeline(rows, 32), 1).total for rows in (2, 3, 8, 40, 200)]
    assert peaks == sorted(peaks)
    assert peaks[-1] > peaks[0]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("room", [1.02, 1.5, 3.0, 100.0])
def test_the_largest_micro_batch_fits_and_the_next_divisor_does_not(traced, zero, stage, room):
    share, state = 48, zero(stage, 2)
    limit = room * step_peak(state, traced.timeline(2, 32), share // 2).total
    best = largest_fit(traced, state, 32, share, limit)
    assert best.total <= limit
    bigger = [rows for rows in divisors_of(share) if rows > best.micro_batch]
    assert all(step_peak(state, traced.timeline(rows, 32), share // rows).total > limit for rows in bigger)


def test_nothing_fits_into_no_memory(traced, zero):
    assert largest_fit(traced, zero(1), 32, 48, 1000.0) is None


def test_state_by_stage_is_what_the_zero_paper_says(zero):
    """Bytes between steps for P parameters on N ranks: 14P; 2P + 12P/N; and at stage 3 shares of all, and a bucket."""
    every = sum(size for _, size in zero(0).sizes)
    assert zero(0, 4).between_steps().total == 14 * every
    for stage in (1, 2):
        assert zero(stage, 4).between_steps().total == pytest.approx(2 * every + 12 * every / 4, rel=1e-3)
    third = zero(3, 4, persistence=0).between_steps()
    assert third.total - third.buckets == pytest.approx(16 * every / 4, rel=0.01)
    assert third.buckets == 2 * every


@pytest.mark.parametrize("stage", STAGES)
def test_accumulation_never_takes_less(traced, zero, stage):
    timeline = traced.timeline(8, 32)
    assert step_peak(zero(stage, 2), timeline, 4).total >= step_peak(zero(stage, 2), timeline, 1).total


def test_partitions_cover_all_parameters(zero):
    for stage in (1, 2, 3):
        for ranks in (1, 2, 3, 7, 64):
            state = zero(stage, ranks)
            assert sum(state.partitions) * ranks >= state.parameters
            assert state.whole_in_partition >= min(sum(state.partitions), state.parameters) - 2 * ranks


def test_offloaded_state_lies_with_the_host(zero):
    assert zero(3, 2, offloads=True).between_steps().optimizer == 0
    assert zero(3, 2, offloads=True).on_host() > zero(3, 2).between_steps().optimizer
    assert zero(3, 2).on_host() == 0


def test_activations_in_float32_are_larger(traced):
    exact = TracedModel(traced.model.config, traced.objective, "float32", "cpu")
    assert exact.timeline(8, 32).peak > 1.3 * traced.timeline(8, 32).peak


@pytest.mark.parametrize("share", [1, 2, 12, 97, 360])
def test_divisors(share):
    assert divisors_of(share) == [number for number in range(1, share + 1) if share % number == 0]
