"""Evaluations stand in one table where every model was asked the same, and the note under it says what that was."""

import copy
from pathlib import Path

import pytest

from electra_ds.report.comparing import evaluations_side_by_side
from electra_ds.report.evaluation import ground
from electra_ds.report.results import Named


def measure(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


TEXTS = {"source": "dev.tsv", "rows": 40, "empty_texts": 0, "max_length": 128}
COLUMNS = {"text_column": "text", "text_pair_column": "", "label_column": "label", "confidence": 0.95, "seed": 0,
           "max_length": None}  # fmt: skip
MADE = {
    "heldout": {
        "kind": "heldout",
        "settings": {"confidence": 0.95, "pairs": True},
        "data": {"fingerprint": "f" * 64, "split": "validation", "sequence_length": 128, "rows": 2048},
        "corruption": {
            "replacements": "generator", "noise_seed": 0,
            "objective": {"name": "electra", "mask_fraction": 0.15, "mask_token_probability": 0.85, "masking": "token",
                          "temperature": 1.0, "disallow_correct": False, "discriminator_weight": 50.0},
        },
        "discriminator": {name: measure(0.9) for name in ("auc", "average_precision", "calibration_error")},
    },
    "zero-shot": {
        "kind": "zero-shot",
        "settings": {**COLUMNS, "prompt": "{text} It was {label}.", "labels": "0=bad,1=good", "scope": "label",
                     "combine": "sum", "empty_prompt": ""},
        "data": TEXTS,
        "methods": {"generator": {name: {"accuracy": measure(0.7)} for name in ("plain", "corrected")}},
        "majority": {"accuracy": measure(0.5)},
    },
    "bias": {
        "kind": "bias",
        "settings": {"confidence": 0.95, "max_length": None},
        "data": {"source": "pairs.csv", "pairs": 40},
        "scores": {"generator": {"all": {"share": measure(0.6)}}},
    },
    "robustness": {
        "kind": "robustness", "metric": "matthews", "labels": ["0", "1"],
        "settings": {**COLUMNS, "keyboard": "qwerty"},
        "data": TEXTS,
        "clean": {name: measure(0.5) for name in ("matthews", "accuracy")},
        "variants": [
            {"group": "typos", "name": "drop", "rate": 0.1, "draws": 3,
             "drop_of_score": {name: measure(0.07) for name in ("matthews", "accuracy")}},
            {"group": "casing", "name": "lower", "rate": None, "draws": 1,
             "drop_of_score": {name: measure(0.03) for name in ("matthews", "accuracy")}},
        ],
        "other": [{"source": "a/dev.tsv", "drop_of_score": {name: measure(0.25) for name in ("matthews", "accuracy")}},
                  {"source": "b/dev.tsv", "drop_of_score": {name: measure(0.35) for name in ("matthews", "accuracy")}}],
    },
}  # fmt: skip


def changed(kind, path, value):
    results = copy.deepcopy(MADE[kind])
    *outer, last = path.split(".")
    place = results
    for name in outer:
        place = place[int(name) if name.isdecimal() else name]
    assert place[last] != value
    place[last] = value
    return results


def tables(*results):
    named = [Named(label, one, Path(label)) for label, one in zip("ab", results, strict=True)]
    return [one["table"] for one in evaluations_side_by_side(named)]


@pytest.mark.parametrize("kind", MADE)
def test_results_asked_the_same_stand_side_by_side(kind):
    assert len(tables(MADE[kind], copy.deepcopy(MADE[kind]))) == 1


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("heldout", "corruption.replacements", "token frequencies"),
        ("heldout", "corruption.noise_seed", 1),
        ("heldout", "corruption.objective.mask_fraction", 0.25),
        ("heldout", "corruption.objective.mask_token_probability", 1.0),
        ("heldout", "corruption.objective.masking", "ngram"),
        ("heldout", "corruption.objective.name", "electra_15"),
        ("heldout", "corruption.objective.temperature", 1.5),
        ("heldout", "corruption.objective.disallow_correct", True),
        ("heldout", "data.rows", 512),
        ("heldout", "data.sequence_length", 64),
        ("heldout", "data.split", "test"),
        ("heldout", "settings.pairs", False),
        ("zero-shot", "settings.scope", "sentence"),
        ("zero-shot", "settings.combine", "mean"),
        ("zero-shot", "settings.empty_prompt", "N/A"),
        ("zero-shot", "settings.text_column", "title"),
        ("zero-shot", "settings.max_length", 64),
        ("zero-shot", "data.rows", 41),
        ("bias", "settings.max_length", 16),
        ("bias", "data.pairs", 30),
        ("robustness", "variants.0.rate", 0.3),
        ("robustness", "variants.0.draws", 1),
        ("robustness", "variants.0.name", "typo"),
        ("robustness", "variants", []),
        ("robustness", "settings.keyboard", "qwertz"),
        ("robustness", "settings.seed", 1),
        ("robustness", "metric", "accuracy"),
        ("robustness", "data.max_length", 64),
        ("robustness", "data.rows", 41),
    ],
)
def test_results_asked_otherwise_do_not_and_differ_in_what_the_page_says(kind, path, value):
    other = changed(kind, path, value)
    assert tables(MADE[kind], other) == []
    if path not in (
        "data.split",
        "settings.text_column",
        "metric",
    ):  # the split is in the title, the metric in a column
        assert ground(other).note != ground(MADE[kind]).note


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("heldout", "corruption.objective.discriminator_weight", 20.0),
        ("zero-shot", "settings.seed", 7),
        ("robustness", "labels", ["1", "0"]),
    ],
)
def test_what_changes_no_score_does_not_keep_results_apart(kind, path, value):
    assert len(tables(MADE[kind], changed(kind, path, value))) == 1


def test_the_note_on_held_out_text_is_true_of_its_rows():
    note = tables(MADE["heldout"], MADE["heldout"])[0].note
    assert "2,048 rows of 128 tokens" in note and "15 % of the tokens selected (masking: token)" in note
    assert "what the generator beside it replaced" in note and "95 % confidence" in note
    drawn = changed("heldout", "corruption.replacements", "token frequencies")
    warmer = copy.deepcopy(drawn)
    warmer["corruption"]["objective"]["temperature"] = 2.0  # of samples, of which there are none
    note = tables(drawn, warmer)[0].note
    assert "replaced by draws from token frequencies" in note and "generator beside it" not in note


def test_what_became_of_selected_tokens_is_told_and_compared():
    """Results without `fates` are of versions that made no random tokens."""
    one = copy.deepcopy(MADE["heldout"])
    one["corruption"]["fates"] = [0.85, 0.0]
    assert len(tables(one, MADE["heldout"])) == 1
    other = copy.deepcopy(one)
    other["corruption"]["fates"] = [0.8, 0.1]
    assert tables(one, other) == []
    assert "80 % of these masked, 10 % made a random token" in ground(other).note
    assert "85 % of these masked; replaced" in ground(one).note


def test_intervals_of_different_coverage_are_told_apart():
    note = tables(MADE["bias"], changed("bias", "settings.confidence", 0.9))[0].note
    assert note.startswith("40 pairs, longest sentence: what each model takes.")
    assert note.endswith("In brackets: confidence intervals, 95 % for a, 90 % for b.")


def test_matthews_correlation_is_a_number_and_other_losses_are_in_points():
    table = tables(MADE["robustness"], MADE["robustness"])[0]
    assert dict(zip(table.columns, table.rows[0], strict=True)) == {
        "": "a",
        "Matthews correlation, unchanged": "0.500 (0.450–0.550)",
        "lost by a change, at most": "0.070 (0.020–0.120)",
        "lost on a/dev.tsv": "0.250 (0.200–0.300)",
        "lost on b/dev.tsv": "0.350 (0.300–0.400)",
    }
    accuracy = changed("robustness", "metric", "accuracy")
    table = tables(accuracy, accuracy)[0]
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert cells["accuracy, unchanged"] == "50.0 % (45.0–55.0)"
    assert cells["lost on a/dev.tsv (points)"] == "+25.0 (+20.0 to +30.0)"
