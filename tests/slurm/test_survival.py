"""Whatever a cluster does to a run: every row once, and the losses of the run that nothing happened to."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from electra_ds import lives
from electra_ds.checkpoint import list_checkpoints, step_of
from tests.conftest import consumed, metrics
from tests.slurm.cluster import slurm_cluster
from tests.slurm.runs import Submitted, assert_same_run, events, run_undisturbed

pytestmark = pytest.mark.ranks
TWO = ("--nodes=2",)


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster(nodes=4) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(tiny_shards, tmp_path_factory):
    """The run that nothing happens to, on two ranks, by ZeRO stage and precision; made when first asked for."""
    made = {}

    def get(stage, precision="bf16"):
        if (stage, precision) not in made:
            output = tmp_path_factory.mktemp("undisturbed") / stage
            changes = {"deepspeed": stage, "training__precision": precision}
            made[stage, precision] = run_undisturbed(tiny_shards, output, 2, **changes)
        return made[stage, precision]

    return get


@pytest.fixture
def run(cluster, tiny_shards, tmp_path):
    yield Submitted(cluster, tiny_shards, tmp_path / "run")
    cluster.settle()


def test_the_time_limit_is_reached_and_the_job_comes_back_and_ends_by_itself(run, undisturbed):
    run.submit(*TWO, "--time=30", "--signal_seconds=60", strike={"pause": 2}, deepspeed="zero1")
    run.until_step(1)
    # Slurm looks at time limits twice a minute; a limit of one minute means the signal at the next look.
    run.cluster.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=1")
    run.until(lambda: run.cluster.facts(run.job).get("Restarts") == "1")
    run.cluster.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=30")
    run.wait()
    assert "resume" in events(run.output)
    stopped = next(line for line in metrics(run.output, "event") if line["event"] == "stop")
    assert stopped["why"] == "signal"
    assert_same_run(run.output, undisturbed("zero1"))


@pytest.mark.parametrize("which", ["the node of rank 0 and of the batch script", "another node"])
def test_a_node_that_dies_in_a_step_costs_the_steps_since_the_last_checkpoint_and_no_more(which, run, undisturbed):
    run.submit(*TWO, strike={"pause": 0.3}, deepspeed="zero3")
    run.until_step(8)
    first = run.cluster.facts(run.job)["BatchHost"]
    nodes = run.cluster.run("scontrol", "show", "hostnames", run.cluster.facts(run.job)["NodeList"]).stdout.split()
    lost = next(node for node in nodes if (node == first) == which.startswith("the node of rank 0"))
    frozen = run.freeze(lost)
    assert len(frozen) >= 2  # its daemon and its rank
    run.cluster.run("scontrol", "update", f"nodename={lost}", "state=down", "reason=test")
    try:
        run.wait()
    finally:
        for process in frozen:
            process.resume()
        run.cluster.run("scontrol", "update", f"nodename={lost}", "state=resume")
    assert run.cluster.facts(run.job)["Restarts"] == "1"
    assert lost not in run.cluster.facts(run.job)["NodeList"]
    resumed = next(line for line in metrics(run.output, "event") if line["event"] == "resume")
    assert resumed["step"] == 6
    assert_same_run(run.output, undisturbed("zero3"))


def test_a_killed_rank_is_named_and_the_job_comes_back(run, undisturbed):
    run.submit(
        *TWO, strike={"where": "backward", "rank": 1, "step": 9, "signal": "SIGKILL", "pause": 0.1}, deepspeed="zero2"
    )
    run.wait()
    assert run.cluster.facts(run.job)["Restarts"] == "1"
    assert "rank 1" in run.log
    assert "SIGKILL" in run.log or "Killed" in run.log
    assert_same_run(run.output, undisturbed("zero2"))


def test_a_rank_that_hangs_is_ended_by_the_watchdogs_with_the_stacks_of_all(run, undisturbed):
    """On four ranks of two nodes: the three that wait for it all tell where they stand."""
    strike = {"where": "backward", "rank": 2, "step": 9, "signal": "SIGSTOP", "pause": 0.1}
    run.submit(*TWO, "--tasks-per-node=2", strike=strike, deepspeed="zero1", training__watchdog_seconds=10)
    run.wait()
    assert run.cluster.facts(run.job)["Restarts"] == "1"
    first_life = run.output / "logs" / f"{run.job}.0"
    for rank in (0, 1, 3):
        log = (first_life / f"rank-{rank:05d}.log").read_text()
        assert "no progress for" in log
        assert "Stacks of all threads" in log
        assert "_run_phase" in log
    hung = {failure.rank for failure in lives.read_failures(first_life) if failure.kind == "hang"}
    assert {0, 1, 3} <= hung
    assert "rank 2" in run.log
    assert consumed(run.output) == consumed(undisturbed("zero1"))


@pytest.mark.parametrize(
    ("where", "step", "rank", "resumes_at"), [("write", 12, 1, 6), ("publish", 12, 0, 6), ("latest", 12, 0, 12)]
)
def test_killed_while_a_checkpoint_is_written_or_published(where, step, rank, resumes_at, run, undisturbed):
    run.submit(*TWO, strike={"where": where, "rank": rank, "step": step, "signal": "SIGKILL"}, deepspeed="zero1")
    run.wait()
    resumed = next(line for line in metrics(run.output, "event") if line["event"] == "resume")
    assert resumed["step"] == resumes_at
    assert_same_run(run.output, undisturbed("zero1"))
    assert not list((run.output / "checkpoints").glob("*.partial"))
    assert (run.output / "checkpoints" / "latest").read_text() == "step-00000024\n"


def test_a_second_signal_while_saving_spoils_nothing(run, undisturbed):
    """SIGUSR2 in a step, and SIGTERM in the middle of the save that follows from it."""
    run.submit(*TWO, strike={"where": "write", "rank": 0, "step": 7, "signal": "SIGTERM", "pause": 0.5})
    run.until_step(6)
    run.cluster.run("scancel", "--signal=USR2", run.job)
    run.wait()
    assert run.cluster.facts(run.job)["Restarts"] == "1"
    assert_same_run(run.output, undisturbed("zero1"))


def test_damaged_checkpoints_are_skipped_and_said(run, undisturbed):
    run.submit(*TWO, deepspeed="zero2", training__stop_after=20, checkpoint__every=5)
    run.wait()
    flipped, cut, lacking = reversed(list_checkpoints(run.output / "checkpoints")[-3:])
    data = bytearray((flipped / "mp_rank_00_model_states.pt").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (flipped / "mp_rank_00_model_states.pt").write_bytes(data)
    optimizer = next(cut.glob("*optim_states.pt"))
    optimizer.write_bytes(optimizer.read_bytes()[:-1000])
    next(lacking.glob("*rank_1*optim_states.pt")).unlink()
    run.submit(*TWO, deepspeed="zero2", checkpoint__every=5)
    run.wait()
    for path, problem in ((flipped, "was altered"), (cut, "bytes, expected"), (lacking, "is missing")):
        line = next(line for line in run.log.splitlines() if line.startswith("skipped:") and path.name in line)
        assert problem in line
    assert next(line for line in metrics(run.output, "event") if line["event"] == "resume")["step"] == 5
    assert_same_run(run.output, undisturbed("zero2"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"may not mount here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_run_with_a_clear_error_and_it_goes_on_once_there_is_room(
    cluster, tiny_shards, small_disk, undisturbed
):
    run = Submitted(cluster, tiny_shards, small_disk / "run")
    run.submit(*TWO, strike={"pause": 0.3}, deepspeed="zero1")
    run.until(lambda: (run.output / "checkpoints/latest").exists())
    ballast = small_disk / "ballast"
    with open(ballast, "wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(small_disk).free - 500_000)))
    run.wait("FAILED")
    assert cluster.facts(run.job)["ExitCode"] == f"{lives.USER_ERROR}:0"
    assert cluster.facts(run.job)["Restarts"] == "0"
    assert "cannot write" in run.log
    assert "MB free on that file system" in run.log
    assert [path.name for path in list_checkpoints(run.output / "checkpoints")] == ["step-00000006"]
    ballast.unlink()
    run.submit(*TWO, deepspeed="zero1")
    run.wait()
    assert_same_run(run.output, undisturbed("zero1"))


def test_two_nodes_then_one_then_four_and_zero_1_to_3_on_the_way(run, undisturbed):
    run.submit("--nodes=2", deepspeed="zero1", training__precision="float32", training__stop_after=8)
    run.wait()
    run.submit("--nodes=1", deepspeed="zero3", training__precision="float32", training__stop_after=14)
    run.wait()
    run.submit("--nodes=2", "--tasks-per-node=2", deepspeed="zero2", training__precision="float32",
               training__stop_after=18, training__micro_batch_size=1)  # fmt: skip
    run.wait()
    run.submit("--nodes=4", deepspeed="zero3", training__precision="float32", training__micro_batch_size=2)
    run.wait()
    begun = [line for line in metrics(run.output, "event") if line["event"] in ("start", "resume")]
    assert [(line["step"], line["world_size"], line["zero_stage"]) for line in begun] == [
        (0, 2, 1),
        (8, 1, 3),
        (14, 4, 2),
        (18, 4, 3),
    ]
    assert_same_run(run.output, undisturbed("zero1", "float32"), tolerance=1e-4)


def test_a_second_job_for_the_same_run_folder_refuses_and_disturbs_nothing(run, undisturbed):
    strike = {"where": "backward", "rank": 1, "step": 22, "signal": "SIGKILL", "pause": 0.7}
    run.submit(*TWO, strike=strike)
    run.until_step(1)
    second = Submitted(run.cluster, run.shards, run.output)
    second.submit(*TWO, deepspeed="zero2", training__micro_batch_size=1)
    second.wait("FAILED")
    assert f"Slurm job {run.job}" in second.log
    assert run.cluster.facts(second.job)["ExitCode"] == f"{lives.USER_ERROR}:0"
    run.wait()  # the first is killed later, and comes back all the same, as it was submitted
    assert run.cluster.facts(run.job)["Restarts"] == "1"
    begun = [line["zero_stage"] for line in metrics(run.output, "event") if line["event"] in ("start", "resume")]
    assert begun == [1, 1]
    assert_same_run(run.output, undisturbed("zero1"))


def test_stop_and_save_files(run, undisturbed):
    run.submit(*TWO, strike={"pause": 0.4})
    run.until_step(2)
    (run.output / "SAVE").touch()
    run.until(lambda: not (run.output / "SAVE").exists())
    run.until(lambda: bool(list_checkpoints(run.output / "checkpoints")))
    saved = step_of(list_checkpoints(run.output / "checkpoints")[0])
    assert 2 <= saved < 6
    (run.output / "STOP").touch()
    run.wait("FAILED")  # not completed: what depends on the finished run must not begin
    assert run.cluster.facts(run.job)["ExitCode"] == f"{lives.STOPPED}:0"
    assert not (run.output / "STOP").exists()
    assert json.loads((run.output / "outcome.json").read_text())["status"] == lives.STOPPED
    run.submit(*TWO)
    run.wait()
    assert_same_run(run.output, undisturbed("zero1"))


def test_preempted_by_a_more_urgent_job_it_saves_and_comes_back(run, undisturbed):
    run.submit("--nodes=4", strike={"pause": 0.5}, deepspeed="zero3")
    run.until_step(3)
    urgent = run.cluster.submit(
        "--partition=urgent", "--nodes=4", "--ntasks-per-node=2", "--output=/dev/null", "--wrap=sleep 3"
    )
    run.until(lambda: run.cluster.facts(run.job).get("Restarts") == "1")
    assert run.cluster.wait(urgent) == "COMPLETED"
    run.wait()
    stopped = next(line for line in metrics(run.output, "event") if line["event"] == "stop")
    assert (stopped["why"], stopped["step"] >= 3) == ("signal", True)
    assert consumed(run.output) == consumed(undisturbed("zero3"))


def test_a_stop_file_beats_a_signal(run):
    """Whoever says STOP does not want to see the job again, even if Slurm wants its nodes back at the same time."""
    run.submit(*TWO, strike={"pause": 1})
    run.until_step(2)
    (run.output / "STOP").touch()
    run.cluster.run("scancel", "--signal=USR2", run.job)
    run.wait("FAILED")
    assert run.cluster.facts(run.job)["ExitCode"] == f"{lives.STOPPED}:0"
    assert run.cluster.facts(run.job)["Restarts"] == "0"


def test_with_the_preflight_and_a_spare_a_whole_life_looks_like_this(run, undisturbed):
    run.submit(*TWO, "--spares=1", "--preflight=true")
    run.wait()
    assert "preflight" in run.log
    assert len((run.output / "logs" / f"{run.job}.0" / "preflight.json").read_text()) > 2
    assert_same_run(run.output, undisturbed("zero1"))
