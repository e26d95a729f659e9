"""The loader: rows by position, each block read and packed once, and what happens when one cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from electra_ds.data.config import DataConfig
from electra_ds.data.loader import Portion, RowSource, StepRows, rank_positions
from electra_ds.data.shards import ShardSet
from electra_ds.errors import DataError
from tests.data.sets import make_corpora, make_set

LENGTH = 32
FIELDS = ("ids", "segments", "positions", "token_types", "row_ids", "epochs", "skipped")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "set", blocks=(30, 30, 36))


def source_of(folder: Path, **options) -> RowSource:
    return RowSource(ShardSet(folder), DataConfig(path=str(folder), shuffle_tokens=512, **options), LENGTH, seed=1)


def same(one, two) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in FIELDS)


def damage(folder: Path, block: int, split: str = "train") -> str:
    """Alter a byte in the middle of a block; return the name of its tar."""
    shards = ShardSet(folder, split)
    shard, number = shards._find(block)
    record = shards.records[block]
    with open(folder / f"{shard.name}.tar", "r+b") as file:
        file.seek(int(record["offset"]) + 700)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 64]))
    return f"{shard.name}.tar block {number}"


@pytest.mark.parametrize("ranks", [1, 2, 4, 16])
def test_an_epoch_reads_and_packs_each_block_once_over_all_ranks(folder, ranks):
    """But for the blocks that lie across the border of two ranks' streams."""
    packed = size = reads = 0
    for rank in range(ranks):
        source = source_of(folder, streams=16)
        batch = 64
        most = 0
        for consumed in range(0, source.total // batch * batch, batch):
            source.at(rank_positions(consumed, batch, rank, ranks))
            most = max(most, source._cached_bytes)
        assert most <= source.live_bytes(ranks), "the memory it says it needs is enough"
        packed, size, reads = (
            packed + source.blocks_packed,
            size + source.shards.bytes_read,
            reads + source.shards.reads,
        )
    stored = int(ShardSet(folder).records["size"].sum())
    borders = 0 if ranks == 1 else 16
    assert 96 <= packed <= 96 + borders
    assert reads == packed
    assert size <= stored * (96 + borders) / 96
    if ranks == 1:
        assert size == stored


@pytest.mark.parametrize("ranks", [2, 3, 16])
def test_memory_does_not_grow_from_epoch_to_epoch(folder, ranks):
    source = source_of(folder, streams=16)
    step_rows = StepRows(source, Portion(0, 0, 96, 0, ranks))
    steps = source.total // 96
    packed, cached = [0], []
    for epoch in range(5):
        for step in range(epoch * steps, (epoch + 1) * steps):
            step_rows(step)
        packed.append(source.blocks_packed)
        cached.append(source._cached_bytes)
    largest = int(source.rows.max()) * source._dtype.itemsize
    assert max(cached) <= 2 * source.live_bytes(ranks) + 8 * largest
    # What is kept is what is needed: later epochs pack no more than the first one does, but for the borders.
    assert max(np.diff(packed)) <= packed[1] + 16


def test_a_cache_too_small_costs_time_but_changes_nothing(folder):
    small, large = source_of(folder, cache_bytes=1), source_of(folder)
    for begin in range(0, 400, 40):
        positions = np.arange(begin, begin + 40)
        assert same(small.at(positions), large.at(positions))
    assert small.blocks_packed > large.blocks_packed


def test_steps_give_the_rows_of_their_positions_in_any_order(folder):
    source = source_of(folder)
    portion = Portion(first_step=10, first_row=1000, global_batch=24, rank=2, world_size=3)
    rows_of = StepRows(source_of(folder), portion)
    for step in (10, 11, 300, 12, 11):
        positions = rank_positions(1000 + (step - 10) * 24, 24, 2, 3)
        assert same(rows_of(step), source.at(positions))


def test_rows_by_number_are_those_of_the_first_epoch(folder):
    source = source_of(folder)
    rows = source.at(np.arange(source.total))
    assert sorted(rows.row_ids) == list(range(len(source)))
    plain = source.unshuffled(rows.row_ids)
    assert same(rows, plain)


def test_an_altered_block_stops_with_shard_block_offset_and_checksum(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    where = damage(tmp_path / "set", 40)
    source = source_of(tmp_path / "set")
    record = source.shards.records[40]
    with pytest.raises(DataError) as caught:
        source.at(np.arange(source.total))
    for part in (where, f"offset {record['offset']}", f"{record['crc32']:08x}"):
        assert part in str(caught.value).replace(",", "")


@pytest.mark.parametrize("mixing", ["natural", "temperature"])
def test_skipped_rows_are_the_same_rows_whoever_meets_them(tmp_path, capfd, mixing):
    folder = make_corpora(tmp_path / "set", {"one": 20, "two": 10})
    damage(folder, 3)
    damage(folder, 25)
    options = {"on_corrupt": "skip", "mixing": mixing}
    whole = source_of(folder, **options)
    rows = whole.at(np.arange(900))
    lost = {
        row
        for block in (3, 25)
        for row in range(whole.first_row_id[block], whole.first_row_id[block] + whole.rows[block])
    }
    assert rows.skipped.any()
    assert rows.skipped.tolist() == [row in lost for row in rows.row_ids]
    special = whole.shards.manifest.tokenizer
    assert (rows.ids[rows.skipped] == special.pad_id).all()
    assert not rows.segments[rows.skipped].any()
    assert (rows.segments[~rows.skipped] > 0).any(1).all()
    told = capfd.readouterr().err
    assert told.count("skipped, ") == 2, "once a block"
    assert "train-000000.tar block 3" in told
    assert "CRC-32" in told
    reads = whole.shards.reads
    whole.at(np.arange(900)[rows.skipped])
    assert whole.shards.reads == reads, "a bad block is not read for every row"
    parts = [source_of(folder, **options).at(rank_positions(0, 900, rank, 3)) for rank in range(3)]
    for rank, part in enumerate(parts):
        assert np.array_equal(part.skipped, rows.skipped[rank::3])
        assert np.array_equal(part.ids, rows.ids[rank::3])


def test_a_tar_that_vanishes_in_the_middle_of_a_run_is_skipped_too(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    source = source_of(tmp_path / "set", on_corrupt="skip")
    (tmp_path / "set/train-000001.tar").unlink()
    rows = source.at(np.arange(source.total))
    block = np.searchsorted(source.first_row_id, rows.row_ids, "right") - 1
    assert np.array_equal(rows.skipped, (block >= 30) & (block < 60))


def test_a_tar_that_is_missing_at_the_start_is_refused_all_the_same(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set/train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar"):
        ShardSet(tmp_path / "set")
