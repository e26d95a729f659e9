"""Scores agree with published examples, with hand counts and with slow and plain rewrites of the official scripts."""

import json
import random
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ds.finetune import answers
from electra_ds.finetune.tasks.classification import undefined
from electra_ds.finetune.tasks.question_answering import score_with_null
from electra_ds.finetune.tasks.regression import correlations
from electra_ds.finetune.tasks.tagging import entity_scores


def test_correlations_against_their_definitions():
    truth, predicted = [1.0, 2.0, 4.0, 3.0, 5.0], [1.1, 1.9, 3.2, 3.6, 4.0]
    mean_t, mean_p = sum(truth) / 5, sum(predicted) / 5
    covariance = sum((t - mean_t) * (p - mean_p) for t, p in zip(truth, predicted, strict=True))
    spread = (sum((t - mean_t) ** 2 for t in truth) * sum((p - mean_p) ** 2 for p in predicted)) ** 0.5
    found = correlations(truth, predicted)
    assert found["pearson"] == pytest.approx(covariance / spread)
    # Ranks differ in two places by one each: 1 - 6 * 2 / (5 * 24).
    assert found["spearman"] == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert found.undefined == ()


@pytest.mark.parametrize(("truth", "predicted"), [([1.0, 2.0], [3.0, 3.0]), ([2.0, 2.0], [1.0, 3.0])])
def test_correlation_with_a_constant_is_zero_and_named(truth, predicted):
    found = correlations(truth, predicted)
    assert found == {"spearman": 0.0, "pearson": 0.0}
    assert found.undefined == ("spearman", "pearson")


def test_matthews_is_named_as_undefined_where_a_side_is_constant():
    assert undefined([0, 1], [1, 1]) == ("matthews",)
    assert undefined([0, 1], [1, 0]) == ()


def test_entities_count_whole_as_in_seqevals_published_example():
    truth = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    predicted = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = entity_scores(truth, predicted)
    assert found == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": pytest.approx(0.8)}


def plain_entities(tags):
    """Start, end, type as conlleval chunks them: I- after another type or O begins one."""
    found, start, kind = set(), None, None
    for number, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if start is not None and (prefix in ("O", "B") or name != kind):
            found.add((start, number, kind))
            start = None
        if prefix in ("B", "I") and start is None:
            start, kind = number, name
    return found


@given(
    st.lists(
        st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), min_size=1, max_size=8), min_size=2, max_size=2
    )
)
def test_entity_f1_agrees_with_counting_sets(sides):
    length = min(map(len, sides))
    truth, predicted = sides[0][:length], sides[1][:length]
    right, ours = plain_entities(truth), plain_entities(predicted)
    both = len(right & ours)
    expected = 2 * both / (len(right) + len(ours)) if right or ours else 0.0
    found = entity_scores([truth], [predicted])
    assert found["f1"] == pytest.approx(expected)
    assert ("f1" in found.undefined) == (not right and not ours)
    assert ("precision" in found.undefined) == (not ours)


def official_normalize(text):
    """evaluate-v1.1.py, written plainly."""
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official_f1(prediction, truth):
    from collections import Counter

    ours, right = official_normalize(prediction).split(), official_normalize(truth).split()
    same = sum((Counter(ours) & Counter(right)).values())
    if same == 0:
        return 0
    precision, recall = same / len(ours), same / len(right)
    return 2 * precision * recall / (precision + recall)


WORDS = st.lists(
    st.sampled_from(["The", "the", "a", "Cat", "cat.", "dog", "U.S.", "-", "an", "two"]), min_size=0, max_size=5
)


@given(st.lists(WORDS, min_size=1, max_size=3), WORDS)
def test_answers_agree_with_a_plain_rewrite_of_the_official_script(truth, predicted):
    truth, predicted = [" ".join(words) for words in truth], " ".join(predicted)
    assert answers.f1(truth, predicted) == pytest.approx(max(official_f1(predicted, t) for t in truth))
    expected = max(float(official_normalize(predicted) == official_normalize(t)) for t in truth)
    assert answers.exact_match(truth, predicted) == expected


@pytest.mark.parametrize(
    ("truth", "predicted", "exact", "f1"),
    [
        (["Denver Broncos"], "the Denver Broncos.", 1.0, 1.0),
        (["Santa Clara, California"], "Santa Clara", 0.0, 0.8),
        (["gold", "golden"], "Golden", 1.0, 1.0),
        (["308"], "309", 0.0, 0.0),
    ],
)
def test_answers_worked_by_hand(truth, predicted, exact, f1):
    assert answers.exact_match(truth, predicted) == exact
    assert answers.f1(truth, predicted) == pytest.approx(f1)


def test_no_answer_is_right_where_there_is_none():
    assert answers.f1([], "", null=True) == answers.exact_match([], "", null=True) == 1.0
    assert answers.f1([], "something", null=True) == 0.0
    assert answers.f1(["the"], "", null=True) == 1.0, "an answer of which nothing is left does not count"
    assert answers.f1(["the"], "the") == 0.0, "as evaluate-v1.1.py has it"


@pytest.mark.parametrize(
    ("language", "answer", "words"),
    [
        ("de", "Die «Bundesrepublik» Deutschland!", ["bundesrepublik", "deutschland"]),
        ("es", "¿la Ciudad de México?", ["ciudad", "de", "méxico"]),
        ("en", "the “United” States", ["united", "states"]),
        ("zh", "北京 2008年", ["北", "京", "2008", "年"]),
        ("hi", "नई दिल्ली।", ["नई", "दिल्ली"]),
        ("vi", "của Hà Nội", ["hà", "nội"]),
    ],
)
def test_mlqa_rules_know_each_languages_articles_and_punctuation(language, answer, words):
    assert answers.mlqa_words(answer, language) == words


def test_rules_by_name():
    assert answers.normalizer("squad", "de")("Die Stadt") == ["die", "stadt"]
    assert answers.normalizer("mlqa", "de")("Die Stadt") == ["stadt"]


@given(st.integers(1, 12), st.integers(0, 2**32))
def test_best_threshold_agrees_with_trying_each(count, seed):
    draw = random.Random(seed)
    names = [str(i) for i in range(count)]
    odds = {name: draw.uniform(-3, 3) for name in names}
    answerable = {name: draw.random() < 0.5 for name in names}
    guessed = {name: draw.random() < 0.8 for name in names}
    scores = {n: (draw.choice([0.0, 0.5, 1.0]) if answerable[n] else float(not guessed[n])) for n in names}

    def mean(threshold):
        return sum(float(not answerable[n]) if odds[n] > threshold else scores[n] for n in names) / count

    best, threshold = answers.best_threshold(scores, odds, answerable, guessed)
    assert best == pytest.approx(max(mean(t) for t in [-10.0, *odds.values()]))
    if threshold != 0.0:
        assert mean(threshold) == pytest.approx(best)


def test_squad_2_scores_worked_by_hand():
    truth = {"a": ["cat"], "b": ["dog"], "c": [], "d": []}
    found = {"a": "the cat", "b": "cow", "c": "x", "d": "y"}
    odds = {"a": -2.0, "b": 1.0, "c": 3.0, "d": -1.0}
    scored = score_with_null(truth, found, odds, answers.squad_words)
    # At 0: a right, b given up (wrong), c given up (right), d guessed (wrong).
    assert scored["f1"] == scored["exact_match"] == 0.5
    assert scored["answerable_f1"] == 0.5 and scored["unanswerable"] == 0.5
    # At -2 only a is answered: a, c and d are right.
    assert scored["best_f1"] == 0.75 and scored["threshold_f1"] == -2.0
    assert score_with_null({"a": ["cat"]}, {"a": "cat"}, {"a": -1.0}, answers.squad_words).undefined == (
        "unanswerable",
    )


@pytest.fixture(scope="module")
def recorded():
    """Answers as two scorers that others keep see them; `record_squad_scores` says which, and how to ask again."""
    return json.loads(Path(__file__).with_name("squad_scores.json").read_text("utf-8"))


def test_answers_agree_with_scorers_that_others_keep(recorded):
    """But for 1.1's F1 of two answers of which nothing is left: 0 in evaluate-v1.1.py, as in 2.0 in torchmetrics."""
    compared = {"v1": 0, "v2": 0}
    for question in recorded["questions"]:
        truth, predicted = question["answers"], question["prediction"]
        for rules in ("v1", "v2") if truth else ("v2",):
            null = rules == "v2"
            ours = [answers.exact_match(truth, predicted, null=null), answers.f1(truth, predicted, null=null)]
            theirs = list(question[rules])
            if rules == "v1" and not answers.squad_words(predicted):
                theirs[1] = 0.0
            assert ours == pytest.approx(theirs, abs=1e-6), (rules, question)
            compared[rules] += 1
    assert compared == {"v1": recorded["v2"]["HasAns_total"], "v2": 300}


def test_thresholds_agree_with_a_scorer_that_others_keep(recorded):
    questions = {str(number): question for number, question in enumerate(recorded["questions"])}
    truth, found, odds = (
        {name: question[key] for name, question in questions.items()} for key in ("answers", "prediction", "odds")
    )
    ours = score_with_null(truth, found, odds, answers.squad_words)
    for name, theirs in {
        "f1": "f1", "exact_match": "exact", "best_f1": "best_f1", "best_exact_match": "best_exact",
        "answerable_f1": "HasAns_f1", "answerable_exact_match": "HasAns_exact", "unanswerable": "NoAns_f1",
    }.items():  # fmt: skip
        assert 100 * ours[name] == pytest.approx(recorded["v2"][theirs]), name
    assert ours["threshold_f1"] == recorded["v2"]["best_f1_thresh"]
    assert ours["threshold_exact_match"] == recorded["v2"]["best_exact_thresh"]
