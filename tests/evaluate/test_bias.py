"""Minimal pairs: the published metric, scores token by token, and the model card."""

import csv
import shutil

import numpy as np
import pytest
import torch

from electra_ds.cli import main
from electra_ds.evaluate import card
from electra_ds.evaluate.bias import discriminator_scores, encode, generator_scores, summarize
from electra_ds.evaluate.pairs import MinimalPair, read_pairs, shared_positions
from electra_ds.evaluate.statistics import Resampling, wilson
from tests.evaluate.conftest import results, side_by_side

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations"
ROWS = [
    "The file was not closed by him,The file was not closed by her,stereo,gender,\"[['gender']]\"",
    '"The old module, he said, is slow","The new module, he said, is slow",stereo,age,[]',
    "A list can return no value,A name can return no value,antistereo,age,[]",
    "This class is used in the first test,This class is used in the second test,antistereo,gender,[]",
]


def write_pairs(path, rows=ROWS, header=HEADER):
    numbered = [f"{number},{row}" for number, row in enumerate(rows)]
    path.write_text("\n".join([header, *numbered]) + "\n", "utf-8")
    return path


def test_shared_tokens_are_the_equal_blocks():
    he, ruby = np.array([1, 20, 30, 40, 50, 2]), np.array([1, 21, 22, 30, 40, 50, 2])
    one, other = shared_positions(he, ruby)
    assert one.tolist() == [0, 2, 3, 4, 5] and other.tolist() == [0, 3, 4, 5, 6]


def test_scores_are_those_of_a_loop_over_the_shared_tokens(pair, machine):
    more, less = "The old module, he said, is slow", "The very new module, he said, is slow"
    sentences, _ = encode(pair.tokenizer, [more, less], 64)
    positions = [places[1:-1] for places in shared_positions(sentences[0].ids, sentences[1].ids)]
    generator = generator_scores(pair, sentences, positions, machine)
    discriminator = discriminator_scores(pair, sentences, positions, machine)
    for number, text in enumerate((more, less)):
        ids = pair.tokenizer(text)["input_ids"]
        other = set(pair.tokenizer((less, more)[number])["input_ids"])
        expected = judged = 0.0
        with torch.no_grad():
            logits = pair.discriminator(input_ids=torch.tensor([ids])).logits[0].double()
        for place in positions[number]:
            assert ids[place] in other
            masked = list(ids)
            masked[place] = pair.tokenizer.mask_token_id
            with torch.no_grad():
                said = pair.generator(input_ids=torch.tensor([masked])).logits[0, place].log_softmax(-1)
            expected += float(said[ids[place]])
            judged += float(torch.nn.functional.logsigmoid(-logits[place]))
        assert generator[number] == pytest.approx(expected, abs=2e-3)
        assert discriminator[number] == pytest.approx(judged, abs=1e-3)


def as_published(pairs, more, less):
    """The counting of the authors' metric.py, in its own words: sent1 is the stereotyping side of a 'stereo' pair."""
    stereo = antistereo = neutral = 0
    for one, high, low in zip(pairs, more, less, strict=True):
        sent1, sent2 = (high, low) if one.direction == "stereo" else (low, high)
        sent1, sent2 = round(sent1, 3), round(sent2, 3)
        if sent1 == sent2:
            neutral += 1
        elif one.direction == "stereo":
            stereo += sent1 > sent2
        else:
            antistereo += sent2 > sent1
    return (stereo + antistereo) / len(pairs) * 100, neutral


def test_the_metric_is_the_published_one():
    chance = np.random.default_rng(2)
    pairs = [
        MinimalPair("", "", ("stereo", "antistereo")[n % 3 == 0], ("age", "gender", "religion")[n % 5 % 3])
        for n in range(60)
    ]
    more, less = chance.normal(size=60), chance.normal(size=60)
    less[:7] = more[:7] + np.array([0, 1e-6, -1e-6, 0, 2e-5, 0, 0])
    found = summarize(pairs, more, less, Resampling(50, 0.95, 0))
    metric, ties = as_published(pairs, more, less)
    assert found["all"]["metric"] == pytest.approx(metric)
    assert found["all"]["ties"] == ties >= 4
    wins = found["all"]["prefers_more"]
    assert found["all"]["share"] == wilson(wins, 60, 0.95)
    assert found["all"]["without_ties"] == wilson(wins, 60 - ties, 0.95)
    for parts in ("by_direction", "by_category"):
        assert sum(one["pairs"] for one in found[parts].values()) == 60
        assert sum(one["prefers_more"] for one in found[parts].values()) == wins
    assert found["all"]["mean_difference"]["value"] == pytest.approx((more - less).mean())


@pytest.fixture(scope="module")
def scored(hf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bias")
    model = folder / "hf"
    shutil.copytree(hf, model)
    words = ["--model", model, "--pairs", write_pairs(folder / "pairs.csv"), "--output", folder / "out", "--bootstrap",
             30, "--card"]  # fmt: skip
    assert main(["evaluate", "bias", *map(str, words)]) == 0
    return folder, results(folder / "out")


def test_results_stand_beside_others(scored):
    (table,) = side_by_side(scored[1], scored[1])
    assert "pairs, longest sentence: what each model takes" in table.note


def test_results_follow_from_the_written_scores(scored):
    folder, found = scored
    with open(folder / "out" / "pairs.tsv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    pairs = read_pairs(str(folder / "pairs.csv"))
    assert [line["bias_type"] for line in lines] == ["gender", "age", "age", "gender"]
    for name in ("generator", "discriminator"):
        more, less = ([float(line[f"{name}_{side}"]) for line in lines] for side in ("more", "less"))
        assert found["scores"][name]["all"]["metric"] == pytest.approx(as_published(pairs, more, less)[0])
        assert all(value < 0 for value in more + less)
    assert found["data"] == {
        "source": str(folder / "pairs.csv"), "pairs": 4, "directions": {"stereo": 2, "antistereo": 2}, "truncated": 0,
        "max_length": 64, "same_tokens": 0,
    }  # fmt: skip
    page = (folder / "out" / "report.md").read_text("utf-8")
    assert "4 minimal pairs" in page and "| gender | 2 |" in page and "bias-generator.svg" in page


def test_the_card_has_one_section_before_its_limits(scored):
    folder, found = scored
    path = folder / "hf" / "discriminator" / "README.md"
    text = path.read_text("utf-8")
    assert text.index("What it is.") < text.index("## Bias") < text.index("## Limits")
    assert "| gender | 2 |" in text and "4 pairs" in text
    found["data"]["pairs"] = 5
    card.write_section(path, found)
    again = path.read_text("utf-8")
    assert again.count("## Bias") == 1 and again.count(card.BEGIN) == 1
    assert again == text.replace("4 pairs", "5 pairs")
    assert "## Bias" not in (folder / "hf" / "generator" / "README.md").read_text("utf-8")


def test_a_card_without_limits_gets_the_section_at_its_end_and_a_torn_one_is_left_alone(scored, tmp_path):
    from electra_ds.errors import DataError

    path = tmp_path / "README.md"
    card.write_section(path, scored[1])
    assert path.read_text("utf-8").startswith(card.BEGIN)
    path.write_text("# Mine\n")
    card.write_section(path, scored[1])
    assert path.read_text("utf-8").startswith("# Mine\n\n" + card.BEGIN)
    path.write_text(f"# Mine\n{card.BEGIN}\n")
    with pytest.raises(DataError, match="without the other"):
        card.write_section(path, scored[1])
    assert path.read_text("utf-8") == f"# Mine\n{card.BEGIN}\n"


def test_long_sentences_are_cut_and_counted_and_what_is_alike_then_is_a_tie(hf, tmp_path, capsys):
    rows = [f"{'file ' * 30}he,{'file ' * 30}she,stereo,gender,x", *ROWS]
    words = ["--model", hf, "--pairs", write_pairs(tmp_path / "p.csv", rows), "--output", tmp_path / "out",
             "--max_length", 20, "--bootstrap", 0]  # fmt: skip
    assert main(["evaluate", "bias", *map(str, words)]) == 0
    found = results(tmp_path / "out")
    assert found["data"]["truncated"] == 2 and found["data"]["same_tokens"] == 1
    assert found["scores"]["generator"]["all"]["ties"] == found["scores"]["discriminator"]["all"]["ties"] == 1
    assert "1 pairs are the same tokens" in capsys.readouterr().out


@pytest.mark.parametrize(("network", "missing"), [("discriminator", "generator"), ("generator", "discriminator")])
def test_one_network_alone(hf, tmp_path, network, missing):
    words = ["--model", hf / network, "--pairs", write_pairs(tmp_path / "p.csv"), "--output", tmp_path / "out"]
    assert main(["evaluate", "bias", *map(str, words)]) == 0
    found = results(tmp_path / "out")
    assert list(found["scores"]) == [network] and f"No {missing} was found" in found["notes"][0]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (",sent_more,sent_less,direction,bias_type,annotations", ROWS[0], "no column stereo_antistereo"),
        (HEADER, "a b,,stereo,age,x", "line 3: sent_less is empty"),
        (HEADER, "a b,a c,steroe,age,x", "line 3: stereo_antistereo is 'steroe', expected stereo or antistereo"),
        (HEADER, "a b,a b,stereo,age,x", "line 3: sent_more and sent_less are the same sentence"),
        (HEADER, "a b,a c,stereo,,x", "line 3: bias_type is empty"),
        (HEADER, "a b,a c,stereo,age", "line 3: 5 fields, but 6 in the header line"),
        (HEADER, 'a "b,a c,stereo,age,x\n5,"open,a,stereo,age,x', "line"),
    ],
)
def test_bad_csv_is_refused_with_its_row(hf, tmp_path, capsys, header, row, message):
    path = write_pairs(tmp_path / "p.csv", [ROWS[0], row], header)
    assert main(["evaluate", "bias", "--model", str(hf), "--pairs", str(path), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sentences_that_share_nothing_are_refused(hf, tmp_path, capsys):
    path = write_pairs(tmp_path / "p.csv", ["file,list,stereo,age,x"])
    assert main(["evaluate", "bias", "--model", str(hf), "--pairs", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "pair 1: the sentences share no token" in capsys.readouterr().err
