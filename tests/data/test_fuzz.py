"""Damaged and forged shard sets: a clean error that names the file, or exactly the right data."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from electra_ds.data.format import INDEX_RECORD, Block, ShardIndex, decode_block, read_manifest, verify_shards
from electra_ds.data.format.block import encode_block
from electra_ds.data.format.index import parse_index, read_index
from electra_ds.data.format.manifest import parse_manifest
from electra_ds.data.shards import ShardSet
from electra_ds.errors import DataError, UserError
from tests.data.sets import make_block, make_set, same

fuzz = settings(max_examples=200, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
FILES = (
    "manifest.json",
    "train-000000.idx",
    "train-000001.idx",
    "train-000000.tar",
    "train-000001.tar",
    "validation-000000.tar",
    "tokenizer/tokenizer.json",
    "tokenizer/vocab.txt",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("whole") / "set", tokens=60)


@pytest.fixture(scope="module")
def folder(whole) -> Path:
    """A copy to damage; each test puts back what it changed."""
    return Path(shutil.copytree(whole, whole.parent / "copy"))


def read_all(folder: Path) -> list[Block]:
    blocks = []
    for split in ("train", "validation"):
        shards = ShardSet(folder, split)
        blocks += [shards.read(number) for number in range(len(shards))]
        shards.close()
    return blocks


def assert_refused_or_right(folder: Path) -> DataError | None:
    try:
        blocks = read_all(folder)
    except DataError as error:
        assert any(name.partition(".")[0] in str(error) for name in FILES), error
        return error
    assert len(blocks) == 6 and all(same(block, make_block(n, 60)) for n, block in enumerate(blocks))
    return None


@st.composite
def damaged(draw, data: bytes, other: bytes) -> bytes:
    """Bytes flipped, cut out, doubled, put in, or taken from another file."""
    begin = draw(st.integers(0, len(data)))
    end = min(len(data), begin + draw(st.integers(1, 700)))
    piece = draw(
        st.sampled_from(
            [
                bytes(byte ^ draw(st.integers(1, 255)) for byte in data[begin : begin + 1]) + data[begin + 1 : end],
                b"",
                data[begin:end] * 2,
                draw(st.binary(max_size=40)) + data[begin:end],
                other[begin:end],
            ]
        )
    )
    return data[:begin] + piece + data[end:]


@given(st.data())
@fuzz
def test_a_damaged_file_is_refused_or_read_right_and_always_found_by_verification(whole, folder, data):
    name, other = data.draw(st.sampled_from(FILES)), data.draw(st.sampled_from(FILES))
    original = (whole / name).read_bytes()
    changed = data.draw(damaged(original, (whole / other).read_bytes()))
    (folder / name).write_bytes(changed)
    try:
        assert_refused_or_right(folder)
        try:
            problems = verify_shards(folder, read_manifest(folder))
        except DataError as error:
            problems = [str(error)]
        assert bool(problems) == (changed != original)
    finally:
        (folder / name).write_bytes(original)


@given(st.data())
@settings(fuzz, max_examples=100)
def test_verification_finds_every_single_flipped_byte(whole, folder, data):
    name = data.draw(st.sampled_from(FILES))
    content = bytearray((whole / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    try:
        found = verify_shards(folder, read_manifest(folder))
    except DataError as error:
        found = [str(error)]
    finally:
        shutil.copy(whole / name, folder / name)
    assert found and Path(name).parts[0] in found[0]


# Forged files: every checksum fits, what it stands for does not.


def reseal(folder: Path, value: dict) -> None:
    """Write a manifest with fingerprint and checksum that fit it."""

    def digest(content: dict) -> str:
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    value = {key: item for key, item in value.items() if key not in ("fingerprint", "checksum")}
    told = {key: item for key, item in value.items() if key not in ("weights", "config", "statistics")}
    value["fingerprint"] = digest(told)
    value["checksum"] = digest(value)
    (folder / "manifest.json").write_text(json.dumps(value))


def forge(folder: Path, whole: Path, tar: bytes | None = None, index: bytes | None = None, **fields: int) -> None:
    """Replace the tar or index of train-000000, and let the manifest vouch for them."""
    value = json.loads((whole / "manifest.json").read_text())
    shard = value["splits"]["train"][0]
    if tar is not None:
        (folder / "train-000000.tar").write_bytes(tar)
        shard["bytes"], shard["sha256"] = len(tar), hashlib.sha256(tar).hexdigest()
    if index is not None:
        (folder / "train-000000.idx").write_bytes(index)
        shard["index_sha256"] = hashlib.sha256(index).hexdigest()
    shard.update(fields)
    reseal(folder, value)


def restore(folder: Path, whole: Path) -> None:
    for name in FILES:
        shutil.copy(whole / name, folder / name)


def index_bytes(index: ShardIndex) -> bytes:
    head = struct.pack("<8sIIQQ", b"EDSINDEX", 1, 32, len(index.records), index.tar_bytes)
    body = head + bytes.fromhex(index.tar_sha256) + index.records.tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


@given(st.data())
@fuzz
def test_an_index_with_forged_records_is_refused_or_reads_right(whole, folder, data):
    index = read_index(whole / "train-000000.idx")
    records = index.records.copy()
    for _ in range(data.draw(st.integers(1, 3))):
        field = data.draw(st.sampled_from(INDEX_RECORD.names))
        most = np.iinfo(INDEX_RECORD[field]).max
        near = int(records[0][field])
        value = data.draw(st.one_of(st.integers(0, most), st.integers(max(0, near - 600), min(most, near + 600))))
        records[data.draw(st.integers(0, 2))][field] = value
    forged = ShardIndex(records, index.tar_bytes, index.tar_sha256)
    fields = {name: int(records[name].sum(dtype=np.uint64)) for name in ("tokens", "documents", "sentences")}
    forge(folder, whole, index=index_bytes(forged), **fields)
    try:
        assert_refused_or_right(folder)
    finally:
        restore(folder, whole)


def test_an_index_from_another_tar_is_refused(whole, folder):
    for name in ("train-000001.idx", "validation-000000.idx"):
        shutil.copy(folder / name, folder / "train-000000.idx")
        with pytest.raises(DataError, match=r"train-000000\.idx"):
            ShardSet(folder)
        forge(folder, whole, index=(whole / name).read_bytes())  # even where the manifest names it
        with pytest.raises(DataError, match=r"train-000000\.idx: not the one its manifest names"):
            ShardSet(folder)
        restore(folder, whole)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            Block(np.full(60, 1000, "<u2"), np.zeros(1, "<u4"), np.zeros(1, "<u4")),
            "token id 1000, but the vocabulary has",
        ),
        (Block(np.full(60, 9, "<u4"), np.zeros(1, "<u4"), np.zeros(1, "<u4")), "tokens are uint32, the manifest says"),
    ],
)
def test_a_block_that_does_not_fit_the_manifest_is_refused_when_it_is_read(whole, folder, block, said):
    """Every checksum fits; without this the embedding would fail deep in training, or rows be garbage."""
    data = encode_block("train-000000-00000", block)
    counts = (len(block.tokens), len(block.documents), len(block.sentences))
    tar = data + bytes(1024)
    records = np.array([(0, len(data), *counts, zlib.crc32(data), 0)], INDEX_RECORD)
    index = index_bytes(ShardIndex(records, len(tar), hashlib.sha256(tar).hexdigest()))
    fields = dict(zip(("tokens", "documents", "sentences", "blocks"), (*counts, 1), strict=True))
    forge(folder, whole, tar, index, **fields)
    try:
        with pytest.raises(DataError, match=said):
            ShardSet(folder).read(0)
    finally:
        restore(folder, whole)


def paths(value: object, prefix: tuple = ()) -> list[tuple]:
    """Ways to every value inside decoded JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix] * bool(prefix) + [path for key, item in items for path in paths(item, (*prefix, key))]


nasty = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1 << 62, 10**30, 1.5, 1e400, "", "x", "../x", "/x", "a\0b", "0" * 64, [], {}, [[]]]
    ),
    st.integers(),
    st.text(max_size=5),
    st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False), lambda inner: st.lists(inner, max_size=2)),
)


@given(st.data())
@settings(fuzz, max_examples=400)
def test_a_manifest_with_forged_values_is_refused_or_reads_right(whole, folder, data):
    value = json.loads((whole / "manifest.json").read_text())
    path = data.draw(st.sampled_from(paths(value)))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    action = data.draw(st.sampled_from(["replace", "delete", "add"]))
    if action == "replace":
        inner[path[-1]] = data.draw(nasty)
    elif action == "delete":
        del inner[path[-1]]
    elif isinstance(inner, dict):
        inner["surplus"] = data.draw(nasty)
    try:
        reseal(folder, value)
        # Ids of special tokens, the vocabulary's size, shards left out: a forger may say these, and nobody can tell.
        free = path[0] in ("tokenizer", "weights", "config", "statistics") or (path[0] == "splits" and len(path) <= 3)
        try:
            read_all(folder)
        except UserError:
            pass
        else:
            assert free or assert_refused_or_right(folder) is None
    finally:
        restore(folder, whole)


@pytest.mark.parametrize(
    "name",
    ["../copy/train-000000", "/etc/train", "a/b", "..", ".", "", "train\\0", "a\0b", "x" * 80, 7, None, ["train"]],
)
def test_a_shard_name_that_leads_elsewhere_is_refused_before_a_file_is_opened(whole, folder, name, monkeypatch):
    value = json.loads((whole / "manifest.json").read_text())
    value["splits"]["train"][0]["name"] = name
    reseal(folder, value)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more))
    try:
        with pytest.raises(DataError, match=r"manifest\.json: splits\.train: shard name is .*, expected a name that"):
            ShardSet(folder)
        assert opened == [f"{folder}/manifest.json"]
    finally:
        restore(folder, whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": {"web": -1}}, r"weights\.web is -1, expected a number from 0 on"),
        ({"weights": {"web": True}}, r"weights\.web is True"),
        ({"weights": {"web": 1e400}}, r"cannot be read \(Infinity is no JSON\)"),
        ({"weights": [1]}, "weights is 'list', expected an object"),
        ({"dtype": "object"}, "dtype is 'object', expected uint16 or uint32"),
        ({"format": "other"}, "format is 'other'"),
        ({"surplus": 1}, r"keys is \['surplus'\]"),
        ({"splits": {"../x": []}}, r"splits is '\.\./x'"),
        ({"splits": {"train": {}}}, r"splits\.train is \{\}, expected a list"),
    ],
)
def test_a_manifest_with_impossible_values_says_which(whole, folder, change, said):
    value = json.loads((whole / "manifest.json").read_text())
    reseal(folder, {**value, **change})
    try:
        with pytest.raises(DataError, match=said):
            read_manifest(folder)
    finally:
        restore(folder, whole)


@given(st.binary(max_size=3000))
@example(b"[" * 1_000_000)
@example(b'{"a":' * 1_000_000)
@example(b'{"version": 2, "version": 2}')
@example(b'{"version": 2, "splits": NaN}')
@example(b"1" * 10_000)
@example(b"\xef\xbb\xbf{}")
@example('{"version": 2}'.encode("utf-16"))
@example(b"EDSINDEX" + struct.pack("<IIQQ", 1, 32, 1 << 62, 1 << 62) + bytes(36))
@example(b"EDSINDEX" + struct.pack("<IIQQ", 1, 32, (1 << 64) // 32, 0) + bytes(36))
@settings(fuzz, max_examples=100)
def test_bytes_that_are_nothing_are_refused_by_every_reader(data):
    for reader in (parse_manifest, parse_index, decode_block):
        with pytest.raises(DataError, match="here"):
            reader(data, "here")


def test_what_stands_in_the_place_of_a_file_is_refused_without_reading_it(whole, folder):
    def expect(name: str, said: str) -> None:
        try:
            with pytest.raises(DataError, match=said):
                read_all(folder)
        finally:
            (shutil.rmtree if (folder / name).is_dir() else os.unlink)(folder / name)
            shutil.copy(whole / name, folder / name)

    for name in ("manifest.json", "train-000000.idx"):
        os.truncate(folder / name, 1 << 40)  # sparse: a terabyte that takes no room
        expect(name, r"1,099,511,627,776 bytes, where at most [\d,]+ can be right")
        (folder / name).unlink()
        os.mkfifo(folder / name)
        expect(name, "it is no plain file")
        (folder / name).unlink()
        (folder / name).mkdir()
        expect(name, "it is no plain file|Is a directory")
    (folder / "train-000000.tar").unlink()
    os.mkfifo(folder / "train-000000.tar")
    expect("train-000000.tar", r"train-000000\.tar: 0 bytes")
