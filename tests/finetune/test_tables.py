"""Tables are read whole: every row or a clear error, in every format."""

import pytest

from electra_ds.errors import DataError, UserError
from electra_ds.finetune.tables import read_table


def read(tmp_path, name, text, **options):
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return read_table(str(path), **options)


def test_tsv_keeps_quotes_and_exotic_line_breaks_inside_texts(tmp_path):
    table = read(tmp_path, "a.tsv", 'text\tlabel\nhe said "no\t0\na\u2028b\u0085c\t1\n')
    assert table.column("text", "text_column") == ['he said "no', "a\u2028b\u0085c"]
    assert table.column("label", "label_column") == ["0", "1"]
    assert table.lines == [2, 3]


def test_byte_order_mark_and_windows_line_ends_are_no_part_of_names_or_values(tmp_path):
    table = read(tmp_path, "a.txt", b"\xef\xbb\xbfQuality\t#1 String\r\n1\tyes\r\n")
    assert table.header == ("Quality", "#1 String")
    assert table.rows == [("1", "yes")]


def test_file_without_header_has_columns_by_index(tmp_path):
    table = read(tmp_path, "a.tsv", "good film\t1\nbad film\t0", header=False)
    assert table.column(1, "label_column") == ["1", "0"]
    with pytest.raises(
        DataError, match=r"no column 'text'; it has 2 columns without names .*--header true.*--text_column"
    ):
        table.column("text", "text_column")


def test_csv_reads_quoted_fields_with_commas_quotes_and_line_breaks(tmp_path):
    table = read(tmp_path, "a.csv", 'text,label\n"one, ""two""\nthree",x\nfour,y\n')
    assert table.rows == [('one, "two"\nthree', "x"), ("four", "y")]
    assert table.lines == [2, 4]


def test_json_lines_keep_types_and_name_a_missing_field(tmp_path):
    table = read(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b"}\n')
    assert table.column("text", "text_column") == ["a", "b"]
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: no field 'label'"):
        table.column("label", "label_column")


def test_wrong_column_name_suggests_the_right_one(tmp_path):
    table = read(tmp_path, "a.tsv", "text\tlabel\na\t1\n")
    with pytest.raises(DataError, match=r"no column 'labels'; it has 'text', 'label'; did you mean 'label'\?"):
        table.column("labels", "label_column")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", "empty"),
        ("a.tsv", b"\n \n", "empty"),
        ("a.tsv", b"text\tlabel\n", "no rows after the header"),
        ("a.tsv", b"text\tlabel\na\t1\nb\n", r"line 3: 1 fields, but 2 in the header line"),
        ("a.tsv", b"text\tlabel\na\t1\n\nb\t0\n", r"line 3: 1 fields"),
        ("a.tsv", b"text\ttext\na\t1\n", "two columns of one name"),
        ("a.tsv", b"text\tlabel\ncaf\xe9\t1\n", r"line 2: not UTF-8 \(byte 0xe9 at offset 14\)"),
        ("a.csv", b'text,label\n"open,1\n', r"line 2: .*--quotes false"),
        ("a.jsonl", b'{"text": "a"\n', r"line 1: not JSON"),
        ("a.jsonl", b'["a"]\n', r"line 1: a JSON list, expected one object"),
    ],
)
def test_damaged_files_are_refused_by_file_and_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, name, content)


@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_dropping_goes_by_the_most_frequent_width_and_not_by_the_first_line(tmp_path, name, mark):
    text = f"a stray line\none{mark}1\ntwo{mark}0\nx{mark}y{mark}z\n\n"
    table = read(tmp_path, name, text, header=False, bad_rows="drop")
    assert (table.rows, table.lines, table.dropped) == ([("one", "1"), ("two", "0")], [2, 3], 2)
    with pytest.raises(DataError, match="line 2: 2 fields, but 1 in the first line"):
        read(tmp_path, name, text, header=False)


def test_a_header_line_decides_the_width_and_may_leave_no_row(tmp_path):
    table = read(tmp_path, "a.tsv", "text\tlabel\na\t1\nb\nc\n", bad_rows="drop")
    assert table.rows == [("a", "1")] and table.dropped == 2
    with pytest.raises(DataError, match=r"the 2 of the header line, .* leaves none \(line 2 has 1\)"):
        read(tmp_path, "b.tsv", "text\tlabel\na\n", bad_rows="drop")


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_an_empty_last_text_of_a_single_column_is_a_row_as_any_other(tmp_path, name):
    assert read(tmp_path, name, "text\na\n\n\n").rows == [("a",), ("",), ("",)]
    assert read(tmp_path, name, "text\na\n").rows == read(tmp_path, name, "text\na").rows == [("a",)]
    assert read(tmp_path, name, "text\r\na\r\n\r\n").lines == [2, 3]


def test_half_of_a_surrogate_pair_in_json_is_refused_by_line_and_field(tmp_path):
    good = r'{"text": "\ud83d\ude00 \\ud83d", "choices": ["a"]}'
    assert read(tmp_path, "a.jsonl", good).rows == [("\U0001f600 \\ud83d", ["a"])]
    bad = r'{"text": "a", "choices": ["b", "c \ud83d d"]}'
    with pytest.raises(DataError, match=r"a\.jsonl, line 2, field 'choices\[1\]': the text holds '\\ud83d', half of"):
        read(tmp_path, "a.jsonl", f"{good}\n{bad}\n")
    with pytest.raises(DataError, match="half of a surrogate pair"):
        read(tmp_path, "a.jsonl", r'{"text \uDE00": "a"}')


def test_missing_file_folder_and_unknown_ending_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_table(str(tmp_path / "none.tsv"))
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(DataError, match="a folder, expected a file"):
        read_table(str(tmp_path / "folder.tsv"))
    with pytest.raises(UserError, match="--format"):
        read_table(str(tmp_path / "texts.dat"))


def test_datasets_folder_gives_class_names_and_names_its_splits(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "set"))
    table = read_table(f"hf:{tmp_path / 'set'}:train")
    assert table.column("label", "label_column") == ["pos", "neg", None]
    assert table.where(2).endswith("row 2")
    with pytest.raises(DataError, match="no split 'dev'; it has train"):
        read_table(f"hf:{tmp_path / 'set'}:dev")
    with pytest.raises(UserError, match="hf:NAME:SPLIT"):
        read_table("hf:sst2")
