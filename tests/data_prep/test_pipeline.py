"""The same bytes for any number of processes, after any kill, and for what a rerun rebuilds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_prep.units
from data_prep.documents import is_validation, sample_texts
from data_prep.pack import Packer
from data_prep.sources import Document
from data_prep.tokenizer import load_encoder
from electra_ds.data.format import decode_block, read_block_bytes, read_index, read_manifest
from tests.data_prep.conftest import POLYGLOT, contents, options, prep, refusal


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Units of 20 kB: a corpus of a test has many."""
    monkeypatch.setattr(data_prep.units, "UNIT_BYTES", 20_000)


@pytest.fixture(scope="module")
def inputs(corpus, tmp_path_factory) -> Path:
    texts = [json.loads(line)["text"] for line in corpus.read_text("utf-8").splitlines()]
    rows: list[dict[str, str]] = [{"text": text, "source": f"s{n % 3}", "lang": "en"} for n, text in enumerate(texts)]
    rows += [{"text": text} for text in POLYGLOT]
    rows += [{"text": ""}, {"text": " \n "}, {"text": "\u200b\x01"}, {"text": "lone \ud800 surrogate, and more"}]
    path = tmp_path_factory.mktemp("inputs") / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory) -> Path:
    """What one process makes in one go."""
    output = tmp_path_factory.mktemp("undisturbed") / "set"
    assert prep(inputs, output) == 0
    return output


def blocks(folder: Path, split: str) -> list:
    found = []
    for shard in read_manifest(folder).splits[split]:
        with open(folder / f"{shard.name}.tar", "rb") as file:
            records = read_index(folder / f"{shard.name}.idx").records
            found += [decode_block(read_block_bytes(file.fileno(), record, shard.name)) for record in records]
    return found


def test_shards_hold_every_token_of_every_document_in_order(inputs, undisturbed):
    encoder = load_encoder(undisturbed / "tokenizer")
    texts = [json.loads(line)["text"] for line in inputs.read_text("utf-8").splitlines()]
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    for split, wanted in (("train", False), ("validation", True)):
        mine = [text for text in texts if is_validation(text, 0.1, 0) == wanted]
        expected = [tokens for tokens, _ in encoder.encode(mine) if len(tokens)]
        found = blocks(undisturbed, split)
        assert np.array_equal(np.concatenate([block.tokens for block in found]), np.concatenate(expected))
        assert all(2000 <= len(block.tokens) < 4000 for block in found[:-1])
        starts = sum(len(block.documents) - block.metadata["continues"] for block in found)
        assert starts == len(expected) == read_manifest(undisturbed).statistics["documents_kept"][split]


def test_the_manifest_counts_what_was_read_and_dropped(inputs, undisturbed):
    statistics = read_manifest(undisturbed).statistics
    lines = len(inputs.read_text("utf-8").splitlines())
    assert statistics["documents_read"] == lines
    assert statistics["documents_dropped"] == {"empty": 2, "without a token": 1}
    assert sum(statistics["documents_kept"].values()) == lines - 3
    assert sum(entry["tokens"] for entry in statistics["sources"].values()) == statistics["tokens"]
    assert set(statistics["sources"]) == {"s0", "s1", "s2", "unnamed"}


def test_a_block_names_the_source_language_and_file_of_its_documents(undisturbed):
    block = blocks(undisturbed, "train")[0]
    assert block.label(0) == [block.label(0)[0], "en", "corpus.jsonl"]
    assert {block.label(number)[0] for number in range(len(block.documents))} <= {"s0", "s1", "s2"}


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_processes_makes_the_same_bytes(workers, inputs, undisturbed, tmp_path):
    assert prep(inputs, tmp_path / "set", workers=workers) == 0
    assert contents(tmp_path / "set") == contents(undisturbed)


def test_the_size_of_units_does_not_show_in_the_bytes(inputs, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(data_prep.units, "UNIT_BYTES", 3000)
    assert prep(inputs, tmp_path / "set") == 0
    assert contents(tmp_path / "set") == contents(undisturbed)


def test_another_seed_holds_out_other_documents(inputs, undisturbed, tmp_path):
    assert prep(inputs, tmp_path / "set", seed=1) == 0
    mine, others = (read_manifest(folder).splits["validation"] for folder in (tmp_path / "set", undisturbed))
    assert mine != others


SCRIPT = "import sys, data_prep.units as units; units.UNIT_BYTES = 5000; from electra_ds.cli import main\n"
SCRIPT += "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"

MOMENTS = {
    "before anything": lambda output: (output / ".prep").exists(),
    "with the tokenizer": lambda output: (output / "tokenizer").exists(),
    "with some parts": lambda output: len(list(output.glob(".prep/part-*.npz"))) >= 3,
    "with a shard begun": lambda output: (output / "train-000000.tar.partial").exists(),
    "with a shard done": lambda output: (output / "train-000001.idx").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_anywhere_a_rerun_ends_with_the_same_bytes(moment, inputs, undisturbed, tmp_path):
    output, script = tmp_path / "set", tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), *options(inputs=inputs, output=output, workers=2)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not MOMENTS[moment](output):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in output.glob(".prep/part-*.npz")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    if process.returncode == -signal.SIGKILL and kept and "nothing to do" not in done.stdout:
        assert f"{len(kept)} of " in done.stderr or "parts kept" in done.stderr
    assert contents(output) == contents(undisturbed)


def test_workers_end_when_the_main_process_is_killed(inputs, tmp_path):
    output, script = tmp_path / "set", tmp_path / "run.py"
    script.write_text(SCRIPT.replace("5000", "200"))
    command = [sys.executable, str(script), *options(inputs=inputs, output=output, workers=2)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list(output.glob(".prep/part-*.npz")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    for _ in range(1000):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("workers outlived the main process")


def test_a_finished_set_is_left_alone(inputs, undisturbed, capfd):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert prep(inputs, undisturbed, workers=2) == 0
    assert "nothing to do" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


@pytest.mark.parametrize("lost", ["train-000001.tar", "train-000000.idx", "validation-000000.tar", "tokenizer"])
def test_what_was_deleted_from_a_set_is_rebuilt(lost, inputs, undisturbed, tmp_path):
    import shutil

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


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), min_size=1, max_size=12), st.integers(16, 60))
def test_packing_keeps_every_token_and_start_and_bounds_every_block(documents, limit):
    """Documents given by the lengths of their sentences."""
    emitted = []
    packer = Packer(limit, emitted.append)
    expected, numbers = [], iter(range(1 << 30))
    for number, lengths in enumerate(documents):
        tokens = np.array([next(numbers) for _ in range(sum(lengths))], np.uint32)
        starts = np.cumsum([0, *lengths[:-1]])
        expected += tokens[starts].tolist()
        packer.add(tokens, starts, [str(number), "", ""])
    packer.flush()
    tokens = np.concatenate([block.tokens for block in emitted])
    assert tokens.tolist() == list(range(len(tokens)))
    assert all(limit <= len(block.tokens) < 2 * limit for block in emitted[:-1])
    found = [int(block.tokens[start]) for block in emitted for start in block.sentences]
    begun = {int(block.tokens[0]) for block in emitted if block.metadata["continues"]}
    assert set(expected) <= set(found) <= set(expected) | begun
    starts = sum(len(block.documents) - block.metadata["continues"] for block in emitted)
    assert starts == len(documents)
    owners = np.repeat([str(number) for number in range(len(documents))], [sum(lengths) for lengths in documents])
    for block in emitted:
        for number, start in enumerate(block.documents):
            assert block.label(number)[0] == owners[block.tokens[start]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=400), max_size=60), st.integers(1000, 8000), st.randoms(use_true_random=False))
def test_a_sample_is_bounded_and_does_not_depend_on_the_order(texts, limit, chance):
    sample = sample_texts([Document(text) for text in texts], limit, 0)
    size = sum(len(text.encode()) for text in texts)
    assert sum(len(text.encode()) for text in sample) <= max(limit, 0) or size <= limit
    if size <= limit:
        assert sample == texts
    shuffled = list(texts)
    chance.shuffle(shuffled)
    assert sorted(sample_texts([Document(text) for text in shuffled], limit, 0)) == sorted(sample)


def test_the_validation_share_is_what_was_asked():
    texts = [f"document {number}" for number in range(20_000)]
    share = sum(is_validation(text, 0.05, 3) for text in texts) / len(texts)
    assert 0.044 < share < 0.056
    assert not any(is_validation(text, 0.0, 3) for text in texts)
