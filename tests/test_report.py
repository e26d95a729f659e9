"""``electra-ds report``: what a run left is on the page, what it did not leave is said, and nothing is claimed."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
import yaml

from electra_ds.cli import main
from electra_ds.report.figures import rolling_mean, thin
from electra_ds.report.finetuning import compare
from electra_ds.report.progress import duration, short

VOID = {"meta", "br", "input", "link", "img", "hr"}
VERSIONS = {"electra_ds": "0.1.0", "torch": "2.13.0"}


class Page(HTMLParser):
    """Text, elements with their attributes, and whether every element is closed in order."""

    def __init__(self, html):
        super().__init__()
        self.text, self.elements, self.open, self.ids = "", [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += " ".join(data.split()) + " "

    def having(self, name):
        return [attributes for _, attributes in self.elements if name in attributes.get("class", "").split()]


def metrics_of(step):
    learned = 1 - math.exp(-step / 60)
    return {
        "loss": 45 - 15 * learned, "generator_loss": 9 - 4 * learned, "discriminator_loss": 0.7 - 0.3 * learned,
        "generator_accuracy": 0.3 * learned, "sample_accuracy": 0.05 * learned, "replaced_rate": 0.24,
        "discriminator_accuracy": 0.5 + 0.35 * learned, "discriminator_precision": 0.3 + 0.5 * learned,
        "discriminator_recall": 0.2 + 0.5 * learned, "discriminator_auc": 0.5 + 0.4 * learned,
    }  # fmt: skip


def write_run(folder, steps=200, stopped=90):
    """A run of two lives, one rank and then two, with nulls, NaN, unknown keys and a torn last line."""
    folder.mkdir()
    life = {"zero_stage": 1, "precision": "bf16", "device": "cpu", "parameters": 1_652_801, "versions": VERSIONS}
    lines = [{"kind": "event", "step": 0, "event": "start", "world_size": 1, **life}]
    for step in range(1, steps + 1):
        line = {
            "kind": "train", "step": step, **metrics_of(step), "learning_rate": 1e-3 * (1 - step / steps),
            "tokens_per_second": 15_000 if step > 1 else None, "data_wait": 0.02, "rows_consumed": 32 * step,
            "tokens_consumed": 2048 * step, "epoch": step / 300, "gradient_norm": float("nan") if step == 3 else 2.0,
            "elapsed_seconds": 0.5 * step, "mfu": None, "new_metric": [1, 2],
        }  # fmt: skip
        lines.append(line)
        if step % 50 == 0:
            lines.append({"kind": "validation", "step": step, **metrics_of(step), "elapsed_seconds": 0.5 * step})
        if step == stopped:
            cost = {"stall_seconds": 0.25, "seconds": 3.5, "bytes": 23_000_000}
            lines += [{"kind": "event", "step": step, "event": event, **cost} for event in ("save", "stop")]
            lines.append({"kind": "event", "step": step, "event": "resume", "world_size": 2, **life})
    lines.append({"kind": "event", "step": steps, "event": "end"})
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "train", "step": 2'
    (folder / "metrics.jsonl").write_text(text, "utf-8")
    recipe = {"model": {"layers": 2}, "training": {"steps": steps}, "data": {"path": "gone"}, "note": "<b>&"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    write_samples(folder, [wordpiece_example()], step=steps)
    return folder


def wordpiece_example():
    return {
        "tokens": ["[CLS]", "the", "cat", "play", "##ing", "<script>", ".", "[SEP]"],
        "corrupted": ["[CLS]", "the", "moon", "play", "##ed", "<script>", ".", "[SEP]"],
        "original": ["[CLS]", "the", "cat", "play", "##ing", "<script>", ".", "[SEP]"],
        "replaced": [False, False, True, False, True, False, False, False],
        "probability": [0.01, 0.1, 0.93, 0.2, 0.4, 0.7, None, 0.02],
    }


def write_samples(folder, examples, step=200):
    (folder / "samples.json").write_text(json.dumps({"step": step, "examples": examples, "unknown": 1}), "utf-8")


def write_results(folder, pretrained=(0.60, 0.62, 0.61), scratch=(0.52, 0.55, 0.54), bag=0.64):
    folder.mkdir(exist_ok=True)
    kinds = {"pretrained": pretrained, "from_scratch": scratch}
    runs = [
        {"initialization": kind, "seed": seed, "scores": {"validation": {"accuracy": score}}}
        for kind, scores in kinds.items()
        for seed, score in enumerate(scores)
    ]
    results = {
        "task": "classification", "metric": "accuracy", "labels": ["a", "b"], "runs": runs, "summary": {},
        "data": {"train": {"rows": 400}, "validation": {"rows": 800}}, "settings": {"learning_rate": 1e-3},
        "baselines": {"bag_of_words": {"description": "TF-IDF, naive Bayes", "validation": {"accuracy": bag}}},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results), "utf-8")
    return folder


def report(run, *arguments):
    assert main(["report", str(run), *map(str, arguments)]) == 0
    html = (run / "report.html").read_text("utf-8")
    page = Page(html)
    assert not page.open, "every element is closed"
    assert len(page.ids) == len(set(page.ids)), "ids are unique in the page"
    return page, html


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def test_headline_facts_come_from_the_run(run):
    text = report(run)[0].text
    for fact in (
        "updates 200 of 200 planned", "tokens seen 410 k 0.67 epochs", "training time 1 min 40 s median 15 k tokens/s",
        f"AUC, replaced tokens {metrics_of(200)['discriminator_auc']:.3f} held-out text", "parameters 1.65 M",
        "ranks 1 → 2 cpu", "ZeRO stage 1 bf16", "times resumed 1 1 checkpoint saved",
        "training stood still for a checkpoint 0.25 s median; 3.5 s until it was published, 23 MB each",
    ):  # fmt: skip
        assert fact in text


def test_every_curve_is_drawn_and_the_interruption_is_marked_in_each(run):
    page, html = report(run)
    drawn = {attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"}
    assert drawn == {
        "generator-loss", "discriminator-loss", "discriminator-auc", "discriminator-accuracy", "precision-recall",
        "generator-quality", "tokens-per-second", "data-wait", "learning-rate", "gradient-norm",
    }  # fmt: skip
    assert html.count(">resumed on 2 ranks<") == len(drawn)
    assert "resumed from the checkpoint of step 90" in page.text


def test_accuracy_is_set_against_the_trivial_answer(run):
    page = report(run)[0]
    accuracy = 100 * metrics_of(200)["discriminator_accuracy"]
    assert f"ends at {accuracy:.1f} % accuracy, {accuracy - 76:.1f} points above the trivial answer" in page.text
    assert "always “original”" in page.text


def test_tokens_carry_their_probability_and_the_replaced_ones_their_original(run):
    page, html = report(run)
    tips = [attributes["data-tip"] for attributes in page.having("token") if "data-tip" in attributes]
    assert len(tips) == 8
    assert tips[2] == "originally “cat”, P(replaced) = 0.93"
    assert tips[4] == "originally “ing”, P(replaced) = 0.40"
    assert tips[1] == "original, P(replaced) = 0.10"
    replaced = [attributes for attributes in page.having("replaced") if "data-tip" in attributes]
    assert [attributes["style"] for attributes in replaced] == ["--p: 0.93", "--p: 0.40"]
    assert "1 of 2 replaced tokens found, 1 false alarm " in page.text
    assert "<script" not in html and "&lt;script&gt;" in html


def test_sentencepiece_tokens_are_set_with_their_own_spaces(run):
    texts = ["<s>", "▁Der", "▁Hund", "e", "!", "</s>"]
    example = {"corrupted": texts, "original": texts, "replaced": [False] * 6, "probability": [0.0] * 6}
    write_samples(run, [example])
    html = report(run)[1]
    words = re.sub(r"<[^>]+>", "", html[html.index('<div class="text">') : html.index('<span class="count">')])
    assert " ".join(words.split()) == "&lt;s&gt; Der Hunde! &lt;/s&gt;"


def test_page_is_self_contained_and_names_no_outside_address(run, tmp_path):
    _, html = report(run, "--finetune", write_results(tmp_path / "ft"))
    assert not re.search(r"https?:|<script|<link|<img|@import|src=|@font-face", html)
    assert set(re.findall(r'(?:url\(|href=")([^)"]*)', html)) <= {f"#{name}" for name in Page(html).ids}
    assert "#0a0b0" not in html, "every colour is one of the page's own"


def test_recipe_and_versions_are_shown_as_text(run):
    page, html = report(run)
    assert "note: <b>&" in page.text and "note: &lt;b&gt;&amp;" in html
    assert "torch 2.13.0" in page.text


def test_shards_are_described(run, tiny_shards):
    page, _ = report(run, "--shards", tiny_shards)
    assert "wordpiece vocabulary of 1,000" in page.text
    assert "train" in page.text.split("Data set")[1]


def test_finetuning_shows_every_seed_and_says_what_follows(run, tmp_path):
    page, html = report(run, "--finetune", write_results(tmp_path / "ft"))
    strip = html[html.index('aria-label="fine-tuning-scores"') :]
    assert strip[: strip.index("</svg>")].count("<use ") >= 7, "six seeds and one baseline"
    assert "pretrained 3 61.0 % 60.0 % 62.0 % 1.0 points" in page.text
    assert "7.0 points above the same network from scratch (54.0 %)" in page.text
    assert "The pretrained median lies 3.0 points below the bag of words (64.0 %)." in page.text


@pytest.mark.parametrize(
    ("ours", "floor", "expected"),
    [
        ([0.60, 0.62], [0.52, 0.54], "more than the spread over seeds (at most 2.0 points), and the lowest pretrained"),
        ([0.60, 0.66], [0.58, 0.62], "the seeds alone could explain this"),
        ([0.50, 0.52], [0.60, 0.62], "the lowest from-scratch score is above the highest pretrained one"),
        ([0.50, 0.52], [0.60, 0.62], "10.0 points below the same network"),
        ([0.60], [0.50, 0.51], "With a single seed the spread is unknown"),
    ],
)
def test_comparison_claims_what_the_numbers_show(ours, floor, expected):
    assert expected in compare(ours, floor, "accuracy", "test")


def test_what_is_missing_is_left_out_and_said(run):
    for name in ("samples.json", "recipe.yaml"):
        (run / name).unlink()
    page, _ = report(run)
    assert "Corrupted text" not in page.text and "Fine-tuning" not in page.text.split("Not in this report")[0]
    left_out = page.text.split("Not in this report")[1]
    for reason in ("no samples.json", "no recipe.yaml", "--finetune", "--shards", "1 line of metrics.jsonl"):
        assert reason in left_out


def test_a_run_without_metrics_or_with_broken_parts_still_gets_its_page(run):
    (run / "metrics.jsonl").unlink()
    (run / "recipe.yaml").write_text("a: [", "utf-8")
    write_samples(run, [{"corrupted": ["a", "b"], "original": ["a"]}, 7])
    page, _ = report(run)
    left_out = page.text.split("Not in this report")[1]
    for reason in ("no metrics.jsonl", "not valid YAML", "2 of the examples"):
        assert reason in left_out


def test_report_is_written_again_but_never_over_another_file(run, capsys):
    report(run)
    report(run, "--title", "Second")
    assert "Second" in (run / "report.html").read_text("utf-8")
    (run / "mine.html").write_text("<p>do not lose</p>")
    assert main(["report", str(run), "--output", str(run / "mine.html")]) == 2
    assert "not a report of ours" in capsys.readouterr().err
    assert (run / "mine.html").read_text() == "<p>do not lose</p>"


def test_wrong_folders_are_refused(run, tmp_path, capsys):
    for arguments, message in (
        ([tmp_path / "none"], "no folder"),
        ([tmp_path], "is not a run folder"),
        ([run, "--finetune", tmp_path], "that 'electra-ds finetune' has finished"),
        ([run, "--shards", tmp_path], "no manifest.json"),
        ([run, "--output", tmp_path / "none" / "r.html"], "no folder"),
        ([run, "--examples", "-1"], "expected 0 or more"),
    ):
        assert main(["report", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err


def test_drawn_points_keep_the_mean():
    steps, values = thin(list(range(1000)), [1.0] * 999 + [100.0], 100)
    assert len(steps) == 100
    assert sum(values) / 100 == pytest.approx(1.099)
    assert rolling_mean([0, 3, 6, 9], 3) == [1.5, 3, 6, 7.5]


def test_numbers_in_words():
    assert [short(value) for value in (950, 12_345, 1.5e6, 2e9)] == ["950", "12.3 k", "1.5 M", "2 G"]
    assert [duration(value) for value in (4.21, 100, 7500)] == ["4.2 s", "1 min 40 s", "2 h 05 min"]
