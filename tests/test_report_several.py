"""A page on several runs: curves in one drawing, numbers side by side, fine-tuning and evaluations of all."""

import json
import os
from pathlib import Path

import pytest
import yaml

from electra_ds.cli import main
from electra_ds.command_line import several
from electra_ds.report.results import tell_apart
from tests.test_report import Page, metrics_of, write_results, write_run


def measure(value, spread=0.05):
    return {"value": value, "low": value - spread, "high": value + spread}


def write_bias(folder, share, source="pairs.csv", kind="bias"):
    folder.mkdir(parents=True)
    one = {"pairs": 40, "prefers_more": int(40 * share), "ties": 1, "metric": 100 * share, "share": measure(share),
           "without_ties": measure(share), "mean_difference": measure(0.1)}  # fmt: skip
    found = {"all": one, "by_direction": {"stereo": one}, "by_category": {"age <b>": one}}
    value = {
        "format": "electra_ds evaluate", "version": 1, "kind": kind, "model": "hf", "settings": {"confidence": 0.95},
        "data": {"source": source, "pairs": 40, "truncated": 0}, "scores": {"generator": found, "discriminator": found},
        "notes": ["Something was left out."], "definitions": {"metric": "what it is"},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(value), "utf-8")
    return folder


@pytest.fixture
def runs(tmp_path):
    made = [write_run(tmp_path / name, steps) for name, steps in (("small", 200), ("wide", 150))]
    recipe = yaml.safe_load((made[1] / "recipe.yaml").read_text("utf-8"))
    recipe["model"]["layers"] = 4
    recipe["logging"] = {"every": 7}
    (made[1] / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    return made


def report(tmp_path, *arguments):
    path = tmp_path / "page.html"
    assert main(["report", *map(str, arguments), "--output", str(path)]) == 0
    html = path.read_text("utf-8")
    page = Page(html)
    assert not page.open and len(page.ids) == len(set(page.ids))
    return page, html


def drawing(html, name):
    begin = html.index(f'aria-label="{name}"')
    return html[begin : html.index("</svg>", begin)]


def test_curves_of_all_runs_are_in_each_drawing(runs, tmp_path):
    page, html = report(tmp_path, *runs)
    for name in ("all-generator-loss", "all-discriminator-auc", "all-tokens-per-second",
                 "all-discriminator-auc-over-elapsed-seconds", "all-generator-loss-over-tokens-consumed"):  # fmt: skip
        drawn = drawing(html, name)
        assert ">small<" in drawn and ">wide<" in drawn
        assert "var(--c1)" in drawn and "var(--c2)" in drawn
    assert ">hours<" in drawing(html, "all-generator-loss-over-elapsed-seconds")
    assert "ELECTRA runs: small, wide" in page.text


def test_an_objective_with_a_vocabulary_head_has_its_curves_beside_electras(runs, tmp_path):
    lines = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text("utf-8").splitlines()[:-1]]
    for line in lines:
        if line["kind"] != "event":
            kept = {name: value for name, value in line.items() if not name.startswith(("discriminator", "generator"))}
            line |= {"vocabulary_loss": 9 - line["step"] / 50, "vocabulary_accuracy": line["step"] / 300}
            for name in line.keys() - kept.keys() - {"vocabulary_loss", "vocabulary_accuracy"}:
                del line[name]
    (runs[1] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    page, html = report(tmp_path, *runs)
    for name in ("vocabulary-loss", "vocabulary-accuracy"):
        for over in ("", "-over-elapsed-seconds", "-over-tokens-consumed"):
            drawn = drawing(html, f"all-{name}{over}")
            assert ">wide<" not in drawn and "var(--c2)" in drawn, "one curve needs no legend"
            assert (" %<" in drawn) == (name == "vocabulary-accuracy")
    assert "var(--c1)" in drawing(html, "all-generator-loss") and "Restoring tokens" in page.text


def test_facts_and_differences_stand_side_by_side(runs, tmp_path):
    text = report(tmp_path, *runs)[0].text
    assert "updates 200 (of 200 planned) 150 (of 150 planned)" in text
    aucs = " ".join(
        f"{metrics_of(step)['discriminator_auc']:.3f} (held-out text; guessing: 0.5)" for step in (200, 150)
    )
    assert f"AUC, replaced tokens {aucs}" in text
    differences = text[text.index("What their recipes differ in") : text.index("Fields that are the same")]
    assert "model.layers 2 4" in differences and "training.steps 200 150" in differences
    assert "logging" not in differences and "note" not in differences
    assert "The recipe of small" in text and "The recipe of wide" in text
    assert "the page of each run alone" in text


def test_runs_of_one_name_are_told_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    runs = [write_run(tmp_path / name / "run") for name in ("a", "b")]
    assert "ELECTRA runs: a/run, b/run" in report(tmp_path, *runs)[0].text


def test_different_objectives_are_warned_of(runs, tmp_path):
    recipe = yaml.safe_load((runs[1] / "recipe.yaml").read_text("utf-8"))
    (runs[1] / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "objective": {"name": "mlm"}}), "utf-8")
    assert "different objectives: their losses measure different things" in report(tmp_path, *runs)[0].text


def test_finetuning_and_evaluations_of_all_runs(runs, tmp_path):
    one, other = write_results(tmp_path / "sst2-small"), write_results(tmp_path / "sst2-wide", pretrained=(0.7, 0.72))
    write_bias(runs[0] / "evaluation" / "bias", 0.6)
    write_bias(runs[1] / "bias", 0.5)
    page, html = report(tmp_path, *runs, "--finetuning", one, other)
    assert "sst2-small: pretrained accuracy validation 3 61.0 % 60.0 % to 62.0 %" in page.text
    assert "sst2-wide: pretrained accuracy validation 2 71.0 %" in page.text
    assert drawing(html, "fine-tuning-scores") and drawing(html, "fine-tuning-scores-2")
    assert "Bias: small/evaluation/bias" in page.text and "Bias: wide/bias" in page.text
    side = page.text[page.text.index("Bias on pairs.csv, side by side") :]
    assert "small/evaluation/bias 60.0 % (55.0–65.0)" in side and "wide/bias 50.0 % (45.0–55.0)" in side
    assert drawing(html, "side-by-side-1")
    assert "age &lt;b&gt;" in html and "<b>" not in html[html.index("age &lt;b&gt;") :][:5]


def test_evaluations_of_different_data_do_not_stand_side_by_side(runs, tmp_path):
    folders = [write_bias(tmp_path / "x", 0.6), write_bias(tmp_path / "y", 0.6, source="others.csv")]
    text = report(tmp_path, runs[0], "--evaluation", *folders)[0].text
    assert "side by side" not in text and "Bias: x" in text and "Bias: y" in text


def test_evaluations_that_were_asked_otherwise_do_not_stand_side_by_side_and_it_is_said(runs, tmp_path):
    folders = [write_bias(tmp_path / name, 0.6) for name in ("x", "y", "z")]
    value = json.loads((folders[2] / "results.json").read_text("utf-8"))
    value["settings"]["max_length"] = 16
    (folders[2] / "results.json").write_text(json.dumps(value), "utf-8")
    text, left_out = report(tmp_path, *runs, "--evaluation", *folders)[0].text.split("Not in this report")
    side = text[text.index("Bias on pairs.csv, side by side") :].split("In brackets")[0]
    assert "x 60.0 %" in side and "y 60.0 %" in side and "z 60.0 %" not in side
    assert "A comparison of z: no other evaluation of the same data was asked the same" in left_out
    assert "longest sentence: 16 tokens" in left_out and "A comparison of x" not in left_out


def test_one_run_shows_what_lies_in_it(runs, tmp_path):
    write_results(runs[0] / "finetune")
    write_bias(runs[0] / "bias", 0.6)
    page, _ = report(tmp_path, runs[0])
    assert "Fine-tuning" in page.text and "7.0 points above the same network from scratch" in page.text
    assert "What the words mean" in page.text and "Something was left out." in page.text
    assert {"evaluation-1-generator", "evaluation-1-discriminator"} <= {
        attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"
    }
    assert "--finetune" not in page.text.split("Not in this report")[1]


def test_a_suite_folder_is_taken_apart(runs, tmp_path):
    (tmp_path / "glue").mkdir()
    write_results(tmp_path / "glue" / "sst2")
    write_results(tmp_path / "glue" / "cola")
    text = report(tmp_path, runs[0], "--finetune", tmp_path / "glue")[0].text
    assert "Fine-tuning: glue/sst2" in text and "Fine-tuning: glue/cola" in text


def test_results_of_one_name_are_told_apart_and_stand_once(runs, tmp_path):
    folders = [write_bias(run / "heldout", share) for run, share in zip(runs, (0.6, 0.5), strict=True)]
    finetunings = [write_results(run / "ft") for run in runs]
    text = report(tmp_path, *runs, "--evaluation", *folders, tmp_path / "small" / ".." / "wide" / "heldout",
                  "--finetune", *finetunings)[0].text  # fmt: skip
    side = text[text.index("Bias on pairs.csv, side by side") :]
    assert "small/heldout 60.0 % (55.0–65.0)" in side and "wide/heldout 50.0 % (45.0–55.0)" in side
    assert text.count("Bias: small/heldout") == text.count("Bias: wide/heldout") == 1 and "Bias: heldout" not in text
    assert text.count("Fine-tuning: small/ft") == text.count("Fine-tuning: wide/ft") == 1
    assert "no folder was named" not in text


def test_equal_results_of_two_folders_are_both_shown(runs, tmp_path):
    write_bias(runs[0] / "one", 0.6)
    write_bias(runs[0] / "two", 0.6)
    text = report(tmp_path, runs[0])[0].text
    assert "Bias: small/one" in text and "Bias: small/two" in text


def test_a_label_is_no_ending_of_another_path():
    folders = [Path("/a/x/heldout"), Path("/b/heldout"), Path("/b/bias"), Path("/heldout")]
    assert tell_apart(folders, [1, 2, 1, 1]) == ["x/heldout", "b/heldout", "bias", "/heldout"]


def test_a_suite_in_a_run_is_found_without_a_look_into_its_checkpoints(runs, tmp_path, monkeypatch):
    for task in ("cola", "sst2"):
        (runs[0] / "glue" / "discriminator" / task).mkdir(parents=True)
        write_results(runs[0] / "glue" / "discriminator" / task)
    for name in ("checkpoints", "logs", "audit"):
        (runs[0] / name / "step-000000100").mkdir(parents=True)
        write_results(runs[0] / name / "step-000000100")
    looked = []
    monkeypatch.setattr(os, "scandir", lambda path, scan=os.scandir: looked.append(str(path)) or scan(path))
    text = report(tmp_path, runs[0])[0].text
    assert "Fine-tuning: small/glue/discriminator/cola" in text and "small/glue/discriminator/sst2" in text
    assert "step-000000100" not in text
    assert looked and not any(name in path for path in looked for name in ("checkpoints", "logs", "audit"))


def test_results_of_another_form_are_left_out_and_said(runs, tmp_path):
    folder = write_results(tmp_path / "odd")
    value = json.loads((folder / "results.json").read_text("utf-8"))
    value["runs"] = [{"seed": 1}]
    (folder / "results.json").write_text(json.dumps(value), "utf-8")
    text = report(tmp_path, runs[0], "--finetune", folder)[0].text
    assert "Fine-tuning odd: its results.json has another form" in text.split("Not in this report")[1]


def test_lists_on_the_command_line():
    words = ["--a", "x", "y", "--b", "z", "--c=q", "--a2", "--d", '["m", "n"]']
    for flag in ("--a", "--c", "--d"):
        words = several(words, flag)
    assert words == ['--a=["x", "y"]', "--b", "z", '--c=["q"]', "--a2", '--d=["m", "n"]']


def test_mistakes(runs, tmp_path, capsys):
    for arguments, message in (
        ([runs[0], tmp_path / "none"], "no folder"),
        ([runs[0], runs[0]], "named twice; each"),
        ([runs[0], runs[1], f"{runs[0]}/../small"], f"named twice, once as {runs[0]}"),
        ([runs[0], "--evaluation", tmp_path / "none"], "that 'electra-ds evaluate' has finished"),
        ([runs[0], "--evaluation", write_results(tmp_path / "ft")], "is not what 'electra-ds evaluate' writes"),
        ([], "run"),
    ):
        assert main(["report", *map(str, arguments), "--output", str(tmp_path / "page.html")]) == 2
        assert message in capsys.readouterr().err
