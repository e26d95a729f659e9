"""Several named corpora, groups that training mixes, many small files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from electra_ds.cli import main
from electra_ds.data.format import read_manifest
from electra_ds.data.summary import data_summary
from tests.data_prep.conftest import SMALL, blocks, contents, prep, refusal, texts_of, write_json_lines


def config_file(folder: Path, **changes: object) -> Path:
    """A YAML with two corpora: one of JSON lines with its own cleaning, one of text files."""
    write_json_lines(
        folder / "a.jsonl",
        [{"body": f"Report number {n}, by mail to someone@example.org. " * 4, "lang": "en"} for n in range(60)],
    )
    (folder / "texts").mkdir(exist_ok=True)
    for number in range(40):
        text = f"Der Bericht Nummer {number} ist lang. Er hat zwei Sätze, auch someone@beispiel.de.\n" * 3
        (folder / f"texts/{number:03d}.txt").write_text(text, "utf-8")
    value = {
        "output": str(folder / "set"),
        "corpora": {
            "reports": {
                "inputs": str(folder / "a.jsonl"),
                "text_field": "body",
                "weight": 3.0,
                "clean": {"mask_emails": True},
            },
            "german": {"inputs": str(folder / "texts/*.txt"), "language": "de", "weight": 1.0},
        },
        **{key: value for key, value in SMALL.items() if "." not in key},
        "tokenizer": {"vocab_size": 150},
        **changes,
    }
    path = folder / "prep.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False), "utf-8")
    return path


def test_each_corpus_has_its_own_fields_cleaning_language_weight_and_shards(tmp_path):
    assert main(["prep", "--config", str(config_file(tmp_path))]) == 0
    manifest = read_manifest(tmp_path / "set")
    assert manifest.weights == {"reports": 3.0, "german": 1.0}
    names = [shard.name for shard in manifest.splits["train"]]
    assert [shard.corpus for shard in manifest.splits["train"]] == sorted(
        (shard.corpus for shard in manifest.splits["train"]), key=["german", "reports"].index
    )
    assert "train-reports-000000" in names and "train-german-000000" in names
    labels = {tuple(block.label(n)[:2]) for block in blocks(tmp_path / "set", "train") for n in range(3)}
    assert labels == {("reports", "en"), ("german", "de")}
    texts = texts_of(tmp_path / "set", "train")
    assert not any("example. org" in text and "someone" in text for text in texts if "report" in text)
    assert any("beispiel" in text for text in texts)
    corpora = manifest.statistics["corpora"]
    assert corpora["reports"]["documents"] == 60 and corpora["german"]["documents"] == 40
    assert set(corpora["german"]["languages"]) == {"de"}
    assert corpora["german"]["documents_dropped"] == {}
    assert [entry["corpus"] for entry in manifest.statistics["inputs"]] == ["german"] * 40 + ["reports"]


def test_a_corpus_of_which_nothing_is_left_is_told_and_has_no_weight(tmp_path, capfd):
    path = config_file(tmp_path)
    value = yaml.safe_load(path.read_text("utf-8"))
    value["corpora"]["same"] = {**value["corpora"]["reports"], "weight": 2.0}
    path.write_text(yaml.safe_dump(value), "utf-8")
    assert main(["prep", "--config", str(path)]) == 0
    assert "corpora.same: no document is left of it (dropped: 60 exact duplicate)" in capfd.readouterr().err
    manifest = read_manifest(tmp_path / "set")
    assert manifest.weights == {"reports": 3.0, "german": 1.0}
    entry = manifest.statistics["corpora"]["same"]
    assert (entry["documents_read"], entry["documents"], entry["languages"]) == (60, 0, {})
    assert entry["documents_dropped"] == {"exact duplicate": 60}


def test_a_name_that_yaml_reads_as_a_truth_value_is_told(tmp_path, capfd):
    path = tmp_path / "prep.yaml"
    path.write_text(f"output: {tmp_path}/set\ncorpora:\n  no: {{inputs: a.txt}}\n", "utf-8")
    assert "in YAML put quotes around this one" in refusal(capfd, lambda: main(["prep", "--config", str(path)]))


@pytest.mark.parametrize("by", ["language", "source"])
def test_shards_kept_apart_by_language_or_source(by, tmp_path):
    rows = [
        {"text": f"text number {n} " * 9, "language": ["de", "en", "zh/x"][n % 3], "source": f"s{n % 2}"}
        for n in range(90)
    ]
    path = write_json_lines(tmp_path / "a.jsonl", [*rows, {"text": "neither known " * 20}])
    assert prep(path, tmp_path / "set", group_by=by, tokenizer__vocab_size=120) == 0
    manifest = read_manifest(tmp_path / "set")
    groups = [shard.corpus for shard in manifest.splits["train"]]
    assert list(dict.fromkeys(groups)) == (
        ["de", "en", "unknown", "zh/x"] if by == "language" else ["s0", "s1", "unknown"]
    )
    number = 1 if by == "language" else 0
    found = iter(blocks(tmp_path / "set", "train"))
    for shard in manifest.splits["train"]:
        for block in (next(found) for _ in range(shard.blocks)):
            here = {block.label(n)[number] or "unknown" for n in range(len(block.documents))}
            assert here == {shard.corpus}
    assert all("/" not in shard.name for shard in manifest.splits["train"])


def test_small_files_are_read_together(tmp_path):
    config = config_file(tmp_path, workers=2)
    assert main(["prep", "--config", str(config)]) == 0
    texts = texts_of(tmp_path / "set", "train") + texts_of(tmp_path / "set", "validation")
    assert sum("bericht" in text for text in texts) == 40
    first = contents(tmp_path / "set")
    (tmp_path / "again").mkdir()
    assert main(["prep", "--config", str(config), "--output", str(tmp_path / "again"), "--workers", "1"]) == 0
    assert contents(tmp_path / "again") == first


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"inputs": "x.txt"}, "either inputs or corpora"),
        ({"group_by": "language"}, "group_by: 'language' is not possible; expected corpus where corpora have weights"),
        ({"corpora": {"a b": {"inputs": "x"}}}, "corpora: 'a b' is not possible; expected names"),
        (
            {"corpora": {"a": {"inputs": "x", "weight": 1}, "b": {"inputs": "y"}}},
            "a weight for all of them or for none",
        ),
        ({"corpora": {"a": {"inputs": "x", "weight": -1}}}, "corpora.a.weight: -1.0 is not possible"),
        ({"corpora": {"a": {"inputs": "x", "encoding": "utf-16"}}}, "corpora.a.encoding: 'utf-16' is not possible"),
        ({"corpora": {"a": {"inputs": "x", "text_documents": "page"}}}, "corpora.a.text_documents: 'page'"),
        ({"corpora": {"a": {"inputs": "no/such/*.txt"}}}, "'no/such/*.txt' matches no"),
        ({"corpora": {"a": {"input": "x"}}}, "unknown key 'corpora.a.input'; did you mean 'inputs'?"),
        ({"corpora": {"a": {"inputs": "x", "clean": {"repare": True}}}}, "unknown key 'corpora.a.clean.repare'"),
        ({"corpora": {"a": "in/txt"}}, "'corpora.a' is 'in/txt'; expected fields below it"),
        ({"tokeniser": {}}, "unknown key 'tokeniser'; did you mean 'tokenizer'?"),
    ],
)
def test_impossible_corpora_are_refused(changes, expected, tmp_path, capfd):
    config = config_file(tmp_path, **changes)
    assert expected in refusal(capfd, lambda: main(["prep", "--config", str(config)]))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"corpora:\n  a: {inputs: x}\n  a: {inputs: y}\n", "prep.yaml:3: 'corpora.a' stands here for the second time"),
        (b"output: x\ninputs: [a\n", "prep.yaml:3: not YAML"),
        (b"output: caf\xe9\n", "not UTF-8"),
        (b"- a list\n", "expected fields such as"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(text, expected, tmp_path, capfd):
    (tmp_path / "prep.yaml").write_bytes(text)
    assert expected in refusal(capfd, lambda: main(["prep", "--config", str(tmp_path / "prep.yaml")]))


def test_the_recorded_config_makes_the_same_set(tmp_path):
    assert main(["prep", "--config", str(config_file(tmp_path))]) == 0
    recorded = read_manifest(tmp_path / "set").config
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps({**recorded, "output": str(tmp_path / "other")}), "utf-8")
    assert main(["prep", "--config", str(again), "--workers", "1"]) == 0
    assert contents(tmp_path / "other") == contents(tmp_path / "set")


def test_licences_are_recorded_for_the_card_and_left_out_where_there_are_none(tmp_path):
    named = config_file(tmp_path, license="mit")
    value = yaml.safe_load(named.read_text())
    value["corpora"]["german"]["license"] = "cc-by-sa-4.0"
    named.write_text(yaml.safe_dump(value))
    assert main(["prep", "--config", str(named)]) == 0
    assert data_summary(read_manifest(tmp_path / "set"))["licenses"] == {"german": "cc-by-sa-4.0", "reports": "mit"}
    vocabulary = {"tokenizer.vocab_size": 130}
    assert prep(tmp_path / "a.jsonl", tmp_path / "one", text_field="body", license="mit", **vocabulary) == 0
    assert data_summary(read_manifest(tmp_path / "one"))["licenses"] == {"": "mit"}
    assert prep(tmp_path / "a.jsonl", tmp_path / "none", text_field="body", **vocabulary) == 0
    manifest = read_manifest(tmp_path / "none")
    assert "license" not in manifest.config
    assert data_summary(manifest)["licenses"] == {}
