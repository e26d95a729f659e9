"""``python -m data_prep.pair``: translations found by a key in their ids."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from data_prep.pair import main
from electra_ds.errors import UserError
from tests.data_prep.conftest import write_json_lines

KEY = r"wiki/(?P<language>[a-z]+)/(?P<key>\d+)"
LANGUAGES = ("de", "en", "es")


def record(language: str, number: int) -> dict[str, str]:
    return {"id": f"wiki/{language}/{number}", "source": "wiki", "lang": language, "text": f"{language} text {number}"}


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Five keys in three languages, one of them not in Spanish; and records of another kind."""
    rows = [record(language, n) for language in LANGUAGES for n in range(5) if (language, n) != ("es", 3)]
    return write_json_lines(tmp_path / "corpus.jsonl", [*rows, {"id": "news/17", "text": "No translation."}])


def run(corpus: Path, output: Path, *options: str, key: str = KEY) -> int:
    return main(["--inputs", str(corpus), "--output", str(output), "--key", key, *options], "python -m data_prep.pair")


def lines(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return [json.loads(line) for line in data.decode().splitlines()]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_each_two_languages_of_a_key_are_a_pair(ending, corpus, tmp_path, capsys):
    assert run(corpus, tmp_path / f"pairs{ending}") == 0
    found = lines(tmp_path / f"pairs{ending}")
    expected = {(str(n), *pair) for n in range(5) for pair in itertools.combinations(LANGUAGES, 2)}
    expected -= {("3", "de", "es"), ("3", "en", "es")}
    assert {(line["id"], line["language"], line["language_pair"]) for line in found} == expected
    assert len(found) == len(expected)
    for line in found:
        assert line["text"] == f"{line['language']} text {line['id']}"
        assert line["text_pair"] == f"{line['language_pair']} text {line['id']}"
        assert line["source"] == "wiki"
    told = capsys.readouterr().out
    assert "13 pairs of 14 texts with 5 keys" in told
    assert "passed over, as their id does not match: 1 records" in told
    assert "without a partner: 1 keys\n    3: has de, en; lacks es" in told


def test_chosen_languages_in_the_order_asked_for(corpus, tmp_path, capsys):
    assert run(corpus, tmp_path / "pairs.jsonl", "--languages", '["en-de", "es-en"]') == 0
    found = [(line["id"], line["language"], line["language_pair"]) for line in lines(tmp_path / "pairs.jsonl")]
    expected = [(str(n), *pair) for n in range(5) for pair in (("en", "de"), ("es", "en"))]
    assert found == [pair for pair in expected if pair != ("3", "es", "en")]


def test_all_that_lack_a_partner_can_be_listed_in_a_file(corpus, tmp_path):
    assert run(corpus, tmp_path / "pairs.jsonl", "--missing", str(tmp_path / "missing.jsonl")) == 0
    assert lines(tmp_path / "missing.jsonl") == [{"key": "3", "has": ["de", "en"], "lacks": ["es"]}]


def test_the_language_may_stand_in_a_field(corpus, tmp_path):
    assert run(corpus, tmp_path / "pairs.jsonl", "--languages", '["de-en"]', key=r"wiki/\w+/(?P<key>\d+)") == 0
    assert len(lines(tmp_path / "pairs.jsonl")) == 5


def test_it_runs_as_a_module_and_gives_the_same_bytes_again(corpus, tmp_path):
    for name in ("one", "two"):
        command = [sys.executable, "-m", "data_prep.pair", "--inputs", str(corpus), "--key", KEY]
        subprocess.run([*command, "--output", str(tmp_path / f"{name}.jsonl.gz")], check=True, capture_output=True)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


@pytest.mark.parametrize(
    ("rows", "options", "key", "message"),
    [
        (
            [record("de", 1), record("de", 1)],
            [],
            KEY,
            r"corpus\.jsonl:2: 'wiki/de/1' is the second text in 'de' with the key '1'",
        ),
        ([record("de", 1), record("de", 2)], [], KEY, "all texts that match are in 'de'; there is nothing to pair"),
        ([record("de", 1)], [], r"news/(?P<key>.+)", "no id of 1 records matches"),
        ([{"text": "x"}], [], KEY, r"corpus\.jsonl:1: no text in the field 'id'; name it by --key_field"),
        ([{"id": "wiki/1", "text": "x"}], [], r"wiki/(?P<key>.+)", r"corpus\.jsonl:1: 'wiki/1' has no language"),
        ([{"id": "wiki/de/1"}], [], KEY, r"corpus\.jsonl:1: 'wiki/de/1' has no text"),
        ([record("de", 1), record("en", 2)], [], KEY, "no key has texts in both languages of de-en"),
        (
            [record("de", 1), record("en", 1)],
            ["--languages", '["de-fr"]'],
            KEY,
            "'de-fr' names no two languages .* de, en",
        ),
        ([record("de", 1)], ["--languages", '["de"]'], KEY, "'de' is not possible; expected two languages"),
        ([record("de", 1)], [], "wiki/.+", "has no group named key"),
        ([record("de", 1)], [], "wiki/(", "is no regular expression"),
        ([record("de", 1)], ["--output", "pairs.txt"], KEY, r"expected \.jsonl"),
    ],
)
def test_what_cannot_be_paired_is_told(rows, options, key, message, tmp_path):
    path = write_json_lines(tmp_path / "corpus.jsonl", rows)
    with pytest.raises(UserError, match=message):
        run(path, tmp_path / "pairs.jsonl", *options, key=key)
    assert not (tmp_path / "pairs.jsonl").exists()
