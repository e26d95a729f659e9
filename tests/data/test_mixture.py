"""Mixing corpora: a pure function of position that keeps each corpus whole, and the shares that were asked for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_ds.data.config import DataConfig
from electra_ds.data.format import ShardInfo, read_manifest
from electra_ds.data.loader import RowSource, rank_positions
from electra_ds.data.mixture import Mixture, apportion, corpora, mixture_shares, spread
from electra_ds.data.order import RowOrder
from electra_ds.data.shards import ShardSet
from electra_ds.errors import UserError
from tests.data.sets import make_corpora

FINGERPRINT = "0123456789abcdef" * 4


def mix(rows: list[list[int]], weights: list[float], streams: int, window_rows: int = 8, seed: int = 0) -> Mixture:
    """Corpora of blocks with so many rows each, numbered one corpus after another."""
    orders = [
        RowOrder(np.array(own), seed, FINGERPRINT, 64, streams, window_rows, corpus=number)
        for number, own in enumerate(rows)
    ]
    ends = np.cumsum([len(own) for own in rows])
    blocks = [np.arange(end - len(own), end) for own, end in zip(rows, ends, strict=True)]
    everything = np.concatenate([np.array(own) for own in rows])
    total = sum(weights)
    shares = {f"c{number}": weight / total for number, weight in enumerate(weights)}
    return Mixture(orders, blocks, shares, np.cumsum(everything) - everything)


@st.composite
def mixtures(draw) -> Mixture:
    count = draw(st.integers(1, 6))
    rows = [draw(st.lists(st.integers(1, 40), min_size=1, max_size=8)) for _ in range(count)]
    weights = [draw(st.floats(0.02, 1)) for _ in range(count)]
    streams = draw(st.sampled_from([1, 2, 3, 8, 24, 64, 100]))
    return mix(rows, weights, streams, draw(st.integers(1, 50)), draw(st.integers(0, 2**32)))


@settings(max_examples=40, deadline=None)
@given(mixture=mixtures())
def test_each_epoch_of_each_corpus_holds_each_of_its_rows_once(mixture):
    """Over the positions that reach every stream's end of that epoch, no row of a corpus is missing or comes twice."""
    located = mixture.locate(np.arange(6000))
    corpus, own = mixture.turns(np.arange(6000))
    for number, order in enumerate(mixture._orders):
        mine = corpus == number
        assert len(set(own[mine].tolist())) == mine.sum(), "no position of a corpus is taken twice"
        pairs = list(zip(located.epoch[mine].tolist(), located.row_id[mine].tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)
        # Streams run through a corpus at one pace: what the slowest has passed, all have.
        reached = set(own[mine].tolist())
        whole = next(position for position in range(6001) if position not in reached)
        for epoch in range(min(whole // order.total, 3)):
            begin = int(mixture._first_row[mixture._blocks[number][0]])
            assert sorted(row for e, row in pairs if e == epoch) == list(range(begin, begin + order.total))


@settings(max_examples=40, deadline=None)
@given(mixture=mixtures(), begin=st.integers(0, 10**9), count=st.integers(1, 200))
def test_starting_anywhere_equals_never_having_stopped(mixture, begin, count):
    together = mixture.locate(np.arange(begin, begin + count))
    alone = [mixture.locate(np.array([position])) for position in range(begin, begin + count, 17)]
    for name in ("epoch", "block", "row", "row_id"):
        assert [int(getattr(one, name)[0]) for one in alone] == getattr(together, name)[::17].tolist()


@settings(max_examples=30, deadline=None)
@given(mixture=mixtures(), world=st.sampled_from([1, 2, 3, 4, 6, 12]), steps=st.integers(1, 5))
def test_any_world_size_sees_the_same_global_batches(mixture, world, steps):
    batch = 24
    for step in range(steps):
        ranks = [rank_positions(step * batch, batch, rank, world) for rank in range(world)]
        rows = sorted(mixture.locate(np.concatenate(ranks)).row_id.tolist())
        assert rows == sorted(mixture.locate(np.arange(step * batch, (step + 1) * batch)).row_id.tolist())


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.floats(0.001, 1), min_size=1, max_size=12),
    streams=st.sampled_from([1, 2, 8, 48, 64, 256]),
    begin=st.integers(0, 10**10),
    seed=st.integers(0, 2**32),
)
def test_the_mixture_is_within_a_thousandth_after_a_hundred_thousand_rows(weights, streams, begin, seed):
    mixture = mix([[30] * 3] * len(weights), weights, streams, seed=seed)
    shares = np.array(list(mixture.shares.values()))
    for first in (0, begin):
        corpus, _ = mixture.turns(np.arange(first, first + 100_000))
        found = np.bincount(corpus, minlength=len(weights)) / 100_000
        assert np.abs(found - shares).max() < 0.001
        early = np.bincount(corpus[:1000], minlength=len(weights)) / 1000
        assert np.abs(early - shares).max() < 0.05


@settings(max_examples=40, deadline=None)
@given(mixture=mixtures(), rows=st.integers(0, 5000))
def test_what_was_consumed_of_each_corpus_follows_from_the_number_of_rows(mixture, rows):
    corpus, _ = mixture.turns(np.arange(rows))
    counted = np.bincount(corpus, minlength=len(mixture.names))
    assert mixture.consumed(rows) == dict(zip(mixture.names, counted.tolist(), strict=True))
    epochs = mixture.epochs(rows)
    for name, count, order in zip(mixture.names, counted, mixture._orders, strict=True):
        assert epochs[name] == count / order.total


def test_epochs_of_a_corpus_hardly_overlap():
    mixture = mix([[50] * 8, [20] * 4], [0.9, 0.1], streams=8, window_rows=20)
    located = mixture.locate(np.arange(40_000))
    corpus, _ = mixture.turns(np.arange(40_000))
    for number in range(2):
        epochs = located.epoch[corpus == number]
        early = np.maximum.accumulate(epochs) - epochs
        assert (early > 0).mean() < 0.15
        assert early.max() <= 1


def test_a_rank_keeps_to_its_own_streams_of_every_corpus():
    mixture = mix([[100] * 48, [100] * 16], [0.75, 0.25], streams=8, window_rows=50)
    touched = []
    for rank in range(4):
        positions = np.concatenate([rank_positions(step * 8, 8, rank, 4) for step in range(mixture.total // 8)])
        located = mixture.locate(positions)
        touched.append(set(located.block[located.epoch == 0].tolist()))
    # Streams may share a block at their borders, in each corpus; ranks share nothing else.
    assert sum(map(len, touched)) <= 64 + 2 * 8


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=40), st.sampled_from([100, 65_536]))
def test_slots_are_shared_out_to_the_last_and_nobody_is_left_out(shares, slots):
    counts = apportion(shares, slots)
    assert counts.sum() == slots
    assert counts.min() >= 1
    exact = np.array(shares) / sum(shares) * slots
    if exact.min() >= 1:
        assert np.abs(counts - exact).max() < 1


def test_slots_of_a_corpus_are_evenly_spread():
    counts = apportion([0.7, 0.2, 0.1], 1000)
    table = spread(counts, [1, 2, 3])
    assert np.bincount(table).tolist() == counts.tolist()
    for number, share in enumerate((0.7, 0.2, 0.1)):
        drift = np.cumsum(table == number) - share * np.arange(1, 1001)
        assert np.abs(drift).max() < 3


def info(corpus: str, tokens: int) -> ShardInfo:
    return ShardInfo("train-000000", 1, "", "", 1, 1, 1, tokens, corpus)


SHARDS = [info("en", 800), info("de", 100), info("en", 100)]


@pytest.mark.parametrize(
    ("options", "own", "expected"),
    [
        ({}, {"en": 1.0}, {}),
        ({"mixing": "temperature"}, {}, {"en": 0.9, "de": 0.1}),
        ({"mixing": "temperature", "temperature": 2.0}, {}, {"en": 0.75, "de": 0.25}),
        ({"mixing": "weights"}, {"de": 1, "en": 3}, {"en": 0.75, "de": 0.25}),
        ({"mixing": "weights", "weights": {"de": 1.0, "en": 1.0}}, {"de": 1, "en": 3}, {"en": 0.5, "de": 0.5}),
        ({"mixing": "weights", "weights": {"de": 0.0, "en": 2.0}}, {}, {"en": 1.0}),
    ],
)
def test_shares_come_from_weights_or_sizes(options, own, expected):
    assert mixture_shares(SHARDS, own, DataConfig(path="x", **options)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"en": 1.0, "dee": 1.0}, r"data\.weights: no corpus 'dee', there are en, de; did you mean 'de'"),
        ({"en": 1.0}, r"data\.weights: no weight for de; each corpus needs one \(0 leaves it out\)"),
        ({}, r"neither data\.weights nor the shard set gives any; its corpora are en, de"),
    ],
)
def test_weights_that_do_not_fit_are_told_with_the_corpora_there_are(weights, message):
    with pytest.raises(UserError, match=message):
        mixture_shares(SHARDS, {}, DataConfig(path="x", mixing="weights", weights=weights))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"data\.temperature=0: must be above 0"),
        ({"mixing": "weights", "weights": {"en": -1.0}}, "at least 0"),
        ({"mixing": "weights", "weights": {"en": 0.0}}, "at least one must be above 0"),
        ({"weights": {"en": 1.0}}, r"data\.mixing=natural: set data\.mixing to weights"),
        ({"corrupt_share": 2.0}, r"data\.corrupt_share=2: must lie in \[0, 1\]"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(path="x", **options)


def test_blocks_of_a_corpus_are_found_wherever_its_shards_lie():
    shards = [dataclasses.replace(shard, blocks=2) for shard in SHARDS]
    assert {name: blocks.tolist() for name, blocks in corpora(shards).items()} == {"en": [0, 1, 4, 5], "de": [2, 3]}


def test_rows_of_a_mixed_set_come_from_the_corpora_in_the_shares_asked_for(tmp_path):
    """Through files: a corpus smaller than a window and than the number of streams goes round many times."""
    make_corpora(tmp_path / "set", {"large": 40, "tiny": 1}, {"large": 3.0, "tiny": 1.0})
    shards = ShardSet(tmp_path / "set")
    source = RowSource(shards, DataConfig(path="x", mixing="weights"), 32, seed=3)
    rows = source.at(np.arange(4000))
    tiny = rows.row_ids >= source.first_row_id[40]
    assert tiny.mean() == pytest.approx(0.25, abs=0.01)
    assert rows.epochs[tiny].max() > 50
    assert rows.epochs[~tiny].max() == 3000 // source.first_row_id[40]
    plain = source.unshuffled(rows.row_ids)
    assert np.array_equal(rows.ids[rows.epochs == 0], plain.ids[rows.epochs == 0])
    assert read_manifest(tmp_path / "set").weights == {"large": 3.0, "tiny": 1.0}
