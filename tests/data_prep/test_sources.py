"""Every kind of input gives the same documents, and so the same tokens."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard

from data_prep.config import PrepConfig
from data_prep.sources import Document, open_sources
from electra_ds.data.format import read_manifest
from tests.data_prep.conftest import prep, write_json_lines

ROWS = [
    {"text": "The first document.\nIts second line.", "source": "books", "language": "en"},
    {"text": "Ein zweites Dokument.", "source": "zeitung", "language": "de"},
    {"text": "Третий документ.", "source": "books", "language": "ru"},
]


def documents(inputs: object, **given: object) -> list[Document]:
    config = PrepConfig(inputs=inputs, output=Path("unused"), **given)
    return [document for source in open_sources(config) for document in source.documents()]


def labelled(origin: str) -> list[Document]:
    return [Document(row["text"], row["source"], row["language"], origin) for row in ROWS]


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".zst", zstandard.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
    ],
)
def test_json_lines_plain_and_compressed(ending, compress, tmp_path):
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path = tmp_path / f"corpus.jsonl{ending}"
    path.write_bytes(compress(data))
    assert documents(str(path)) == labelled(path.name)


def test_zstandard_files_of_several_frames_are_read_to_the_end(tmp_path):
    lines = [json.dumps(row).encode() + b"\n" for row in ROWS]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(zstandard.compress(line) for line in lines))
    assert documents(str(tmp_path / "a.jsonl.zst")) == labelled("a.jsonl.zst")


def test_json_lines_with_other_names_blank_lines_and_defaults(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"body": "one", "lang": "sv"}\r\n\r\n{"body": "two", "source": null}\n', "utf-8")
    found = documents(str(path), text_field="body", language="en", source="mine")
    assert found == [Document("one", "mine", "sv", "a.jsonl"), Document("two", "mine", "en", "a.jsonl")]


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=2)
    assert documents(str(tmp_path / "a.parquet")) == labelled("a.parquet")


def test_data_sets_saved_on_disk_whole_and_by_split(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    parts = {"train": datasets.Dataset.from_list(ROWS[:2]), "test": datasets.Dataset.from_list(ROWS[2:])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "several"))
    assert documents(str(tmp_path / "one")) == labelled("one")
    assert documents(str(tmp_path / "several")) == labelled("several")


def test_data_sets_by_name(tmp_path, monkeypatch):
    """`datasets` takes a local folder of files for a name, the same way as one of the hub."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    (tmp_path / "named").mkdir()
    write_json_lines(tmp_path / "named/train.jsonl", ROWS[:2])
    write_json_lines(tmp_path / "named/test.jsonl", ROWS[2:])
    assert documents(f"hf:{tmp_path}/named") == labelled("named")[:2]
    found = documents(f"hf:{tmp_path}/named@test")
    assert [document.text for document in found] == [ROWS[2]["text"]]


def test_plain_text_by_file_line_and_paragraph(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n", "utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"four\n"))
    pattern = f"{tmp_path}/*.txt*"

    def found(how: str) -> list[str]:
        return [document.text for document in documents(pattern, text_documents=how)]

    assert found("file") == ["one\ntwo\n\n\nthree", "four"]
    assert found("line") == ["one", "two", "", "", "three", "four"]
    assert found("paragraph") == ["one\ntwo", "three", "four"]


def test_inputs_are_a_pattern_a_list_or_commas_in_the_order_given(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    (tmp_path / "with,comma.txt").write_text("comma")
    a, b, c = (f"{tmp_path}/{name}.txt" for name in "abc")
    texts = lambda inputs: [document.text for document in documents(inputs)]  # noqa: E731
    assert texts(f"{tmp_path}/?.txt") == ["a", "b", "c"]
    assert texts(f"{c},{a}") == ["c", "a"]
    assert texts([b, f"{a}, {c}"]) == ["b", "a", "c"]
    assert texts(f"{tmp_path}/with,comma.txt") == ["comma"]


def test_inputs_as_a_list_in_yaml_and_on_the_command_line(tmp_path, corpus):
    write_json_lines(tmp_path / "extra.jsonl", ROWS)
    given = f'["{corpus}", "{tmp_path}/extra.jsonl"]'
    assert prep(given, tmp_path / "one") == 0
    (tmp_path / "prep.yaml").write_text(f"inputs:\n- {corpus}\n- {tmp_path}/extra.jsonl\n")
    assert prep(None, tmp_path / "two", config=tmp_path / "prep.yaml") == 0
    one, two = (read_manifest(tmp_path / name) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    assert one.config["inputs"] == [str(corpus), f"{tmp_path}/extra.jsonl"]
    assert {"books", "zeitung"} <= set(one.statistics["sources"])
