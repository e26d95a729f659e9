"""The page beside the manifest: what it says is what was done, whatever the texts that it quotes contain."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

import data_prep.report
from data_prep.config import PrepConfig
from data_prep.report.figures import differences, length_histogram, nice_ticks, short_power, span
from data_prep.report.page import exposed, megabytes, percent, render, size, visible
from data_prep.report.process import duration
from data_prep.report.removed import removal
from electra_ds.cli import main
from electra_ds.command_line import parse
from electra_ds.data.format import read_manifest
from tests.conftest import real_documents
from tests.data_prep.conftest import SMALL, contents, prep, write_json_lines
from tests.test_report import Page

HOSTILE = (
    "<script>alert(1)</script> </style></details> {{ 7 * 7 }} {% raw %} &amp; \" ' onload=x \u202e\0\x1b[31m turned "
    + "w" * 400
)
SOURCE = '<img src="https://example.org/x.png"> \u202e مصدر'


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two corpora with weights: one with copies and near-copies, one cleaned, with hostile text and two languages."""
    folder = tmp_path_factory.mktemp("report")
    texts = [text for text in real_documents() if len(text.split()) > 80][:60]
    near = [f"{text} And some more words." for text in texts[:3]]
    plain = [{"text": text} for text in [*texts[:40], *near, texts[5], texts[5], ""]]
    rows = [{"text": text, "lang": "en", "source": SOURCE} for text in texts[40:]]
    rows += [{"text": f"Das ist ein Satz über Straßen und the Vögel. {n} " * 12, "lang": "de"} for n in range(4)]
    rows += [{"text": HOSTILE}, {"text": "too short"}]
    settings = {
        "output": str(folder / "set"),
        "corpora": {
            "docs": {"inputs": str(write_json_lines(folder / "docs.jsonl", plain)), "language": "en", "weight": 3},
            "wild": {
                "inputs": str(write_json_lines(folder / "wild.jsonl", rows)),
                "weight": 1,
                "clean": {"control": True, "gopher_quality": True},
            },
        },
        "dedup": {"near": True},
    }
    for name, value in SMALL.items():
        section, _, key = name.rpartition(".")
        (settings.setdefault(section, {}) if section else settings)[key] = value
    (folder / "prep.yaml").write_text(yaml.safe_dump(settings))
    assert main(["prep", "--config", str(folder / "prep.yaml")]) == 0
    return folder


@pytest.fixture(scope="module")
def html(made) -> str:
    return (made / "set/report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def text(html) -> str:
    return words(html)


def words(html: str) -> str:
    """The text, a space between any two words."""
    return " ".join(Page(html).text.split())


def section(html: str, name: str) -> str:
    """Text of one section of the page."""
    return words(re.search(rf'<section id="{name}">.*?</section>', html, re.DOTALL)[0])


def test_the_page_is_whole_and_stands_alone(html):
    page = Page(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "base"}
    for _, attributes in page.elements:
        assert not {"src", "href", "srcset"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        assert "url(" not in attributes.get("style", "")
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_every_section_is_there(html):
    names = re.findall(r'<section id="(\w+)">', html)
    assert names == [
        "corpora", "mixing", "lengths", "removed", "duplicates", "vocabulary", "shards", "run", "repeat"
    ]  # fmt: skip


def test_amounts_are_those_of_the_manifest(made, html, text):
    manifest = read_manifest(made / "set")
    statistics = manifest.statistics
    for value in (statistics["tokens"], sum(statistics["documents_kept"].values()), statistics["documents_read"]):
        assert f"{value:,}" in text
    table = section(html, "corpora")
    for corpus in statistics["corpora"].values():
        for entry in (corpus, *corpus["languages"].values()):
            assert f" {entry['documents']:,} {megabytes(entry['bytes'])} {entry['tokens']:,} " in table
    assert "wild : 2 languages" in table
    shards = section(html, "shards")
    for shard in (*manifest.splits["train"], *manifest.splits["validation"]):
        assert f"{shard.name} {shard.blocks:,} {shard.documents:,} {shard.tokens:,} " in shards
    assert f"{statistics['vocabulary']['used']:,} of the {statistics['vocabulary']['size']:,} ids" in text
    assert manifest.fingerprint in text


def test_mixing_follows_weights_and_temperature(made, html):
    manifest = read_manifest(made / "set")
    tokens = {"docs": 0, "wild": 0}
    for shard in manifest.splits["train"]:
        tokens[shard.corpus] += shard.tokens
    table = section(html, "mixing")
    for name, weight in (("docs", 0.75), ("wild", 0.25)):
        shares = [tokens[name] ** (1 / t) / sum(count ** (1 / t) for count in tokens.values()) for t in (1, 2, 5)]
        assert " ".join([name, f"{tokens[name]:,}", *map(_percent, shares), _percent(weight)]) in table


def _percent(share: float) -> str:
    return " ".join(percent(share).split())


def test_the_steps_lead_from_what_was_read_to_what_was_kept(made, html):
    found = removal(read_manifest(made / "set"))
    names = ["empty", "gopher_quality: short document", "exact duplicate", "near duplicate"]
    assert [step.name for step in found.steps] == names
    assert found.steps[-1].left == found.kept
    assert {step.name: step.documents for step in found.steps}["exact duplicate"] == 2
    assert {step.name: step.documents for step in found.steps}["near duplicate"] >= 3
    table = section(html, "removed")
    assert f"Of {found.read:,} documents, {found.kept:,}" in table
    for step in found.steps:
        assert f"{step.name} {step.documents:,} {_percent(step.share)} {step.left:,}" in table
    assert "control 1 changed" in table
    assert "empty 1 dropped docs.jsonl nothing to see" in table


def test_duplicates_are_shown_with_the_parameters_of_the_search(made, html):
    found = read_manifest(made / "set").statistics["duplicates"]
    text = section(html, "duplicates")
    assert "very same text: 2." in text
    assert f"near-duplicates: {found['near']}." in text
    assert "runs of 5 words, in 14 bands of 8" in text
    assert f"{sum(found['clusters'].values())} clusters" in text
    assert " ".join(found["largest"][0]["excerpt"].split())[:100] in text


def test_hostile_text_is_quoted_and_does_nothing(html, text):
    assert "<script>alert(1)</script>" in text
    assert "</style></details> {{ 7 * 7 }} {% raw %} &amp; \" ' onload=x [31m turned www" in text
    assert "&amp; \" ' onload=x ⟨U+202E⟩⟨U+0000⟩⟨U+001B⟩ [31m turned www" in text
    assert not re.search("[\0-\x08\x0b-\x1f\x7f\u202a-\u202e]", html)
    assert '<img src="https://example.org/x.png"> ⟨U+202E⟩ مصدر' in text


def test_the_settings_on_the_page_are_those_of_the_preparation(made, html, tmp_path):
    import html as entities

    (tmp_path / "again.yaml").write_text(entities.unescape(re.search(r"<pre>(.*?)</pre>", html, re.DOTALL)[1]))
    config = parse(PrepConfig, ["--config", str(tmp_path / "again.yaml"), "--output", str(tmp_path)], "prep")
    recorded = json.loads(json.dumps(config.recorded()))
    assert recorded == read_manifest(made / "set").config


def test_times_are_shown_by_stage(html):
    text = section(html, "run")
    for stage in ("reading", "deduplicating", "vocabulary", "tokenizing", "counting", "writing"):
        assert re.search(rf"{stage} \d+\.\d", text)
    assert "1 rank of 1 worker." in text


def test_a_deleted_page_comes_back_without_touching_the_set(inputs, undisturbed, tmp_path, capfd):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.name != "report.html"}
    (undisturbed / "report.html").unlink()
    assert prep(inputs, undisturbed) == 0
    said = capfd.readouterr()
    assert "nothing to do" in said.out
    assert f"report: {undisturbed / 'report.html'}" in said.out
    assert "which does not tell how long it took" in (undisturbed / "report.html").read_text("utf-8")
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.name != "report.html"} == before


def test_a_page_that_fails_takes_nothing_from_the_set(inputs, undisturbed, tmp_path, capfd, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "jinja2", None)
        assert prep(inputs, tmp_path / "set") == 0
    said = capfd.readouterr()
    assert "no report (" in said.err
    assert "report:" not in said.out
    assert contents(tmp_path / "set") == contents(undisturbed)
    assert prep(inputs, tmp_path / "set") == 0
    assert (tmp_path / "set/report.html").exists()
    assert contents(tmp_path / "set") == contents(undisturbed)


def test_the_page_of_a_resumed_run_says_so(made):
    manifest = read_manifest(made / "set")
    stages = {"reading": {"seconds": 2.0, "bytes": 3e6, "made": 1, "parts": 4}}
    assert "this one only" in render("set", manifest, {"ranks": 2, "workers": 3, "stages": stages})
    stages["reading"]["made"] = 4
    page = render("set", manifest, {"ranks": 2, "workers": 3, "stages": stages})
    assert "this one only" not in page
    assert "2 ranks of 3 workers." in section(page, "run")
    assert "100 % 3.00 1.5" in section(page, "run")


def test_a_set_of_thousands_of_languages_and_shards_has_a_page_of_bounded_size(made):
    manifest = read_manifest(made / "set")
    statistics = copy.deepcopy(manifest.statistics)
    some = statistics["corpora"]["wild"]["languages"]["de"]
    statistics["corpora"]["wild"]["languages"] |= {f"x{n}": some for n in range(3000)}
    statistics["duplicates"]["clusters"] = None
    shard = manifest.splits["train"][0]
    many = tuple(dataclasses.replace(shard, name=f"train-{n}", corpus=f"g{n}") for n in range(3000))
    page = render("set", dataclasses.replace(manifest, statistics=statistics, splits={"train": many}), None)
    assert len(page) < 1_500_000
    assert "2,500 more are not shown here" in words(page)
    assert "too many copies to count" in page


def test_readers_own_omissions_are_not_steps(made):
    manifest = read_manifest(made / "set")
    dropped = {"too long": 4, "WARC request": 9, **manifest.statistics["documents_dropped"]}
    changed = dataclasses.replace(manifest, statistics={**manifest.statistics, "documents_dropped": dropped})
    found = removal(changed)
    assert found.skipped == {"too long": 4, "WARC request": 9}
    assert found.steps[-1].left == found.kept
    assert "4 too long, 9 WARC request." in section(render("set", changed, None), "removed")


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (percent, 0, "0 %"), (percent, 1, "100 %"), (percent, 0.99999, ">99.9 %"), (percent, 0.1234, "12.3 %"),
        (percent, 0.0123, "1.23 %"), (percent, 0.00012, "0.012 %"), (percent, 1e-9, "<0.001 %"),
        (size, 1234, "1.2 kB"), (size, 5e6, "5.0 MB"), (size, 1.5e12, "1.5 TB"), (megabytes, 2e10, "20,000.0"),
        (megabytes, 12, "<0.01"), (megabytes, 0, "0.00"), (duration, 7.04, "7.0 s"), (duration, 600, "10 min"),
        (duration, 86400, "24 h 0 min"), (short_power, 0, "1"), (short_power, 14, "16k"), (short_power, 31, "2G"),
        (span, 1, "1"), (span, 1024, "1,024 to 2,047"), (nice_ticks, 3, [0, 1, 2, 3]),
        (nice_ticks, 1640, [0, 500, 1000, 1500]), (visible, "a\tb\n\u200b\ud800\u200d", "a\tb\n⟨U+200B⟩⟨U+D800⟩\u200d"),
        (exposed, "a\u200d\xa0b ", "a⟨U+200D⟩⟨U+00A0⟩b "),
    ],
)  # fmt: skip
def test_numbers_and_texts_are_readable(function, value, expected):
    found = function(value)
    assert (found.replace("\N{NO-BREAK SPACE}", " ") if isinstance(found, str) else found) == expected


def test_the_histogram_has_a_bar_for_each_length_that_occurs():
    svg = length_histogram("a <b>", [0, 0, 5, 0, 10] + [0] * 27 + [1])
    assert svg.count("<rect") == 3
    assert "<title>8 to 15 tokens: 10 documents (62.5%)</title>" in svg
    assert "a &lt;b&gt;" in svg


def test_differences_are_marked_on_both_sides_but_not_where_a_text_was_cut():
    before, after = differences("one &amp; two three", "one & two three fo")
    assert "".join(run for run, _ in before) == "one &amp; two three"
    assert [run for run, changed in before if changed] == ["amp;"]
    assert [run for run, changed in after if changed] == []
    assert differences("abc", "xyz") == ([("abc", True)], [("xyz", True)])


def test_the_page_is_found_in_the_package():
    folder = Path(data_prep.report.__file__).parents[1] / "templates"
    assert [path.name for path in folder.iterdir()] == ["report.html.j2"]
