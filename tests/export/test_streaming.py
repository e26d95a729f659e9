"""Files of limited size that stock transformers loads, read tensor by tensor, and a verification that can fail."""

import json
import os
import shutil

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from electra_ds.checkpoint import list_checkpoints, read_state
from electra_ds.cli import main
from electra_ds.errors import DataError
from electra_ds.export.huggingface import write_network
from electra_ds.export.networks import DISCRIMINATOR, ENCODER, GENERATOR, left_out, trained_by
from electra_ds.export.verify import verify_network
from electra_ds.export.weights import StoredWeights, TensorWeights
from electra_ds.model.config import ModelConfig
from electra_ds.model.heads import GeneratorHead
from electra_ds.zero_pieces import read_weights
from tests.model.conftest import SPECIAL_DICT, make_model

SHARD = 60_000
SHARING = [
    {"sharing": "tied"},
    {"sharing": "untied"},
    {"sharing": "all_tied", "generator_width": 1.0, "embedding_size": 128},
    {"sharing": "gdes"},
    {"sharing": "gdes", "gdes_positions": False},
]


@pytest.mark.ranks
@pytest.mark.parametrize("stage", ["zero0", "zero1", "zero2", "zero3"])
def test_every_stage_in_many_files_is_what_the_checkpoint_holds(stage, runs, tmp_path, capsys):
    from transformers import ElectraForMaskedLM, ElectraForPreTraining

    run = runs(stage)
    arguments = ["convert", str(run), "--output", str(tmp_path / "hf"), "--shard-size", f"{SHARD}B", "--verify"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    path = list_checkpoints(run / "checkpoints")[-1]
    weights = read_weights(path, read_state(path)[0])
    for network, kind in ((DISCRIMINATOR, ElectraForPreTraining), (GENERATOR, ElectraForMaskedLM)):
        folder = tmp_path / "hf" / network.name
        files = sorted(folder.glob("model-*.safetensors"))
        assert len(files) > 2 and not (folder / "model.safetensors").exists()
        assert f"wrote {network.name}/{files[0].name}" in said
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == {file.name for file in files}
        tensors = {key: origin.read(TensorWeights(weights)) for key, origin in network.origins(config_of(run)).items()}
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
        for file in files:
            held = [key for key, name in index["weight_map"].items() if name == file.name]
            assert len(held) == 1 or sum(tensors[key].nbytes for key in held) <= SHARD
        model, report = kind.from_pretrained(str(folder), output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        loaded = model.state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in tensors.items())


def config_of(run):
    return ModelConfig(**read_state(list_checkpoints(run / "checkpoints")[-1])[0].model)


class Counting:
    """Weights that know how many bytes of what they gave away are still alive."""

    def __init__(self, weights):
        self._weights, self.shapes, self._given, self.most = weights, weights.shapes, [], 0

    def read(self, name, begin=0, end=None):
        value = self._weights.read(name, begin, end)
        self._given = [(alive, size) for alive, size in self._given if not alive.expired()]
        self._given.append((StorageWeakRef(value.untyped_storage()), value.untyped_storage().nbytes()))
        self.most = max(self.most, sum(size for _, size in self._given))
        return value


@pytest.mark.parametrize("sharing", SHARING, ids=lambda s: "-".join(map(str, s.values())))
def test_no_more_than_one_file_and_one_tensor_is_alive(sharing, tmp_path):
    """Whatever the tensors are made of: slices, cuts or sums."""
    model = make_model(layers=4, **sharing)
    weights = TensorWeights({name: value.detach() for name, value in model.named_parameters()})
    for network in (DISCRIMINATOR, GENERATOR):
        counting = Counting(weights)
        folder = tmp_path / network.name
        write_network(folder, network, counting, model.config, SPECIAL_DICT, 200_000)
        files = [file.stat().st_size for file in folder.glob("*.safetensors")]
        largest = max(origin.shape(weights).numel() * 4 for origin in network.origins(model.config).values())
        assert len(files) > 2 and counting.most > 0
        assert counting.most <= max(files) + largest
        verify_network(folder, network, counting, model.config, SPECIAL_DICT, {})


@pytest.fixture
def written(tmp_path):
    """A discriminator's folder, and what to verify it against."""
    model = make_model()
    weights = TensorWeights({name: value.detach() for name, value in model.named_parameters()})
    folder = tmp_path / "discriminator"
    write_network(folder, DISCRIMINATOR, weights, model.config, SPECIAL_DICT, 10**9)
    return folder, (DISCRIMINATOR, weights, model.config, SPECIAL_DICT, {})


def change(folder, edit):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_export_passes(written):
    folder, arguments = written
    found = verify_network(folder, *arguments)
    assert found.tensors == len(DISCRIMINATOR.origins(arguments[2]))
    assert found.difference <= 1e-4 < found.largest


def _one_number(tensors):
    """A row of the vocabulary that hardly any text has."""
    tensors["electra.embeddings.word_embeddings.weight"][57, 3] += 1e-6


def _lost(tensors):
    del tensors["electra.encoder.layer.1.attention.self.key.weight"]


def _added(tensors):
    tensors["classifier.weight"] = torch.zeros(2, 2)


def _halved(tensors):
    key = "discriminator_predictions.dense.weight"
    tensors[key] = tensors[key].half()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_one_number, "word_embeddings.weight is not what the checkpoint holds"),
        (_lost, "key.weight is missing"),
        (_added, "classifier.weight does not belong there"),
        (_halved, "dense.weight is not what the checkpoint holds"),
    ],
)
def test_a_changed_export_fails(written, edit, message):
    folder, arguments = written
    change(folder, edit)
    with pytest.raises(DataError, match=message):
        verify_network(folder, *arguments)


def test_a_cut_file_fails(written):
    folder, arguments = written
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="cannot be read"):
        verify_network(folder, *arguments)


def test_another_config_fails(written):
    """The tensors are right, and stock transformers would compute something else from them."""
    folder, arguments = written
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(DataError, match="logits differ by up to"):
        verify_network(folder, *arguments)


@pytest.mark.ranks
def test_a_wrong_mapping_fails_and_nothing_is_left(runs, tmp_path, capsys, monkeypatch):
    """Key and value swapped: every tensor is there and of the right shape, so only the logits can tell."""
    from electra_ds.export import mapping

    monkeypatch.setattr(mapping, "_QKV", ("query", "value", "key"))
    assert main(["convert", str(runs("zero1")), "--output", str(tmp_path / "hf"), "--verify"]) == 2
    error = capsys.readouterr().err
    assert "logits differ by up to" in error and "nothing was written to hf" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.ranks
def test_a_checkpoint_of_another_model_than_its_state_says_is_refused(runs, tmp_path):
    path = list_checkpoints(runs("zero1") / "checkpoints")[-1]
    state, _ = read_state(path)
    weights, config = StoredWeights(path, state), ModelConfig(**{**state.model, "hidden_size": 128, "layers": 1})
    with pytest.raises(DataError, match="of another model than its state says"):
        write_network(tmp_path / "out", DISCRIMINATOR, weights, config, state.special_ids, 10**9)
    assert not (tmp_path / "out").exists()


def test_an_objective_that_nothing_is_known_of_is_refused():
    assert trained_by({"mask_fraction": 0.15}).networks == (DISCRIMINATOR, GENERATOR)
    assert trained_by({"name": "mlm"}).networks == (ENCODER,)
    with pytest.raises(DataError, match=r"objective.name=sorcery: this release exports electra, electra_15, mlm"):
        trained_by({"name": "sorcery"})


@pytest.mark.parametrize("sharing", SHARING, ids=lambda s: "-".join(map(str, s.values())))
def test_a_full_size_network_with_a_vocabulary_head(sharing, tmp_path):
    """What mlm, replace_mlm and all_tokens_mlm train, under the names that their checkpoints have."""
    model = make_model(**sharing)
    torch.manual_seed(1)
    head = GeneratorHead(128, model.config.embedding_size, 101, model.config.padded_vocab_size, 1e-12)
    tensors = {name: value.detach() for name, value in model.named_parameters() if "discriminator_head" not in name}
    tensors |= {f"vocabulary_head.{name}": value.detach() for name, value in head.named_parameters()}
    weights = TensorWeights(tensors)
    write_network(tmp_path / "encoder", ENCODER, weights, model.config, SPECIAL_DICT, 10**9)
    found = verify_network(tmp_path / "encoder", ENCODER, weights, model.config, SPECIAL_DICT, {"name": "replace_mlm"})
    assert found.difference <= 1e-4 * max(1, found.largest)
    assert not left_out(trained_by({"name": "replace_mlm"}), weights, model.config)
    gate = TensorWeights({**tensors, "vocabulary_head.copy_gate.weight": torch.zeros(1, 128)})
    assert left_out(trained_by({"name": "all_tokens_mlm"}), gate, model.config) == ["vocabulary_head.copy_gate.weight"]
    with pytest.raises(DataError, match=r"belong to none of its networks \(vocabulary_head.copy_gate.weight\)"):
        left_out(trained_by({"name": "replace_mlm"}), gate, model.config)


@pytest.mark.ranks
def test_a_checkpoint_that_would_run_code_is_refused_by_name(runs, tmp_path, capsys):
    """With its checksum made good, as someone who forges a checkpoint would."""
    from electra_ds.files import sha256_of

    copy = shutil.copytree(runs("zero1"), tmp_path / "run")
    path = list_checkpoints(copy / "checkpoints")[-1]
    file = next(path.glob("*model_states.pt"))
    content = torch.load(file, weights_only=False)
    torch.save({**content, "extra": Making(tmp_path / "ran")}, file)
    described = json.loads((path / "checkpoint.json").read_text())
    described["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    (path / "checkpoint.json").write_text(json.dumps(described))
    assert main(["convert", str(copy), "--output", str(tmp_path / "hf")]) == 2
    assert f"{file}: refused or damaged (it would run or build posix.mkdir)" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "hf").exists()


class Making:
    """Something that a pickle would run."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)
