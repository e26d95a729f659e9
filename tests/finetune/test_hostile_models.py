"""A model folder from anywhere runs nothing: neither code that its config names nor what a pickle of weights holds."""

import io
import json
import os
import sys

import pytest
import torch

from electra_ds.errors import DataError
from electra_ds.finetune.models import build_model, load_config, load_tokenizer, refuse_code
from tests.finetune.conftest import VOCABULARY, write_electra, write_tokenizer
from tests.finetune.test_command import finetune, refused


class Making:
    """Something that a pickle would run."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "hf"
    write_electra(folder)
    write_tokenizer(folder, VOCABULARY)
    return folder


def name_code(folder, file, ran, **changes):
    """Put code beside the weights that makes a folder when it is imported, and name it in one of the JSON files."""
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n", "utf-8")
    content = json.loads((folder / file).read_text("utf-8"))
    named = {
        "AutoConfig": "evil.Config",
        "AutoTokenizer": ["evil.Tokenizer", None],
        "AutoModelForSequenceClassification": "evil.Model",
    }
    (folder / file).write_text(json.dumps({**content, "auto_map": named, **changes}), "utf-8")


def pickled(folder):
    """Turn the weights into a pickle; return its content."""
    from safetensors.torch import load_file

    content = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return content


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["electra", "evil"])
def test_code_that_a_folder_names_is_refused_and_never_asked_about(
    model, train_file, validation_file, tmp_path, capsys, monkeypatch, file, kind
):
    name_code(model, file, tmp_path / "ran", **({"model_type": kind} if file == "config.json" else {}))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    message = refused(capsys, model, train_file, validation_file, tmp_path / "ft")
    assert f"{model / file} names code of the model's own" in message and "evil.Model" in message
    with pytest.raises(DataError, match="code of the model's own"):
        refuse_code(str(model))
    assert sys.stdin.tell() == 0 and not (tmp_path / "ran").exists()


def test_each_loader_refuses_such_code_by_itself(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    name_code(model, "config.json", tmp_path / "ran")
    with pytest.raises(DataError, match="code of the model's own"):
        load_config(str(model), 0.1, {"num_labels": 2})
    name_code(model, "config.json", tmp_path / "ran", model_type="evil")
    name_code(model, "tokenizer_config.json", tmp_path / "ran", tokenizer_class="EvilTokenizer")
    with pytest.raises(DataError, match="has no config that transformers knows"):
        load_config(str(model), 0.1, {"num_labels": 2})
    with pytest.raises(DataError, match="no tokenizer could be loaded"):
        load_tokenizer(str(model))
    assert sys.stdin.tell() == 0 and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("options", [{}, {"head": "original"}])
def test_a_pickle_that_would_run_something_is_refused_by_name(
    model, train_file, validation_file, tmp_path, capsys, options
):
    torch.save({**pickled(model), "extra": Making(tmp_path / "ran")}, model / "pytorch_model.bin")
    message = refused(capsys, model, train_file, validation_file, tmp_path / "ft", **options)
    assert f"{model / 'pytorch_model.bin'}: refused or damaged (it would run or build posix.mkdir)" in message
    assert not (tmp_path / "ran").exists()


def test_so_is_one_of_several_pickles_and_one_that_only_the_index_names(model, tmp_path):
    content = pickled(model)
    torch.save(content, model / "pytorch_model-00001-of-00002.bin")
    index = model / "pytorch_model.bin.index.json"
    for name in ("pytorch_model-00002-of-00002.bin", "other.bin"):
        torch.save({"extra": Making(tmp_path / "ran")}, model / name)
        index.write_text(json.dumps({"weight_map": {**dict.fromkeys(content, "pytorch_model-00001-of-00002.bin"),
                                                    "extra": name}}))  # fmt: skip
        config = load_config(str(model), 0.1, {"num_labels": 2})
        with pytest.raises(DataError, match=rf"{name}: refused or damaged \(it would run or build posix\.mkdir\)"):
            build_model("AutoModelForSequenceClassification", str(model), config, from_scratch=False)
        (model / name).unlink()
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_tensors_serves(model, train_file, validation_file, tmp_path):
    torch.save(pickled(model), model / "pytorch_model.bin")
    torch.save(Making(tmp_path / "ran"), model / "training_args.bin")  # what a Trainer leaves there; nothing reads it
    assert finetune(model, train_file, validation_file, tmp_path / "ft", seeds=1, epochs=1) == 0
    assert not (tmp_path / "ran").exists()
