"""Shard sets with translation pairs: what they record, and the rows of mixtures with them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from electra_ds.data.config import DataConfig
from electra_ds.data.format import PAIRS, ShardWriter, decode_block, read_manifest
from electra_ds.data.format.block import encode_block
from electra_ds.data.loader import Portion, RowSource, StepRows, rank_positions
from electra_ds.data.mixing import hash_words
from electra_ds.data.prefetch import Job, LoaderProcess
from electra_ds.data.rows import Packing, pack_block
from electra_ds.data.shards import ShardSet
from electra_ds.data.translations import pack_pairs
from electra_ds.errors import DataError
from tests.data.sets import make_block, make_corpora, make_pairs, make_set

LENGTH = 32
FIELDS = ("ids", "segments", "positions", "token_types", "row_ids", "epochs", "skipped", "pair_rows")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two corpora of texts around one of pairs."""
    counts = {"en": 12, "both": 6, "de": 5}
    return make_corpora(tmp_path_factory.mktemp("pairs") / "set", counts, paired=("both",))


def source_of(folder: Path, **options) -> RowSource:
    return RowSource(ShardSet(folder), DataConfig(path=str(folder), shuffle_tokens=512, **options), LENGTH, seed=1)


def same(one, two) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in FIELDS)


def test_rows_of_sets_without_pairs_are_what_they_always_were(tmp_path):
    """A golden value: it may not change, or a run that is resumed would train on other rows."""
    folder = make_set(tmp_path / "set")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["version"] == 2
    assert not any("kind" in shard for shards in manifest["splits"].values() for shard in shards)
    rows = source_of(folder).at(np.arange(300))
    assert rows.pair_rows is None
    digest = hashlib.sha256(b"".join(getattr(rows, name).tobytes() for name in FIELDS[:-1])).hexdigest()
    assert digest == "49fa8be00413f0d290121b92f1f5394f8a4752473516180dc3ebda79167ef056"


def test_a_set_with_pairs_says_so_and_has_a_version_of_its_own(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["version"] == 3
    assert [shard.get("kind") for shard in manifest["splits"]["train"]] == [None, "pairs", None]
    found = read_manifest(folder)
    assert found.has_pairs
    assert [shard.kind for shard in found.splits["train"]] == ["text", "pairs", "text"]
    assert ShardSet(folder).pairs.tolist() == [False] * 12 + [True] * 6 + [False] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"version": 2}, "version is 2, expected 3 for what it holds"),
        (lambda m: m["splits"]["train"][1].pop("kind") and m, "version is 3, expected 2 for what it holds"),
        (lambda m: m["splits"]["train"][0].update(kind="trios") or m, "kind is 'trios', expected text or pairs"),
        (lambda m: m["splits"]["train"][1].update(documents=359) or m, "documents is 359, expected an even number"),
        (lambda m: m["splits"]["train"][0].update(kind="pairs") or m, "altered after it was written"),
    ],
)
def test_a_manifest_whose_kinds_do_not_fit_is_refused(change, message, folder, tmp_path):
    value = change(json.loads((folder / "manifest.json").read_text()))
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"pairs": 1}, "has pairs, but no whole pairs"),
        ({"pairs": True, "continues": True}, "has pairs, but no whole pairs"),
        ({"pairs": True, "runs": [[1, 0]]}, "has pairs, but no whole pairs"),
        ({"pairs": True, "labels": [["", "", ""]], "runs": [[0, 0]]}, "has pairs, but no whole pairs"),
    ],
)
def test_a_block_whose_pairs_are_not_whole_is_refused(metadata, message):
    block = make_pairs(0, 4)
    forged = dataclasses.replace(block, metadata={**block.metadata, **metadata})
    with pytest.raises(DataError, match=message):
        decode_block(encode_block("key", forged))


def test_a_block_that_is_not_of_the_kind_that_the_manifest_says_is_refused(tmp_path):
    folder = make_corpora(tmp_path / "set", {"one": 2})
    manifest = read_manifest(folder)
    block = make_block(0, 440)
    assert len(block.documents) % 2 == 0, "as the manifest demands of pairs"
    with ShardWriter(folder, "train-000000") as writer:
        writer.add(block)
        info = dataclasses.replace(writer.finish(), kind=PAIRS)
    dataclasses.replace(manifest, splits={"train": (info,), "validation": ()}).write(folder)
    with pytest.raises(DataError, match="not of translation pairs, as the manifest says"):
        ShardSet(folder).read(0)


@pytest.mark.parametrize(("mixing", "options"), [("natural", {}), ("temperature", {"temperature": 10 / 7})])
def test_rows_of_each_block_are_those_of_its_kind(folder, mixing, options):
    source = source_of(folder, mixing=mixing, **options)
    rows = source.at(np.arange(800))
    block = np.searchsorted(source.first_row_id, rows.row_ids, "right") - 1
    assert np.array_equal(rows.pair_rows, (block >= 12) & (block < 18))
    assert 0 < rows.pair_rows.sum() < 800
    packing = Packing(LENGTH)
    for number in range(23):
        here = (block == number) & (rows.epochs == 0)
        key = int(source.block_keys[number])
        drawn = int(hash_words(22, 1, 0, key)[0])
        if 12 <= number < 18:
            packed = pack_pairs(make_pairs(number, 30), LENGTH, drawn, 2, 3, 0)
        else:
            packed = pack_block(make_block(number, 400), packing, key, drawn, 2, 3, 0)
        assert len(packed.ids) == source.rows[number]
        inside = rows.row_ids[here] - source.first_row_id[number]
        assert np.array_equal(rows.records[here], packed.records[inside])


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"mixing": "weights", "weights": {"en": 1.0, "both": 2.0, "de": 1.0}}, 0.5),
        ({"mixing": "weights", "weights": {"en": 1.0, "both": 0.0, "de": 1.0}}, 0.0),
        ({"mixing": "temperature", "temperature": 1e9}, 1 / 3),
    ],
)
def test_pairs_come_in_the_share_that_is_asked_for(folder, options, share):
    rows = source_of(folder, **options).at(np.arange(3000))
    assert rows.pair_rows.mean() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("world", [2, 3])
def test_rows_do_not_depend_on_the_ranks(folder, world):
    whole = source_of(folder, mixing="temperature").at(np.arange(600))
    parts = [source_of(folder, mixing="temperature").at(rank_positions(0, 600, rank, world)) for rank in range(world)]
    for rank, part in enumerate(parts):
        for name in FIELDS:
            assert np.array_equal(getattr(part, name), getattr(whole, name)[rank::world])


def test_a_process_of_its_own_makes_the_same_rows(folder):
    config = DataConfig(path=str(folder), mixing="temperature")
    portion = Portion(0, 0, 48, 1, 2)
    expected = StepRows(RowSource(ShardSet(folder), config, LENGTH, 1), portion)
    process = LoaderProcess(Job(config, "train", LENGTH, 1, portion, 0), "uint16", pairs=True)
    try:
        for step in range(4):
            assert same(process(step), expected(step))
    finally:
        process.close()


def test_rows_of_a_block_that_cannot_be_read_keep_their_kind(folder, tmp_path):
    damaged = make_corpora(tmp_path / "set", {"en": 2, "both": 2}, paired=("both",))
    data = bytearray((damaged / "train-000001.tar").read_bytes())
    data[700] ^= 1
    (damaged / "train-000001.tar").write_bytes(bytes(data))
    rows = source_of(damaged, on_corrupt="skip").at(np.arange(200))
    assert rows.skipped.any()
    assert (rows.skipped <= rows.pair_rows).all()
