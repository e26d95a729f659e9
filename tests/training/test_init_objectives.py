"""Every objective begins from a released model, and goes back to one file of our own names."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from electra_ds.cli import main
from electra_ds.errors import UserError
from electra_ds.export.huggingface import write_export, write_network
from electra_ds.export.networks import DISCRIMINATOR, ENCODER, GENERATOR, OBJECTIVES
from electra_ds.export.weights import TensorWeights
from electra_ds.model.config import ObjectiveConfig
from electra_ds.model.masking import SpecialIds
from electra_ds.model.objectives import build
from electra_ds.training.config import InitConfig
from electra_ds.training.initial import begin_from
from tests.training.test_init import SPECIAL, TOKENS, WORD, config_of, stored, write_model, write_tokenizer

WITH_VOCABULARY = ("mlm", "replace_mlm", "all_tokens_mlm")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), TOKENS)


def made(name, seed=0, **changes):
    torch.manual_seed(seed)
    return build(config_of(**changes), ObjectiveConfig(name=name), SpecialIds(**SPECIAL))


def parameters(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def exported(model, folder):
    """What convert writes of a model, by hand."""
    weights = parameters(model)
    networks = OBJECTIVES[model.objective.name].networks
    for network in networks:
        write_network(folder / network.name, network, TensorWeights(weights), model.config, SPECIAL, 10**6)
        write_tokenizer(folder / network.name, TOKENS)
    write_export(folder, networks, model.config, SPECIAL, {"state": {"objective": {"name": model.objective.name}}})
    return folder, weights


@pytest.mark.parametrize("name", OBJECTIVES)
def test_from_a_discriminator_alone(name, tmp_path, tokenizer):
    folder = write_model(tmp_path / "released", DISCRIMINATOR, config_of())
    model = made(name)
    before = parameters(model)
    said = begin_from(model, InitConfig(from_=str(folder)), tokenizer, SPECIAL, seed=7)
    network, after = OBJECTIVES[name].networks[0], parameters(model)
    origins, wanted = network.origins(model.config), stored(folder)
    for key, origin in origins.items():
        value = origin.read(TensorWeights(after))
        if key in wanted:
            assert torch.equal(value, wanted[key]), key
        else:
            assert name in WITH_VOCABULARY and key.startswith(network.heads), key
            assert torch.equal(value, origin.read(TensorWeights(before))), key
    assert any("new, as it has none: generator_predictions" in line for line in said) == (name in WITH_VOCABULARY)
    nowhere = {"all_tokens_mlm": "vocabulary_head.copy_gate", "electric": "generator."}.get(name)
    assert any(line.startswith("new, as no model of transformers") for line in said) == (nowhere is not None)
    for key, value in after.items():
        if nowhere and key.startswith(nowhere):
            assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", WITH_VOCABULARY)
def test_from_a_masked_language_model(name, tmp_path, tokenizer):
    folder = write_model(tmp_path / "released", ENCODER, config_of())
    model = made(name)
    said = begin_from(model, InitConfig(from_=str(folder)), tokenizer, SPECIAL, seed=7)
    after, wanted = TensorWeights(parameters(model)), stored(folder)
    assert all(torch.equal(o.read(after), wanted[key]) for key, o in ENCODER.origins(model.config).items())
    assert said[0] == f"encoder: {len(ENCODER.origins(model.config))} tensors from {folder}"
    assert any(line.startswith("generator: none was given") for line in said) == (name != "mlm")


@pytest.mark.parametrize(("there", "here"), [("mlm", "electra"), ("electra", "replace_mlm"), ("all_tokens_mlm", "mlm")])
def test_from_what_another_objective_left(there, here, tmp_path, tokenizer):
    folder, weights = exported(made(there, seed=3), tmp_path / "hf")
    model = made(here)
    said = begin_from(model, InitConfig(from_=str(folder)), tokenizer, SPECIAL, seed=7)
    after = parameters(model)
    assert torch.equal(after["embeddings.word.weight"][:100], weights["embeddings.word.weight"][:100])
    same = [name for name in after if name.startswith("discriminator.layers")]
    assert same and all(torch.equal(after[name], weights[name]) for name in same)
    took_generator = any(f"from {folder}/generator" in line for line in said)
    assert took_generator == (there != "mlm" and here != "mlm")
    if took_generator:
        assert torch.equal(after["generator.layers.0.qkv.weight"], weights["generator.layers.0.qkv.weight"])


def test_a_generator_for_an_objective_without_one_is_refused(tmp_path, tokenizer):
    folder = write_model(tmp_path / "released", DISCRIMINATOR, config_of())
    other = write_model(tmp_path / "generator", GENERATOR, config_of())
    with pytest.raises(UserError, match=r"init.generator=.*objective.name=mlm trains no generator"):
        begin_from(made("mlm"), InitConfig(from_=str(folder), generator=str(other)), tokenizer, SPECIAL, seed=7)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_back_to_one_file(name, tmp_path, capsys):
    """Bit for bit; what no class of transformers has a place for is named."""
    folder, weights = exported(made(name, seed=3), tmp_path / "hf")
    assert main(["convert", str(folder), "--output", str(tmp_path / "own")]) == 0
    said = capsys.readouterr().out
    back = load_file(tmp_path / "own" / "electra.safetensors")
    absent = weights.keys() - back.keys()
    assert bool(absent) == bool(OBJECTIVES[name].left_out) == ("not in it" in said)
    assert all(key.startswith(OBJECTIVES[name].left_out) for key in absent)
    for key, value in back.items():
        rows = 100 if "word" in key or key.endswith("head.bias") else len(value)
        assert torch.equal(value[:rows], weights[key][:rows]), key
    assert json.loads((tmp_path / "own" / "electra_ds.json").read_text())["model"]["vocab_size"] == 100
    assert WORD not in back


@pytest.mark.parametrize("name", ["electric", "electra"])
def test_a_difference_from_embeddings_that_no_network_has(name, tmp_path, tokenizer):
    """What electric's own generator reads has no class of transformers; its discriminator's embeddings begin there."""
    folder = write_model(tmp_path / "released", DISCRIMINATOR, config_of())
    model = made(name, sharing="gdes")
    begin_from(model, InitConfig(from_=str(folder)), tokenizer, SPECIAL, seed=7)
    after, wanted = parameters(model), stored(folder)
    exported_word = DISCRIMINATOR.origins(model.config)[WORD].read(TensorWeights(after))
    assert torch.equal(exported_word, wanted[WORD])
    assert torch.equal(after["embeddings.word.weight"][:100], wanted[WORD])
    assert not after["discriminator_embeddings.word_delta.weight"].any()


@pytest.mark.ranks
@pytest.mark.parametrize(("stage", "name"), [("zero0", "mlm"), ("zero1", "electra"), ("zero3", "replace_mlm")])
def test_a_run_in_16_bits_begins_at_the_numbers_of_the_file(stage, name, tiny_shards, tmp_path, alone):
    """The first update has rate 0, so the first checkpoint's float32 weights are those that were read."""
    from electra_ds.checkpoint import list_checkpoints, read_state
    from electra_ds.recipe import parse_recipe
    from electra_ds.training.command import prepare_folder
    from electra_ds.zero_pieces import read_weights
    from tests.conftest import pretrain_options
    from tests.training.test_objectives import train

    first = pretrain_options(tiny_shards, tmp_path / "first", training__steps=2, training__precision="float32")
    train(alone, first)
    shutil.copytree(tiny_shards / "tokenizer", tmp_path / "first/tokenizer")  # as the command does
    assert main(["convert", str(tmp_path / "first"), "--output", str(tmp_path / "hf")]) == 0
    options = {"objective__name": name, "init__from": tmp_path / "hf", "deepspeed": stage, "training__steps": 1}
    arguments = pretrain_options(tiny_shards, tmp_path / "second", **options)
    prepare_folder(parse_recipe(arguments, "test"))
    shutil.copytree(tiny_shards / "tokenizer", tmp_path / "second/tokenizer")
    train(alone, arguments)
    path = list_checkpoints(tmp_path / "second" / "checkpoints")[-1]
    weights = read_weights(path, read_state(path)[0])
    released = stored(tmp_path / "hf" / "discriminator")
    for key, origin in OBJECTIVES[name].networks[0].origins(config_of_run(path)).items():
        if key in released:
            assert torch.equal(origin.read(TensorWeights(weights)), released[key]), key


def config_of_run(path):
    from electra_ds.checkpoint import read_state
    from electra_ds.model.config import ModelConfig

    return ModelConfig(**read_state(path)[0].model)
