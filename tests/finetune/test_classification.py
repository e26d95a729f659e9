"""The classification task: labels, lengths, scores and predictions, each as stated."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from electra_ds.errors import DataError
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.results import summarize
from electra_ds.finetune.tasks.classification import Classification, classification_scores
from tests.finetune.conftest import write_tsv


def task(tmp_path, train, validation, header=("text", "label"), **options):
    """Task on two files of the given rows, read."""
    config = FinetuneConfig(
        model="m",
        train=str(write_tsv(tmp_path / "t.tsv", train, header)),
        validation=str(write_tsv(tmp_path / "v.tsv", validation, header)),
        output="o",
        **options,
    )
    made = Classification(config)
    return made, made.read()


def test_numeric_labels_are_ordered_as_numbers(tmp_path):
    made, _ = task(tmp_path, [("a", "10"), ("b", "2"), ("c", "1")], [("a", "2")])
    assert made.head_config()["id2label"] == {0: "1", 1: "2", 2: "10"}


def test_text_pair_column_is_used_where_the_training_data_has_it(tmp_path):
    header = ("text", "text_pair", "label")
    _, splits = task(tmp_path, [("a", "b", "0"), ("c", "d", "1")], [("e", "f", "1")], header)
    assert splits["validation"].examples[0].text_pair == "f"
    assert splits["train"].counts == {
        "source": splits["train"].source, "rows": 2, "pairs": True, "empty_texts": 0, "labels": {"0": 1, "1": 1}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (
            [("a", "0"), ("b", "1")],
            [("c", "2"), ("d", "2")],
            r"v\.tsv, line 2: labels that .* '2' \(2 rows\); it has '0', '1'",
        ),
        ([("a", "0"), ("b", "0")], [("c", "0")], "every row has the label '0'"),
        ([("a", "0"), ("", "1")], [("c", "0")], r"t\.tsv, line 3: column 'text' is empty.*--empty_texts keep"),
        ([("a", "0"), ("b", "")], [("c", "0")], r"t\.tsv, line 3: label is ''"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(tmp_path, train, validation, message):
    with pytest.raises(DataError, match=message):
        task(tmp_path, train, validation)


def test_empty_texts_can_be_kept_and_are_counted(tmp_path, discriminator):
    made, splits = task(tmp_path, [("cat", "0"), ("", "1")], [("dog", "0")], empty_texts="keep")
    encoded = made.encode(splits["train"], AutoTokenizer.from_pretrained(discriminator))
    assert splits["train"].counts["empty_texts"] == 1
    assert encoded.features[1]["input_ids"] == [2, 3], "[CLS] [SEP]"


def test_too_long_texts_are_cut_to_the_limit_and_counted(tmp_path, discriminator):
    made, splits = task(tmp_path, [("cat " * 30, "0"), ("dog", "1")], [("cat", "0")], max_length=10)
    encoded = made.encode(splits["train"], AutoTokenizer.from_pretrained(discriminator))
    assert encoded.truncated == 1
    assert [len(feature["input_ids"]) for feature in encoded.features] == [10, 3]
    assert encoded.features[0]["input_ids"][-1] == 3, "ends with [SEP]"


def test_a_pair_loses_tokens_of_its_longer_text(tmp_path, discriminator):
    header = ("text", "text_pair", "label")
    rows = [("cat dog", "fish " * 20, "0"), ("a", "b", "1")]
    made, splits = task(tmp_path, rows, rows, header, max_length=12)
    tokenizer = AutoTokenizer.from_pretrained(discriminator)
    first = made.encode(splits["train"], tokenizer).features[0]
    assert tokenizer.decode(first["input_ids"]) == "[CLS] cat dog [SEP] fish fish fish fish fish fish fish [SEP]"
    assert first["token_type_ids"] == [0] * 4 + [1] * 8


def test_scores_against_values_worked_by_hand():
    # true 1: 2 found, 1 missed; true 0: 3 found, 2 mistaken -> TP 2, FN 1, TN 3, FP 2
    scores = classification_scores([1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 1, 1], 2)
    assert scores["accuracy"] == pytest.approx(5 / 8)
    assert scores["f1"] == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
    assert scores["f1_macro"] == pytest.approx((4 / 7 + 6 / 9) / 2)
    assert scores["matthews"] == pytest.approx((2 * 3 - 2 * 1) / (4 * 3 * 5 * 4) ** 0.5)


def test_constant_predictions_have_a_matthews_correlation_of_zero():
    assert classification_scores([0, 1, 1], [1, 1, 1], 2)["matthews"] == 0.0


def test_more_than_two_labels_have_no_binary_f1():
    assert "f1" not in classification_scores([0, 1, 2], [0, 1, 1], 3)


def test_predictions_name_labels_and_their_probabilities(tmp_path, discriminator):
    made, splits = task(tmp_path, [("cat", "yes"), ("dog", "no")], [("a", "no"), ("the", "yes")])
    encoded = made.encode(splits["validation"], AutoTokenizer.from_pretrained(discriminator))
    made.write_predictions(tmp_path / "p.tsv", encoded, np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)))
    assert (tmp_path / "p.tsv").read_text().splitlines() == [
        "index\tlabel\tpredicted\tprobability_no\tprobability_yes",
        "0\tno\tyes\t0.250000\t0.750000",
        "1\tyes\tno\t0.500000\t0.500000",
    ]


def test_summary_of_seeds():
    assert summarize([0.5, 0.9, 0.7]) == {
        "median": 0.7, "minimum": 0.5, "maximum": 0.9, "best": 0.9, "standard_deviation": pytest.approx(0.2)
    }  # fmt: skip
    assert summarize([0.5])["standard_deviation"] is None
