"""Every kind of input gives the same documents, whole or in pieces of any size."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources import Document
from electra_ds.errors import UserError
from tests.data_prep.conftest import write_json_lines
from tests.data_prep.reading import ROWS, documents, keeps_its_promises, labelled, opened, read

COMPRESSIONS = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize(("ending", "compress"), COMPRESSIONS.items())
def test_json_lines_plain_and_compressed(ending, compress, tmp_path):
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path = tmp_path / f"corpus.jsonl{ending}"
    path.write_bytes(compress(data))
    [source] = opened(str(path))
    assert source.streamed == bool(ending)
    assert keeps_its_promises(source) == labelled(path.name)


def test_compressed_files_of_several_frames_are_read_to_the_end(tmp_path):
    lines = [json.dumps(row).encode() + b"\n" for row in ROWS]
    for ending in (".zst", ".gz", ".bz2", ".xz"):
        path = tmp_path / f"a.jsonl{ending}"
        path.write_bytes(b"".join(COMPRESSIONS[ending](line) for line in [*lines, b""]))
        assert documents(str(path)) == labelled(path.name)


def test_json_lines_with_other_names_blank_lines_and_defaults(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"body": "one", "lang": "sv"}\r\n\r\n{"body": "two", "source": null}\n', "utf-8")
    [source] = opened(str(path), text_field="body", language="en", source="mine")
    found = keeps_its_promises(source)
    assert found == [Document("one", "mine", "sv", "a.jsonl"), Document("two", "mine", "en", "a.jsonl")]


TEXT = st.text(alphabet="ab \t\n\n\r", max_size=60)


@settings(max_examples=150, deadline=None)
@given(text=TEXT, size=st.integers(1, 20), how=st.sampled_from(["line", "paragraph"]), packed=st.booleans())
def test_lines_and_paragraphs_come_once_whatever_the_size_of_a_piece(text, size, how, packed, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / ("a.txt.gz" if packed else "a.txt")
    text = text or "a"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    paragraphs: list[str] = []
    open_paragraph = False
    for line in lines:
        if not line.strip():
            open_paragraph = False
        elif open_paragraph:
            paragraphs[-1] += "\n" + line
        else:
            paragraphs.append(line)
            open_paragraph = True
    [source] = opened(str(path), text_documents=how)
    assert [document.text for document in read(source, size)] == (lines if how == "line" else paragraphs)


LENGTHS = st.lists(st.sampled_from([0, 1, 30, 999, 1000, 1001, 3000, 3200, 9000]), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(
    lengths=LENGTHS,
    size=st.integers(1, 12_000),
    chunk=st.sampled_from([100, 2000, 1 << 20]),
    between=st.sampled_from(["\n", "\n\n", "\n \n\n"]),
    packed=st.booleans(),
)
def test_long_documents_are_left_out_alike_whatever_the_size_of_a_piece_or_a_read(
    lengths, size, chunk, between, packed, tmp_path_factory
):
    path = tmp_path_factory.mktemp("text") / ("a.txt.gz" if packed else "a.txt")
    texts = [chr(97 + number) * length for number, length in enumerate(lengths)]
    data = (between.join(texts) + "\n").encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    how = "line" if between == "\n" else "paragraph"
    [source] = opened(str(path), text_documents=how, max_document_bytes=1000)
    dropped: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_prep.sources.stored.CHUNK", chunk)
        patch.setattr("data_prep.sources.compression.CHUNK", chunk)
        found = [document.text for document in read(source, size, dropped)]
    assert found == [text for text in texts if len(text) <= 1000 and (text or how == "line")]
    assert dropped["too long"] == sum(len(text) > 1000 for text in texts)


def test_plain_text_by_file_line_and_paragraph(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n", "utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"four\n"))
    pattern = f"{tmp_path}/*.txt*"

    def found(how: str) -> list[str]:
        sources = opened(pattern, text_documents=how)
        return [document.text for source in sources for document in keeps_its_promises(source)]

    assert found("file") == ["one\ntwo\n\n\nthree", "four"]
    assert found("line") == ["one", "two", "", "", "three", "four"]
    assert found("paragraph") == ["one\ntwo", "three", "four"]


@pytest.mark.parametrize("ending", ["", ".zst"])
@pytest.mark.parametrize("how", ["file", "line", "paragraph"])
def test_a_byte_order_mark_and_windows_line_ends_are_no_text(how, ending, tmp_path):
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(COMPRESSIONS[ending]("\ufeffone\r\ntwo\r\n".encode()))
    [source] = opened(str(path), text_documents=how)
    expected = {"file": ["one\ntwo"], "line": ["one", "two"], "paragraph": ["one\ntwo"]}
    assert [document.text for document in keeps_its_promises(source)] == expected[how]


def test_other_encodings_are_read_when_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("Größe\nÅ".encode("latin-1"))
    (tmp_path / "b.jsonl").write_bytes('{"text": "日本\\u00e9"}\n'.encode("euc-jp"))
    [text] = opened(f"{tmp_path}/a.txt", encoding="latin-1", text_documents="line")
    assert [document.text for document in keeps_its_promises(text)] == ["Größe", "Å"]
    [lines] = opened(f"{tmp_path}/b.jsonl", encoding="euc-jp")
    assert [document.text for document in keeps_its_promises(lines)] == ["日本é"]


@pytest.mark.parametrize("rows_in_group", [1, 2, 1000])
def test_parquet(rows_in_group, tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(ROWS * 7)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=rows_in_group)
    [source] = opened(f"{tmp_path}/a.parquet")
    assert keeps_its_promises(source) == labelled("a.parquet") * 7


def test_a_large_row_group_is_read_by_ranges_of_its_rows_in_any_order(tmp_path):
    import pyarrow
    import pyarrow.parquet

    texts = [f"Row number {number}." for number in range(5000)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False)
    [source] = opened(f"{tmp_path}/a.parquet")
    pieces = list(source.pieces(10_000))
    assert len(pieces) > 5
    parts = {piece.number: list(source.documents(piece, Counter())) for piece in reversed(pieces)}
    assert [document.text for number in sorted(parts) for document in parts[number]] == texts


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("rows_in_batch", [1, 2, 1000])
def test_arrow_in_both_formats(kind, rows_in_batch, tmp_path):
    import pyarrow

    table = pyarrow.Table.from_pylist([{"id": number, **row} for number, row in enumerate(ROWS * 7)])
    path = tmp_path / "a.arrow"
    new = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_in_batch)
    [source] = opened(str(path))
    assert source.streamed == (kind == "stream")
    assert keeps_its_promises(source) == labelled("a.arrow") * 7


def test_columns_of_text_come_in_several_types(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    texts = [row["text"] for row in ROWS]
    kinds = [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()]
    for number, kind in enumerate(kinds):
        table = pa.table({"text": pa.array(texts).cast(kind) if number < 4 else pa.array(texts, kind)})
        path = tmp_path / f"{number}.arrow"
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
        assert [document.text for document in documents(str(path))] == texts


def test_data_sets_saved_on_disk_whole_and_by_split(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    parts = {"train": datasets.Dataset.from_list(ROWS[:2]), "test": datasets.Dataset.from_list(ROWS[2:])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "several"))
    for name in ("one", "several"):
        [source] = opened(f"{tmp_path}/{name}")
        assert keeps_its_promises(source) == labelled(name)
        assert source.identity() == {"name": f"{tmp_path}/{name}", "rows": 3}
        assert source.version() == opened(f"{tmp_path}/{name}")[0].version() != ""


def test_data_sets_by_name_downloaded_and_streamed(tmp_path, monkeypatch):
    """`datasets` takes a local folder of files for a name, the same way as one of the hub."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    (tmp_path / "named").mkdir()
    write_json_lines(tmp_path / "named/train.jsonl", ROWS[:2])
    write_json_lines(tmp_path / "named/test.jsonl", ROWS[2:])
    for prefix in ("hf", "hf-stream"):
        [source] = opened(f"{prefix}:{tmp_path}/named")
        assert source.streamed == (prefix == "hf-stream")
        assert keeps_its_promises(source, (1, 40, 1 << 22)) == labelled("named")[:2]
        found = documents(f"{prefix}:{tmp_path}/named@test")
        assert [document.text for document in found] == [ROWS[2]["text"]]
        assert source.version() == opened(f"{prefix}:{tmp_path}/named")[0].version()


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
    assert texts(f"file://{a}") == ["a"]


def test_a_folder_is_all_files_of_known_kinds_in_it_and_below(tmp_path):
    import datasets

    (tmp_path / "sub/.hidden").mkdir(parents=True)
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "picture.png").write_bytes(b"png")
    (tmp_path / "sub/a.txt.gz").write_bytes(gzip.compress(b"a"))
    (tmp_path / "sub/.hidden/c.txt").write_text("c")
    datasets.Dataset.from_list([{"text": "saved"}]).save_to_disk(str(tmp_path / "sub/rows"))
    assert [source.name for source in opened(str(tmp_path))] == [
        f"{tmp_path}/b.txt",
        f"{tmp_path}/sub/a.txt.gz",
        f"{tmp_path}/sub/rows",
    ]
    assert [document.text for document in documents(str(tmp_path))] == ["b", "a", "saved"]


def test_a_file_written_anew_has_another_version(tmp_path):
    import os

    path = tmp_path / "a.txt"
    path.write_text("one")
    [before] = opened(str(path))
    os.utime(path, ns=(1, 1))
    [after] = opened(str(path))
    assert before.version() != after.version()
    assert before.identity() == after.identity() == {"name": str(path), "bytes": 3}


def test_names_that_match_nothing_or_no_known_kind(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    (tmp_path / "a.parquet.gz").write_bytes(b"x")
    for inputs, message in {
        f"{tmp_path}/*.jsonl": "matches no file",
        f"{tmp_path}/a.pdf": "has the ending '.pdf'; known are .txt",
        f"{tmp_path}/a.parquet.gz": "has the ending '.gz'; known are .txt",
        str(tmp_path): "is a folder without a file of a known kind",
        "hf:pandas": "is not of the form",
        "nosuch://x/a.jsonl": "nosuch",
    }.items():
        with pytest.raises(UserError, match=message.replace(".", r"\.")):
            opened(inputs)
