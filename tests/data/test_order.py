"""The order of rows: a pure function of position, whole per epoch, blind to the world size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_ds.data.loader import rank_positions
from electra_ds.data.mixing import hash_words, permute
from electra_ds.data.order import RowOrder

FINGERPRINT = "0123456789abcdef" * 4

orders = st.builds(
    RowOrder,
    rows=st.lists(st.integers(1, 60), min_size=1, max_size=25).map(np.array),
    seed=st.integers(0, 2**32),
    fingerprint=st.just(FINGERPRINT),
    length=st.sampled_from([16, 64, 128]),
    streams=st.integers(1, 70),
    window_rows=st.integers(1, 200),
)


@given(size=st.integers(1, 5000), key=st.integers(0, 2**63))
def test_permute_is_a_bijection_of_any_size(size, key):
    assert sorted(permute(np.arange(size), size, np.uint64(key))) == list(range(size))


def test_permute_finds_one_position_of_a_trillion_without_the_others():
    key = hash_words(1)
    found = permute(np.array([0, 1, 10**12 - 1]), 10**12, key)
    assert len(set(found.tolist())) == 3
    assert all(0 <= value < 10**12 for value in found)


@settings(max_examples=60, deadline=None)
@given(order=orders, epochs=st.integers(1, 3))
def test_every_row_comes_once_in_every_epoch(order, epochs):
    located = order.locate(np.arange(epochs * order.total))
    for epoch in range(epochs):
        here = slice(epoch * order.total, (epoch + 1) * order.total)
        assert (located.epoch[here] == epoch).all()
        assert sorted(located.row_id[here]) == list(range(order.total))
    assert ((located.row >= 0) & (located.row < order.rows[located.block])).all()


@settings(max_examples=60, deadline=None)
@given(order=orders, begin=st.integers(0, 10**6), count=st.integers(1, 64))
def test_starting_anywhere_equals_never_having_stopped(order, begin, count):
    alone = [order.locate(np.array([position])).row_id[0] for position in range(begin, begin + count)]
    fresh = RowOrder(order.rows, 0, FINGERPRINT, 16, order.streams, order.window_rows)
    fresh.key = order.key
    assert alone == fresh.locate(np.arange(begin, begin + count)).row_id.tolist()


@settings(max_examples=60, deadline=None)
@given(
    order=orders,
    worlds=st.tuples(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]), st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24])),
    steps=st.integers(1, 6),
)
def test_any_two_world_sizes_see_the_same_global_batches(order, worlds, steps):
    batch = 24

    def batches(world_size):
        for step in range(steps):
            ranks = [rank_positions(step * batch, batch, rank, world_size) for rank in range(world_size)]
            yield sorted(order.locate(np.concatenate(ranks)).row_id.tolist())

    assert list(batches(worlds[0])) == list(batches(worlds[1]))


@pytest.mark.parametrize("changed", ["seed", "fingerprint", "length"])
def test_seed_fingerprint_and_length_each_give_another_order(changed):
    arguments = {"rows": np.full(9, 50), "seed": 0, "fingerprint": FINGERPRINT, "length": 64, "streams": 8}
    other = {"seed": 1, "fingerprint": "f" * 64, "length": 128}[changed]
    first = RowOrder(**arguments, window_rows=50).locate(np.arange(450)).row_id
    second = RowOrder(**{**arguments, changed: other}, window_rows=50).locate(np.arange(450)).row_id
    assert not np.array_equal(first, second)


def test_epochs_differ_in_order():
    order = RowOrder(np.full(9, 50), 0, FINGERPRINT, 64, 8, 50)
    located = order.locate(np.arange(900)).row_id
    assert not np.array_equal(located[:450], located[450:])


def test_a_rank_keeps_to_its_own_streams_so_that_bytes_are_read_about_once():
    rows = np.full(64, 100)
    order = RowOrder(rows, 0, FINGERPRINT, 64, streams=8, window_rows=100)
    touched = []
    for rank in range(4):
        positions = np.concatenate([rank_positions(step * 8, 8, rank, 4) for step in range(order.total // 8)])
        touched.append(set(order.locate(positions).block.tolist()))
    # 64 blocks among 8 streams: streams may share a block at their borders, ranks nothing else.
    assert sum(map(len, touched)) <= 64 + 8
