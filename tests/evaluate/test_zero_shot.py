"""Zero-shot scores against plain loops: one prompt, one label word, one token at a time."""

import csv
import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from electra_ds.cli import main
from electra_ds.errors import UserError
from electra_ds.evaluate.prompts import Template, encode
from electra_ds.evaluate.zero_shot import (
    ZeroShotConfig,
    discriminator_scores,
    generator_scores,
    label_words,
    standardised,
)
from tests.evaluate.conftest import results, side_by_side

TEXTS = ["Return the name of the file", "a list of all values, or none", "x"]
WORDS = ["good", "unhelpful", "wrong"]
PROMPT = "{text}: this is {label} text."


def config(**changes):
    return ZeroShotConfig(model="", output="", data="", labels="", prompt=PROMPT, **changes)


@pytest.fixture(scope="module")
def filled(pair):
    return encode(pair.tokenizer, Template.parse(PROMPT), TEXTS, None, WORDS, 64)[0]


def label_places(tokenizer, text, word):
    """Ids and the positions of the label word, found by looking for its tokens."""
    whole = tokenizer(f"{text}: this is {word} text.")["input_ids"]
    own = tokenizer(word, add_special_tokens=False)["input_ids"]
    found = [i for i in range(len(whole)) if whole[i : i + len(own)] == own]
    return whole, list(range(found[-1], found[-1] + len(own)))


def test_label_words_are_found_in_the_prompt(pair, filled):
    for text, row in zip(TEXTS, filled, strict=True):
        for word, one in zip(WORDS, row, strict=True):
            ids, places = label_places(pair.tokenizer, text, word)
            assert one.tokens.ids.tolist() == ids and one.label.tolist() == places
            assert one.content.tolist() == list(range(1, len(ids) - 1))
    assert len(filled[0][1].label) > 1, "a word of several tokens is among them"


@pytest.mark.parametrize("scope", ["label", "sentence"])
@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_discriminator_scores(pair, machine, filled, scope, combine):
    found = discriminator_scores(config(scope=scope, combine=combine), pair, filled, machine)
    for number, text in enumerate(TEXTS):
        for place, word in enumerate(WORDS):
            ids, label = label_places(pair.tokenizer, text, word)
            with torch.no_grad():
                logits = pair.discriminator(input_ids=torch.tensor([ids])).logits[0]
            said = [math.log(1 - torch.sigmoid(logits[i].double()).item())
                    for i in (label if scope == "label" else range(1, len(ids) - 1))]  # fmt: skip
            expected = sum(said) / (len(said) if combine == "mean" else 1)
            assert found[number, place] == pytest.approx(expected, abs=1e-3)


def test_generator_scores_mask_each_piece_with_those_after_it(pair, machine, filled):
    found = generator_scores(config(), pair, filled, machine)
    for number, text in enumerate(TEXTS):
        for place, word in enumerate(WORDS):
            ids, label = label_places(pair.tokenizer, text, word)
            total = 0.0
            for i, position in enumerate(label):
                masked = list(ids)
                for later in label[i:]:
                    masked[later] = pair.tokenizer.mask_token_id
                with torch.no_grad():
                    logits = pair.generator(input_ids=torch.tensor([masked])).logits[0, position]
                total += float(logits.log_softmax(-1)[ids[position]])
            assert found[number, place] == pytest.approx(total, abs=1e-3)
    mean = generator_scores(config(combine="mean"), pair, filled, machine)
    lengths = np.array([len(one.label) for one in filled[0]])
    np.testing.assert_allclose(mean * lengths, found)


def test_standardised_scores_have_no_mean_over_labels_and_unit_spread():
    scores = np.random.default_rng(0).normal(3, 7, (50, 3))
    found = standardised(scores)
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-12)
    assert found[:-1].std() == pytest.approx(1)


def write_texts(path, rows=40):
    lines = [f"Return the {word} of the file number {number}\t{number % 2}" for number, word in
             zip(range(rows), ["name", "size", "list", "type"] * rows, strict=False)]  # fmt: skip
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def run(hf, data, output, *more):
    words = ["--model", hf, "--data", data, "--output", output, "--text_column", 0, "--label_column", 1,
             "--labels", "0=wrong,1=good", "--bootstrap", 30, "--random_models", 2, *more]  # fmt: skip
    return main(["evaluate", "zero-shot", *map(str, words)])


@pytest.fixture(scope="module")
def scored(hf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero-shot")
    assert run(hf, write_texts(folder / "dev.tsv"), folder / "out") == 0
    return folder / "out", results(folder / "out")


def test_results_follow_from_the_written_scores(scored):
    """The table of predictions alone gives every choice, the correction and the standardised sum."""
    folder, found = scored
    with open(folder / "predictions.tsv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    *rows, empty = lines
    assert empty["index"] == "empty text" and len(rows) == 40
    scores = {
        name: np.array([[float(line[f"{name}_score_{label}"]) for label in "01"] for line in lines])
        for name in ("discriminator", "generator")
    }
    scores["both"] = standardised(scores["discriminator"]) + standardised(scores["generator"])
    truth = [line["label"] for line in rows]
    for name, values in scores.items():
        for variant, chosen in (("plain", values[:-1]), ("corrected", values[:-1] - values[-1])):
            predicted = ["01"[place] for place in chosen.argmax(1)]
            assert predicted == [line[f"{name}_{variant}"] for line in rows]
            one = found["methods"][name][variant]
            assert one["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(truth, predicted))
            assert one["above_majority"]["accuracy"]["value"] == pytest.approx(one["accuracy"]["value"] - 0.5)
    assert found["majority"]["accuracy"]["value"] == 0.5 and found["data"]["labels"] == {"0": 20, "1": 20}


def test_random_models_stand_beside_and_differ_by_seed(scored):
    random = scored[1]["random"]
    assert [one["seed"] for one in random] == [0, 1]
    assert all(set(one["methods"]) == {"discriminator", "generator", "both"} for one in random)
    assert all("accuracy" in one["methods"]["both"]["corrected"] for one in random)


def test_random_models_are_of_the_same_shape_with_other_weights(pair):
    from electra_ds.evaluate.models import random_pair

    one, again, other = random_pair(pair, 0), random_pair(pair, 0), random_pair(pair, 1)
    for name, network in pair.networks.items():
        trained, first = network.state_dict(), one.networks[name].state_dict()
        assert {key: value.shape for key, value in trained.items()} == {key: v.shape for key, v in first.items()}
        key = next(key for key in first if key.endswith("query.weight"))
        assert torch.equal(first[key], again.networks[name].state_dict()[key])
        assert not torch.equal(first[key], other.networks[name].state_dict()[key])
        assert not torch.equal(first[key], trained[key])


def test_page_says_words_majority_and_random_weights(scored):
    page = (scored[0] / "report.md").read_text("utf-8")
    for part in ("0 = wrong", "always '0'", "random weights, 2 seeds", "zero-shot-accuracy.svg", "Kauf and Ivanova"):
        assert part in page


def test_results_stand_beside_others(scored):
    (table,) = side_by_side(scored[1], scored[1])
    assert "log-probabilities of several tokens are added up" in table.note


def test_long_texts_lose_their_end_and_are_counted(pair, hf, tmp_path):
    long = "file " * 100
    filled, truncated = encode(pair.tokenizer, Template.parse(PROMPT), [long, "short"], None, WORDS, 30)
    assert truncated == 1
    lengths = [len(one.tokens.ids) for one in filled[0]]
    assert max(lengths) == 30
    texts = [len(one.tokens.ids) - len(one.label) for one in filled[0]]
    assert len(set(texts)) == 1, "every label word sees the same text"
    for one, word in zip(filled[0], WORDS, strict=True):
        end = pair.tokenizer.decode(one.tokens.ids[-5:].tolist())
        assert "text" in end and pair.tokenizer.decode(one.tokens.ids[one.label].tolist()).replace(" ", "") == word
    data = tmp_path / "dev.tsv"
    data.write_text(f"{long}\t0\nshort\t1\n", "utf-8")
    assert run(hf, data, tmp_path / "out", "--max_length", 30) == 0
    assert results(tmp_path / "out")["data"]["truncated"] == 1
    assert "1 cut to 30 tokens" in (tmp_path / "out" / "report.md").read_text("utf-8")


def test_what_is_cut_is_the_end_of_the_text(pair):
    words = ["the", "name", "of", "a", "file", "or", "list", "is", "in", "this", "class", "and", "not", "a", "value"]
    ((one, _),), _ = encode(pair.tokenizer, Template.parse("{text}: {label}"), [" ".join(words)], None, WORDS[:2], 14)
    kept = pair.tokenizer.convert_ids_to_tokens(one.tokens.ids.tolist())
    begun = kept[1 : kept.index(":")]
    assert begun == words[: len(begun)] and 3 < len(begun) < len(words)


def test_a_pair_loses_tokens_of_its_longer_text(pair):
    template = Template.parse("{text}? {label}, {text_pair}")
    filled, truncated = encode(pair.tokenizer, template, ["file " * 40], ["value " * 5], ["good", "wrong"], 24)
    words = pair.tokenizer.decode(filled[0][0].tokens.ids.tolist()).split()
    assert truncated == 1 and words.count("value") == 5 and 0 < words.count("file") < 40


def test_a_prompt_that_leaves_no_room_is_refused(pair):
    with pytest.raises(UserError, match="without any text it still has"):
        encode(pair.tokenizer, Template.parse("this is a very long prompt {text} {label}"), ["x"], None, WORDS, 6)


def test_pairs_are_read_and_scored(hf, tmp_path):
    data = tmp_path / "dev.tsv"
    data.write_text("text\ttext_pair\tlabel\n" + "a file\ta list\t0\nthe name\tthe value\t1\n" * 3, "utf-8")
    words = ["--model", hf, "--data", data, "--output", tmp_path / "out", "--labels", "0=wrong,1=good", "--prompt",
             "{text}? {label}, {text_pair}", "--bootstrap", 5, "--random_models", 0]  # fmt: skip
    assert main(["evaluate", "zero-shot", *map(str, words)]) == 0
    assert results(tmp_path / "out")["data"]["pairs"] is True


def test_one_network_alone_is_scored_alone(hf, tmp_path):
    data = write_texts(tmp_path / "dev.tsv", 6)
    assert run(hf / "discriminator", data, tmp_path / "out") == 0
    found = results(tmp_path / "out")
    assert list(found["methods"]) == ["discriminator"] and "No generator was found" in found["notes"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "0=wrong"}, "names one label"),
        ({"labels": "0:wrong,1:good"}, "expected label=word"),
        ({"labels": "0=wrong,0=good"}, "comes twice"),
        ({"labels": "0=wrong,2=good"}, "line 2: labels that --labels does not have: '1' (3 rows)"),
        ({"labels": "0=wrong,1=Wrong"}, "are the same tokens"),
        ({"labels": "0=wrong,1=\N{SNOWMAN}"}, "does not know"),
        ({"prompt": "{text} is"}, "one {label}"),
        ({"prompt": "{text} is {lable}"}, "has a field {lable}"),
        ({"prompt": "{text is {label}"}, "cannot be read"),
        ({"prompt": "{text} {label} {text_pair}"}, "has single texts"),
        ({"text_column": "7"}, "no column 7"),
        ({"text_column": "text"}, "no column 'text'"),
        ({"data": "{tmp}/none.tsv"}, "no such file"),
        ({"max_length": "99"}, "takes 64 tokens"),
    ],
)
def test_mistakes(hf, tmp_path, capsys, changes, message):
    options = {"model": hf, "data": write_texts(tmp_path / "dev.tsv", 6), "output": tmp_path / "out", "text_column": 0,
               "label_column": 1, "labels": "0=wrong,1=good", **changes}  # fmt: skip
    words = [f"--{name}={value}".replace("{tmp}", str(tmp_path)) for name, value in options.items()]
    assert main(["evaluate", "zero-shot", *words]) == 2
    assert message in capsys.readouterr().err


def test_empty_texts_are_refused_or_kept_and_counted(hf, tmp_path, capsys):
    data = tmp_path / "dev.tsv"
    data.write_text("a file\t0\n \t1\n", "utf-8")
    assert run(hf, data, tmp_path / "out") == 2
    assert "line 2: column 0 is empty" in capsys.readouterr().err
    assert run(hf, data, tmp_path / "out", "--empty_texts", "keep") == 0
    assert results(tmp_path / "out")["data"]["empty_texts"] == 1


def test_label_words_are_read():
    assert label_words("0=terrible, 1 = very good") == {"0": "terrible", "1": "very good"}
