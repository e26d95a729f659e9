"""``electra-ds inspect``: what a shard set holds, and whether it is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from electra_ds.cli import main
from electra_ds.data.format import read_manifest


@pytest.fixture
def copy(tiny_shards, tmp_path) -> Path:
    shutil.copytree(tiny_shards, tmp_path / "set")
    return tmp_path / "set"


def test_it_counts_and_shows_decoded_documents(tiny_shards, corpus, capsys):
    assert main(["inspect", str(tiny_shards)]) == 0
    shown = capsys.readouterr().out
    manifest = read_manifest(tiny_shards)
    for split in ("train", "validation"):
        row = next(line.split() for line in shown.splitlines() if line.startswith(split))
        counts = [len(manifest.splits[split]), *(manifest.total(split, n) for n in ("blocks", "documents", "tokens"))]
        assert row[1:5] == [f"{count:,}" for count in counts]
    assert "wordpiece, 1,000 ids (pad=0, unk=1, cls=2, sep=3, mask=4)" in shown
    documents = [line for line in shown.splitlines() if line.startswith("  document ")]
    assert len(documents) == 3
    texts = [json.loads(line)["text"].lower() for line in corpus.read_text("utf-8").splitlines()]
    word = documents[0].partition("sentences: ")[2].split()[0].strip('"')
    assert any(text.lstrip('"').startswith(word) for text in texts)


def test_it_shows_the_block_and_the_split_that_are_asked_for(tiny_shards, capsys):
    blocks = read_manifest(tiny_shards).splits["train"]
    asked = blocks[0].blocks
    assert main(["inspect", str(tiny_shards), "--block", str(asked), "--documents", "1"]) == 0
    assert f"train block {asked} ({blocks[1].name}.tar, number 0 in it)" in capsys.readouterr().out
    assert main(["inspect", f"--path={tiny_shards}", "--split=validation"]) == 0
    assert "validation block 0 (validation-000000.tar, number 0 in it)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "form", [["{}", "--verify"], ["--verify", "{}"], ["{}", "--verify=true"], ["--verify", "true", "{}"]]
)
def test_verification_of_a_whole_set_says_so(form, tiny_shards, capsys):
    assert main(["inspect", *(part.format(tiny_shards) for part in form)]) == 0
    assert "their indexes and the tokenizer are whole" in capsys.readouterr().out


def test_verification_names_every_problem(copy, capsys):
    (copy / "train-000001.tar").unlink()
    with open(copy / "validation-000000.tar", "r+b") as file:
        file.seek(4000)
        byte = file.read(1)
        file.seek(4000)
        file.write(bytes([byte[0] ^ 8]))
    (copy / "tokenizer/vocab.txt").write_text("other")
    assert main(["inspect", str(copy), "--verify"]) != 0
    error = capsys.readouterr().err
    assert "3 of its files are damaged" in error
    assert "train-000001.tar: missing" in error
    assert "validation-000000.tar: sha256 differs" in error
    assert "tokenizer: its files are not those the shards were made with" in error


@pytest.mark.parametrize(
    ("arguments", "damage", "expected"),
    [
        (["--split", "trian"], None, "no split 'trian' (there are train, validation); did you mean 'train'?"),
        (["--block", "999"], None, "block: 999 is not in split 'train', whose "),
        (["--block", "-1"], None, "block: -1 is not in split 'train'"),
        (["--documents", "-1"], None, "documents: -1 is not possible"),
        (["--verfy"], None, "did you mean 'verify'?"),
        ([], "manifest.json", "no manifest.json, so this is not a (finished) shard set"),
        ([], "train-000000.tar", "train-000000.tar: cannot be read"),
        ([], "train-000000.idx", "train-000000.idx: missing"),
        ([], "tokenizer/tokenizer.json", "tokenizer.json: cannot be read"),
    ],
)
def test_what_cannot_be_shown_is_one_error(arguments, damage, expected, copy, capsys):
    if damage:
        (copy / damage).unlink()
    assert main(["inspect", str(copy), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("electra-ds: error:") == 1
    assert expected in error


def test_an_altered_block_is_not_shown(copy, capsys):
    tar = copy / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[1000] ^= 255
    tar.write_bytes(bytes(data))
    assert main(["inspect", str(copy)]) == 2
    assert "train-000000.tar block 0" in (error := capsys.readouterr().err)
    assert "CRC-32" in error
