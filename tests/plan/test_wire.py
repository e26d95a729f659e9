"""Bytes on the wire: the formulas against rings that are really gone round."""

import pytest

from electra_ds.plan.wire import Exchange, sent_bytes, step_exchanges, wire_seconds


def ring_all_reduce(vectors):
    """Reduce-scatter, then all-gather, around a ring; what each rank has, and how many elements rank 0 sent."""
    ranks, chunk, sent = len(vectors), len(vectors[0]) // len(vectors), 0
    state = [[list(vector[c * chunk : (c + 1) * chunk]) for c in range(ranks)] for vector in vectors]
    for gathers in (False, True):
        for turn in range(ranks - 1):
            shift = 1 if gathers else 0
            moving = [(rank, (rank + shift - turn) % ranks) for rank in range(ranks)]
            packets = [list(state[rank][c]) for rank, c in moving]
            for (rank, c), packet in zip(moving, packets, strict=True):
                target = state[(rank + 1) % ranks]
                target[c] = packet if gathers else [a + b for a, b in zip(target[c], packet, strict=True)]
            sent += len(packets[0])
    return [[value for part in parts for value in part] for parts in state], sent


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_a_ring_sends_what_the_formula_says(ranks):
    vectors = [[rank * 100 + place for place in range(2 * ranks)] for rank in range(ranks)]
    results, sent = ring_all_reduce(vectors)
    assert all(result == [sum(column) for column in zip(*vectors, strict=True)] for result in results)
    size = 2 * ranks
    assert Exchange("all_reduce", "", size).sent(ranks) == sent
    halves = (Exchange("reduce_scatter", "", size), Exchange("all_gather", "", size))
    assert sum(half.sent(ranks) for half in halves) == sent
    assert Exchange("reduce_scatter", "", size).sent(ranks, gloo=True) == sent


@pytest.mark.parametrize(("stage", "accumulation", "copies"), [
    (0, 1, 2), (0, 4, 2), (1, 1, 3), (1, 4, 3), (2, 1, 3), (2, 4, 9), (3, 1, 2), (3, 4, 8),
])  # fmt: skip
def test_copies_of_the_weights_that_a_step_sends(zero, stage, accumulation, copies):
    """In copies of the weights, times (N - 1) / N; see the findings of benchmarks/plan.md."""
    state = zero(stage, 8, persistence=0)
    expected = copies * state.element * state.parameters * 7 / 8
    assert sent_bytes(step_exchanges(state, accumulation), 8) == pytest.approx(expected, rel=0.01)


def test_reductions_to_each_rank_send_half_of_an_all_reduce_in_many_calls(zero):
    together, apart = (step_exchanges(zero(1, 8, all_reduces=joined), 1) for joined in (True, False))
    assert sent_bytes(together, 8) == pytest.approx(1.5 * sent_bytes(apart, 8), rel=0.01)
    assert sum(exchange.calls for exchange in apart) == sum(exchange.calls for exchange in together) + 7


def test_weights_beyond_the_reuse_distance_are_gathered_again(zero):
    near, far = zero(3, 4, persistence=0), zero(3, 4, persistence=0, reuse=1000)
    extra = sent_bytes(step_exchanges(far, 1), 4) - sent_bytes(step_exchanges(near, 1), 4)
    assert extra == pytest.approx(2 * near.parameters * 3 / 4, rel=0.01)


def test_one_rank_sends_nothing_and_a_slower_link_takes_longer(zero):
    assert sent_bytes(step_exchanges(zero(1), 1), 1) == 0
    found = step_exchanges(zero(1, 4), 1)
    assert wire_seconds(found, 1, 1e9, 1.0) == 0
    assert wire_seconds(found, 4, 1e6, 0.0) == pytest.approx(2 * wire_seconds(found, 4, 2e6, 0.0))
    assert wire_seconds(found, 4, 1e6, 0.1) > wire_seconds(found, 4, 1e6, 0.0) + 1
