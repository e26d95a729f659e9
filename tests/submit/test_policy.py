"""Which lives begin, and what follows them."""

from __future__ import annotations

import json

import pytest

from electra_ds.lives import DONE, FAILED, HUNG, NO_PROGRESS, REQUEUE, STOPPED, TOO_MANY_RESTARTS, USER_ERROR
from electra_ds.submit import life as lives
from electra_ds.submit.nodes import choose_nodes
from electra_ds.submit.policy import Beginning, after, may_begin, settle
from tests.conftest import pretrain_options


def began(*steps: int) -> list[Beginning]:
    return [Beginning(restart, step) for restart, step in enumerate(steps)]


@pytest.mark.parametrize("status", [REQUEUE, HUNG, FAILED, 137, 143])
def test_what_another_life_may_mend_is_started_again(status):
    assert after(began(0), status, 0, 100).requeue


@pytest.mark.parametrize("status", [DONE, USER_ERROR, STOPPED, NO_PROGRESS, TOO_MANY_RESTARTS, 79])
def test_what_it_would_not_mend_is_not(status):
    decision = after(began(0), status, 0, 100)
    assert (decision.requeue, decision.status) == (False, status)


def test_two_lives_in_a_row_without_a_checkpoint_end_the_job():
    assert after(began(0), FAILED, 0, 100).requeue
    assert after(began(0, 0), FAILED, 0, 100).status == NO_PROGRESS
    assert after(began(0, 40), FAILED, 40, 100).requeue
    assert after(began(0, 40, 40), FAILED, 40, 100).status == NO_PROGRESS
    assert after(began(0, 40, 40), FAILED, 50, 100).requeue
    assert after(began(0, 40, 40), DONE, 40, 100).status == DONE


def test_a_life_is_refused_where_lost_nodes_left_no_end_of_the_earlier_ones():
    assert may_begin(began(40), 1, 40, 100) is None
    refused = may_begin(began(0, 40, 40), 3, 40, 100)
    assert refused is not None and refused.status == NO_PROGRESS
    assert "lives 1 and 2 of this job both began at step 40" in refused.reason


def test_restarts_are_capped():
    assert after(began(0, 5, 10), REQUEUE, 20, 3).requeue
    assert after(began(0, 5, 10, 15), REQUEUE, 20, 3).status == TOO_MANY_RESTARTS
    refused = may_begin(began(0, 5), 2, 10, 1)
    assert refused is not None and refused.status == TOO_MANY_RESTARTS


def test_a_rank_that_left_on_purpose_counts_more_than_those_killed_for_it():
    assert settle(137, [USER_ERROR, 137]) == USER_ERROR
    assert settle(143, [143, REQUEUE]) == REQUEUE
    assert settle(143, [143], outcome=STOPPED) == STOPPED
    assert settle(137, [137, FAILED]) == 137
    assert settle(0, []) == 0


def test_the_first_good_nodes_are_taken_and_bad_ones_named():
    choice = choose_nodes(["n1", "n2", "n3", "n4"], 2, {"n1": "clock is 40 s late", "n9": "not ours"})
    assert (choice.chosen, choice.left_over) == (["n2", "n3"], ["n4"])
    assert choice.messages() == [
        "node n1 is not used: clock is 40 s late",
        "spare nodes, idle in this life: n4",
    ]


@pytest.fixture
def job(tmp_path, monkeypatch, capsys):
    """A job's helper as its batch script calls it: (command, restart) to (status, answer, log)."""
    run = tmp_path / "run"
    arguments = pretrain_options(tmp_path / "shards", run)

    def call(command: str, restart: int, *words: str) -> tuple[int, str, str]:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
        folder = str(lives.life_path(run, "7", restart))
        given = ["--", *arguments] if command == "begin" else [folder]
        status = lives.main([command, *([*words, *given] if command == "begin" else [*given, *words])])
        said = capsys.readouterr()
        return status, said.out.strip(), said.err

    return run, call


def publish(run, step: int) -> None:
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "latest").write_text(f"step-{step:08d}")


def test_a_life_begins_and_ends_and_is_told_in_the_run_folder(job):
    run, call = job
    status, folder, _ = call("begin", 0)
    assert (status, folder) == (0, f"{run}/logs/7.0")
    assert (run / "recipe.yaml").is_file()
    status, chosen, log = call("nodes", 0, "--allocated", "n1,n2,n3", "--need", "2")
    assert (status, chosen) == (0, "n1,n2")
    assert "idle in this life: n3" in log
    publish(run, 40)
    status, answer, log = call("end", 0, "--status", "75")
    assert (status, answer) == (0, "requeue")
    assert "started again from step 40 (restart 1 of 100 allowed)" in log
    records = [json.loads(line) for line in (run / "lives.jsonl").read_text().splitlines()]
    assert [(one["event"], one["restart"], one["step"]) for one in records] == [("begin", 0, 0), ("end", 0, 40)]
    assert records[0]["nodes"] == "n[1-2]"


def test_too_few_good_nodes_end_the_job_with_their_names(job):
    run, call = job
    call("begin", 0)
    report = {"good_nodes": ["n1"], "bad_nodes": {"n2": "no GPU answers"}}
    (run / "logs/7.0/preflight.json").write_text(json.dumps(report))
    status, chosen, log = call("nodes", 0, "--allocated", "n1,n2", "--need", "2")
    assert (status, chosen) == (79, "")
    assert "n2 is not used: no GPU answers" in log
    assert "2 nodes needed, 1 of 2 are good (n1)" in log


def test_the_third_life_in_a_row_at_one_step_is_refused_and_shows_why(job):
    run, call = job
    for restart in (0, 1):
        call("begin", restart)
        (run / f"logs/7.{restart}/srun.log").write_text("srun: error: n2: task 1: Killed\n")
    status, folder, log = call("begin", 2)
    assert (status, folder) == (NO_PROGRESS, "")
    assert log.count("first to fail: rank 1 on n2: Killed") == 2
    publish(run, 10)
    assert call("begin", 2)[0] == 0


def test_an_outcome_of_an_earlier_life_is_not_this_ones(job):
    run, call = job
    call("begin", 0)
    (run / "logs/7.0/outcome.json").write_text(json.dumps({"status": STOPPED}))
    assert call("end", 0, "--status", "137")[1] == str(STOPPED)
    call("begin", 1)
    # Another job that was refused in this run folder says nothing about this one.
    (run / "outcome.json").write_text(json.dumps({"status": STOPPED}))
    assert call("end", 1, "--status", "137")[1] == str(NO_PROGRESS)


def test_a_wrong_option_ends_the_job_before_any_rank_starts(job, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    wrong = pretrain_options(tmp_path, tmp_path / "run", training__stepz=1)
    assert lives.main(["begin", "--", *wrong]) == USER_ERROR
    said = capsys.readouterr()
    assert said.out == ""
    assert "did you mean" in said.err
