"""Intervals and scores against scipy and scikit-learn."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from electra_ds.evaluate.detection import BINS, Judged, Ranking, detect, reliability
from electra_ds.evaluate.statistics import (
    Resampling,
    apart,
    compared,
    confusions,
    label_scores,
    scored,
    scores_of,
    wilson,
)


@pytest.fixture
def chance():
    return np.random.default_rng(5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (3, 11), (600, 1000)])
def test_wilson_interval_is_scipys(successes, trials):
    found = wilson(successes, trials, 0.9)
    expected = stats.binomtest(successes, trials).proportion_ci(0.9, method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found["value"] == successes / trials


def test_a_share_of_nothing_is_undefined():
    assert wilson(0, 0, 0.95) == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("labels", [2, 4])
def test_label_scores_are_those_of_scikit_learn(chance, labels):
    truth, predicted = chance.integers(0, labels, 200), chance.integers(0, labels, 200)
    predicted[:80] = truth[:80]
    found = label_scores(confusions(truth, predicted, labels).sum(0), labels)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    assert found["matthews"] == pytest.approx(metrics.matthews_corrcoef(truth, predicted))
    assert ("f1" in found) == (labels == 2)
    if labels == 2:
        assert found["f1"] == pytest.approx(metrics.f1_score(truth, predicted))


def test_constant_predictions_have_no_correlation():
    found = label_scores(confusions(np.array([0, 1, 1]), np.array([1, 1, 1]), 2).sum(0), 2)
    assert found["matthews"] == 0 and found["accuracy"] == pytest.approx(2 / 3)


def test_the_interval_is_the_quantiles_of_scores_of_texts_drawn_again(chance):
    """A plain loop that draws the same texts and counts them one by one."""
    truth, predicted = chance.integers(0, 2, 40), chance.integers(0, 2, 40)
    drawn, again = np.random.default_rng(9), []
    for _ in range(200):
        chosen = drawn.integers(0, 40, 40)
        again.append(metrics.matthews_corrcoef(truth[chosen], predicted[chosen]))
    found = scored(confusions(truth, predicted, 2), 2, Resampling(200, 0.8, seed=9))["matthews"]
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(again, [0.1, 0.9])))


def test_a_paired_comparison_sees_the_same_texts_on_both_sides(chance):
    """The same predictions differ by nothing in any resample; independent ones do."""
    truth, predicted = chance.integers(0, 2, 60), chance.integers(0, 2, 60)
    cells = confusions(truth, predicted, 2)
    scheme = Resampling(100, 0.95, seed=0)
    assert compared(cells, cells, 2, scheme)["accuracy"] == {"value": 0, "low": 0, "high": 0}
    independent = apart(cells, cells, scores_of(2), scheme)["accuracy"]
    assert independent["value"] == 0 and independent["low"] < 0 < independent["high"]


def test_no_resamples_no_interval(chance):
    found = scored(confusions(chance.integers(0, 2, 9), chance.integers(0, 2, 9), 2), 2, Resampling(0, 0.95, 0))
    assert found["accuracy"]["value"] is not None and found["accuracy"]["low"] is None


@pytest.fixture
def tokens(chance):
    """Four rows of tokens; logits say something, and some are equal."""
    replaced = chance.random(400) < 0.2
    logits = np.round(chance.normal(size=400) + 1.5 * replaced - 1, 1).astype(np.float32)
    return Judged(logits, replaced, np.repeat(np.arange(8), 50))


@pytest.mark.parametrize("weighted", [False, True])
def test_areas_are_those_of_scikit_learn_with_ties_and_weights(tokens, chance, weighted):
    weights = chance.integers(0, 4, 8).astype(float) if weighted else np.ones(8)
    area, precision = Ranking(tokens).areas(weights)
    each = weights[tokens.rows]
    assert area == pytest.approx(metrics.roc_auc_score(tokens.replaced, tokens.logits, sample_weight=each))
    expected = metrics.average_precision_score(tokens.replaced, tokens.logits, sample_weight=each)
    assert precision == pytest.approx(expected)


def test_every_measure_of_detection(tokens):
    found = detect(tokens, 8, Resampling(50, 0.95, 0))
    probability = 1 / (1 + np.exp(-tokens.logits.astype(float)))
    called = tokens.logits > 0
    expected = {
        "precision": metrics.precision_score(tokens.replaced, called),
        "recall": metrics.recall_score(tokens.replaced, called),
        "f1": metrics.f1_score(tokens.replaced, called),
        "accuracy": metrics.accuracy_score(tokens.replaced, called),
        "brier": metrics.brier_score_loss(tokens.replaced, probability),
        "log_loss": metrics.log_loss(tokens.replaced, probability),
        "auc": metrics.roc_auc_score(tokens.replaced, tokens.logits),
        "replaced_rate": tokens.replaced.mean(),
        "calibration_error": slow_calibration_error(probability, tokens.replaced),
    }
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected)
    assert all(one["low"] <= one["value"] <= one["high"] for name, one in found.items() if name != "calibration_error")


def slow_calibration_error(probability, replaced):
    total = 0.0
    for number in range(BINS):
        inside = [
            (p, r) for p, r in zip(probability, replaced, strict=True) if number / BINS <= p < (number + 1) / BINS
        ]
        if inside:
            mean = sum(p for p, _ in inside) / len(inside)
            total += len(inside) / len(replaced) * abs(mean - sum(r for _, r in inside) / len(inside))
    return total


def test_detection_intervals_follow_from_whole_rows_drawn_again(tokens):
    """A plain loop over resamples of rows, tokens repeated as often as their row was drawn."""
    drawn, areas, recalls = np.random.default_rng(1), [], []
    for _ in range(60):
        chosen = drawn.integers(0, 8, 8)
        which = np.concatenate([np.flatnonzero(tokens.rows == row) for row in chosen])
        areas.append(metrics.roc_auc_score(tokens.replaced[which], tokens.logits[which]))
        recalls.append(metrics.recall_score(tokens.replaced[which], tokens.logits[which] > 0))
    found = detect(tokens, 8, Resampling(60, 0.9, seed=1))
    for name, values in (("auc", areas), ("recall", recalls)):
        assert (found[name]["low"], found[name]["high"]) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))


def test_reliability_bins_hold_every_token_once(tokens):
    bins = reliability(tokens, 8, Resampling(20, 0.95, 0))
    assert sum(one["tokens"] for one in bins) == len(tokens.logits)
    replaced = sum(one["tokens"] * one["observed"]["value"] for one in bins if one["tokens"])
    assert replaced == pytest.approx(tokens.replaced.sum())
    assert all(one["from"] <= one["predicted"] <= one["to"] for one in bins if one["tokens"])


def test_one_kind_of_tokens_has_no_areas(tokens):
    found = detect(tokens.part(~tokens.replaced), 8, Resampling(10, 0.95, 0))
    assert found["auc"] == {"value": None, "low": None, "high": None}
    assert found["recall"]["value"] is None and found["brier"]["value"] is not None
