"""Tagged sentences: CoNLL columns as published, tag schemes, windows, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from electra_ds.errors import DataError
from electra_ds.finetune import conll
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.tasks.tagging import IGNORED, Tagging, split_windows

PLAIN = "the\tO\ncat\tB-animal\nhere\tO\n\t\nsoup\tB-food\nwith\tO\nsalt\tB-food\n"


def write(path, text):
    path.write_bytes(text.encode("utf-8"))
    return str(path)


def task(tmp_path, train=PLAIN, validation=PLAIN, **options):
    config = FinetuneConfig(
        model="m",
        task="tagging",
        train=write(tmp_path / "train.conll", train),
        validation=write(tmp_path / "dev.conll", validation),
        output="o",
        **options,
    )
    made = Tagging(config)
    return made, made.read()


def test_sentences_are_apart_by_empty_or_blank_lines(tmp_path):
    read = conll.read_sentences(write(tmp_path / "a.conll", PLAIN))
    assert [sentence.tokens for sentence in read.sentences] == [("the", "cat", "here"), ("soup", "with", "salt")]
    assert read.sentences[1].tags == ("B-food", "O", "B-food")
    assert read.sentences[1].where.endswith("line 5")


def test_conll_2003_has_documents_and_four_columns_apart_by_spaces(tmp_path):
    start = "-DOCSTART- -X- O O\r\n\r\n"
    text = f"{start}EU NNP I-NP I-ORG\r\nrejects VBZ I-VP O\r\n\r\n{start}Peter NNP I-NP I-PER\r\n"
    text += "-DOCSTART- -X- O O\r\nHe PRP I-NP O\r\n"
    read = conll.read_sentences(write(tmp_path / "eng.train", text))
    assert [sentence.tags for sentence in read.sentences] == [("I-ORG", "O"), ("I-PER",), ("O",)]
    assert read.documents == 3


def test_json_lines_hold_lists(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"tokens": ["a", "cat"], "ner_tags": ["O", "B-animal"]}\n')
    assert conll.read_sentences(path).sentences[0].tags == ("O", "B-animal")
    with pytest.raises(DataError, match="2 tokens but 1 tags"):
        conll.read_sentences(write(tmp_path / "b.jsonl", '{"tokens": ["a", "cat"], "tags": ["O"]}\n'))


def test_a_split_of_datasets_gives_names_of_tags(tmp_path):
    import datasets

    names = ["O", "B-animal", "I-animal"]
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(datasets.ClassLabel(names=names))}
    )
    data = datasets.Dataset.from_dict({"tokens": [["a", "cat"]], "ner_tags": [[0, 1]]}, features=features)
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "set"))
    assert conll.read_sentences(f"hf:{tmp_path / 'set'}:train").sentences[0].tags == ("O", "B-animal")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the O\ncat B-animal extra\n", r"line 2: 3 columns \('cat B-animal extra'\), expected 2"),
        ("the\tO\ncat\t\n", "line 2"),
        ("\n\n", "empty"),
        ("the O\ncat animal\n", "a tag 'animal', expected O or one of B, I"),
        ("the O\ncat X-animal\n", "a tag 'X-animal'"),
        ("the\ncat\n", "no tags"),
        ("the O\ncat O\n", "every tag is O"),
    ],
)
def test_ragged_and_untagged_lines_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        task(tmp_path, train=text)


def test_sentences_with_a_ragged_line_can_be_dropped_and_are_counted(tmp_path):
    _, splits = task(tmp_path, train=PLAIN + "\nbad line here\ncat O\n", bad_rows="drop")
    assert splits["train"].counts["rows"] == 2 and splits["train"].counts["dropped_rows"] == 1


def test_a_bad_first_line_drops_its_own_sentence_only(tmp_path):
    read = conll.read_sentences(write(tmp_path / "a.conll", f"# made by hand\n\n{PLAIN}"), drop=True)
    assert len(read.sentences) == 2 and read.dropped == 1
    with pytest.raises(DataError, match=r"line 3: 2 columns \('the\\tO'\), expected 4 as in the first line"):
        conll.read_sentences(str(tmp_path / "a.conll"))


def test_a_type_that_only_validation_has_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"dev\.conll, line 1: entities of type 'place'.*it has animal, food"):
        task(tmp_path, validation="here B-place\n")


def test_a_test_file_without_tags_is_predicted_only(tmp_path):
    test = write(tmp_path / "test.conll", "the\ncat\n\nsoup\n")
    _, splits = task(tmp_path, test=test)
    assert not splits["test"].labelled and len(splits["test"].examples) == 2


@pytest.mark.parametrize(
    ("tags", "scheme", "expected"),
    [
        (["I-a", "I-a", "B-a", "O", "I-b"], "iob1", ["B-a", "I-a", "B-a", "O", "B-b"]),
        (["B-a", "I-a", "O", "B-a"], "bio", ["B-a", "I-a", "O", "B-a"]),
        (["S-a", "B-b", "I-b", "E-b", "O"], "bioes", ["B-a", "B-b", "I-b", "I-b", "O"]),
        (["U-a", "U-a", "B-a", "L-a"], "bioes", ["B-a", "B-a", "B-a", "I-a"]),
    ],
)
def test_schemes_are_told_apart_and_rewritten_to_bio(tags, scheme, expected):
    assert conll.scheme_of([tags]) == scheme
    sentence, mended = conll.to_bio(conll.Sentence(("x",) * len(tags), tuple(tags), "here"), scheme)
    assert list(sentence.tags) == expected and mended == 0


def test_an_entity_that_begins_with_i_in_bio_is_mended_and_counted(tmp_path):
    _, splits = task(tmp_path, train=PLAIN + "\nthe O\nfish I-animal\n", tag_scheme="bio")
    assert splits["train"].counts["mended_tags"] == 1
    assert splits["train"].examples[2].tags == ("O", "B-animal")


@given(st.lists(st.integers(1, 6), min_size=1, max_size=60), st.integers(6, 20))
def test_windows_hold_every_token_once_and_never_too_many_pieces(lengths, room):
    windows = split_windows(lengths, room)
    owned = sorted(word for _, _, own in windows for word in own)
    assert owned == list(range(len(lengths)))
    for first, last, own in windows:
        assert sum(lengths[first:last]) <= room
        assert own <= set(range(first, last))
    assert len(windows) <= len(lengths)
    assert (len(windows) == 1) == (sum(lengths) <= room)


def test_only_first_pieces_have_labels_and_specials_none(tmp_path, discriminator):
    made, splits = task(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(discriminator)
    encoded = made.encode(splits["train"], tokenizer)
    feature = encoded.features[0]
    assert tokenizer.decode(feature["input_ids"]) == "[CLS] the cat here [SEP]"
    names = [label if label == IGNORED else made.labels[label] for label in feature["labels"]]
    assert names == [IGNORED, "O", "B-animal", "O", IGNORED]


def test_no_token_loses_its_prediction_in_a_long_sentence(tmp_path, discriminator):
    words = "\n".join(f"{'cat' if i % 7 == 0 else 'the'}\t{'B-animal' if i % 7 == 0 else 'O'}" for i in range(100))
    made, splits = task(tmp_path, validation=words + "\n", max_length=16)
    encoded = made.encode(splits["validation"], AutoTokenizer.from_pretrained(discriminator))
    assert encoded.notes["windowed"] == 1 and encoded.truncated == 0
    assert all(len(feature["input_ids"]) <= 16 for feature in encoded.features)

    import numpy as np

    outputs = np.zeros((len(encoded.features), 16, len(made.labels)), np.float32)
    for number, feature in enumerate(encoded.features):
        for position, label in enumerate(feature["labels"]):
            outputs[number, position, max(label, 0)] = 1
    assert made.score(encoded, outputs)["f1"] == 1.0
    path = tmp_path / "p.conll"
    made.write_predictions(path, encoded, outputs)
    lines = path.read_text().split("\n")
    assert lines[7] == "cat\tB-animal\tB-animal" and len(lines) == 102


def test_a_token_the_tokenizer_makes_nothing_of_is_read_as_unknown(tmp_path, discriminator):
    made, splits = task(tmp_path, validation="the\tO\n\u200d\tO\ncat\tB-animal\n")
    encoded = made.encode(splits["validation"], AutoTokenizer.from_pretrained(discriminator))
    assert encoded.notes["tokens_unknown_to_tokenizer"] == 1
    assert encoded.features[0]["words"] == [-1, 0, 1, 2, -1]


def test_list_of_entities_finds_the_longest_known(tmp_path):
    train = "big\tB-animal\ncat\tI-animal\n\ncat\tB-food\n"
    made, splits = task(tmp_path, train=train, validation="the\tO\nbig\tB-animal\ncat\tI-animal\n", baseline=True)
    found = made.baselines(splits)
    assert found["entity_list"]["validation"]["f1"] == 1.0
    assert found["majority"]["validation"]["f1"] == 0.0
