"""Checkpoints of every objective: their networks in stock transformers compute what this project's modules compute."""

import pytest
import torch

from electra_ds.errors import DataError
from electra_ds.export.huggingface import check_complete, write_network
from electra_ds.export.networks import OBJECTIVES, trained_by
from electra_ds.export.verify import verify_network
from electra_ds.export.weights import TensorWeights
from electra_ds.model.config import ObjectiveConfig
from electra_ds.model.objectives import OBJECTIVES as MODULES
from tests.model.conftest import SPECIAL_DICT, make_model

ALL_TIED = {"sharing": "all_tied", "generator_width": 1.0, "embedding_size": 128}
CASES = [
    ("electra_15", {}),
    ("mlm", {}),
    ("electric", {"sharing": "gdes"}),
    *((name, sharing) for name in ("replace_mlm", "all_tokens_mlm") for sharing in (
        {}, {"sharing": "untied"}, {"sharing": "gdes"}, ALL_TIED
    )),
]  # fmt: skip


def test_every_objective_says_what_it_exports():
    assert OBJECTIVES.keys() == MODULES.keys()


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_its_networks_are_whole_and_compute_the_same(name, sizes, tmp_path):
    objective = ObjectiveConfig(name=name)
    model = make_model(objective, **sizes)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    weights = TensorWeights(dict(model.named_parameters()))
    for network in trained_by({"name": name}).networks:
        check_complete(network, weights, model.config, SPECIAL_DICT)
        folder = tmp_path / network.name
        write_network(folder, network, weights, model.config, SPECIAL_DICT, 10**9)
        found = verify_network(folder, network, weights, model.config, SPECIAL_DICT, {"name": name})
        assert found.difference <= 1e-4 * max(1.0, found.largest) and found.largest > 0.1
        assert found.tensors == len(network.origins(model.config))


def test_weights_of_another_objective_are_refused(tmp_path):
    model = make_model(ObjectiveConfig(name="mlm"))
    weights = TensorWeights(dict(model.named_parameters()))
    (network, _) = trained_by({"name": "electra"}).networks
    with pytest.raises((DataError, KeyError), match="discriminator_head"):
        write_network(tmp_path / "out", network, weights, model.config, SPECIAL_DICT, 10**9)
