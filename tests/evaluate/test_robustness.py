"""Changes to texts are what they say and repeatable; scores are those of the model on the changed texts."""

import json
import re
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from electra_ds.cli import main
from electra_ds.evaluate.perturb import CASINGS, TYPOS, Typist, neighbours, without_punctuation
from tests.evaluate.conftest import results, side_by_side

SENTENCE = "The quick brown fox, it seems, jumps over 13 lazy dogs of the neighbour's house!"
TEXT = st.text(alphabet=st.sampled_from("abcXYZ éñß,.!7 \n"), max_size=40)


@pytest.fixture
def typist():
    return Typist("qwerty", seed=4)


def changed_words(one, other):
    return [(a, b) for a, b in zip(one.split(" "), other.split(" "), strict=True) if a != b]


def test_keys_have_the_neighbours_they_have():
    near = neighbours("qwerty")
    assert set(near["g"]) == set("fhtyvb") and set(near["q"]) == set("wa") and set(near["m"]) == set("njk")
    assert all(letter in near[other] for letter, letters in near.items() for other in letters)
    assert set(neighbours("qwertz")["z"]) == set("tugh") and set(neighbours("azerty")["a"]) == set("zq")


@pytest.mark.parametrize("kind", TYPOS)
def test_a_typo_of_each_kind(typist, kind):
    changed = changed_words(SENTENCE, typist(SENTENCE, "0", kind, 1.0))
    words = re.findall(r"[A-Za-z]{2,}", SENTENCE)
    assert len(changed) >= len(words) - 2, "every word of two letters or more, if it has letters that differ"
    for one, other in changed:
        if kind == "neighbour":
            (a, b), *more = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
            assert not more and b.lower() in neighbours("qwerty")[a.lower()] and a.isupper() == b.isupper()
        elif kind == "transpose":
            assert sorted(one) == sorted(other) and sum(a != b for a, b in zip(one, other, strict=True)) == 2
        elif kind == "drop":
            assert other in {one[:i] + one[i + 1 :] for i in range(len(one))}
        else:
            assert one in {other[:i] + other[i + 1 :] for i in range(len(other))}


@pytest.mark.parametrize("kind", ["neighbour", "insert"])
def test_a_hit_key_has_the_case_of_the_letter(typist, kind):
    assert typist("THE QUICK BROWN FOX JUMPS", "0", kind, 1.0).isupper()
    assert typist("the quick brown fox jumps", "0", kind, 1.0).islower()


def test_numbers_punctuation_and_single_letters_stay(typist):
    for kind in TYPOS:
        assert typist("a 13, b! - 7.5 x", "0", kind, 1.0) == "a 13, b! - 7.5 x"


@given(TEXT, st.sampled_from((*TYPOS, "typo")))
def test_typos_are_repeatable_and_touch_no_more_than_their_words(text, kind):
    typed = Typist("qwerty", 1)(text, "5", kind, 0.5)
    assert typed == Typist("qwerty", 1)(text, "5", kind, 0.5)
    outside = re.compile(r"[^\W\d_]+")
    assert outside.sub("", typed) == outside.sub("", text)


def test_words_of_a_lower_rate_are_among_those_of_a_higher_one(typist):
    text = " ".join(["different words stand here"] * 40)
    few, many = (typist(text, "0", "drop", rate).split(" ") for rate in (0.1, 0.4))
    words = text.split(" ")
    for word, one, other in zip(words, few, many, strict=True):
        assert one in (word, other)
    shares = [np.mean([a != b for a, b in zip(words, typed, strict=True)]) for typed in (few, many)]
    assert shares == pytest.approx([0.1, 0.4], abs=0.1)
    assert typist(text, "0", "drop", 0.4) != typist(text, "1", "drop", 0.4)
    assert typist(text, "0", "drop", 0.4) != Typist("qwerty", 5)(text, "0", "drop", 0.4)


def test_a_word_without_a_key_of_the_keyboard_is_left(typist):
    assert typist("слово 語言", "0", "neighbour", 1.0) == "слово 語言"
    assert typist("слово", "0", "drop", 1.0) != "слово"


SCRIPTS = {
    "Hindi": ("हिन्दी में किताबें पढ़ना", [["हि", "न्", "दी"], ["में"], ["कि", "ता", "बें"], ["प", "ढ़", "ना"]]),
    "Arabic with harakat": ("كَتَبَ الْوَلَدُ", [["كَ", "تَ", "بَ"], ["ا", "لْ", "وَ", "لَ", "دُ"]]),
    "decomposed German": (
        "gru\u0308ne A\u0308pfel",
        [["g", "r", "u\u0308", "n", "e"], ["A\u0308", "p", "f", "e", "l"]],
    ),
    "Thai": ("ที่นี่ น้ำ", [["ที่", "นี่"], ["น้", "ำ"]]),
    "Persian": ("می\u200cخواهم", [["م", "ی\u200c", "خ", "و", "ا", "ه", "م"]]),
}
"""A text, and the letters of its words with the marks that belong to them."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_letters_keep_their_marks_and_words_are_whole_in_every_script(script):
    text, words = SCRIPTS[script]
    assert text == " ".join("".join(word) for word in words)
    dropped, transposed = (Typist("qwerty", 4)(text, "0", kind, 1.0).split(" ") for kind in ("drop", "transpose"))
    for word, without, turned in zip(words, dropped, transposed, strict=True):
        whole = "".join(word)
        if len(word) == 1:
            assert without == turned == whole, "one letter is no word"
            continue
        assert without in {"".join(word[:at] + word[at + 1 :]) for at in range(len(word))}
        assert turned in {"".join([*word[:at], word[at + 1], word[at], *word[at + 2 :]]) for at in range(len(word) - 1)}


@pytest.mark.parametrize("kind", TYPOS)
def test_decomposed_letters_are_mistyped_as_composed_ones(kind):
    text = "Die großen Bäume blühen schön über den Dächern, Äpfel für Ömer."
    for number in "0123":
        typed = [Typist("qwertz", 1)(unicodedata.normalize(form, text), number, kind, 0.7) for form in ("NFC", "NFD")]
        assert typed[0] != text and unicodedata.normalize("NFC", typed[1]) == typed[0]


@given(st.text(alphabet=st.sampled_from("aBcéÜß语のق7 -'"), max_size=20))
def test_title_case_of_decomposed_letters_is_that_of_composed_ones(text):
    title = CASINGS["title"]
    assert title("grüne Äpfel FÜR ıhn") == "Grüne Äpfel Für Ihn"
    assert title(text) == text.title()
    assert unicodedata.normalize("NFC", title(unicodedata.normalize("NFD", text))) == title(text)


def test_punctuation_goes_in_every_script():
    assert without_punctuation("Well - she said: «no», it's 5! 「本」。") == "Well she said no its 5 本"


@pytest.fixture(scope="module")
def classifier(hf, tmp_path_factory):
    """A random classifier of two labels, saved as `finetune` saves one."""
    from transformers import AutoTokenizer, ElectraForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier") / "model"
    torch.manual_seed(0)
    network = ElectraForSequenceClassification.from_pretrained(
        str(hf / "discriminator"), num_labels=2, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}
    )
    with torch.no_grad():  # a head that says different things of different texts
        network.classifier.out_proj.weight.normal_(0, 2)
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(hf / "discriminator")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def linear_classifier(hf, tmp_path_factory):
    """The same with the head of Google's code, as `finetune --head original` saves one."""
    from transformers import AutoTokenizer

    from electra_ds.finetune.heads import ElectraForLinearClassification

    folder = tmp_path_factory.mktemp("linear") / "model"
    torch.manual_seed(0)
    network = ElectraForLinearClassification.from_pretrained(
        str(hf / "discriminator"), num_labels=2, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}
    ).eval()
    with torch.no_grad():
        network.classifier.weight.normal_(0, 2)
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(hf / "discriminator")).save_pretrained(folder)
    return folder, network


def write_texts(path, rows, seed):
    draw = np.random.default_rng(seed)
    words = ["file", "List", "value", "returns", "the", "name", "of", "module", "if", "None"]
    lines = [{"text": " ".join(draw.choice(words, 7)) + ", or not.", "label": ["no", "yes"][int(draw.integers(2))]}
             for _ in range(rows)]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def scored(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("robustness")
    data, other = write_texts(folder / "in.jsonl", 50, 1), write_texts(folder / "out.jsonl", 30, 2)
    words = ["--model", classifier, "--data", data, "--other", other, data, "--output", folder / "out",
             "--bootstrap", 40, "--draws", 2, "--typos", "typo,drop", "--rates", "0.2,1"]  # fmt: skip
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    return folder, results(folder / "out")


def predicted(classifier, texts):
    """One text at a time."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = AutoModelForSequenceClassification.from_pretrained(str(classifier)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(classifier))
    with torch.no_grad():
        return [network.config.id2label[int(network(**tokenizer(text, return_tensors="pt")).logits.argmax())]
                for text in texts]  # fmt: skip


def read(path):
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [line["text"] for line in lines], [line["label"] for line in lines]


def test_scores_are_those_of_the_model_text_by_text(scored, classifier):
    folder, found = scored
    texts, truth = read(folder / "in.jsonl")
    clean = predicted(classifier, texts)
    assert len(set(clean)) == 2
    assert found["clean"]["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(truth, clean))
    assert found["clean"]["matthews"]["value"] == pytest.approx(metrics.matthews_corrcoef(truth, clean))
    typist = Typist("qwerty", 0)
    accuracies = [
        metrics.accuracy_score(
            truth, predicted(classifier, [typist(text, f"{draw}/{n}", "drop", 0.2) for n, text in enumerate(texts)])
        )
        for draw in range(2)
    ]
    variant = next(one for one in found["variants"] if (one["name"], one["rate"]) == ("drop", 0.2))
    assert variant["scores"]["accuracy"]["value"] == pytest.approx(np.mean(accuracies))
    drop = found["clean"]["accuracy"]["value"] - np.mean(accuracies)
    assert variant["drop_of_score"]["accuracy"]["value"] == pytest.approx(drop)


def test_every_variant_is_there_and_says_how_much_it_changed(scored):
    found = scored[1]
    variants = {(one["group"], one["name"], one["rate"]): one for one in found["variants"]}
    assert list(variants) == [
        ("typos", "typo", 0.2), ("typos", "typo", 1.0), ("typos", "drop", 0.2), ("typos", "drop", 1.0),
        ("casing", "lower", None), ("casing", "upper", None), ("casing", "title", None),
        ("punctuation", "dropped", None),
    ]  # fmt: skip
    assert variants["typos", "drop", 1.0]["texts_changed"] == 1
    assert variants["punctuation", "dropped", None]["texts_changed"] == 1


def test_an_uncased_tokenizer_is_said(scored):
    _, found = scored
    casing = [one for one in found["variants"] if one["group"] == "casing"]
    assert all(one["texts_changed"] == 0 for one in casing), "the tokenizer of the shards is uncased"
    assert all(one["drop_of_score"]["accuracy"] == {"value": 0, "low": 0, "high": 0} for one in casing)
    assert "the tokenizer is uncased" in found["notes"][0]


def test_other_corpora_are_compared_independently(scored, classifier):
    folder, found = scored
    other, same = found["other"]
    texts, truth = read(folder / "out.jsonl")
    accuracy = metrics.accuracy_score(truth, predicted(classifier, texts))
    assert other["rows"] == 30 and other["scores"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert same["drop_of_score"]["accuracy"]["value"] == 0
    assert same["drop_of_score"]["accuracy"]["low"] < 0 < same["drop_of_score"]["accuracy"]["high"]


def test_page(scored):
    page = (scored[0] / "out" / "report.md").read_text("utf-8")
    assert "| typos, 20 % of words |" in page and "| out.jsonl | 30 |" in page and "robustness-scores.svg" in page


def test_results_stand_beside_others(scored):
    (table,) = side_by_side(scored[1], scored[1])
    assert "typos are drawn 2 times from seed 0 on the keyboard qwerty" in table.note
    assert "50 texts, longest input: 64 tokens. Changes: typos, 20 % of words" in table.note
    assert table.columns[1:3] == ("accuracy, unchanged", "lost by a change, at most (points)")


def test_the_same_seed_gives_the_same_results(scored, classifier, tmp_path):
    folder, found = scored
    words = ["--model", classifier, "--data", folder / "in.jsonl", "--output", tmp_path / "out", "--bootstrap",
             40, "--draws", 2, "--typos", "typo", "--rates", "0.2", "--casing", "false", "--punctuation",
             "false"]  # fmt: skip
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    again = results(tmp_path / "out")
    assert again["variants"] == found["variants"][:1] and again["clean"] == found["clean"]


def test_a_model_that_says_one_thing_of_every_text_is_told_of(classifier, scored, tmp_path):
    from transformers import AutoTokenizer, ElectraForSequenceClassification

    network = ElectraForSequenceClassification.from_pretrained(str(classifier))
    with torch.no_grad():
        network.classifier.out_proj.bias.copy_(torch.tensor([0.0, 1e4]))
    network.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(str(classifier)).save_pretrained(tmp_path / "model")
    words = ["--model", tmp_path / "model", "--data", scored[0] / "in.jsonl", "--output", tmp_path / "out", "--typos",
             "", "--metric", "matthews", "--bootstrap", 5]  # fmt: skip
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    found = results(tmp_path / "out")
    assert found["clean"]["matthews"]["value"] == 0
    assert "gives every unchanged text the label 'yes'" in found["notes"][1]


def test_a_model_with_the_original_head_is_scored_by_that_head(linear_classifier, tmp_path):
    from transformers import AutoTokenizer

    folder, network = linear_classifier
    texts, truth = read(write_texts(tmp_path / "in.jsonl", 30, 1))
    words = ["--model", folder, "--data", tmp_path / "in.jsonl", "--output", tmp_path / "out", "--typos", "",
             "--casing", "false", "--bootstrap", 5]  # fmt: skip
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    with torch.no_grad():
        said = [["no", "yes"][int(network(**tokenizer(text, return_tensors="pt")).logits.argmax())] for text in texts]
    assert len(set(said)) == 2
    found = results(tmp_path / "out")["clean"]["accuracy"]["value"]
    assert found == pytest.approx(metrics.accuracy_score(truth, said))


def test_positions_that_roberta_keeps_for_padding_are_not_usable():
    from transformers import ElectraConfig, ElectraForPreTraining, RobertaConfig, RobertaForMaskedLM

    from electra_ds.evaluate.models import Pair, usable_positions

    size = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 8}  # fmt: skip
    roberta = RobertaForMaskedLM(RobertaConfig(**size, max_position_embeddings=34, pad_token_id=1)).eval()
    electra = ElectraForPreTraining(ElectraConfig(**size, max_position_embeddings=33))
    assert usable_positions(roberta) == 32 and usable_positions(electra) == 33
    assert Pair({"discriminator": electra, "generator": roberta}, {}, None).max_positions == 32
    with torch.no_grad():
        roberta(input_ids=torch.full((1, 32), 5))
        with pytest.raises((IndexError, RuntimeError)):
            roberta(input_ids=torch.full((1, 33), 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "{tmp}"}, "no config.json"),
        ({"model": "{hf}/discriminator"}, "has no weights for"),
        ({"typos": "typo,swap"}, "typos: 'swap'"),
        ({"rates": "0.1,2"}, "at most 1"),
        ({"rates": "many"}, "expected shares with commas"),
        ({"keyboard": "dvorak"}, "expected one of qwerty, qwertz, azerty"),
        ({"metric": "f2"}, "expected one of accuracy"),
        ({"label_names": "a,b,c"}, "expected 2 different names"),
        ({"label_names": "a,b"}, "labels that the model does not have"),
        ({"max_length": "65"}, "takes 64 tokens"),
        ({"other": "{tmp}/none.tsv"}, "no such file"),
    ],
)
def test_mistakes(classifier, hf, tmp_path, capsys, changes, message):
    options = {"model": classifier, "data": write_texts(tmp_path / "in.jsonl", 6, 0), "output": tmp_path / "out",
               "max_length": 64, **changes}  # fmt: skip
    words = [f"--{name}={value}".replace("{tmp}", str(tmp_path)).replace("{hf}", str(hf)) for name, value in
             options.items()]  # fmt: skip
    assert main(["evaluate", "robustness", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_finetuning_folder_leads_to_its_model(classifier, tmp_path, capsys):
    words = ["--model", str(classifier.parent), "--data", "x.tsv", "--output", str(tmp_path / "out")]
    assert main(["evaluate", "robustness", *words]) == 2
    assert f"did you mean {classifier}?" in capsys.readouterr().err


def test_a_regression_is_refused(hf, tmp_path, capsys):
    from transformers import AutoTokenizer, ElectraForSequenceClassification

    network = ElectraForSequenceClassification.from_pretrained(str(hf / "discriminator"), num_labels=1)
    network.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(str(hf / "discriminator")).save_pretrained(tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--data", "x.tsv", "--output", str(tmp_path / "out")]
    assert main(["evaluate", "robustness", *words]) == 2
    assert "one output, a regression" in capsys.readouterr().err
