"""The cache of remote blocks: shared, bounded, and never a source of other bytes than were asked for."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import time
import warnings
from contextlib import suppress
from pathlib import Path

import pytest

from electra_ds.data import cache as cache_module
from electra_ds.data.cache import DiskCache
from electra_ds.data.remote_blocks import fetch_cached
from electra_ds.data.shards import ShardSet
from tests.data.sets import digest, make_block, make_set, same
from tests.data.web import Handler, serve

pytest.importorskip("aiohttp")
BLOCKS, TOKENS = 12, 140_000
spawn = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve blocks of some 320 kB."""
    return make_set(tmp_path_factory.mktemp("remote") / "set", (7, 5), TOKENS)


@pytest.fixture
def web(folder):
    with serve(folder) as server:
        yield server


def entries(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (folder / "blocks").iterdir()}


def read_all(url: str, cache: str, limit: int, shift: int, results) -> None:
    """A rank: reads every block, beginning at its own place."""
    shards = ShardSet(url, cache_folder=cache, cache_disk_bytes=limit, read_ahead=2)
    numbers = [(number + shift) % len(shards) for number in range(len(shards))]
    shards.will_need(numbers[:4])
    results.put((shift, {number: digest(shards.read(number)) for number in numbers}, shards.bytes_fetched))


def start(target, *arguments):
    process = spawn.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def test_ranks_of_a_node_fetch_each_block_once(web, tmp_path):
    results = spawn.Queue()
    ranks = [start(read_all, web.url, str(tmp_path), 1 << 30, shift, results) for shift in (0, 0, 4, 8)]
    answers = [results.get(timeout=100) for _ in ranks]
    right = {number: digest(make_block(number, TOKENS)) for number in range(BLOCKS)}
    assert all(found == right for _, found, _ in answers)
    assert len(web.ranges()) == len(set(web.ranges())) == BLOCKS
    assert sum(fetched for _, _, fetched in answers) == sum(last - first + 1 for _, first, last in web.ranges())
    assert len(web.ranges(".idx")) == 2


def test_ranks_keep_to_the_bound_together(web, tmp_path):
    limit = 1_200_000  # under four of twelve blocks
    results = spawn.Queue()
    ranks = [start(read_all, web.url, str(tmp_path), limit, shift, results) for shift in (0, 5, 9)]
    right = {number: digest(make_block(number, TOKENS)) for number in range(BLOCKS)}
    most = 0
    while any(rank.is_alive() for rank in ranks) and results.qsize() < len(ranks):
        with suppress(FileNotFoundError):  # one goes while they are looked at
            most = max(most, sum(entries(tmp_path).values()))
        time.sleep(0.005)
    assert all(results.get(timeout=60)[1] == right for _ in ranks)
    assert 600_000 < most <= limit
    assert sum(entries(tmp_path).values()) <= limit


def die_while_writing(folder: str, key: str) -> None:
    """Store an entry, and be killed when half of it is written."""
    real = os.rename

    def rename(*_) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    os.rename = rename
    cache = DiskCache(folder, 1 << 20)
    with cache.fetching(key):
        cache.store(key, b"x" * 1000)
    os.rename = real


def die_while_fetching(url: str, cache: str) -> None:
    ShardSet(url, cache_folder=cache).read(0)


def test_a_process_killed_while_writing_leaves_no_entry_and_no_lock(tmp_path):
    victim = start(die_while_writing, str(tmp_path), "a")
    victim.join(30)
    assert victim.exitcode == -signal.SIGKILL
    assert not entries(tmp_path) and len(list((tmp_path / "partial").iterdir())) == 1
    before = time.monotonic()
    cache = DiskCache(tmp_path, 1 << 20)
    assert not list((tmp_path / "partial").iterdir())
    assert fetch_cached(cache, "a", 4, lambda: b"good", lambda data: data == b"good") == (b"good", False)
    assert fetch_cached(cache, "a", 4, lambda: b"evil", lambda data: data == b"good") == (b"good", True)
    assert time.monotonic() - before < 10


def test_a_process_killed_while_fetching_lets_the_others_go_on(web, tmp_path):
    ShardSet(web.url, cache_folder=tmp_path)  # the indexes
    web.fail(r"train-000000\.tar", Handler.hang)
    victim = start(die_while_fetching, web.url, str(tmp_path))
    while not web.ranges():
        time.sleep(0.01)
    victim.kill()
    victim.join()
    results = spawn.Queue()
    ranks = [start(read_all, web.url, str(tmp_path), 1 << 30, shift, results) for shift in (0, 1)]
    right = {number: digest(make_block(number, TOKENS)) for number in range(BLOCKS)}
    assert all(results.get(timeout=60)[1] == right for _ in ranks)
    assert len(web.ranges()) == BLOCKS + 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_entry_is_fetched_again(web, tmp_path, damage):
    before = ShardSet(web.url, cache_folder=tmp_path)
    before.read(0)
    [name] = [name for name in entries(tmp_path) if not name.startswith("index")]
    damage(tmp_path / "blocks" / name)
    shards = ShardSet(web.url, cache_folder=tmp_path)
    assert same(shards.read(0), make_block(0, TOKENS))
    assert (shards.reads, shards.cache_hits) == (1, 0)
    again = ShardSet(web.url, cache_folder=tmp_path)
    assert same(again.read(0), make_block(0, TOKENS))
    assert (again.reads, again.cache_hits) == (0, 1)


def test_least_recently_used_entries_go_first(tmp_path):
    cache = DiskCache(tmp_path, 100)
    for number, key in enumerate("abcd"):
        cache.store(key, bytes(25))
        os.utime(tmp_path / "blocks" / key, (1000 + number, 1000 + number))
    assert cache.read("a", 25)
    cache.store("e", bytes(25))
    assert set(entries(tmp_path)) == {"a", "d", "e"}, "down to 90%, so that the next entry need not delete again"


def test_a_clock_that_goes_backwards_costs_order_not_bytes(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path, 100)
    for number, key in enumerate("abcdefgh"):
        cache.store(key, key.encode() * 25)
        os.utime(tmp_path / "blocks" / key, (1e9 - 1000 * number, 1e9 - 1000 * number))
        assert sum(entries(tmp_path).values()) <= 100
    found = [key for key in "abcdefgh" if (data := cache.read(key, 25)) and data == key.encode() * 25]
    assert len(found) >= 2
    monkeypatch.setattr(time, "time", lambda: -1.0)
    cache.store("i", bytes(25))
    assert cache.read("i", 25) == bytes(25)


def test_an_entry_read_while_it_is_deleted_stays_whole(tmp_path):
    cache = DiskCache(tmp_path, 100)
    cache.store("a", b"a" * 60)
    with open(tmp_path / "blocks/a", "rb") as file:
        cache.store("b", b"b" * 60)
        assert set(entries(tmp_path)) == {"b"}
        assert file.read() == b"a" * 60


def test_a_full_disk_means_one_warning_and_no_more_storing(web, tmp_path, monkeypatch):
    shards = ShardSet(web.url, cache_folder=tmp_path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module.tempfile, "mkstemp", full)
    with pytest.warns(RuntimeWarning, match=r"nothing more is stored .*No space left on device") as caught:
        for number in range(4):
            assert same(shards.read(number), make_block(number, TOKENS))
    assert len(caught) == 1
    assert not [name for name in entries(tmp_path) if not name.startswith("index")]


def test_a_cache_that_is_deleted_while_it_is_used_is_made_anew(tmp_path):
    cache = DiskCache(tmp_path / "cache", 100)
    shutil.rmtree(tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            data, hit = fetch_cached(cache, "a", 10, lambda: bytes(10), lambda data: len(data) == 10)
    assert (data, hit) == (bytes(10), True)
    assert entries(tmp_path / "cache") == {"a": 10}


def test_a_folder_that_cannot_be_made_means_one_warning(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="nothing more is stored in it"):
        cache = DiskCache(tmp_path / "file" / "cache", 100)
    assert not cache.is_on
    cache.store("a", b"a")
    assert cache.read("a", 1) is None
    with cache.fetching("a"):
        pass


def test_nothing_is_touched_where_the_cache_is_off_or_the_set_is_local(folder, web, tmp_path):
    ShardSet(web.url, cache_folder=tmp_path / "off", cache_disk_bytes=0).read(0)
    ShardSet(folder, cache_folder=tmp_path / "local").read(0)
    assert not list(tmp_path.iterdir())


def test_a_sum_that_is_lost_or_wrong_is_counted_anew(tmp_path):
    cache = DiskCache(tmp_path, 100)
    for number, content in enumerate((b"", b"abc", b"\xff" * 8, (1 << 60).to_bytes(8, "little"))):
        (tmp_path / "bytes").write_bytes(content)
        cache.store(f"entry {number}", bytes(20))
        assert int.from_bytes((tmp_path / "bytes").read_bytes(), "little") == 20 * (number + 1)
    assert len(entries(tmp_path)) == 4


def hold_lock(folder: str, key: str, ready) -> None:
    cache = DiskCache(folder, 100)
    with cache.fetching(key):
        ready.set()
        time.sleep(60)


def test_a_process_that_is_stopped_with_a_lock_is_waited_for_no_longer_than_told(tmp_path):
    ready = spawn.Event()
    other = start(hold_lock, str(tmp_path), "a", ready)
    assert ready.wait(30)
    os.kill(other.pid, signal.SIGSTOP)
    cache = DiskCache(tmp_path, 100, longest_wait=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fetch_cached(cache, "a", 1, lambda: b"a", lambda _: True) == (b"a", False)
    assert entries(tmp_path) == {"a": 1}
    other.kill()


def test_the_folder_is_the_configured_one_or_the_environments(monkeypatch, tmp_path):
    monkeypatch.setenv(cache_module.CACHE_VARIABLE, str(tmp_path / "x"))
    assert cache_module.default_folder() == tmp_path / "x"
    monkeypatch.delenv(cache_module.CACHE_VARIABLE)
    assert str(os.getuid()) in cache_module.default_folder().name
