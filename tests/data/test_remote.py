"""Remote shard sets: the same blocks as local ones, whatever the server does, or an error that says what it did."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from electra_ds.data.cache import CACHE_VARIABLE
from electra_ds.data.format import read_manifest, verify_shards
from electra_ds.data.shards import ShardSet
from electra_ds.errors import DataError, UserError
from electra_ds.remote import RemoteFolder, Retry, is_url, location, with_retries
from tests.data.sets import make_block, make_set, same
from tests.data.web import Handler, serve

pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five training blocks of some 300 kB in two shards."""
    return make_set(tmp_path_factory.mktemp("remote") / "set", (3, 2), tokens=140_000)


@pytest.fixture
def web(folder):
    with serve(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """No pauses, a second of patience, and a cache that goes with the test."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "default"))
    monkeypatch.setattr(Retry, "__init__", lambda self, retries=5, **_: self.__dict__.update(retries=retries, **QUICK))


QUICK = {"timeout": 1.0, "first_delay": 0.01, "longest_delay": 0.05}


def open_set(web, tmp_path, **options) -> ShardSet:
    return ShardSet(web.url, cache_folder=tmp_path / "cache", **options)


def assert_all_blocks_are_right(shards: ShardSet, tokens: int = 140_000) -> None:
    for number in range(len(shards)):
        assert same(shards.read(number), make_block(number, tokens))


def test_blocks_are_those_of_the_local_set_and_each_byte_comes_once(folder, web, tmp_path):
    shards = open_set(web, tmp_path)
    assert shards.manifest == read_manifest(folder)
    for _ in range(2):
        assert_all_blocks_are_right(shards)
    size = int(shards.records["size"].sum())
    assert shards.bytes_read == 2 * size
    assert shards.bytes_fetched == size == sum(last - first + 1 for _, first, last in web.ranges())
    assert shards.reads == len(web.ranges()) == 5
    assert min(last - first + 1 for _, first, last in web.ranges()) >= 1 << 18


def test_a_second_opening_takes_everything_from_the_cache(web, tmp_path):
    assert_all_blocks_are_right(open_set(web, tmp_path))
    web.requests.clear()
    again = open_set(web, tmp_path)
    assert_all_blocks_are_right(again)
    assert (again.reads, again.bytes_fetched, again.cache_hits) == (0, 0, 5)
    assert {name for name, _, _ in web.requests} == {"manifest.json"}


def test_small_blocks_are_fetched_together(tmp_path):
    blocks = (100, 1, 40)
    with serve(make_set(tmp_path / "set", blocks, tokens=4000)) as web:
        shards = ShardSet(web.url, cache_disk_bytes=0)
        assert_all_blocks_are_right(shards, tokens=4000)
        sizes = [shards.manifest.splits["train"][n].bytes - 1024 for n in range(3)]
        assert shards.bytes_fetched == sum(sizes)
        # Nothing shorter than 256 KiB but where a whole tar is.
        assert all(last - first + 1 >= min(1 << 18, size) for _, first, last in web.ranges() for size in [min(sizes)])
        assert shards.reads <= sum(max(1, size // (1 << 18)) for size in sizes)


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (Handler.unavailable, 2),
        (Handler.truncate, 2),
        (Handler.shorten, 2),
        (Handler.shift, 2),
        (Handler.hang_up, 2),
        (Handler.hang, 1),
    ],
)
def test_what_passes_is_tried_again(web, tmp_path, fault, times):
    web.fail(r"train-000000\.tar", fault, times)
    shards = open_set(web, tmp_path)
    assert_all_blocks_are_right(shards)
    assert len(web.ranges()) == 5 + times


@pytest.mark.parametrize("name", ["manifest.json", "train-000001.idx"])
def test_what_passes_is_tried_again_while_opening(web, tmp_path, name):
    web.fail(name, Handler.unavailable, 2)
    web.fail(name, Handler.truncate, 2)
    assert_all_blocks_are_right(open_set(web, tmp_path))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Handler.unavailable, r"train-000000\.tar \(2.. *[\d,]+ bytes at offset 0\): .*503.*\(3 tries\)"),
        (
            Handler.shorten,
            r"train-000000\.tar \([\d,]+ bytes at offset 0\): .*[\d,]+ of [\d,]+ bytes came.*\(3 tries\)",
        ),
        (Handler.shift, r"train-000000\.tar block 0: .* at offset 0, CRC-32 [0-9a-f]{8} where the index says"),
        (Handler.forbidden, r"train-000000\.tar .*access refused.*403.*credentials.*\(1 try\)"),
        (Handler.ignore_range, r"train-000000\.tar .*does not answer range requests \(1 try\)"),
    ],
)
def test_what_stays_is_told_with_address_place_and_tries(web, tmp_path, fault, said):
    said = said.replace("2.. *", "")
    shards = open_set(web, tmp_path, retries=2)
    web.fail(r"train-000000\.tar", fault, 100)
    with pytest.raises(DataError, match=said) as caught:
        shards.read(0)
    assert web.url in str(caught.value)
    web.faults.clear()
    assert same(shards.read(0), make_block(0, 140_000)), "an error is not kept"


def test_a_server_that_hangs_is_given_up(web, tmp_path):
    shards = open_set(web, tmp_path, retries=1)
    web.fail(r"\.tar", Handler.hang, 2)
    with pytest.raises(DataError, match=r"no answer in time .*\(2 tries\)"):
        shards.read(0)


def test_what_is_missing_is_not_asked_for_again(tmp_path, web):
    with pytest.raises(DataError, match=r"/nowhere: no manifest\.json"):
        ShardSet(f"{web.url}/nowhere")
    with pytest.raises(UserError, match=r"ftpx://a/b: .*Protocol not known"):
        ShardSet("ftpx://a/b")
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/.*\(6 tries\)"):
        ShardSet("http://127.0.0.1:9/set")


def test_a_tar_that_is_gone_or_cut_is_met_at_opening(tmp_path):
    copy = make_set(tmp_path / "set")
    with serve(copy) as web:
        tar = copy / "train-000001.tar"
        tar.write_bytes(tar.read_bytes()[:-512])
        with pytest.raises(DataError, match=r"train-000001\.tar: \d+ bytes, the manifest says"):
            ShardSet(web.url, cache_disk_bytes=0)
        tar.unlink()
        with pytest.raises(DataError, match=r"train-000001\.tar: not found; check the address"):
            ShardSet(web.url, cache_disk_bytes=0)


def test_announced_blocks_are_fetched_in_the_background(web, tmp_path):
    shards = open_set(web, tmp_path, read_ahead=3)
    shards.will_need([4, 2, 0, 1])
    deadline = time.monotonic() + 20
    while len(web.ranges()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shards.reads == 3, "bounded: the fourth waits until it is asked for"
    assert_all_blocks_are_right(shards)
    assert shards.reads == 5
    shards.close()


def test_an_error_in_the_background_is_told_to_who_asks(web, tmp_path):
    shards = open_set(web, tmp_path, retries=0)
    web.fail(r"train-000000", Handler.unavailable)
    shards.will_need([0])
    time.sleep(0.3)
    with pytest.raises(DataError, match="503"):
        shards.read(0)
    assert same(shards.read(0), make_block(0, 140_000))


def test_the_tokenizer_is_brought_to_local_disk(folder, web, tmp_path):
    shards = open_set(web, tmp_path)
    local = shards.tokenizer_folder()
    assert {path.name: path.read_bytes() for path in local.iterdir()} == {
        path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()
    }
    assert shards.tokenizer_folder() == local
    (local / "vocab.txt").write_text("damaged")
    assert (shards.tokenizer_folder() / "vocab.txt").read_bytes() == (folder / "tokenizer/vocab.txt").read_bytes()
    assert ShardSet(folder).tokenizer_folder() == folder / "tokenizer"


def test_verification_reads_a_remote_set(web, folder):
    read = []
    assert verify_shards(web.url, read_manifest(web.url), read.append) == []
    manifest = read_manifest(folder)
    assert sum(read) == sum(manifest.total(split, "bytes") for split in manifest.splits)


def test_a_set_in_memory_is_read_by_a_file_system_that_is_not_asynchronous(folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/set", recursive=True)
    shards = ShardSet("memory://bucket/set", cache_disk_bytes=0)
    assert_all_blocks_are_right(shards)
    assert (shards.tokenizer_folder() / "vocab.txt").is_file()
    memory.rm("/bucket/set/train-000001.tar")
    with pytest.raises(DataError, match=r"train-000001\.tar: missing, the manifest says"):
        ShardSet("memory://bucket/set", cache_disk_bytes=0)


def test_what_is_a_url():
    assert is_url("s3://bucket/set") and is_url("hf://datasets/a/b") and is_url("simplecache::http://x/y")
    assert not is_url("/a/b") and not is_url("a:b") and not is_url("file:///a/b")
    assert location("file:///a/b") == "/a/b"
    assert location(Path("s3://bucket/set")) == "s3://bucket/set"


def test_pauses_grow_and_are_bounded(monkeypatch):
    monkeypatch.undo()
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def fail() -> None:
        raise ConnectionResetError("by peer")

    with pytest.raises(DataError, match=r"x: ConnectionResetError: by peer; try again later, .* \(9 tries\)"):
        with_retries(fail, "x", Retry(retries=8))
    bounds = [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert all(0.75 * least <= pause <= 1.25 * least for pause, least in zip(pauses, bounds, strict=True))
    assert RemoteFolder("http://127.0.0.1:9").requests == 0
