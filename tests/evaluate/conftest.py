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


@pytest.fixture(scope="session")
def electra(tiny_shards):
    """The project's own module, random weights that say something."""
    import torch

    from electra_ds.data.format import read_manifest
    from electra_ds.model.config import ModelConfig, ObjectiveConfig
    from electra_ds.model.electra import Electra
    from electra_ds.model.masking import SpecialIds

    torch.manual_seed(3)
    config = ModelConfig(**SIZE, vocab_size=read_manifest(tiny_shards).tokenizer.vocab_size)
    objective = ObjectiveConfig(mask_fraction=0.2, temperature=1.5)
    return Electra(config, objective, SpecialIds(**special_ids(tiny_shards))).eval()


@pytest.fixture(scope="session")
def hf(electra, tiny_shards, tmp_path_factory) -> Path:
    """The same weights as `convert` writes them; their last run had the objective of `electra`."""
    from electra_ds.command_line import plain
    from electra_ds.data.format import read_manifest
    from electra_ds.export.huggingface import add_tokenizer, write_export, write_network
    from electra_ds.export.networks import trained_by
    from electra_ds.export.weights import TensorWeights

    folder = tmp_path_factory.mktemp("evaluate") / "hf"
    folder.mkdir()
    state = {
        "objective": plain(electra.objective),
        "tokenizer_fingerprint": read_manifest(tiny_shards).tokenizer.fingerprint,
    }
    weights, special = TensorWeights(dict(electra.named_parameters())), special_ids(tiny_shards)
    networks = trained_by(state["objective"]).networks
    for network in networks:
        place = folder / network.name
        write_network(place, network, weights, electra.config, special, 10**9)
        add_tokenizer(place, tiny_shards / "tokenizer")
        (place / "README.md").write_text(f"# {network.name}\n\nWhat it is.\n\n## Limits\n\nSome.\n", "utf-8")
    write_export(folder, networks, electra.config, special, {"state": state})
    return folder


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
