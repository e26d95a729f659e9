"""After a failure the log names the rank that failed first, its node and its error."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from electra_ds.lives import Failure
from electra_ds.submit.nodes import write_nodes
from electra_ds.submit.summary import first_failure, hang_suspects, read_task_ends, summarize

SRUN = """\
srun: error: n2: task 3: Killed
srun: launch/slurm: _step_signal: Terminating StepId=5.0
slurmstepd-n1: error: *** STEP 5.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***
srun: error: n1: tasks 0-1: Terminated
srun: error: n2: task 2: Exited with exit code 75
srun: Force Terminated StepId=5.0
"""


def failure(rank: int, kind: str, time: float = 0.0, message: str = "broken") -> Failure:
    return Failure(rank, f"n{rank // 2 + 1}", time, kind, message)


def test_lines_of_srun():
    ends = read_task_ends(SRUN)
    assert [(end.rank, end.node, end.status) for end in ends] == [(3, "n2", 137), (0, "n1", 143), (2, "n2", 75)]
    lost = read_task_ends("srun: error: Node failure on n4\n")
    assert (lost[0].rank, lost[0].node) == (None, "n4")


def test_a_killed_rank_leaves_no_record_and_is_named_by_srun():
    peers = [failure(0, "peer"), failure(2, "peer")]
    found = first_failure(peers, read_task_ends(SRUN))
    assert found is not None and (found.rank, found.node, found.message) == (3, "n2", "Killed")


def test_a_peer_that_gave_up_before_srun_learned_of_the_kill_is_not_named():
    ends = read_task_ends("srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: task 3: Killed\n")
    found = first_failure([failure(0, "peer")], ends)
    assert found is not None and found.rank == 3


def test_a_ranks_own_error_counts_more_than_the_ends_it_caused():
    records = [failure(1, "error", 5.0, "out of memory"), failure(0, "peer", 4.0)]
    ends = read_task_ends("srun: error: n1: task 1: Exited with exit code 1\nsrun: error: n2: task 3: Killed\n")
    found = first_failure(records, ends)
    assert found is not None and (found.rank, found.message) == (1, "out of memory")


def test_who_stays_silent_while_others_tell_of_a_hang_is_suspected():
    assert hang_suspects([failure(rank, "hang") for rank in (0, 1, 3)], 4) == [2]
    assert hang_suspects([failure(0, "error")], 4) == []


@pytest.fixture
def life(tmp_path):
    (tmp_path / "failures").mkdir()
    write_nodes(tmp_path, ["n1", "n2"], 2)
    (tmp_path / "rank-00003.log").write_text("step 7\nlast words\n")
    return tmp_path


def test_a_summary_shows_the_ranks_last_lines(life):
    (life / "srun.log").write_text(SRUN)
    text = "\n".join(summarize(life))
    assert "first to fail: rank 3 on n2: Killed" in text
    assert "    last words" in text


def test_a_summary_of_a_hang_names_rank_and_node(life):
    for rank in (0, 1, 2):
        record = asdict(failure(rank, "hang", message="no step for 60 s"))
        (life / f"failures/rank-{rank:05d}.json").write_text(json.dumps(record))
    text = "\n".join(summarize(life))
    assert "Look first at rank 3 on n2" in text
    assert "last words" in text


def test_nothing_to_tell(life):
    assert summarize(life) == ["no rank left a record, and srun named none"]
