"""A rank without progress ends with its stacks; one with progress does not."""

import subprocess
import sys

from electra_ds import lives
from tests.conftest import environment

PROGRAM = """
import time
from electra_ds.training.watchdog import Watchdog

watchdog = Watchdog(3, {seconds})


def a_collective_that_never_comes_back():
    time.sleep(60)


for step in range({beats}):
    watchdog.beat("making a step", step)
    time.sleep(0.3)
{end}
"""


def run(tmp_path, **parts):
    variables = environment(**{lives.LIFE_VARIABLE: str(tmp_path)}, SLURMD_NODENAME="n2")
    command = [sys.executable, "-c", PROGRAM.format(**parts)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30, check=False)


def test_without_progress_it_writes_stacks_leaves_a_record_and_ends_to_be_started_again(tmp_path):
    done = run(tmp_path, seconds=1, beats=3, end="a_collective_that_never_comes_back()")
    assert done.returncode == lives.HUNG
    assert "rank 3 on n2: no progress for" in done.stderr
    assert "after step 2, while making a step" in done.stderr
    assert "a_collective_that_never_comes_back" in done.stderr
    (failure,) = lives.read_failures(tmp_path)
    assert (failure.rank, failure.node, failure.kind, failure.step) == (3, "n2", "hang", 2)


def test_with_progress_it_lets_the_process_be(tmp_path):
    done = run(tmp_path, seconds=1, beats=8, end="watchdog.close()")
    assert done.returncode == 0, done.stderr
    assert lives.read_failures(tmp_path) == []


def test_a_stuck_interpreter_is_ended_from_outside_of_it(tmp_path):
    """Code that holds the interpreter's lock keeps every Python thread from running."""
    stuck = "import ctypes; ctypes.PyDLL(None).sleep(60)"
    program = "from electra_ds.training import watchdog as module\nmodule._BACKSTOP = 1.0\n"
    command = [sys.executable, "-c", program + PROGRAM.format(seconds=1, beats=2, end=stuck)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == lives.FAILED
    assert "Timeout" in done.stderr


def test_none_never_ends_anything(tmp_path):
    done = run(tmp_path, seconds=None, beats=2, end="time.sleep(2)")
    assert done.returncode == 0


def test_the_first_record_of_a_rank_stays(tmp_path, monkeypatch):
    """While it waits for the others to write their stacks, the first of them leaves, and its connection breaks."""
    monkeypatch.setenv(lives.LIFE_VARIABLE, str(tmp_path))
    lives.record_failure(3, "hang", "no progress for 10 s", 8)
    lives.record_failure(3, "peer", "connection reset", 8)
    (failure,) = lives.read_failures(tmp_path)
    assert (failure.kind, failure.message) == ("hang", "no progress for 10 s")
