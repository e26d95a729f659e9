"""Evaluating a model from anywhere runs nothing that its files bring, and asks nobody whether to."""

import io
import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from electra_ds.cli import main


class Making:
    """Something that a pickle would run."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@pytest.fixture(params=["bias", "robustness"])
def refused(request, hf, tmp_path, capsys, monkeypatch):
    """Evaluate a folder that was tampered with; return the folder before that, and what is said afterwards."""
    from transformers import ElectraForSequenceClassification

    folder = tmp_path / "model"
    shutil.copytree(hf / "discriminator", folder)
    if request.param == "robustness":
        ElectraForSequenceClassification.from_pretrained(str(folder)).save_pretrained(folder)
    pairs, texts = tmp_path / "pairs.csv", tmp_path / "in.jsonl"
    pairs.write_text("sent_more,sent_less,stereo_antistereo,bias_type\na file,a name,stereo,age\n", "utf-8")
    texts.write_text('{"text": "a file", "label": "LABEL_0"}\n', "utf-8")
    data = ["--pairs", str(pairs)] if request.param == "bias" else ["--data", str(texts)]
    options = ["--model", str(folder), *data, "--output", str(tmp_path / "out"), "--bootstrap", "0"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))

    def run():
        assert main(["evaluate", request.param, *options]) == 2
        assert sys.stdin.tell() == 0, "nothing was asked"
        return capsys.readouterr().err

    return folder, run


@pytest.mark.parametrize("kind", ["electra", "evil"])
def test_code_of_a_models_own_is_refused(refused, tmp_path, kind):
    folder, run = refused
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n", "utf-8")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    named = dict.fromkeys(("AutoConfig", "AutoModelForMaskedLM", "AutoModelForSequenceClassification"), "evil.Model")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": kind, "auto_map": named}), "utf-8")
    assert f"{folder / 'config.json'} names code of the model's own (auto_map: evil.Model" in run()
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_would_run_something_is_refused_by_name(refused, tmp_path):
    folder, run = refused
    content = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**content, "extra": Making(tmp_path / "ran")}, folder / "pytorch_model.bin")
    assert f"{folder / 'pytorch_model.bin'}: refused or damaged (it would run or build posix.mkdir)" in run()
    assert not (tmp_path / "ran").exists()
