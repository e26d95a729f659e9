"""A push arrives whole, or is said not to have: against a hub on this machine."""

import pytest
import torch

from electra_ds.cli import main
from electra_ds.export.huggingface import write_export, write_network
from electra_ds.export.networks import DISCRIMINATOR, GENERATOR
from electra_ds.export.weights import TensorWeights
from tests.export.hub_server import TOKEN, Hub
from tests.model.conftest import SPECIAL_DICT, make_model


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What convert leaves, of a small network."""
    folder = tmp_path_factory.mktemp("hub") / "hf"
    model = make_model()
    weights = TensorWeights({name: value.detach() for name, value in model.named_parameters()})
    for network in (DISCRIMINATOR, GENERATOR):
        write_network(folder / network.name, network, weights, model.config, SPECIAL_DICT, 500_000)
        (folder / network.name / "README.md").write_text(f"---\nlicense: mit\n---\n# {network.name}\n")
    write_export(folder, (DISCRIMINATOR, GENERATOR), model.config, SPECIAL_DICT, {})
    return folder


def push(folder, name="me/tiny", *options):
    return main(["convert", str(folder), "--push-to-hub", name, *options])


def test_every_file_of_both_networks_arrives(hub, folder, capsys):
    assert push(folder) == 0
    said = capsys.readouterr().out
    for network in ("discriminator", "generator"):
        assert f"pushed {network}: {hub.url}/me/tiny-{network}" in said
        here = {path.name: path.read_bytes() for path in (folder / network).iterdir()}
        assert len([name for name in here if name.endswith(".safetensors")]) > 1
        assert hub.repositories[f"me/tiny-{network}"] == here
    assert hub.private == {"me/tiny-discriminator", "me/tiny-generator"}


def test_shards_of_an_earlier_push_go_and_other_files_stay(hub, folder):
    hub.repositories["me/tiny-generator"] = {"model-00009-of-00009.safetensors": b"old", "notes.txt": b"mine"}
    assert push(folder, "me/tiny", "--hub-private=false") == 0
    there = hub.repositories["me/tiny-generator"]
    assert "model-00009-of-00009.safetensors" not in there and there["notes.txt"] == b"mine"
    assert not hub.private


@pytest.mark.parametrize("fault", ["refuses", "loses"])
def test_what_did_not_arrive_whole_is_not_reported_as_done(hub, folder, capsys, fault):
    setattr(hub, fault, "me/tiny-generator")
    assert push(folder) == 2
    told = capsys.readouterr()
    assert "pushed discriminator" in told.out and "pushed generator" not in told.out
    assert "me/tiny-generator is not complete on the hub" in told.err
    assert "whole on the hub: me/tiny-discriminator" in told.err
    assert "tries again" in told.err
    setattr(hub, fault, None)
    assert push(folder) == 0


def test_without_a_token_nothing_is_begun(hub, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert push(folder) == 2
    assert "no token of the Hugging Face hub is found; log in with 'hf auth login'" in capsys.readouterr().err
    assert not hub.repositories


def test_a_token_that_the_hub_does_not_take(hub, folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone_else")
    assert push(folder) == 2
    assert f"{hub.url} does not take the token" in capsys.readouterr().err
    assert not hub.repositories


def test_without_a_network(hub, folder, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert push(folder) == 2
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9 cannot be reached" in error
    assert "push the folder later" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--push-to-hub", "no-owner"], "expected OWNER/NAME"),
        (["--push-to-hub", "me/tiny", "--output", "{tmp}/again"], "is pushed as it is; leave --output out"),
        ([], "name the folder to write"),
    ],
)
def test_mistakes(hub, folder, tmp_path, capsys, arguments, message):
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main(["convert", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not hub.repositories


@pytest.mark.ranks
def test_a_run_is_converted_and_pushed_in_one_go(hub, runs, tmp_path):
    from transformers import AutoModelForPreTraining

    assert main(["convert", str(runs("zero1")), "--output", str(tmp_path / "hf"), "--push-to-hub", "me/run"]) == 0
    there = hub.repositories["me/run-discriminator"]
    assert b'from_pretrained("me/run-discriminator"' in there["README.md"]
    assert {"config.json", "tokenizer.json", "model.safetensors", "README.md"} <= set(there)
    (tmp_path / "down").mkdir()
    for name, content in there.items():
        (tmp_path / "down" / name).write_bytes(content)
    model = AutoModelForPreTraining.from_pretrained(str(tmp_path / "down"))
    assert isinstance(model.discriminator_predictions.dense.weight, torch.nn.Parameter)
