"""A tiny random pair of networks with a real tokenizer, as `convert` leaves one, and small files to score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SIZE = {
    "layers": 2, "hidden_size": 64, "heads": 2, "intermediate_size": 96, "embedding_size": 32, "generator_width": 0.5,
    "max_positions": 64, "dropout": 0.0, "initializer_range": 0.2, "pad_vocab_to_multiple_of": 64,
}  # fmt: skip


def special_ids(shards: Path) -> dict[str, int]:
    """Ids of special tokens of a shard set."""
    from electra_ds.data.format import read_manifest

    info = read_manifest(shards).tokenizer
    return {"pad": info.pad_id, "unk": info.unk_id, "cls": info.cls_id, "sep": info.sep_id, "mask": info.mask_id}


def make_module(shards: Path, objective):
    """The project's own module of an objective, random weights that say something."""
    import torch

    from electra_ds.data.format import read_manifest
    from electra_ds.model.config import ModelConfig
    from electra_ds.model.masking import SpecialIds
    from electra_ds.model.objectives import build

    torch.manual_seed(3)
    config = ModelConfig(**SIZE, vocab_size=read_manifest(shards).tokenizer.vocab_size)
    return build(config, objective, SpecialIds(**special_ids(shards))).eval()


def write_model(folder: Path, module, shards: Path) -> Path:
    """Its weights as `convert` writes them; the last run had its objective."""
    from electra_ds.command_line import plain
    from electra_ds.data.format import read_manifest
    from electra_ds.export.huggingface import add_tokenizer, write_export, write_network
    from electra_ds.export.networks import trained_by
    from electra_ds.export.weights import TensorWeights

    folder.mkdir()
    state = {
        "objective": plain(module.objective),
        "tokenizer_fingerprint": read_manifest(shards).tokenizer.fingerprint,
    }
    weights, special = TensorWeights(dict(module.named_parameters())), special_ids(shards)
    networks = trained_by(state["objective"]).networks
    for network in networks:
        place = folder / network.name
        write_network(place, network, weights, module.config, special, 10**9)
        add_tokenizer(place, shards / "tokenizer")
        (place / "README.md").write_text(f"# {network.name}\n\nWhat it is.\n\n## Limits\n\nSome.\n", "utf-8")
    write_export(folder, networks, module.config, special, {"state": state})
    return folder


@pytest.fixture(scope="session")
def electra(tiny_shards):
    """ELECTRA's own objective, not at its defaults."""
    from electra_ds.model.config import ObjectiveConfig

    return make_module(tiny_shards, ObjectiveConfig(mask_fraction=0.2, temperature=1.5))


@pytest.fixture(scope="session")
def hf(electra, tiny_shards, tmp_path_factory) -> Path:
    """The same weights as `convert` writes them."""
    return write_model(tmp_path_factory.mktemp("evaluate") / "hf", electra, tiny_shards)


@pytest.fixture(scope="session")
def trained(tiny_shards, tmp_path_factory):
    """Module and folder of an objective by its name, made once."""
    from electra_ds.model.config import ObjectiveConfig

    made = {}

    def get(name: str):
        if name not in made:
            module = make_module(tiny_shards, ObjectiveConfig(name=name))
            made[name] = module, write_model(tmp_path_factory.mktemp(name) / "hf", module, tiny_shards)
        return made[name]

    return get


@pytest.fixture(scope="session")
def pair(hf):
    """The networks and the tokenizer, loaded."""
    from electra_ds.evaluate.models import find_networks, load_pair

    return load_pair(find_networks(str(hf)))


@pytest.fixture(scope="session")
def machine():
    """A CPU and small batches, so that there are several."""
    from electra_ds.evaluate.config import EvaluationConfig
    from electra_ds.evaluate.machine import Machine

    return Machine(EvaluationConfig(model="", output="", device="cpu", batch_tokens=200))


def results(folder: Path) -> dict:
    """results.json of an output folder."""
    return json.loads((folder / "results.json").read_text("utf-8"))


def side_by_side(*found: dict):
    """The tables in which the report sets results beside each other."""
    from electra_ds.report.comparing import evaluations_side_by_side
    from electra_ds.report.results import Named

    return [
        one["table"] for one in evaluations_side_by_side([Named(str(n), one, Path("/")) for n, one in enumerate(found)])
    ]
