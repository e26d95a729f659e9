"""Every kind of file is read through a URL as it is read here; a server that stumbles costs time, never documents."""

from __future__ import annotations

import functools
import gzip
import json
import threading
import zipfile
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard

from data_prep.sources import remote
from electra_ds.errors import DataError, UserError
from electra_ds.remote import Retry
from tests.data.web import Handler, serve
from tests.data_prep.reading import ROWS, documents, keeps_its_promises, labelled, opened, read

pytest.importorskip("aiohttp")

LINES = "".join(json.dumps({"text": f"Document number {number}."}) + "\n" for number in range(3000)).encode()
TEXTS = [f"Document number {number}." for number in range(3000)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Three attempts in less than a second each."""
    monkeypatch.setattr(remote, "RETRY", Retry(retries=2, timeout=1.0, first_delay=0.01))
    monkeypatch.setattr(remote, "_BLOCK", 4096)


@pytest.fixture
def folder(tmp_path) -> Path:
    """One file of every kind, all with `ROWS`."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(data))
    (tmp_path / "sub/c.jsonl.gz").write_bytes(gzip.compress(data))
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet", row_group_size=2)
    for name, new in {"e.arrow": pyarrow.ipc.new_file, "f.arrow": pyarrow.ipc.new_stream}.items():
        with new(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    return tmp_path


FILES = ["a.jsonl", "b.jsonl.zst", "d.parquet", "e.arrow", "f.arrow", "sub/c.jsonl.gz"]


@pytest.fixture
def web(tmp_path):
    with serve(tmp_path) as server:
        yield server


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_over_http(name, folder, web):
    [source] = opened(f"{web.url}/{name}")
    assert source.name == f"{web.url}/{name}"
    assert source.size == (folder / name).stat().st_size
    assert keeps_its_promises(source, (40, 1 << 22)) == labelled(name.rpartition("/")[2])


def test_a_query_belongs_to_the_url_and_not_to_the_name(folder, web, monkeypatch):
    monkeypatch.setattr(Handler, "path", property(lambda self: self.__dict__["path"].partition("?")[0], _set), False)
    assert documents(f"{web.url}/b.jsonl.zst?token=a") == labelled("b.jsonl.zst")


def _set(self, value):
    self.__dict__["path"] = value


def test_a_plain_file_is_read_by_ranges_and_little_more_than_once(tmp_path, web):
    (tmp_path / "big.jsonl").write_bytes(LINES * 20)
    [source] = opened(f"{web.url}/big.jsonl")
    pieces = list(source.pieces(500_000))
    web.requests.clear()
    found = [document.text for document in source.documents(pieces[1], Counter())]
    assert len(pieces) == -(-len(LINES) * 20 // 500_000) and found[0] in TEXTS
    assert sum(last - first + 1 for _, first, last in web.requests) < 500_000 + remote_overhead()
    assert [document.text for document in read(source, 500_000)] == TEXTS * 20


def remote_overhead() -> int:
    from data_prep.sources.stored import CHUNK

    return 2 * CHUNK


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
@pytest.mark.parametrize("fault", [Handler.unavailable, Handler.truncate, Handler.shorten, Handler.hang_up])
def test_a_server_that_stumbles_twice_is_asked_again(name, fault, tmp_path, web):
    (tmp_path / name).write_bytes(zstandard.compress(LINES) if name.endswith(".zst") else LINES)
    [source] = opened(f"{web.url}/{name}")
    web.fail("a.jsonl", fault, times=2)
    assert [document.text for document in read(source)] == TEXTS
    assert not web.faults


def test_a_server_that_hangs_is_asked_again(tmp_path, web):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    [source] = opened(f"{web.url}/a.jsonl")
    web.fail("a.jsonl", Handler.hang)
    assert [document.text for document in read(source)] == TEXTS


@pytest.mark.parametrize(
    ("fault", "message"),
    [  # the client itself asks twice where a connection was closed
        (Handler.unavailable, "503"),
        (Handler.shorten, "cut short"),
        (Handler.truncate, "not completed"),
        (Handler.hang_up, "disconnected"),
    ],
)
def test_a_server_that_goes_on_stumbling_is_an_error_that_names_it(fault, message, tmp_path, web):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    [source] = opened(f"{web.url}/a.jsonl")
    web.fail("a.jsonl", fault, times=9)
    with pytest.raises(DataError, match=rf"{web.url}/a.jsonl .*{message}.*3 tries") as raised:
        read(source)
    assert "Traceback" not in str(raised.value)


def test_what_will_not_pass_is_refused_at_once(tmp_path, web):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    [source] = opened(f"{web.url}/a.jsonl")
    web.fail("a.jsonl", Handler.forbidden)
    with pytest.raises(DataError, match=r"access refused.*\(1 try\)"):
        read(source)
    with pytest.raises(DataError, match=r"nothing\.jsonl: not found"):
        opened(f"{web.url}/nothing.jsonl")


def test_a_server_without_ranges_is_named(tmp_path, web):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    [source] = opened(f"{web.url}/a.jsonl")
    web.fail("a.jsonl", Handler.ignore_range, times=9)
    with pytest.raises(DataError, match="does not answer byte ranges; download it first"):
        read(source, 10_000)


def test_a_corrupt_remote_file_is_named(tmp_path, web):
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(LINES)[:-20])
    [source] = opened(f"{web.url}/a.jsonl.zst")
    with pytest.raises(DataError, match=f"{web.url}/a.jsonl.zst: corrupt or cut short"):
        read(source)


@pytest.mark.parametrize("name", ["d.parquet", "f.arrow"])
def test_a_table_behind_a_server_that_goes_on_stumbling_is_named(name, folder, web):
    [source] = opened(f"{web.url}/{name}")
    web.fail(name, Handler.unavailable, times=9)
    with pytest.raises(DataError, match=rf"{web.url}/{name} .*503.*3 tries"):
        read(source)


def test_a_folder_that_a_web_server_lists(folder):
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert [source.name for source in opened(f"{url}/*.jsonl*")] == [f"{url}/a.jsonl", f"{url}/b.jsonl.zst"]
        assert documents(f"{url}/sub/") == labelled("c.jsonl.gz")
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


def test_files_in_an_archive(folder):
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.write(folder / "a.jsonl", "x/a.jsonl")
        archive.write(folder / "b.jsonl.zst", "x/b.jsonl.zst")
    found = documents(f"zip://x/*::file://{folder}/all.zip")
    assert found == labelled("a.jsonl") + labelled("b.jsonl.zst")


def test_a_missing_package_is_named(monkeypatch):
    import fsspec.core

    def missing(url: str, **_: object) -> None:
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match=r"gs:// needs a package that is not installed .*; pip install gcsfs"):
        opened("gs://bucket/a.jsonl")


@pytest.fixture(scope="module")
def s3():
    """An S3-compatible server on this machine, which listens on HTTP."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3, folder, monkeypatch):
    """A bucket with the files of `folder`."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    name = f"bucket-{folder.name.replace('_', '-').lower()}"[:60]
    files.mkdir(name)
    files.put(f"{folder}/", f"{name}/corpus", recursive=True)
    yield name
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_in_s3(name, bucket):
    [source] = opened(f"s3://{bucket}/corpus/{name}")
    assert keeps_its_promises(source, (40, 1 << 22)) == labelled(name.rpartition("/")[2])
    assert source.version()


def test_patterns_and_folders_in_s3(bucket):
    names = [source.name for source in opened(f"s3://{bucket}/corpus/*.jsonl*")]
    assert names == [f"s3://{bucket}/corpus/a.jsonl", f"s3://{bucket}/corpus/b.jsonl.zst"]
    names = [source.name for source in opened(f"s3://{bucket}/corpus/**/*.gz")]
    assert names == [f"s3://{bucket}/corpus/sub/c.jsonl.gz"]
    sources = opened(f"s3://{bucket}/corpus")
    assert [source.name.partition("/corpus/")[2] for source in sources] == sorted([*FILES, "saved"])
    assert read(sources[-2]) == labelled("saved")
    with pytest.raises(UserError, match=r"matches no file"):
        opened(f"s3://{bucket}/corpus/*.txt")
    with pytest.raises(DataError, match=r"nothing.jsonl: not found"):
        opened(f"s3://{bucket}/corpus/nothing.jsonl")


def test_a_file_written_anew_in_s3_has_another_version(bucket):
    import s3fs

    url = f"s3://{bucket}/corpus/a.jsonl"
    [before] = opened(url)
    s3fs.S3FileSystem().pipe(url, b'{"text": "new"}\n')
    [after] = opened(url)
    assert before.version() != after.version()
    assert [document.text for document in read(after)] == ["new"]


def test_an_s3_server_that_is_not_there_is_an_error_that_says_so(monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"s3://bucket/a.jsonl: .*127.0.0.1:9.*\(3 tries\)"):
        opened("s3://bucket/a.jsonl")
    s3fs.S3FileSystem.clear_instance_cache()
