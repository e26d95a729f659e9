"""Checkpoints become stock Hugging Face folders and the tied pair again; nothing is written on a mistake."""

import json
import shutil

import pytest
import torch

from electra_ds.cli import main

pytestmark = pytest.mark.ranks


@pytest.fixture(params=["zero1", "zero3"])
def run(request, runs):
    """Ten steps on two ranks, checkpoints at 5 and 10."""
    return runs(request.param)


def test_folders_load_in_stock_transformers_and_are_verified(run, tmp_path, capsys):
    from transformers import (
        AutoModelForPreTraining,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        ElectraForMaskedLM,
    )

    assert main(["convert", str(run), "--output", str(tmp_path / "hf"), "--verify"]) == 0
    said = capsys.readouterr().out
    assert "verified discriminator: greatest difference in logits" in said
    assert "verified generator: greatest difference in logits" in said
    folder = tmp_path / "hf" / "discriminator"
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForPreTraining.from_pretrained(str(folder))
    assert type(model).__name__ == "ElectraForPreTraining"
    pair = tokenizer("a first text", "and a second one", return_tensors="pt")
    assert pair["token_type_ids"].tolist()[0][-1] == 1
    assert model(**pair).logits.shape == pair["input_ids"].shape
    _, report = AutoModelForSequenceClassification.from_pretrained(str(folder), output_loading_info=True)
    assert all(key.startswith("classifier") for key in report["missing_keys"])
    generator = ElectraForMaskedLM.from_pretrained(str(tmp_path / "hf" / "generator"))
    assert generator.generator_lm_head.weight is generator.electra.embeddings.word_embeddings.weight
    assert len(generator.generator_lm_head.weight) == len(tokenizer) == 1000
    card = (folder / "README.md").read_text()
    assert "10 steps, 80 rows" in card
    assert "AUC on replaced tokens" in card
    assert "| learning rate | 0.001 |" in card and "| rows of a step | 8 |" in card
    assert "documents" in card and "| corpus | languages | documents | tokens | licence |" in card
    assert "not recorded" in card and str(tmp_path) not in card and str(run) not in card
    assert not list((tmp_path / "hf").rglob("*.bin")), "safetensors only"


def test_an_earlier_step_can_be_asked_for(run, tmp_path, capsys):
    assert main(["convert", str(run), "--output", str(tmp_path / "hf"), "--step", "5"]) == 0
    assert "(step 5)" in capsys.readouterr().out
    assert json.loads((tmp_path / "hf" / "electra_ds.json").read_text())["source"]["state"]["step"] == 5


def test_the_tied_pair_comes_back_and_makes_the_same_folders(run, tmp_path):
    from safetensors.torch import load_file

    from electra_ds.export.mapping import discriminator_to_huggingface
    from electra_ds.model.config import ModelConfig

    assert main(["convert", str(run), "--output", str(tmp_path / "hf")]) == 0
    assert main(["convert", str(tmp_path / "hf"), "--output", str(tmp_path / "pair")]) == 0
    weights = load_file(tmp_path / "pair" / "electra.safetensors")
    config = ModelConfig(**json.loads((tmp_path / "pair" / "electra_ds.json").read_text())["model"])
    assert "embeddings.word.weight" in weights
    assert not [name for name in weights if name.startswith("discriminator_embeddings")], "one tensor for both"
    exported = load_file(tmp_path / "hf" / "discriminator" / "model.safetensors")
    again = discriminator_to_huggingface(weights, config)
    assert exported.keys() == again.keys()
    assert all(torch.equal(exported[name], again[name]) for name in exported)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none"], "no such folder"),
        (["{tmp}"], "no checkpoints in it"),
        (["{run}", "--step", "7"], "step-00000007 does not exist"),
        (["{run}", "--stepp", "7"], "did you mean 'step'"),
        (["{run}", "--shard-size", "5 apples"], "expected a size such as 5GB"),
        (["{run}", "--average", "5"], "has 2 checkpoints"),
        (["{run}", "--average", "5,7"], "step-00000007 does not exist"),
        (["{run}", "--average", "5", "--step", "5"], "has 1 checkpoints up to step 5"),
        (["{run}", "--average", "many"], "expected how many of the last checkpoints"),
        (["{run}/checkpoints/step-00000010", "--average", "2"], "is one checkpoint; name its run folder"),
    ],
)
def test_mistakes(run, tmp_path, capsys, arguments, message):
    arguments = [argument.format(tmp=tmp_path, run=run) for argument in arguments]
    assert main(["convert", *arguments, "--output", str(tmp_path / "hf")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


def test_an_output_that_holds_something_is_left_alone(run, tmp_path, capsys):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine.txt").write_text("x")
    assert main(["convert", str(run), "--output", str(tmp_path / "hf")]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "hf").iterdir()] == ["mine.txt"]


def test_a_cut_checkpoint_is_skipped_and_said(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    file = next((copy / "checkpoints" / "step-00000010").glob("*optim_states.pt"))
    file.write_bytes(file.read_bytes()[:-10])
    assert main(["convert", str(copy), "--output", str(tmp_path / "hf")]) == 0
    said = capsys.readouterr().out
    assert f"skipped: checkpoint {copy}" in said
    assert "(step 5)" in said


def test_another_tokenizer_in_the_run_folder_is_refused(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "tokenizer" / "added.json").write_text("{}")
    assert main(["convert", str(copy), "--output", str(tmp_path / "hf")]) == 2
    assert "not the tokenizer this checkpoint was trained with" in capsys.readouterr().err
