"""What a killed life left half-compiled is not met again."""

import os
import subprocess
import sys

import pytest

from electra_ds.training.compiled_cache import VARIABLE, CompiledCache


@pytest.fixture(autouse=True)
def parent(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def folder_of_another_process(parent, kill):
    """Run a process that uses the cache and ends well, or is killed; the folder it used."""
    script = "import os; from electra_ds.training.compiled_cache import CompiledCache; c = CompiledCache()\n"
    script += "print(c.folder.name, flush=True)\n"
    script += "os.kill(os.getpid(), 9)" if kill else "c.release()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, VARIABLE: str(parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def test_a_folder_is_used_again_by_lives_that_end_well(parent):
    first = CompiledCache()
    assert os.environ[VARIABLE] == str(first.folder)
    assert first.folder.parent == parent
    assert CompiledCache().folder == first.folder  # another trainer of this process, while the first still runs
    assert folder_of_another_process(parent, kill=False) == first.folder.name
    assert folder_of_another_process(parent, kill=False) == first.folder.name


def test_after_a_killed_life_all_turn_to_a_new_folder(parent):
    damaged = folder_of_another_process(parent, kill=True)
    ranks = [folder_of_another_process(parent, kill=False) for _ in range(2)]
    assert ranks[0] == ranks[1] != damaged


def test_folders_that_nobody_uses_are_removed(parent):
    names = [folder_of_another_process(parent, kill=True) for _ in range(4)]
    assert len(set(names)) == 4
    left = sorted(path.name for path in parent.iterdir())
    assert left == sorted(names[-2:])
