"""Bad input to a source: an error that names file and place, or a behaviour that is stated and counted."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from electra_ds.errors import DataError, UserError
from tests.data_prep.reading import documents, keeps_its_promises, opened, read

GOOD = b"".join(json.dumps({"text": f"A good line, number {n}."}).encode() + b"\n" for n in range(2000))


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", b"", "a.jsonl: is empty (0 bytes)"),
        ("a.txt", b"", "a.txt: is empty (0 bytes)"),
        ("a.parquet", b"", "a.parquet: is empty (0 bytes)"),
        ("a.arrow", b"", "a.arrow: is empty (0 bytes)"),
        ("a.xml.bz2", b"", "a.xml.bz2: is empty (0 bytes)"),
        ("a.warc.gz", b"", "a.warc.gz: is empty (0 bytes)"),
        ("a.jsonl.zst", zstandard.compress(GOOD)[:-20], "a.jsonl.zst: corrupt or cut short"),
        ("a.jsonl.zst", zstandard.compress(GOOD) + zstandard.compress(GOOD)[:3], "a.jsonl.zst: corrupt or cut short"),
        ("a.jsonl.zst", b"no zstandard at all, this", "a.jsonl.zst: corrupt or cut short"),
        ("a.jsonl.gz", gzip.compress(GOOD)[:-20], "a.jsonl.gz: corrupt or cut short"),
        (
            "a.jsonl.gz",
            gzip.compress(GOOD)[:200] + b"x" + gzip.compress(GOOD)[201:],
            "a.jsonl.gz: corrupt or cut short",
        ),
        ("a.txt.gz", gzip.compress(GOOD)[:-20], "a.txt.gz: corrupt or cut short"),
        ("a.jsonl.xz", b"\xfd7zXZ\0 but no more", "a.jsonl.xz: corrupt or cut short"),
        ("a.jsonl.bz2", b"BZh9 but no more", "a.jsonl.bz2: corrupt or cut short"),
        ("a.parquet", b"PAR1 but no more PAR1", "a.parquet: corrupt or cut short"),
        ("a.arrow", b"ARROW1 but no more", "a.arrow: corrupt or cut short"),
        ("a.arrow", b"no arrow at all", "a.arrow: cut short (no end-of-stream mark)"),
        ("a.jsonl", GOOD + b'{"text": "caf\xe9"}\n', "a.jsonl:2001: not UTF-8"),
        ("a.jsonl.gz", gzip.compress(GOOD + b'{"text": "caf\xe9"}\n'), "a.jsonl.gz:2001: not UTF-8"),
        ("a.txt", b"fine\ncaf\xe9\n", "a.txt:2: not UTF-8 (invalid continuation byte: 0xe9)"),
        (
            "a.jsonl",
            b'{"text": "one"}\n{"title": "two", "id": 1}\n',
            "a.jsonl:2: no field 'text' (its fields: title, id)",
        ),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "one"}\n{}\n', "a.jsonl:2: no field 'text' (its fields: none)"),
        ("a.jsonl", b'{"text": "one"}\n{"text": ["two"]}\n', "a.jsonl:2: the text field 'text' is a list"),
        ("a.jsonl", b'{"text": "one"}\n{"text": null}\n', "a.jsonl:2: the text field 'text' is missing or null"),
        ("a.jsonl", b'{"text": "one"}\n\n{"text": "tw', "a.jsonl:3: not JSON"),
        ("a.jsonl", b'["one"]\n', "a.jsonl:1: a list; expected one JSON object per line"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not JSON"),
    ],
)
@pytest.mark.parametrize("piece_bytes", [50, 1 << 22])
def test_a_damaged_or_unfit_file_is_named(piece_bytes, name, data, expected, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as raised:
        for source in opened(f"{tmp_path}/{name}"):
            read(source, piece_bytes)
    assert f"{tmp_path}/{expected}" in str(raised.value)


def test_lines_and_paragraphs_that_are_not_of_the_encoding_are_named_by_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\nthree\n\nfour\ncaf\xe9\nfive\n\nsix\n")
    for how in ("line", "paragraph", "file"):
        for size in (1, 10, 1 << 20):
            with pytest.raises(DataError, match=r"a\.txt:7: not UTF-8 .*--encoding_errors replace"):
                read(opened(f"{tmp_path}/a.txt", text_documents=how)[0], size)


def test_bytes_of_another_encoding_are_replaced_on_demand(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ncaf\xe9\n")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    given = {"encoding_errors": "replace", "text_documents": "line"}
    [text] = opened(f"{tmp_path}/a.txt", **given)
    assert [document.text for document in keeps_its_promises(text)] == ["one", "caf\ufffd"]
    assert [document.text for document in documents(f"{tmp_path}/a.jsonl", **given)] == ["caf\ufffd"]


def test_every_document_is_valid_unicode_and_nul_is_a_character(tmp_path):
    lines = [
        r'{"text": "a\ud800b\udc00\ud83d\ude00", "source": "\udfff"}',
        r'{"text": "nul\u0000 here"}',
        '{"text": "é"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    (tmp_path / "a.txt").write_bytes(b"nul\0 here")
    found = documents(f"{tmp_path}/a.jsonl") + documents(f"{tmp_path}/a.txt")
    assert [document.text for document in found] == ["a\ufffdb\ufffd\U0001f600", "nul\0 here", "é", "nul\0 here"]
    assert found[0].source == "\ufffd"
    for document in found:
        assert "".join(document[:4]).encode()


def test_a_table_with_other_columns_or_types_is_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    for name, table in {
        "1.parquet": {"text": ["fine"]},
        "2.parquet": {"body": ["other"], "id": [1]},
        "3.parquet": {"text": [3]},
        "4.parquet": {"text": ["fine", None]},
    }.items():
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / name)
    sources = opened(f"{tmp_path}/*.parquet")
    for source, message in zip(
        sources,
        [
            None,
            r"2.parquet: no column 'text' \(its columns: body, id\); name the text's column by --text_field",
            r"3.parquet: the column 'text' holds int64; expected strings",
            r"4.parquet row 1: the text field 'text' is missing or null",
        ],
        strict=True,
    ):
        if message:
            with pytest.raises(DataError, match=message):
                read(source)
        else:
            assert [document.text for document in read(source)] == ["fine"]


def test_a_saved_data_set_without_the_column_is_named(tmp_path):
    import datasets

    datasets.Dataset.from_list([{"body": "one"}]).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"saved: no column 'text' \(its columns: body\)"):
        opened(f"{tmp_path}/saved")


def test_a_data_set_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    for prefix in ("hf", "hf-stream"):
        with pytest.raises(UserError, match=f"'{prefix}:{tmp_path}/none' cannot be loaded by `datasets`"):
            documents(f"{prefix}:{tmp_path}/none")


def test_strings_of_a_table_that_are_not_utf8(tmp_path):
    import pyarrow as pa

    column = pa.array([b"fine", b"caf\xe9"])
    with pa.ipc.new_file(f"{tmp_path}/a.arrow", pa.schema({"text": pa.binary()})) as writer:
        writer.write_table(pa.table({"text": column}))
    with pytest.raises(DataError, match=r"a\.arrow record batch 0 row 1: not UTF-8"):
        documents(f"{tmp_path}/a.arrow")
    found = documents(f"{tmp_path}/a.arrow", encoding_errors="replace")
    assert [document.text for document in found] == ["fine", "caf\ufffd"]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("how", ["line", "paragraph"])
def test_documents_that_are_too_long_are_dropped_and_counted(how, ending, tmp_path):
    between = "\n" if how == "line" else "\n\n"
    texts = ["one", "x" * 1001, "y" * 1000, "z" * 50_000, "two", "z" * 5000]
    data = between.join(texts).encode()
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(gzip.compress(data) if ending else data)
    [source] = opened(str(path), text_documents=how, max_document_bytes=1000)
    found = keeps_its_promises(source, (1, 10, 900, 3000, 1 << 20))
    assert [document.text for document in found] == ["one", "y" * 1000, "two"]
    dropped: Counter[str] = Counter()
    read(source, 100, dropped)
    assert dropped == {"too long": 3}


def test_a_whole_file_and_a_row_that_are_too_long_are_dropped_and_counted(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.txt").write_text("x" * 2000)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"x" * 2000))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "é" * 501, "é" * 500]}), tmp_path / "c.parquet")
    dropped: Counter[str] = Counter()
    found = [read(source, 1 << 20, dropped) for source in opened(str(tmp_path), max_document_bytes=1000)]
    assert [[document.text for document in part] for part in found] == [[], [], ["one", "é" * 500]]
    assert dropped == {"too long": 3}


MEMORY = """
import resource, sys
from collections import Counter
from tests.data_prep.reading import opened
[source] = opened(sys.argv[1], text_documents=sys.argv[2], max_document_bytes=2_000_000)
def measure():
    dropped, texts = Counter(), []
    for piece in source.pieces(1_000_000):
        dropped.update(piece.dropped)
        texts += [document.text[:20] for document in source.documents(piece, dropped)]
    return dropped, texts
import pyarrow
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
dropped, texts = measure()
print(texts, dropped, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(("name", "how"), [("a.jsonl.zst", "line"), ("a.txt", "line"), ("a.txt.zst", "paragraph")])
def test_a_document_of_a_gigabyte_on_one_line_needs_little_memory(name, how, tmp_path):
    """Of one repeated token, too: it is a few kilobytes compressed."""
    path = tmp_path / name
    head, tail = (b'{"text": "one"}', b'{"text": "two"}') if "jsonl" in name else (b"one", b"two")
    gap = b"\n" if how == "line" else b"\n\n"
    with open(path, "wb") as raw:
        file = zstandard.ZstdCompressor().stream_writer(raw) if name.endswith(".zst") else raw
        file.write(head + gap)
        for _ in range(1000 if file is not raw else 200):
            file.write(b"word " * 200_000)
        file.write(gap + tail + b"\n")
        file.flush(zstandard.FLUSH_FRAME) if file is not raw else file.flush()
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), how],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )
    texts, _, megabytes = done.stdout.rpartition(" ")
    assert texts == "['one', 'two'] Counter({'too long': 1})"
    assert int(megabytes) < 40
