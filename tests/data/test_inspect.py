"""``electra-ds inspect``: what a shard set holds, and whether it is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from electra_ds.cli import main
from electra_ds.data.config import DataConfig
from electra_ds.data.format import read_manifest
from electra_ds.data.loader import RowSource
from electra_ds.data.shards import ShardSet
from tests.data.sets import make_corpora


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


def test_it_shows_any_document_whole(tiny_shards, capsys):
    manifest = read_manifest(tiny_shards)
    for number in (0, 17, manifest.total("train", "documents") - 1):
        assert main(["inspect", str(tiny_shards), "--document", str(number)]) == 0
        heading, *sentences = capsys.readouterr().out.splitlines()
        assert heading.startswith(f"train document {number} (block ")
        shards = ShardSet(tiny_shards)
        ends = np.cumsum(shards.records["documents"])
        block = int(np.searchsorted(ends, number, "right"))
        text = shards.read(block)
        inside = number - int(ends[block] - shards.records["documents"][block])
        tokens = text.tokens[text.documents[inside] : text.document_ends[inside]]
        whole = Tokenizer.from_file(str(tiny_shards / "tokenizer/tokenizer.json")).decode(tokens.tolist())
        assert "".join("".join(sentences).split()) == "".join(whole.split())


def test_it_shows_any_row_as_training_sees_it(tiny_shards, capsys):
    source = RowSource(ShardSet(tiny_shards), DataConfig(path="x"), 64, seed=3)
    tokenizer = Tokenizer.from_file(str(tiny_shards / "tokenizer/tokenizer.json"))
    rows = source.at(np.arange(source.total, source.total + 5))
    for number, ids, segments in zip(rows.row_ids, rows.ids, rows.segments, strict=True):
        arguments = ["--row", str(number), "--sequence_length", "64", "--seed", "3", "--epoch", "1"]
        assert main(["inspect", str(tiny_shards), *arguments]) == 0
        heading, *lines = capsys.readouterr().out.splitlines()
        assert f"train row {number} of {len(source):,} (block " in heading
        assert f"{segments.max()} segment" in heading
        shown = "".join(line.partition(": ")[2] for line in lines if line.startswith("    "))
        whole = tokenizer.decode(ids[segments > 0].tolist(), skip_special_tokens=False)
        assert "".join(shown.split()).replace("##", "") == "".join(whole.split()), "but for words cut by a pair"
        assert shown.count("[CLS]") == segments.max()


def test_it_lists_named_corpora_with_their_weights(tmp_path, capsys):
    make_corpora(tmp_path / "set", {"news": 3, "books": 1}, {"news": 1.0, "books": 3.0})
    main(["inspect", str(tmp_path / "set")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["corpus", "shards", "blocks", "documents", "tokens", "share", "weight"] in lines
    rows = {line[0]: line[1:] for line in lines if line and line[0] in ("news", "books")}
    assert rows["news"][:2] + rows["news"][-3:] == ["1", "3", "1,200", "75.00%", "25.00%"]
    assert rows["books"][:2] + rows["books"][-3:] == ["1", "1", "400", "25.00%", "75.00%"]


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
        (["--split", "trian"], None, "no split 'trian', it holds train, validation; did you mean 'train'?"),
        (["--block", "999"], None, "block: 999 is not in split 'train', whose "),
        (["--block", "-1"], None, "block: -1 is not in split 'train'"),
        (["--document", "9999"], None, "document: 9999 is not in split 'train', whose "),
        (["--row", "99999"], None, "row: 99999 is not in split 'train', whose "),
        (["--row", "1", "--sequence_length", "5"], None, "sequence_length: 5 is not possible; expected 16 to 65,535"),
        (["--row", "1", "--sequence_length", "65536"], None, "sequence_length: 65536 is not possible; expected 16 to"),
        (["--row", "1", "--block", "1"], None, "block, document, row: only one of them"),
        (["--documents", "-1"], None, "documents: -1 is not possible"),
        (["--verfy"], None, "did you mean 'verify'?"),
        ([], "manifest.json", "no manifest.json, so this is not a (finished) shard set"),
        ([], "train-000000.tar", "train-000000.tar: missing"),
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
