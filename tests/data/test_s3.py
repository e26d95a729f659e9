"""A shard set in an S3 bucket, over real HTTP."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from electra_ds.data.cache import CACHE_VARIABLE
from electra_ds.data.format import read_manifest, tokenizer_fingerprint, verify_shards
from electra_ds.data.shards import ShardSet
from electra_ds.errors import DataError
from electra_ds.remote import RemoteFolder, Retry
from tests.conftest import metrics, pretrain_options, run_ranks
from tests.data.sets import digest, make_block, make_set, same
from tests.data.web import Handler, serve

pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")
TOKENS = 140_000


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """URL of a set in a bucket; credentials and address stand in the environment, as on a cluster."""
    folder = make_set(tmp_path_factory.mktemp("s3") / "set", (3, 2), TOKENS)
    with pytest.MonkeyPatch.context() as patch:
        moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        host, port = moto.get_host_and_port()
        for name, value in {
            CACHE_VARIABLE: str(folder.parent / "cache"),
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }.items():
            patch.setenv(name, value)
        import s3fs

        files = s3fs.S3FileSystem(skip_instance_cache=True)
        files.mkdir("corpora")
        files.put(str(folder), "corpora/web", recursive=True)
        yield "s3://corpora/web", folder
        moto.stop()


def read(url: str, cache: str, results) -> None:
    shards = ShardSet(url, cache_folder=cache)
    results.put(({n: digest(shards.read(n)) for n in range(len(shards))}, shards.bytes_fetched))


def test_ranks_read_a_bucket_through_one_cache(bucket, tmp_path):
    url, folder = bucket
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    for _ in range(2):
        spawn.Process(target=read, args=(url, str(tmp_path), results), daemon=True).start()
    answers = [results.get(timeout=100) for _ in range(2)]
    assert all(found == {n: digest(make_block(n, TOKENS)) for n in range(5)} for found, _ in answers)
    records = ShardSet(folder).records
    assert sum(fetched for _, fetched in answers) == int(records["size"].sum())


def test_everything_that_reads_a_set_reads_a_bucket(bucket, tmp_path):
    url, folder = bucket
    assert read_manifest(url) == read_manifest(folder)
    assert read_manifest(Path(url)) == read_manifest(folder), "a path loses a slash, and gets it back"
    assert verify_shards(url, read_manifest(url)) == []
    assert tokenizer_fingerprint(f"{url}/tokenizer") == tokenizer_fingerprint(folder / "tokenizer")
    shards = ShardSet(url, "validation", cache_folder=tmp_path)
    assert same(shards.read(0), make_block(5, TOKENS))
    assert tokenizer_fingerprint(shards.tokenizer_folder()) == shards.manifest.tokenizer.fingerprint


def test_a_bucket_or_file_that_is_not_there_is_told(bucket, tmp_path):
    url, _ = bucket
    with pytest.raises(DataError, match=r"s3://nowhere/web: no manifest\.json"):
        ShardSet("s3://nowhere/web")
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    shards = ShardSet(url, cache_disk_bytes=0)
    files.copy("corpora/web/train-000001.tar", "corpora/kept")
    files.pipe("corpora/web/train-000001.tar", b"short")
    try:
        with pytest.raises(DataError, match=r"train-000001\.tar: 5 bytes, the manifest says"):
            ShardSet(url, cache_disk_bytes=0)
        with pytest.raises(
            DataError, match=r"web/train-000001\.tar \([\d,]+ bytes at offset [\d,]+\): shorter.*\(1 try\)"
        ):
            shards.read(4)
    finally:
        files.copy("corpora/kept", "corpora/web/train-000001.tar")
    assert same(shards.read(4), make_block(4, TOKENS))


def test_refused_credentials_are_told_at_once(bucket, monkeypatch):
    url, _ = bucket
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(DataError, match=r"manifest\.json: .*credentials.* \(1 try\)"):
        ShardSet(url)


@pytest.mark.ranks
def test_pretraining_reads_its_shards_from_a_bucket(bucket, tiny_shards, tmp_path):
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).put(str(tiny_shards), "corpora/tiny", recursive=True)
    options = pretrain_options(Path("SHARDS"), tmp_path / "run", training__steps=3, validation__every=3)
    arguments = ["pretrain", *(option.replace("SHARDS", "s3://corpora/tiny") for option in options)]
    done = run_ranks(2, arguments, ELECTRA_DS_CACHE=str(tmp_path / "cache"))
    assert "report.html" in done.stdout
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3]
    assert metrics(tmp_path / "run", "validation")
    assert len(list((tmp_path / "cache/blocks").iterdir())) > 2
    assert (tmp_path / "run/tokenizer/tokenizer.json").read_bytes() == (
        tiny_shards / "tokenizer/tokenizer.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("fault", "tries", "said"),
    [
        (Handler.unavailable, 3, r"HTTP status 503.*\(3 tries\)"),
        (Handler.hang_up, 3, r"\(3 tries\)"),
        (Handler.truncate, 3, r"\(3 tries\)"),
        (Handler.hang, 3, r"no answer in time.*\(3 tries\)"),
        (Handler.forbidden, 1, r"access refused.*credentials.*\(1 try\)"),
    ],
)
def test_retries_are_counted_once_not_multiplied_by_those_of_the_library(tmp_path, monkeypatch, fault, tries, said):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket/a.tar").write_bytes(bytes(1000))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with serve(tmp_path) as web:
        monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
        folder = RemoteFolder("s3://bucket", Retry(retries=2, timeout=1.0, first_delay=0.01))
        folder.read_range("a.tar", 0, 1)  # the first request sets up the session
        web.requests.clear()
        web.fail("a", fault, 100)
        with pytest.raises(DataError, match=rf"s3://bucket/a\.tar \(10 bytes at offset 5\): .*{said}"):
            folder.read_range("a.tar", 5, 10)
        # aiohttp itself asks once more, at once, where a connection that it kept turns out to be closed.
        assert tries <= len(web.requests) <= (2 * tries if fault is Handler.hang_up else tries)
        web.faults.clear()
        assert folder.read_range("a.tar", 5, 10) == bytes(10)
