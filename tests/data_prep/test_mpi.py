"""Preparation by MPI ranks: the same bytes, one error, work for every rank."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from data_prep.dedup.decide import find_copies
from data_prep.mpi import Team
from tests.conftest import environment
from tests.data_prep.conftest import SMALL_PIECES, contents, prep, write_json_lines


def run(command: list[str], **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment(PIECE_BYTES=str(SMALL_PIECES), **extra),
        text=True,
        capture_output=True,
        timeout=180,
        check=False,
    )


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_makes_the_same_bytes(ranks, inputs, undisturbed, prep_command, tmp_path):
    done = run(prep_command(ranks, inputs=inputs, output=tmp_path / "set", workers=1))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "set") == contents(undisturbed)


def test_ranks_with_workers_of_their_own(inputs, undisturbed, prep_command, tmp_path):
    done = run(prep_command(2, inputs=inputs, output=tmp_path / "set", workers=2))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "set") == contents(undisturbed)


@pytest.mark.parametrize("kind", ["wordpiece", "existing"])
def test_copies_are_found_across_ranks_and_files(kind, undisturbed, prep_command, tmp_path):
    """Exact and near copies in different files, which different ranks read."""
    chance = np.random.default_rng(0)
    words = [f"word{number}" for number in range(400)]
    texts = [" ".join(chance.choice(words, 60)) for _ in range(150)]
    near = [text.rsplit(" ", 2)[0] + " another end" for text in texts[:40]]
    files = [texts[:75], texts[75:], [*texts[20:50], *near], texts[100:120]]
    for number, content in enumerate(files):
        write_json_lines(tmp_path / f"part{number}.jsonl", [{"text": text} for text in content])
    given = {"inputs": f"{tmp_path}/part*.jsonl", "dedup__near": "true", "workers": 1}
    if kind == "existing":
        given |= {"tokenizer__type": kind, "tokenizer__path": undisturbed / "tokenizer", "tokenizer__vocab_size": None}
    assert prep(output=tmp_path / "alone", **given) == 0
    done = run(prep_command(3, output=tmp_path / "ranks", **given))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "alone") == contents(tmp_path / "ranks")
    from electra_ds.data.format import read_manifest

    statistics = read_manifest(tmp_path / "alone").statistics
    assert statistics["documents_dropped"] == {"exact duplicate": 50, "near duplicate": 40}
    assert statistics["corpora"][""]["documents_dropped"] == statistics["documents_dropped"]
    assert sum(statistics["documents_kept"].values()) == 150
    duplicates = statistics["duplicates"]
    # 20 to 39 have an exact and a near copy, 0 to 19 a near one, 40 to 49 and 100 to 119 an exact one.
    assert duplicates["clusters"] == {"2": 50, "3": 20}
    assert duplicates["largest"][0]["documents"] == 3
    assert "word" in duplicates["largest"][0]["excerpt"]


def test_a_bad_input_is_told_once_by_one_rank(tmp_path, prep_command):
    write_json_lines(tmp_path / "a.jsonl", [{"text": "fine " * 2000}] * 8)
    write_json_lines(tmp_path / "b.jsonl", [{"text": "fine " * 2000}] * 8 + [{"tekst": "no"}])
    done = run(prep_command(3, inputs=f"{tmp_path}/*.jsonl", output=tmp_path / "set", workers=1))
    assert done.returncode != 0
    assert done.stderr.count("electra-ds: error:") == 1
    assert "b.jsonl:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_finished_set_is_told_once(inputs, undisturbed, prep_command, tmp_path):
    done = run(prep_command(2, inputs=inputs, output=undisturbed, workers=1))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nothing to do") == 1


@pytest.mark.parametrize("entries", [10**9, 50, 7])
def test_copies_in_rounds_are_those_of_one_round(entries):
    chance = np.random.default_rng(1)
    keys = chance.integers(0, 60, (300, 2)).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers = np.arange(300, dtype=np.uint64) * np.uint64(5)
    found = find_copies(
        Team(),
        lambda: iter([(keys[:77], numbers[:77]), (keys[77:], numbers[77:])]),
        lambda documents: np.zeros(len(documents), np.int64),
        entries,
    )
    first: dict[tuple[int, ...], int] = {}
    expected = []
    for key, number in zip(map(tuple, keys.tolist()), numbers.tolist(), strict=True):
        if key in first:
            expected.append((number, first[key]))
        first.setdefault(key, number)
    assert expected
    assert list(zip(found.documents.tolist(), found.originals.tolist(), strict=True)) == expected
    assert found.of(numbers).tolist() == [number in dict(expected) for number in numbers.tolist()]
