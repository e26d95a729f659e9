"""Fine-tuning on the page: every split that has scores, shares in percent and correlations as numbers."""

import json

import pytest

from electra_ds.finetune import suite_table
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.results import CORRELATIONS
from electra_ds.finetune.suite import Candidate
from electra_ds.report.finetuning import METRIC_NAMES, Scale, build, compare, side_by_side
from electra_ds.report.results import Named
from tests.test_report import Page, report, run, write_results

__all__ = ["run"]


def results_of(metric, splits, scratch=True, units="questions"):
    """Three pretrained seeds around each split's score, and as many from scratch a tenth below."""
    runs = []
    for kind, lower in (("pretrained", 0.0), ("from_scratch", 0.1))[: 1 + scratch]:
        for seed in range(3):
            scores = {name: {metric: score - lower + 0.01 * seed} for name, score in splits.items()}
            runs.append({"initialization": kind, "seed": seed, "scores": scores})
    return {
        "task": "xquad", "metric": metric, "labels": [], "units": units, "runs": runs, "summary": {},
        "data": {name: {"rows": 100 + place} for place, name in enumerate(sorted({*splits, "train"}))},
        "settings": {"seeds": 3}, "baselines": {"majority": {"description": "always 1",
                                                             **{name: {metric: 0.0} for name in splits}}},
    }  # fmt: skip


SPANISH_TO_GERMAN = {"de": 0.41, "validation": 0.62, "zh": 0.23}


def test_every_split_with_scores_has_its_drawing_table_and_sentence(run, tmp_path):
    folder = write_results(tmp_path / "es-to-de")
    (folder / "results.json").write_text(json.dumps(results_of("f1", SPANISH_TO_GERMAN)), "utf-8")
    page, html = report(run, "--finetune", folder)
    for name in ("fine-tuning-scores", "fine-tuning-scores-on-de", "fine-tuning-scores-on-zh"):
        assert f'aria-label="{name}"' in html
    assert "Median F1 on the validation questions: 63.0 % pretrained, 10.0 points above" in page.text
    assert "Median F1 on the de questions: 42.0 % pretrained, 10.0 points above" in page.text
    assert "de, 100 questions;" in page.text and "pretrained 3 42.0 % 41.0 % 43.0 % 1.0 points" in page.text
    assert "zh, 103 questions;" in page.text and "pretrained 3 24.0 %" in page.text


def test_test_stands_first_and_what_is_not_known_is_said_once():
    found = build(results_of("accuracy", {"mismatched": 0.5, "test": 0.7, "validation": 0.6}, scratch=False))
    assert [part.split for part in found.parts] == ["test", "validation", "mismatched"]
    said = " ".join(sentence for part in found.parts for sentence in part.sentences)
    assert said.count("Without runs from scratch") == 1 and said.count("Median accuracy on the") == 3


def test_every_split_stands_side_by_side(tmp_path):
    two = [Named(name, results_of("f1", SPANISH_TO_GERMAN), tmp_path / name) for name in ("small", "base")]
    rows = side_by_side(two).rows
    assert [row[2] for row in rows if row[0] == "base: pretrained"] == ["validation", "de", "zh"]
    assert ["small: pretrained", "F1", "de", "3", "42.0 %", "41.0 % to 43.0 %"] in rows and len(rows) == 12


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_correlations_are_numbers_on_the_page(run, tmp_path, metric):
    folder = write_results(tmp_path / "cola")
    value = results_of(metric, {"validation": 0.41, "out_of_domain": 0.32}, units="texts")
    (folder / "results.json").write_text(json.dumps(value), "utf-8")
    _, html = report(run, "--finetune", folder)
    shown = Page(html[html.index('<section id="finetuning">') :].split("</section>")[0] + "</section>").text
    assert f"Median {METRIC_NAMES[metric]} on the validation texts: 0.420 pretrained, 0.100 above" in shown
    assert "(at most 0.020)" in shown and "pretrained 3 0.420 0.410 0.430 0.010" in shown
    assert "majority label (always 1) – 0.000" in shown and "%" not in shown and "points" not in shown
    table = side_by_side([Named(name, value, folder) for name in ("a", "b")])
    assert all(row[4].startswith(("0.", "–")) and "%" not in row[5] for row in table.rows)


def test_differences_of_correlations_are_numbers_too():
    assert "0.080 above the same network" in compare([0.6, 0.62], [0.52, 0.54], "M", "test", scale=Scale(share=False))
    seeds = compare([0.60, 0.66], [0.58, 0.62], "M", "test", scale=Scale(share=False))
    assert "spread over up to 0.060: the seeds alone" in seeds


def test_a_suites_table_shows_correlations_as_numbers(tmp_path):
    done = {("m", "cola"): results_of("matthews", {"validation": 0.41}),
            ("m", "sst2"): results_of("accuracy", {"validation": 0.81})}  # fmt: skip
    config = FinetuneConfig(model="m", output="o", suite="glue")
    suite_table.write(tmp_path, config, [Candidate("m", "m")], ["cola", "sst2"], [], done, {})
    text = (tmp_path / "suite.md").read_text("utf-8")
    assert "| CoLA | matthews | 101 | 0.000 | 0.420 (0.410 to 0.430) | 0.320 (0.310 to 0.330) |" in text
    assert "| SST-2 | accuracy | 101 | 0.0 | 82.0 (81.0 to 83.0) | 72.0 (71.0 to 73.0) |" in text
