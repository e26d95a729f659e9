"""Held-out scores: the corruption is that of training, and every number follows from plain loops."""

import copy
import json
import math
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics

from electra_ds.cli import main
from electra_ds.data.config import DataConfig
from electra_ds.data.loader import RowSource, open_shards
from electra_ds.data.vocabulary import continuation_table
from electra_ds.evaluate.corruption import Corruption, pieces
from electra_ds.evaluate.heldout_scores import PER_MILLION, frequency_classes
from electra_ds.training.batches import micro_batches, prepare
from tests.evaluate.conftest import results, side_by_side

LENGTH = 48


@pytest.fixture(scope="module")
def source(tiny_shards):
    config = DataConfig(path=str(tiny_shards))
    return RowSource(open_shards(config, "validation"), config, LENGTH, seed=0)


@pytest.fixture(scope="module")
def rows(source):
    return source.unshuffled(np.arange(12) * source.total // 12)


@pytest.fixture(scope="module")
def corrupted(pair, electra, machine, rows):
    uniform = np.full(electra.config.vocab_size, 1 / electra.config.vocab_size)
    return Corruption(pair.networks, electra.objective, electra.special, None, uniform, 0, machine)(rows)


@pytest.mark.parametrize("masking", ["token", "whole_word"])
def test_segments_in_stock_transformers_are_what_a_packed_training_step_computes(
    pair, electra, machine, source, rows, masking
):
    table = continuation_table(source.shards.tokenizer_folder(), electra.config.vocab_size)
    continues = torch.from_numpy(table) if masking != "token" else None
    objective = replace(electra.objective, masking=masking, disallow_correct=masking != "token")
    uniform = np.full(electra.config.vocab_size, 1 / electra.config.vocab_size)
    corrupted = Corruption(pair.networks, objective, electra.special, continues, uniform, 0, machine)(rows)
    prepared = prepare(rows, objective, electra.special, 0, continues)
    electra = copy.deepcopy(electra)
    electra.objective = objective
    batch = next(micro_batches(prepared, len(rows.ids), prepared.counts, 1, torch.device("cpu")))
    with torch.no_grad():
        step = electra(batch)
    assert len(pieces(rows.segments.astype(int))) > len(rows.ids), "some rows hold several segments"
    # A uniform may fall within rounding of the border between two tokens: two of 8,192 did in a real run.
    alike = (corrupted.corrupted == step["corrupted_ids"].numpy()).all(1)
    assert alike.sum() >= len(alike) - 1
    real = rows.segments > 0
    same = real & alike[:, None]
    np.testing.assert_allclose(corrupted.logits[same], step["discriminator_logits"].numpy()[same], atol=2e-4)
    assert np.isnan(corrupted.logits[~real]).all() and np.array_equal(corrupted.real, real)
    sums = dict(zip(("generator_sum", "_", "selected", "masked_correct"), step["statistics"].tolist(), strict=False))
    assert len(corrupted.filled.loss) == sums["selected"]
    assert corrupted.filled.loss.sum() == pytest.approx(sums["generator_sum"], rel=1e-5)
    assert corrupted.filled.correct.sum() == sums["masked_correct"]
    assert 0 < corrupted.filled.masked.sum() < len(corrupted.filled.masked)


def test_the_loss_of_a_position_is_that_of_its_segment_alone(pair, rows, corrupted):
    """One segment at a time through the whole model, one position after another."""
    filled = corrupted.filled
    ids = rows.ids.astype(np.int64)
    generator_ids = ids.copy()
    generator_ids[filled.row[filled.masked], filled.position[filled.masked]] = pair.tokenizer.mask_token_id
    for row, begin, end in pieces(rows.segments.astype(int))[:6]:
        inputs = torch.from_numpy(generator_ids[row, begin:end])[None]
        types = torch.from_numpy(rows.token_types[row, begin:end].astype(np.int64))[None]
        with torch.no_grad():
            logits = pair.generator(input_ids=inputs, token_type_ids=types).logits[0]
        for number in np.flatnonzero((filled.row == row) & (filled.position >= begin) & (filled.position < end)):
            said = logits[filled.position[number] - begin].log_softmax(-1)
            assert filled.loss[number] == pytest.approx(-float(said[ids[row, filled.position[number]]]), abs=1e-4)


@pytest.fixture(scope="module")
def scored(hf, tiny_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heldout") / "out"
    options = ["--model", hf, "--shards", tiny_shards, "--output", folder, "--sequence_length", LENGTH, "--rows", 12,
               "--bootstrap", 20, "--batch_tokens", 500]  # fmt: skip
    assert main(["evaluate", "heldout", *map(str, options)]) == 0
    return folder, results(folder)


def test_results_follow_from_the_corrupted_rows(scored, corrupted, electra):
    found = scored[1]
    assert found["corruption"]["objective"]["mask_fraction"] == electra.objective.mask_fraction, "as the run had it"
    assert found["corruption"]["objective_of"] == "the run (electra_ds.json)"
    filled, generator, discriminator = corrupted.filled, found["generator"], found["discriminator"]
    mean = float(filled.loss.mean())
    assert generator["perplexity"]["value"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert generator["bits_per_token"]["value"] == pytest.approx(mean / math.log(2), rel=1e-5)
    assert generator["masked_perplexity"]["value"] == pytest.approx(
        math.exp(filled.loss[filled.masked].mean()), rel=1e-5
    )
    assert generator["accuracy"]["value"] == pytest.approx(filled.correct.mean())
    originals = corrupted.original[filled.row, filled.position]
    assert generator["sample_accuracy"]["value"] == pytest.approx((filled.token == originals).mean())
    real = corrupted.real
    replaced, logits = (corrupted.corrupted != corrupted.original)[real], corrupted.logits[real]
    assert discriminator["auc"]["value"] == pytest.approx(metrics.roc_auc_score(replaced, logits), abs=1e-4)
    assert discriminator["tokens"] == found["data"]["tokens"] == real.sum()
    assert discriminator["replaced"] == replaced.sum()


def test_classes_part_the_tokens(scored):
    found = scored[1]
    for cut in ("by_frequency", "by_position"):
        assert sum(one["tokens"] for one in found["discriminator"][cut]) == found["discriminator"]["tokens"]
        assert sum(one["selected"] for one in found["generator"][cut]) == found["generator"]["selected"]
    special = found["discriminator"]["by_frequency"][-1]
    assert special["class"] == "special tokens" and special["replaced"] < 0.1 * special["tokens"]
    first = found["discriminator"]["by_position"][0]
    assert first["class"] == "0" and first["replaced"] == 0, "[CLS] is never replaced"


def test_frequency_classes_count_occurrences_per_million():
    frequencies = np.array([0.0, 9e-6, 10e-6, 999e-6, 0.01, 0.5])
    classes = frequency_classes(frequencies, np.array([0]))
    assert classes.tolist() == [len(PER_MILLION), 4, 3, 2, 0, 0]


def test_results_stand_beside_others(scored):
    (table,) = side_by_side(scored[1], scored[1])
    assert "20 % of the tokens selected" in table.note and "samples at temperature 1.5" in table.note


def test_page_and_drawings_are_whole(scored):
    folder, found = scored
    page = (folder / "report.md").read_text("utf-8")
    assert "AUC of" in page and "## Discriminator by token frequency" in page and "split 'train'" in page
    drawings = sorted(folder.glob("*.svg"))
    assert {path.stem for path in drawings} == {
        "heldout-reliability", "heldout-auc-frequency", "heldout-auc-position", "heldout-bits-frequency",
        "heldout-bits-position",
    }  # fmt: skip
    for path in drawings:
        root = ElementTree.fromstring(path.read_text("utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and float(root.get("width")) > 100
        assert f"({path.name})" in page
        assert "var(--" not in path.read_text("utf-8")
    assert found["format"] == "electra_ds evaluate" and found["version"] == 1 and found["notes"] == []


def test_portions_change_nothing(hf, tiny_shards, scored, tmp_path, monkeypatch):
    """Rows are corrupted a portion at a time; classes, rows and intervals are of all of them."""
    from electra_ds.evaluate import heldout

    monkeypatch.setattr(heldout, "PORTION", 5)
    options = ["--model", hf, "--shards", tiny_shards, "--output", tmp_path / "out", "--sequence_length", LENGTH,
               "--rows", 12, "--bootstrap", 20]  # fmt: skip
    assert main(["evaluate", "heldout", *map(str, options)]) == 0
    found, whole = results(tmp_path / "out"), scored[1]
    for network, names in (
        ("generator", ("bits_per_token", "accuracy")),
        ("discriminator", ("auc", "brier", "recall")),
    ):
        for name in names:
            assert found[network][name] == pytest.approx(whole[network][name], abs=2e-3)
        for one, other in zip(found[network]["by_position"], whole[network]["by_position"], strict=True):
            assert one[names[0]]["value"] == pytest.approx(other[names[0]]["value"], abs=2e-3)


def test_bf16_is_near(hf, tiny_shards, scored, tmp_path):
    options = ["--model", hf, "--shards", tiny_shards, "--output", tmp_path / "out", "--sequence_length", LENGTH,
               "--rows", 12, "--bootstrap", 0, "--precision", "bf16"]  # fmt: skip
    assert main(["evaluate", "heldout", *map(str, options)]) == 0
    found, exact = results(tmp_path / "out"), scored[1]
    assert found["machine"]["precision"] == "bf16"
    assert found["generator"]["bits_per_token"]["low"] is None
    assert found["generator"]["bits_per_token"]["value"] == pytest.approx(
        exact["generator"]["bits_per_token"]["value"], rel=0.02
    )


def copied(hf, folder, *networks):
    for name in networks:
        shutil.copytree(hf / name, folder / name)
    return folder


def test_a_model_without_its_generator_is_scored_on_drawn_tokens_and_it_is_said(hf, tiny_shards, tmp_path, capsys):
    model = copied(hf, tmp_path / "half", "discriminator")
    options = ["--model", model, "--shards", tiny_shards, "--output", tmp_path / "out", "--sequence_length", LENGTH,
               "--rows", 8, "--bootstrap", 5]  # fmt: skip
    assert main(["evaluate", "heldout", *map(str, options)]) == 0
    found = results(tmp_path / "out")
    assert "generator" not in found and found["discriminator"]["auc"]["value"] is not None
    assert found["corruption"]["replacements"] == "token frequencies"
    assert found["corruption"]["objective_of"].startswith("the paper")
    (table,) = side_by_side(found, found)
    assert "replaced by draws from token frequencies" in table.note and "seed 0" in table.note
    assert "No generator was found" in found["notes"][0] and "No generator was found" in capsys.readouterr().out


def test_a_generator_alone_is_scored_alone(hf, tiny_shards, tmp_path):
    options = ["--model", hf / "generator", "--shards", tiny_shards, "--output", tmp_path / "out", "--sequence_length",
               LENGTH, "--rows", 8, "--bootstrap", 5]  # fmt: skip
    assert main(["evaluate", "heldout", *map(str, options)]) == 0
    found = results(tmp_path / "out")
    assert "discriminator" not in found and found["generator"]["perplexity"]["value"] > 1
    assert "only the generator was scored" in found["notes"][0]


def test_shards_of_another_tokenizer_are_refused(hf, tiny_shards, tmp_path, capsys):
    model = copied(hf, tmp_path / "other", "discriminator", "generator")
    for name in ("discriminator", "generator"):
        path = model / name / "tokenizer.json"
        value = json.loads(path.read_text("utf-8"))
        vocabulary = value["model"]["vocab"]
        one, other = sorted(vocabulary, key=vocabulary.get)[500:502]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        path.write_text(json.dumps(value), "utf-8")
    assert main(["evaluate", "heldout", "--model", str(model), "--shards", str(tiny_shards), "--output",
                 str(tmp_path / "out")]) == 2  # fmt: skip
    said = capsys.readouterr().err
    assert "is not the model's" in said and "fingerprint" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "{tmp}/none"}, "no folder"),
        ({"model": "{tmp}"}, "neither discriminator/ nor generator/"),
        ({"model": "{run}"}, "'electra-ds convert' makes a model of it"),
        ({"shards": "{tmp}"}, "no manifest.json"),
        ({"split": "test"}, "no split 'test'"),
        ({"sequence_length": "65"}, "takes 64 tokens"),
        ({"rows": "0"}, "at least 1"),
        ({"output": "{run}"}, "holds something else"),
        ({"rowz": "3"}, "did you mean 'rows'"),
        ({"device": "cuda"}, "no GPU is found"),
    ],
)
def test_mistakes(hf, tiny_shards, tmp_path, capsys, changes, message):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    options = {"model": hf, "shards": tiny_shards, "output": tmp_path / "out", **changes}
    words = [f"--{name}={str(value).format(tmp=tmp_path, run=run)}" for name, value in options.items()]
    assert main(["evaluate", "heldout", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_classifier_is_no_pair(tmp_path, hf, tiny_shards, capsys):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(str(hf / "discriminator")).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(str(hf / "discriminator")).save_pretrained(tmp_path / "model")
    assert main(["evaluate", "heldout", "--model", str(tmp_path / "model"), "--shards", str(tiny_shards), "--output",
                 str(tmp_path / "out")]) == 2  # fmt: skip
    assert "evaluate robustness" in capsys.readouterr().err


def test_finished_results_are_left_alone(scored, hf, tiny_shards, capsys):
    folder, _ = scored
    before = (folder / "results.json").read_bytes()
    words = ["--model", str(hf), "--shards", str(tiny_shards), "--output", str(folder)]
    assert main(["evaluate", "heldout", *words]) == 2
    assert "holds finished results" in capsys.readouterr().err
    assert (folder / "results.json").read_bytes() == before


def test_the_kinds_are_listed(capsys):
    assert main(["evaluate"]) == 0
    assert "zero-shot" in capsys.readouterr().out
    assert main(["evaluate", "zeroshot"]) == 2
    assert "did you mean 'zero-shot'" in capsys.readouterr().err
