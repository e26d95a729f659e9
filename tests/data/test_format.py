"""The shard format: what is written is read back, by others too; what was altered is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electra_ds.data.format import (
    INDEX_RECORD,
    Block,
    Manifest,
    ShardIndex,
    ShardWriter,
    TokenizerInfo,
    decode_block,
    read_block_bytes,
    read_index,
    read_manifest,
    token_dtype,
    verify_shards,
)
from electra_ds.data.format.block import encode_block
from electra_ds.data.format.index import parse_index, write_index
from electra_ds.errors import DataError
from tests.data.sets import make_set, same


@st.composite
def any_block(draw) -> Block:
    dtype = draw(st.sampled_from(["<u2", "<u4"]))
    tokens = np.array(draw(st.lists(st.integers(0, np.iinfo(dtype).max), min_size=1, max_size=300)), dtype)
    places = st.sets(st.integers(0, len(tokens) - 1), max_size=20)
    documents = sorted({0, *draw(places)})
    sentences = sorted({*documents, *draw(places)})
    metadata = {"continues": draw(st.booleans()), "labels": [[draw(st.text(max_size=9)), "", ""]], "runs": [[0, 0]]}
    return Block(tokens, np.array(documents, "<u4"), np.array(sentences, "<u4"), metadata)


@given(any_block())
def test_a_block_is_read_back_as_it_was_written(block):
    data = encode_block("train-000000-00000", block)
    assert len(data) % tarfile.BLOCKSIZE == 0
    assert same(decode_block(data), block)


@given(any_block(), st.data())
def test_cut_bytes_of_a_block_are_refused(block, data):
    encoded = encode_block("key", block)
    # What follows the last payload is padding.
    end = len(encoded.rstrip(b"\0"))
    with pytest.raises(DataError):
        decode_block(encoded[: data.draw(st.integers(0, end - 1))])


@pytest.fixture(scope="module")
def whole_set(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("shards") / "set")


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Path:
    """A folder with train-000000 of three blocks."""
    folder = tmp_path_factory.mktemp("shard")
    with ShardWriter(folder, "train-000000") as writer:
        for seed in range(3):
            chance = np.random.default_rng(seed)
            starts = np.array([0, 40, 90], "<u4")
            writer.add(Block(chance.integers(0, 60_000, 150).astype("<u2"), starts[:2], starts, {"number": seed}))
        writer.finish()
    return folder


def test_a_shard_is_a_tar_that_stock_webdataset_reads(shard):
    import webdataset

    samples = list(webdataset.WebDataset(str(shard / "train-000000.tar"), shardshuffle=False).decode())
    index = read_index(shard / "train-000000.idx")
    with open(shard / "train-000000.tar", "rb") as file:
        blocks = [decode_block(read_block_bytes(file.fileno(), record, "x")) for record in index.records]
    assert [sample["__key__"] for sample in samples] == [f"train-000000-{n:05d}" for n in range(3)]
    for sample, block in zip(samples, blocks, strict=True):
        for name, array in (("tokens", block.tokens), ("docs", block.documents), ("sentences", block.sentences)):
            assert sample[f"{name}.npy"].dtype == array.dtype
            assert np.array_equal(sample[f"{name}.npy"], array)
        assert sample["json"] == block.metadata


def test_prepared_shards_are_read_by_stock_webdataset(tiny_shards):
    import webdataset

    manifest = read_manifest(tiny_shards)
    last = manifest.splits["train"][-1].name.removeprefix("train-")
    url = f"{tiny_shards}/train-{{000000..{last}}}.tar"
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    assert len(samples) == manifest.total("train", "blocks")
    assert sum(len(sample["tokens.npy"]) for sample in samples) == manifest.total("train", "tokens")
    assert sum(len(sample["docs.npy"]) for sample in samples) == manifest.total("train", "documents")
    assert sum(len(sample["sentences.npy"]) for sample in samples) == manifest.total("train", "sentences")


def test_a_tar_holds_no_time_owner_or_padding_that_could_differ(shard):
    with tarfile.open(shard / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert len(members) == 12
    assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} == {(0, 0, "", 0o644)}


def test_the_index_says_what_each_block_holds(shard):
    index = read_index(shard / "train-000000.idx")
    assert index.tar_bytes == (shard / "train-000000.tar").stat().st_size
    assert index.records["tokens"].tolist() == [150, 150, 150]
    assert index.records["documents"].tolist() == [2, 2, 2]
    assert index.records["sentences"].tolist() == [3, 3, 3]


@st.composite
def any_record(draw) -> tuple[int, ...]:
    """Size, tokens, documents, sentences and CRC-32 of a block that could be."""
    documents = draw(st.integers(1, 2**20))
    sentences = draw(st.integers(documents, 2**21))
    tokens = draw(st.integers(sentences, 2**28))
    least = 4 * 512 + 2 * tokens + 4 * (documents + sentences)
    return (
        512 * draw(st.integers(-(-least // 512), 2**23 - 1)),
        tokens,
        documents,
        sentences,
        draw(st.integers(0, 2**32 - 1)),
    )


@given(st.lists(any_record(), max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_index_is_read_back_as_it_was_written(tmp_path, counts):
    offsets = np.cumsum([0, *(size for size, *_ in counts)]).tolist()
    rows = [(offset, *row, 0) for offset, row in zip(offsets, counts, strict=False)]
    records = np.array(rows, INDEX_RECORD)
    write_index(tmp_path / "a.idx", ShardIndex(records, offsets[-1] + 1024, "ab" * 32))
    found = read_index(tmp_path / "a.idx")
    assert np.array_equal(found.records, records)
    assert (found.tar_bytes, found.tar_sha256) == (offsets[-1] + 1024, "ab" * 32)


@st.composite
def mutation(draw, data: bytes) -> bytes:
    """Overwrite, cut or extend some bytes."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return draw(st.sampled_from([bytes(changed), bytes(changed[:-7]), bytes(changed) + b"\0", data[: len(data) // 2]]))


@given(st.data())
def test_an_altered_index_is_refused(shard, data):
    original = (shard / "train-000000.idx").read_bytes()
    altered = data.draw(mutation(original))
    if altered != original:
        with pytest.raises(DataError, match=r"^index x: "):
            parse_index(altered, "x")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_altered_tar_gives_the_right_block_or_an_error(shard, tmp_path, data):
    original = (shard / "train-000000.tar").read_bytes()
    (tmp_path / "altered.tar").write_bytes(data.draw(mutation(original)))
    records = read_index(shard / "train-000000.idx").records
    with open(shard / "train-000000.tar", "rb") as good, open(tmp_path / "altered.tar", "rb") as bad:
        for record in records:
            right = decode_block(read_block_bytes(good.fileno(), record, "good"))
            try:
                found = decode_block(read_block_bytes(bad.fileno(), record, "bad"))
            except DataError as error:
                assert "bad: " in str(error) and "CRC-32" in str(error)
            else:
                assert same(found, right)


@given(any_block(), st.data())
def test_altered_bytes_of_a_block_are_never_unpickled_and_fail_cleanly(block, data):
    """Without its CRC-32: any answer but a crash, a hang or another kind of error."""
    altered = data.draw(mutation(encode_block("key", block)))
    try:
        found = decode_block(altered)
    except DataError:
        return
    assert found.documents[0] == found.sentences[0] == 0
    assert found.documents[-1] < len(found.tokens)


def test_a_pickled_array_in_a_tar_is_refused():
    payload = io.BytesIO()
    np.save(payload, np.array([{}], dtype=object), allow_pickle=True)
    info = tarfile.TarInfo("key.tokens.npy")
    info.size = len(payload.getvalue())
    data = info.tobuf(tarfile.USTAR_FORMAT) + payload.getvalue() + bytes(-info.size % 512)
    with pytest.raises(DataError, match=r"cannot decode its tokens\.npy"):
        decode_block(data)


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_altered_manifest_is_refused_or_says_the_same_of_the_shards(whole_set, tmp_path, data):
    original = (whole_set / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").write_bytes(data.draw(mutation(original)))
    right = read_manifest(whole_set)
    try:
        found = read_manifest(tmp_path)
    except DataError as error:
        assert "manifest.json" in str(error)
    else:
        assert (found.dtype, found.tokenizer, found.splits) == (right.dtype, right.tokenizer, right.splits)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 99}, "format version 99, this release reads version 2"),
        ({"dtype": "uint32"}, "altered after it was written"),
        ({"splits": []}, "a field is missing or unknown"),
        ({"tokenizer": {"type": "x"}}, "a field is missing or unknown"),
    ],
)
def test_a_manifest_that_does_not_fit_says_why(change, expected, whole_set, tmp_path):
    value = json.loads((whole_set / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**value, **change}))
    with pytest.raises(DataError, match=expected):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_no_shard_set(tmp_path):
    with pytest.raises(DataError, match=r"no manifest.json, so this is not a \(finished\) shard set"):
        read_manifest(tmp_path)


def test_a_manifest_is_read_back_as_it_was_written(tmp_path):
    tokenizer = TokenizerInfo("unigram", "ab" * 32, 70_000, 0, 1, 2, 3, 4)
    manifest = Manifest("uint32", tokenizer, {"train": (), "validation": ()}, {"web": 2.0}, {"seed": 0}, {3: 1, 20: 2})
    manifest.write(tmp_path)
    manifest = dataclasses.replace(manifest, statistics={"3": 1, "20": 2})  # JSON has no other keys
    assert read_manifest(tmp_path) == manifest
    assert dataclasses.replace(manifest, config={}).fingerprint == manifest.fingerprint
    assert dataclasses.replace(manifest, dtype="uint16").fingerprint != manifest.fingerprint


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "train-000000.tar").unlink(), "train-000000.tar: missing"),
        (lambda folder: (folder / "validation-000000.idx").unlink(), "validation-000000.idx: missing"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer: its files are not those"),
        (lambda folder: (folder / "tokenizer/extra").write_text("x"), "tokenizer: its files are not those"),
        (lambda folder: flip(folder / "train-000000.tar", 5000), "train-000000.tar: sha256 differs from the manifest"),
        (lambda folder: flip(folder / "train-000000.idx", 70), "train-000000.idx: sha256 differs from the manifest"),
    ],
)
def test_verification_names_what_is_missing_or_altered(damage, expected, whole_set, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(whole_set, folder)
    manifest = read_manifest(folder)
    assert verify_shards(folder, manifest) == []
    damage(folder)
    [problem] = verify_shards(folder, manifest)
    assert expected in problem


def flip(path: Path, position: int) -> None:
    """Alter one byte, the size and the time stamp kept."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_a_shard_that_is_not_finished_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, "train-000000") as writer:
        writer.add(Block(np.zeros(5, "<u2"), np.zeros(1, "<u4"), np.zeros(1, "<u4")))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_tokens_take_two_bytes_while_the_vocabulary_fits():
    assert token_dtype(65_536) == np.dtype("<u2")
    assert token_dtype(65_537) == np.dtype("<u4")


@pytest.mark.parametrize(
    ("documents", "sentences"), [([], [0]), ([1], [0]), ([0, 3, 3], [0]), ([0, 5], [0]), ([0], []), ([0], [0, 9])]
)
def test_a_block_whose_starts_do_not_fit_is_refused(documents, sentences):
    with pytest.raises(DataError, match="must"):
        Block(np.zeros(5, "<u2"), np.array(documents, "<u4"), np.array(sentences, "<u4"))
