"""The same bytes for any number of processes and ranks, after any kill, and for what a rerun rebuilds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import data_prep.plan
from data_prep.documents import content_hashes, validation_mask
from data_prep.tokenizer import load_encoder
from electra_ds.data.format import read_manifest
from tests.data_prep.conftest import blocks, contents, prep, refusal, texts_of


def read_texts(path: Path) -> list[str]:
    texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    return [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]


def test_without_a_shuffle_shards_hold_every_token_of_every_document_in_order(inputs, tmp_path):
    output = tmp_path / "set"
    assert prep(inputs, output, shuffle="false") == 0
    encoder = load_encoder(output / "tokenizer")
    texts = [text.encode() for text in read_texts(inputs)]
    held_out = validation_mask(content_hashes(texts), 0.1, 0)
    for split, wanted in (("train", False), ("validation", True)):
        mine = [text for text, mark in zip(texts, held_out, strict=True) if mark == wanted]
        expected = encoder.encode(mine)
        found = blocks(output, split)
        assert np.array_equal(np.concatenate([block.tokens for block in found]), expected.tokens)
        starts = sum(len(block.documents) - block.metadata["continues"] for block in found)
        assert starts == np.count_nonzero(expected.token_counts)
        assert starts == read_manifest(output).statistics["documents_kept"][split]


def test_a_shuffle_moves_documents_and_loses_none(inputs, undisturbed, tmp_path):
    assert prep(inputs, tmp_path / "ordered", shuffle="false") == 0
    assert prep(inputs, tmp_path / "other", seed=1) == 0
    for split in ("train", "validation"):
        ordered, shuffled = texts_of(tmp_path / "ordered", split), texts_of(undisturbed, split)
        assert sorted(ordered) == sorted(shuffled)
        assert ordered != shuffled
    ordered, shuffled = texts_of(tmp_path / "ordered", "train"), texts_of(undisturbed, "train")
    places = np.array([shuffled.index(text) for text in ordered])
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.25
    assert texts_of(tmp_path / "other", "train") != shuffled


def test_blocks_are_full_but_the_last_of_a_shard(undisturbed):
    shards = read_manifest(undisturbed).splits["train"]
    found = iter(blocks(undisturbed, "train"))
    for shard in shards:
        sizes = [len(next(found).tokens) for _ in range(shard.blocks)]
        assert all(2000 <= size < 4000 for size in sizes[:-1])
        assert 0 < sizes[-1] < 4000
    # Shards are about equally large: shard_blocks is 3 blocks of 2,000 tokens and more.
    assert len(shards) > 5
    assert max(shard.tokens for shard in shards) < 6 * 6000


def test_the_manifest_counts_what_was_read_and_dropped(inputs, undisturbed):
    statistics = read_manifest(undisturbed).statistics
    lines = len(inputs.read_text("utf-8").splitlines())
    assert statistics["documents_read"] == lines
    assert statistics["documents_dropped"] == {"empty": 2, "without a token": 1}
    assert sum(statistics["documents_kept"].values()) == lines - 3
    assert sum(entry["tokens"] for entry in statistics["sources"].values()) == statistics["tokens"]
    assert set(statistics["sources"]) == {"s0", "s1", "s2", "unnamed"}
    corpus = statistics["corpora"][""]
    assert sum(corpus["length_histogram"]) == lines - 3
    assert corpus["languages"]["en"]["documents"] + corpus["languages"]["unknown"]["documents"] == lines - 3
    assert 0 < statistics["vocabulary"]["used"] <= 400


def test_a_block_names_the_source_language_and_file_of_its_documents(undisturbed):
    found = blocks(undisturbed, "train")
    labels = [block.label(number) for block in found for number in range(len(block.documents))]
    assert {label[2] for label in labels} == {"corpus.jsonl"}
    assert {tuple(label[:2]) for label in labels} == {("s0", "en"), ("s1", "en"), ("s2", "en"), ("", "")}


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_processes_makes_the_same_bytes(workers, inputs, undisturbed, tmp_path):
    assert prep(inputs, tmp_path / "set", workers=workers) == 0
    assert contents(tmp_path / "set") == contents(undisturbed)


def test_a_finished_tokenizer_makes_the_same_shards_in_one_pass(inputs, undisturbed, tmp_path):
    given = {"tokenizer__type": "existing", "tokenizer__path": undisturbed / "tokenizer", "tokenizer__vocab_size": None}
    assert prep(inputs, tmp_path / "set", **given) == 0
    mine, theirs = contents(tmp_path / "set"), contents(undisturbed)
    del mine["manifest.json"], theirs["manifest.json"]
    assert mine == theirs


def test_the_size_of_pieces_does_not_show_without_a_shuffle(inputs, tmp_path, monkeypatch):
    assert prep(inputs, tmp_path / "large", shuffle="false") == 0
    monkeypatch.setattr(data_prep.plan, "PIECE_BYTES", 3000)
    assert prep(inputs, tmp_path / "small", shuffle="false") == 0
    large, small = contents(tmp_path / "large"), contents(tmp_path / "small")
    del large["manifest.json"], small["manifest.json"]
    assert large == small


def test_another_seed_holds_out_other_documents(inputs, undisturbed, tmp_path):
    assert prep(inputs, tmp_path / "set", seed=1) == 0
    mine, others = (set(texts_of(folder, "validation")) for folder in (tmp_path / "set", undisturbed))
    assert mine != others


def test_a_finished_set_is_left_alone(inputs, undisturbed, capfd):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert prep(inputs, undisturbed, workers=2) == 0
    assert "nothing to do" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


@pytest.mark.parametrize("lost", ["train-000001.tar", "train-000000.idx", "validation-000000.tar", "tokenizer"])
def test_what_was_deleted_from_a_set_is_rebuilt(lost, inputs, undisturbed, tmp_path):
    output = tmp_path / "set"
    shutil.copytree(undisturbed, output)
    if (output / lost).is_dir():
        shutil.rmtree(output / lost)
    else:
        (output / lost).unlink()
    assert prep(inputs, output) == 0
    assert contents(output) == contents(undisturbed)


def test_a_rebuild_from_a_changed_corpus_is_refused(inputs, tmp_path, capfd):
    lines = inputs.read_text("utf-8").splitlines(keepends=True)
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(lines), "utf-8")
    assert prep(path, tmp_path / "set") == 0
    path.write_text("".join(reversed(lines)), "utf-8")  # as many bytes, another order
    (tmp_path / "set/train-000000.tar").unlink()
    before = contents(tmp_path / "set")
    error = refusal(capfd, lambda: prep(path, tmp_path / "set"))
    assert "differs from the manifest" in error
    assert before.items() <= contents(tmp_path / "set").items()


def test_an_input_written_anew_begins_an_unfinished_preparation_anew(inputs, tmp_path, capfd):
    lines = inputs.read_text("utf-8").splitlines(keepends=True)
    path, output = tmp_path / "corpus.jsonl", tmp_path / "set"
    good = json.dumps({"text": "one document more"}) + "\n"
    path.write_text("".join([*lines, "{" * (len(good) - 1) + "\n"]), "utf-8")
    refusal(capfd, lambda: prep(path, output))
    assert list(output.glob(".prep/parts/*/*.text"))
    path.write_text("".join([*lines[1:], lines[0], good]), "utf-8")  # as many bytes, another order
    assert prep(path, output) == 0
    assert "written anew" in capfd.readouterr().err
    assert prep(path, tmp_path / "fresh") == 0
    assert contents(output) == contents(tmp_path / "fresh")
