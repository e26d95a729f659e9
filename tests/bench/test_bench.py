"""Benchmarks run, and their reports say what they must; no test here knows how fast anything is."""

import json
import math
import sys

import numpy as np
import pytest

from electra_ds.bench import scale
from electra_ds.bench.corpus import find_files, write_copies, write_documents, write_texts
from electra_ds.bench.machine import describe, release
from electra_ds.bench.processes import measure
from electra_ds.bench.report import Report, Section, command_line
from electra_ds.bench.sides import SIDES, Side, Spec
from electra_ds.bench.statistics import Spread, in_turn, ratios
from electra_ds.bench.text import VOCABULARY, write_text_set
from electra_ds.bench.worker import Worker, is_installed
from electra_ds.cli import main
from electra_ds.data.config import DataConfig
from electra_ds.data.format import verify_shards
from electra_ds.data.loader import RowSource, open_shards
from electra_ds.errors import UserError


@pytest.fixture(scope="module")
def text_set(tmp_path_factory):
    return write_text_set(tmp_path_factory.mktemp("bench") / "shards", 40_000, block_tokens=4096)


def numbers(value):
    """Every number in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_the_loader_benchmark_writes_its_report(tmp_path, capsys):
    sides = "[electra_ds,electra_ds_process,memmap,webdataset_bytes]"
    arguments = ["bench", "loader", "--short", f"--output={tmp_path}", f"--sides={sides}", "--lengths=[64]"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "loader.md"), str(tmp_path / "loader.json")]
    found = json.loads((tmp_path / "loader.json").read_text("utf-8"))
    assert set(found) == {"name", "title", "command", "machine", "config", "results"}
    result = found["results"]["length_64"]
    assert list(result["sides"]) == ["electra_ds", "electra_ds_process", "memmap", "webdataset_bytes"]
    for side in result["sides"].values():
        assert "failed" not in side
        assert side["rows"] == result["rows"] > 0
        assert len(side["seconds"]) == 2
        assert all(math.isfinite(value) and value > 0 for value in (*side["seconds"], side["cold_seconds"]))
        assert side["stored_bytes"] >= result["row_bytes"]
    assert len({side["sum_of_ids"] for side in result["sides"].values()}) == 1
    assert all(math.isfinite(number) and number >= 0 for number in numbers(found["results"]))
    page = (tmp_path / "loader.md").read_text("utf-8")
    for wanted in (
        "# The loader",
        "## Rows of 64 tokens",
        "## Who reads what",
        "tokens and finding a row",
        "## On what",
        "electra-ds bench loader",
    ):
        assert wanted in page
    assert page.count("\n| electra_ds |") == 2  # the side, and the release it was measured with


@pytest.fixture(scope="module")
def prep_report(corpus, tmp_path_factory):
    """The folder of a report on a corpus of two files, one compressed."""
    import zstandard

    folder = tmp_path_factory.mktemp("prep")
    lines = corpus.read_text("utf-8").splitlines(keepends=True)
    (folder / "a.jsonl").write_text("".join(lines[::2]), "utf-8")
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress("".join(lines[1::2]).encode()))
    arguments = ["bench", "prep", "--short", f"--output={folder / 'out'}", f"--corpus={folder}/*.jsonl*"]
    assert main([*arguments, "--workers=[1,2]"]) == 0
    return folder / "out"


def test_the_preparation_benchmark_measures_every_side(prep_report, corpus):
    found = json.loads((prep_report / "prep.json").read_text("utf-8"))["results"]
    assert all(math.isfinite(number) and number >= 0 for number in numbers(found))
    texts = {json.loads(line)["text"] for line in corpus.read_text("utf-8").splitlines()}
    assert (found["documents"], found["bytes"]) == (len(texts), sum(len(text.encode()) for text in texts))
    assert set(found["kinds"]) == set(found["training"]) == {"wordpiece", "unigram"}
    for kind, sides in found["kinds"].items():
        assert set(sides) == {"electra-ds prep", "library alone", "datasets.map"}
        rounds = [measured for taken in sides.values() for measured in taken]
        assert {measured["tokens"] for measured in rounds} == {found["training"][kind]["tokens"]}
        assert all(measured["seconds"] > 0 and measured["cpu_seconds"] > 0 for measured in rounds)
    assert [one["processes"] for one in found["scaling"]][:2] == [1, 2]
    assert len({measured["tokens"] for one in found["scaling"] for measured in one["rounds"]}) == 1


def test_the_preparation_benchmark_measures_memory_size_and_profile(prep_report):
    found = json.loads((prep_report / "prep.json").read_text("utf-8"))["results"]
    assert [(point["wanted_bytes"], point["workers"]) for point in found["memory"]] == [
        (200_000, 1),
        (200_000, 2),
        (1_000_000, 1),
    ]
    for point in found["memory"]:
        assert point["memory"] > 1_000_000
        assert (point["worker_memory"] > 0) == (point["workers"] > 1)
        assert 0.8 < point["text_bytes"] / point["wanted_bytes"] < 1.3
    assert found["memory"][-1]["curve"]
    for one in found["size"]["sets"].values():
        assert one["tar_bytes"] > one["payload_bytes"] > 2 * one["tokens"]
    assert found["size"]["row_a_member"]["tar_bytes"] > 2 * found["size"]["row_a_member"]["payload_bytes"]
    for profile in found["profile"].values():
        assert len(profile["functions"]) == 15
        assert "data_prep/tokenizer/encoder.py" in {one["name"] for one in profile["files"]}
        assert sum(one["seconds"] for one in profile["files"]) == pytest.approx(profile["seconds"])


def test_the_page_of_the_preparation_benchmark(prep_report):
    page = (prep_report / "prep.md").read_text("utf-8")
    for heading in ("In short", "Text to tokens on one core", "More processes", "Memory", "Size", "On what"):
        assert f"## {heading}\n" in page
    for drawing in ("prep-speed.svg", "prep-memory.svg", "prep-memory-time.svg"):
        assert f"]({drawing})" in page
        assert (prep_report / drawing).read_text("utf-8").rstrip().endswith("</svg>")
    assert "busy after" in page


def test_a_corpus_is_read_as_prep_reads_it(tmp_path):
    lines = [{"text": "one"}, {"text": "two\u2028"}, {"text": "one"}, {"text": "  "}, {"text": "lone \ud800"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", "utf-8")
    assert write_texts([tmp_path / "a.jsonl"], "text", tmp_path / "out.jsonl") == (3, 3 + 6 + 8)
    texts = [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").open(encoding="utf-8")]
    assert texts == ["one", "two\u2028", "lone \ufffd"]
    with pytest.raises(UserError, match=r"a\.jsonl: line 1 .* 'body'"):
        write_texts([tmp_path / "a.jsonl"], "body", tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="no such file"):
        find_files([str(tmp_path / "none*")])


@pytest.mark.parametrize("share", [0.3, 1.0, 2.4])
def test_copies_of_a_corpus_have_the_size_asked_for_and_no_duplicate(share, tmp_path, monkeypatch):
    monkeypatch.setattr("electra_ds.bench.corpus.COPY_FILE_BYTES", 50_000)
    _, size = write_documents(tmp_path / "corpus.jsonl", 60_000)
    files = find_files(write_copies(tmp_path / "corpus.jsonl", size, int(share * size), tmp_path / "copies"))
    assert len(files) == math.ceil(share)
    before = sum(len(json.loads(line)["text"].encode()) for line in (tmp_path / "corpus.jsonl").open(encoding="utf-8"))
    count, written = write_texts(files, "text", tmp_path / "all.jsonl")
    assert 0.8 < written / (share * before) < 1.1
    assert count == len(set((tmp_path / "all.jsonl").open(encoding="utf-8")))
    texts = [json.loads(line)["text"] for line in (tmp_path / "all.jsonl").open(encoding="utf-8")]
    assert any(text.startswith("Copy 1. ") for text in texts) == (share > 1)


def test_memory_and_time_of_a_command_and_of_what_it_starts(tmp_path):
    child = "b = bytearray(80_000_000); b[::4096] = b[::4096].replace(b'\\0', b'1'); import time; time.sleep(1)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    usage = measure([sys.executable, "-c", program], 1)
    assert usage.said == "done"
    assert usage.worker_memory > 80_000_000 > usage.memory > 1_000_000
    assert usage.seconds > 1
    assert usage.cpu_seconds > 0
    with pytest.raises(UserError, match="failed: out of luck"):
        measure([sys.executable, "-c", "import sys; sys.exit('out of luck')"], 1)


def test_documents_for_the_preparation_are_prose_each_once(tmp_path):
    count, size = write_documents(tmp_path / "corpus.jsonl", 100_000)
    texts = [json.loads(line)["text"] for line in (tmp_path / "corpus.jsonl").read_text("utf-8").splitlines()]
    assert count == len(set(texts)) == len(texts)
    assert size == sum(len(text.encode()) for text in texts) >= 100_000


@pytest.mark.parametrize("name", [name for name, side in SIDES.items() if is_installed(side.package)])
def test_every_side_delivers_the_same_rows(name, text_set, tmp_path):
    config = DataConfig(path=str(text_set))
    source = RowSource(open_shards(config), config, 64, seed=0)
    count = source.total - source.total % 16
    ids = np.sort(source.order.locate(np.arange(count)).row_id)
    expected = source.unshuffled(ids).ids
    np.save(tmp_path / "rows.npy", expected)
    side: Side = SIDES[name](Spec(str(text_set), str(tmp_path / "rows.npy"), str(tmp_path), 64, 16))
    assert all(path.stat().st_size for path in side.prepare())
    delivered = np.concatenate(list(side.epoch()))
    assert delivered.shape == expected.shape
    order = lambda rows: rows[np.lexsort(rows.T)]  # noqa: E731
    assert np.array_equal(order(delivered), order(expected))


def test_a_side_that_fails_says_why(tmp_path):
    spec = Spec(str(tmp_path / "none"), str(tmp_path / "none.npy"), str(tmp_path), 64, 16)
    worker = Worker("electra_ds", vars(spec))
    try:
        with pytest.raises(UserError, match="none"):
            worker.ask("epoch")
    finally:
        worker.close()


def test_a_process_that_ends_is_told(tmp_path):
    worker = Worker("memmap", vars(Spec("", "", str(tmp_path), 64, 16)))
    worker._process.kill()
    with pytest.raises(UserError, match="ended with status -9"):
        worker.ask("epoch")
    worker.close()


def test_synthetic_text_is_a_whole_set_with_the_statistics_of_prose(text_set):
    opened = open_shards(DataConfig(path=str(text_set)))
    assert not verify_shards(text_set, opened.manifest)
    assert opened.manifest.total("train", "tokens") == 10 * 4096
    counts = np.zeros(VOCABULARY, np.int64)
    documents = sentences = 0
    for number in range(len(opened)):
        block = opened.read(number)
        counts += np.bincount(block.tokens, minlength=VOCABULARY)
        documents, sentences = documents + len(block.documents), sentences + len(block.sentences)
    assert counts[:5].sum() == 0
    assert counts[5] > 4 * counts[30] > 0
    assert 100 < counts.sum() / documents < 1500
    assert 10 < counts.sum() / sentences < 50


def test_ranks_that_divide_the_streams_read_each_byte_about_once(tmp_path):
    folder = str(write_text_set(tmp_path / "shards", 1024 * 256, block_tokens=256))
    counts = {count["ranks"]: count for count in scale.count_reads(folder, 32, 64, [1, 2, 3])}
    assert counts[1]["bytes"] == counts[1]["stored_bytes"]
    assert counts[1]["reads"] == counts[1]["stored_blocks"]
    assert counts[2]["bytes"] < 1.1 * counts[1]["bytes"]
    assert counts[3]["bytes"] > counts[2]["bytes"]
    assert counts[2]["fewest_bytes"] <= counts[2]["most_bytes"] < counts[1]["most_bytes"]


def test_every_round_visits_every_side_and_begins_with_another():
    order = in_turn(["a", "b", "c"], 3)
    assert [name for _, name in order] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [number for number, _ in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_spread_and_ratios():
    spread = Spread((3.0, 1.0, 2.0, 10.0))
    assert (spread.median, spread.lowest, spread.highest) == (2.5, 1.0, 10.0)
    assert spread.show(".1f") == "2.5 (1.0 to 10.0)"
    assert ratios([2.0, 9.0], [1.0, 3.0]).values == (2.0, 3.0)


def test_a_report_is_a_page_and_a_file_of_numbers(tmp_path):
    machine = describe(("numpy", "no-such-package"))
    assert {"processor", "cores", "memory", "Python", "electra_ds", "numpy"} <= set(machine)
    assert machine["numpy"] == release("numpy")
    assert "no-such-package" not in machine
    sections = [Section("Sizes", "In bytes.", ["", "a", "b"], [["one", "1.5", "text"], ["two", "1,000", ""]])]
    command = command_line("electra-ds bench x", ["--path", "with space"])
    report = Report("x", "X", "Why.", command, machine, {"rounds": 1}, sections, {"value": 1.5})
    page = report.write(tmp_path / "new").read_text("utf-8")
    assert "| one | 1.5 | text |" in page
    assert "| :--- | ---: | :--- |" in page
    assert "    electra-ds bench x --path 'with space'" in page
    assert json.loads((tmp_path / "new" / "x.json").read_text("utf-8"))["results"] == {"value": 1.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loadr"], r"no benchmark 'loadr'; did you mean 'loader'\?"),
        (["loader", "--sides=[memmap]"], r"must hold electra_ds"),
        (["loader", "--sides=[electra_ds,other]"], r"must hold electra_ds and otherwise some of"),
        (["loader", "--rounds=0"], r"rounds=0: must be at least 1"),
        (["prep", "--tokenizers=[words]"], r"must be some of wordpiece, unigram, bpe"),
        (["loader", "--roundz=1"], r"did you mean 'rounds'"),
    ],
)
def test_mistakes_are_told(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert __import__("re").search(message, capsys.readouterr().err)


def test_help_lists_the_benchmarks(capsys):
    assert main(["bench", "--help"]) == 0
    assert "loader" in capsys.readouterr().out
