"""Models of every objective are scored on what their training showed them, and the page says what that is."""

import csv

import numpy as np
import pytest
import torch
from sklearn import metrics

from electra_ds.cli import main
from electra_ds.data.config import DataConfig
from electra_ds.data.loader import RowSource, open_shards
from electra_ds.evaluate.corruption import Corruption, pieces
from electra_ds.evaluate.models import find_networks, load_pair
from electra_ds.model.statistics import STATISTICS
from electra_ds.training.batches import micro_batches, prepare
from tests.evaluate.conftest import results, side_by_side

LENGTH = 48


@pytest.fixture(scope="module")
def rows(tiny_shards):
    config = DataConfig(path=str(tiny_shards))
    source = RowSource(open_shards(config, "validation"), config, LENGTH, seed=0)
    return source.unshuffled(np.arange(12) * source.total // 12)


@pytest.fixture(scope="module")
def corrupt(trained, machine, rows):
    """Rows as an objective's export is evaluated on them, and the same rows in a step of its training."""

    def get(name):
        module, folder = trained(name)
        size = module.config.vocab_size
        pair = load_pair(find_networks(str(folder)))
        corruption = Corruption(
            pair.networks, module.objective, module.special, None, np.full(size, 1 / size), 0, machine
        )
        prepared = prepare(rows, module.objective, module.special, 0, vocab_size=size)
        with torch.no_grad():
            batch = next(micro_batches(prepared, len(rows.ids), prepared.counts, 1, torch.device("cpu")))
            step = module(batch)
        return corruption(rows), dict(zip(STATISTICS, step["statistics"].tolist(), strict=True)), batch, step, pair

    return get


@pytest.fixture(scope="module")
def heldout(trained, tiny_shards, tmp_path_factory):
    """Results of an objective's export, and their folder; made once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("heldout") / name
            options = ["--model", trained(name)[1], "--shards", tiny_shards, "--output", folder, "--sequence_length",
                       LENGTH, "--rows", 12, "--bootstrap", 5]  # fmt: skip
            assert main(["evaluate", "heldout", *map(str, options)]) == 0
            made[name] = results(folder), folder
        return made[name]

    return get


def test_the_encoder_of_mlm_reads_the_masks_of_its_training(corrupt, rows):
    """80 % [MASK], 10 % random tokens, 10 % kept: the very tokens of a training step, and its loss."""
    corrupted, sums, batch, _, pair = corrupt("mlm")
    restored, special = corrupted.restored, pair.tokenizer.mask_token_id
    read = batch.generator_ids.numpy()
    stands = read[restored.row, restored.position]
    originals = corrupted.original[restored.row, restored.position]
    assert np.array_equal(restored.masked, stands == special)
    assert ((stands != special) & (stands != originals)).sum() > 2, "some became random tokens"
    assert len(restored.loss) == sums["selected"]
    assert restored.loss.sum() == pytest.approx(sums["discriminator_sum"], rel=1e-5)
    assert restored.correct.sum() == sums["restored"]
    assert np.array_equal(corrupted.corrupted, corrupted.original), "nothing is replaced"


def test_heldout_results_of_mlm(corrupt, heldout):
    found, folder = heldout("mlm")
    restored = corrupt("mlm")[0].restored
    assert found["corruption"]["fates"] == [0.8, 0.1] and found["corruption"]["replacements"] == "none"
    assert set(found) & {"generator", "encoder", "discriminator"} == {"encoder"}
    encoder = found["encoder"]
    assert np.log(encoder["perplexity"]["value"]) == pytest.approx(restored.loss.mean(), rel=1e-5)
    assert np.log(encoder["masked_perplexity"]["value"]) == pytest.approx(
        restored.loss[restored.masked].mean(), rel=1e-5
    )
    assert "sample_accuracy" not in encoder
    page = (folder / "report.md").read_text("utf-8")
    assert "The encoder's perplexity" in page and "Objective mlm trains one network" in page
    (table,) = side_by_side(found, found)
    assert "80 % of these masked, 10 % made a random token; seed 0" in table.note and "Objective mlm" in table.note


@pytest.mark.parametrize("name", ["replace_mlm", "all_tokens_mlm"])
def test_an_encoder_that_never_saw_a_mask_reads_what_the_generator_put_in(corrupt, rows, name):
    corrupted, sums, _, step, pair = corrupt(name)
    alike = (corrupted.corrupted == step["corrupted_ids"].numpy()).all(1)
    assert alike.sum() >= len(alike) - 1, "a sample may fall within rounding of the border between two tokens"
    assert corrupted.filled.loss.sum() == pytest.approx(sums["generator_sum"], rel=1e-5)
    restored = corrupted.restored
    if name == "replace_mlm" and alike.all():
        assert restored.loss.sum() == pytest.approx(sums["discriminator_sum"], rel=1e-5)
        assert restored.correct.sum() == sums["restored"]
    for row, begin, end in pieces(rows.segments.astype(int))[:4]:  # one segment at a time through the whole model
        inputs = torch.from_numpy(corrupted.corrupted[row, begin:end])[None]
        types = torch.from_numpy(rows.token_types[row, begin:end].astype(np.int64))[None]
        with torch.no_grad():
            said = pair.encoder(input_ids=inputs, token_type_ids=types).logits[0].log_softmax(-1)
        for number in np.flatnonzero((restored.row == row) & (restored.position >= begin) & (restored.position < end)):
            place = restored.position[number]
            assert restored.loss[number] == pytest.approx(
                -float(said[place - begin, corrupted.original[row, place]]), abs=1e-4
            )


@pytest.mark.parametrize("name", ["replace_mlm", "all_tokens_mlm"])
def test_heldout_results_of_both_networks(heldout, name):
    found, folder = heldout(name)
    assert found["networks"]["encoder"].endswith("encoder") and found["networks"]["generator"].endswith("generator")
    assert found["encoder"]["perplexity"] != found["generator"]["perplexity"]
    assert "masked_perplexity" not in found["encoder"] and "masked_perplexity" in found["generator"]
    notes = " ".join(found["notes"])
    assert f"what objective {name} showed it" in notes and ("copy gate" in notes) == (name == "all_tokens_mlm")
    assert "No discriminator" not in notes
    page = (folder / "report.md").read_text("utf-8")
    assert "## Encoder by token frequency" in page and "heldout-encoder-bits-position.svg" in page


def test_electra_15_is_scored_where_its_verdict_was_trained(corrupt, heldout):
    corrupted, sums, _, _, _ = corrupt("electra_15")
    found = heldout("electra_15")[0]
    discriminator, filled = found["discriminator"], corrupted.filled
    assert discriminator["tokens"] == found["generator"]["selected"] == sums["judged"] < found["data"]["tokens"]
    replaced = filled.token != corrupted.original[filled.row, filled.position]
    logits = corrupted.logits[filled.row, filled.position]
    expected = metrics.brier_score_loss(replaced, 1 / (1 + np.exp(-logits.astype(float))), labels=[False, True])
    assert discriminator["brier"]["value"] == pytest.approx(expected, abs=1e-4)
    assert discriminator["recall"]["value"] == pytest.approx((logits[replaced] > 0).mean())
    assert discriminator["replaced_rate"]["value"] == pytest.approx(replaced.mean())
    assert any("electra_15 trains verdicts at selected positions alone" in note for note in found["notes"])


def test_the_energy_of_electric_is_ranked_and_no_probability(corrupt, heldout):
    found, folder = heldout("electric")
    discriminator = found["discriminator"]
    for name in ("precision", "recall", "f1", "accuracy", "brier", "log_loss", "calibration_error", "reliability"):
        assert name not in discriminator and name not in discriminator["by_frequency"][0]
    assert 0 < discriminator["auc"]["value"] < 1 and discriminator["average_precision"]["value"] > 0
    notes = " ".join(found["notes"])
    assert "is an energy, not the log odds" in notes and "two causal towers, has no place in an export" in notes
    page = (folder / "report.md").read_text("utf-8")
    assert "| AUC |" in page and "| precision |" not in page and "| Brier score |" not in page
    assert not (folder / "heldout-reliability.svg").exists()
    (table,) = side_by_side(found, found)
    assert "calibration error" not in table.columns


def test_results_of_different_objectives_stand_in_no_table(heldout):
    assert side_by_side(heldout("replace_mlm")[0], heldout("all_tokens_mlm")[0]) == []
    assert side_by_side(heldout("mlm")[0], heldout("replace_mlm")[0]) == []


def test_a_model_of_other_origin_is_masked_as_the_paper_does_and_it_is_said(trained, tiny_shards, tmp_path):
    import shutil

    shutil.copytree(trained("mlm")[1] / "encoder", tmp_path / "foreign")
    options = ["--model", tmp_path / "foreign", "--shards", tiny_shards, "--output", tmp_path / "out", "--rows", 4,
               "--sequence_length", LENGTH, "--bootstrap", 5]  # fmt: skip
    assert main(["evaluate", "heldout", *map(str, options)]) == 0
    found = results(tmp_path / "out")
    assert found["corruption"]["fates"] == [0.85, 0.0] and "generator" in found
    assert found["notes"][-1].startswith("No electra_ds.json tells how this model was trained")
    assert "15 % of them selected, 85 % of these masked, 0 % made a random token" in found["notes"][-1]


def test_an_encoder_that_had_no_generator_takes_none(trained, hf, tiny_shards, tmp_path, capsys):
    options = ["--model", trained("mlm")[1], "--generator", hf / "generator", "--output", tmp_path / "out"]
    assert main(["evaluate", "heldout", "--shards", str(tiny_shards), *map(str, options)]) == 2
    assert "was trained without one and fills masks in itself" in capsys.readouterr().err
    pairs = ["--pairs", tmp_path / "pairs.csv"]
    assert main(["evaluate", "bias", *map(str, [*options, *pairs])]) == 2
    assert "fills masks in by its own head; leave --generator out" in capsys.readouterr().err


def write_texts(path):
    path.write_text("".join(f"Return the name of file number {n}\t{n % 2}\n" for n in range(12)), "utf-8")
    return path


def zero_shot(model, data, output):
    options = ["--model", model, "--data", data, "--output", output, "--text_column", 0, "--label_column", 1,
               "--labels", "0=wrong,1=good", "--bootstrap", 5, "--random_models", 1]  # fmt: skip
    assert main(["evaluate", "zero-shot", *map(str, options)]) == 0
    with open(output / "predictions.tsv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    return results(output), [line["generator_score_0"] for line in lines]


def test_zero_shot_asks_the_full_size_encoder_and_not_its_small_generator(trained, tmp_path):
    _, folder = trained("replace_mlm")
    data = write_texts(tmp_path / "dev.tsv")
    found, scores = zero_shot(folder, data, tmp_path / "whole")
    _, encoders = zero_shot(folder / "encoder", data, tmp_path / "encoder")
    _, generators = zero_shot(folder / "generator", data, tmp_path / "generator")
    assert scores == encoders != generators
    assert found["networks"] == {"generator": str(folder / "encoder")}
    assert found["notes"][0].startswith(
        "What is called generator here is encoder/, the full-size network that objective"
    )
    assert (
        "The small generator/ beside it is left out" in found["notes"][0] and "masks are foreign" in found["notes"][0]
    )
    assert found["notes"][1].startswith("Objective replace_mlm trains no discriminator:")


def test_bias_of_an_encoder_goes_into_its_own_card(trained, tmp_path, capsys):
    _, folder = trained("all_tokens_mlm")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("sent_more,sent_less,stereo_antistereo,bias_type\n"
                     "Return the name of a file,Return the size of a file,stereo,age\n", "utf-8")  # fmt: skip
    options = ["--model", folder, "--pairs", pairs, "--output", tmp_path / "out", "--bootstrap", 5, "--card"]
    assert main(["evaluate", "bias", *map(str, options)]) == 0
    card = (folder / "encoder" / "README.md").read_text("utf-8")
    assert "What is called generator here is encoder/" in card and "copy gate has no place in an export" in card
    assert str(folder) not in card and "## Bias" not in (folder / "generator" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(("name", "said"), [("electric", "is no probability"), ("electra_15", "about others too")])
def test_verdicts_of_other_objectives_are_told_of(trained, tmp_path, name, said):
    found, _ = zero_shot_of_discriminator(trained(name)[1], tmp_path)
    assert said in found["notes"][0]


def zero_shot_of_discriminator(folder, tmp_path):
    options = ["--model", folder / "discriminator", "--data", write_texts(tmp_path / "dev.tsv"), "--output",
               tmp_path / "out", "--text_column", 0, "--label_column", 1, "--labels", "0=wrong,1=good", "--bootstrap",
               5, "--random_models", 0]  # fmt: skip
    assert main(["evaluate", "zero-shot", *map(str, options)]) == 0
    return results(tmp_path / "out"), tmp_path / "out"
