"""The command on real processes: one, several under each launcher, some that never come, some that stop."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time

import pytest

from electra_ds.lives import BAD_NODES, USER_ERROR
from tests.conftest import environment, run_ranks
from tests.doctor.ports import free_port

WRAPPED = """
import os, signal, sys, time
from electra_ds.cli import main
from electra_ds.doctor import participant

def strike(*_):
    os.kill(os.getpid(), getattr(signal, os.environ["STRIKE"]))
    time.sleep(60)  # a process stops a little later than it asks to

setattr(participant, os.environ["STRIKE_AT"], strike)
sys.exit(main(sys.argv[1:]))
"""
"""The command, in which a function of the rank's own part strikes its process."""


SHIFTED = """
import os, sys, time
now, os.environ["SLURMD_NODENAME"] = time.time, "other"
time.time = lambda: now() + 5
from electra_ds.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""The command on a node whose clock is five seconds ahead."""


class ByHand:
    """Ranks of one world with hand-set variables, each a process; `strike` hits one of them."""

    def __init__(
        self,
        world: int,
        ranks: list[int],
        *arguments: str,
        port: int | None = None,
        script: str = WRAPPED,
        **strike: str,
    ) -> None:
        self.port, self.began = port or free_port(), time.monotonic()
        self.processes = {}
        for rank in ranks:
            struck = strike and rank == int(strike["RANK_STRUCK"])
            command = ["-c", script] if struck else ["-m", "electra_ds"]
            variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_PORT": self.port}
            self.processes[rank] = subprocess.Popen(
                [sys.executable, *command, "doctor", *arguments],
                env=environment(
                    MASTER_ADDR="127.0.0.1", **{name: str(value) for name, value in variables.items()}, **strike
                ),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )

    def end(self, within: float, stopped: tuple[int, ...] = ()) -> dict[int, tuple[int, str]]:
        """Status and output of each rank; all but those `stopped` must end by themselves."""
        found = {}
        try:
            for rank, process in self.processes.items():
                if rank not in stopped:
                    text, _ = process.communicate(timeout=within - (time.monotonic() - self.began))
                    found[rank] = (process.returncode, text)
        finally:
            for process in self.processes.values():
                process.send_signal(signal.SIGKILL)
                process.communicate()
        return found


def test_one_process(tiny_shards, tmp_path):
    output, facts = tmp_path / "new" / "run", tmp_path / "facts.json"
    done = run_ranks(1, ["doctor", f"--data.path={tiny_shards}", f"--output={output}", f"--json={facts}"])
    assert "1 node x 1 rank" in done.stdout
    assert "every node reads the same manifest" in done.stdout
    assert not output.parent.exists(), "a folder that the doctor made is not left behind"
    told = json.loads(facts.read_text())
    assert told["verdict"] != "bad"
    assert told["facts"]["0"]["versions"]["torch"]


def test_one_process_and_data_that_are_not_there(tmp_path):
    done = run_ranks(1, ["doctor", f"--data.path={tmp_path}"], check=False)
    assert done.returncode == USER_ERROR
    assert "no manifest.json" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout


def test_a_run_folder_keeps_its_files_and_gets_none(tmp_path):
    (tmp_path / "recipe.yaml").write_text("mine")
    run_ranks(1, ["doctor", f"--output={tmp_path}"])
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_bad_options_are_refused_once():
    done = run_ranks(1, ["doctor", "--timeout=1"], check=False)
    assert (done.returncode, done.stdout.count("error:")) == (2, 1)
    ended = ByHand(2, [0, 1], "--no-such=1").end(within=30)
    assert sum(text.count("error:") for _, text in ended.values()) == 1
    assert {status for status, _ in ended.values()} == {2}


@pytest.mark.ranks
@pytest.mark.parametrize(("launcher", "ranks"), [("torchrun", 4), ("mpirun", 2)])
def test_several_ranks(launcher, ranks, tiny_shards, tmp_path):
    facts = tmp_path / "facts.json"
    arguments = ["doctor", f"--data.path={tiny_shards}", f"--output={tmp_path / 'run'}", f"--json={facts}"]
    done = run_ranks(ranks, arguments, launcher=launcher)
    assert done.stdout.count(f"1 node x {ranks} ranks by {launcher}") == 1
    assert "all-reduce (gloo)" in done.stdout
    told = json.loads(facts.read_text())
    assert {int(rank) for rank in told["exchanges"]} == set(range(ranks))
    assert all(exchange["correct"] for exchange in told["exchanges"].values())


@pytest.mark.ranks
def test_mpirun_gives_the_verdicts_status(tmp_path):
    done = run_ranks(2, ["doctor", f"--data.path={tmp_path}"], launcher="mpirun", check=False)
    assert done.returncode == USER_ERROR
    assert "data" in done.stdout


@pytest.mark.ranks
def test_a_rank_that_never_comes_is_named(tmp_path):
    ended = ByHand(4, [0, 1, 3], f"--output={tmp_path}", "--timeout=40").end(within=45)
    assert ended[0][0] == USER_ERROR
    assert "1 rank of 4 did not come: 2" in ended[0][1]
    assert "not tried, because not all ranks answer" in ended[0][1]
    assert (ended[1], ended[3]) == ((0, ""), (0, "")), "only the first rank speaks"
    assert not list(tmp_path.iterdir())


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("at", "doing"),
    [("collect_facts", "collecting this rank's facts"), ("exchange", "exchanging data with all ranks")],
)
def test_a_rank_that_stops_is_named_with_what_it_did(at, doing):
    ranks = ByHand(3, [0, 1, 2], "--timeout=40", RANK_STRUCK="1", STRIKE="SIGSTOP", STRIKE_AT=at)
    ended = ranks.end(within=45, stopped=(1,))
    assert ended[0][0] == USER_ERROR
    text = " ".join(ended[0][1].split())
    assert f"rank 1 on {socket.gethostname()} stopped answering while {doing}" in text
    assert "Traceback" not in text


@pytest.mark.ranks
def test_a_clock_that_is_ahead_is_measured():
    ended = ByHand(2, [0, 1], "--timeout=40", script=SHIFTED, RANK_STRUCK="1").end(within=45)
    assert ended[0][0] == 0, "a warning"
    assert f"other is 5.0 s ahead of {socket.gethostname()}" in ended[0][1]


@pytest.mark.ranks
def test_a_rank_whose_check_fails_tells_why():
    ranks = ByHand(2, [0, 1], "--timeout=40", RANK_STRUCK="1", STRIKE="NO_SUCH_SIGNAL", STRIKE_AT="collect_facts")
    ended = ranks.end(within=45)
    assert ended[0][0] == USER_ERROR
    assert "AttributeError" in ended[0][1]


@pytest.mark.ranks
def test_if_the_first_rank_dies_the_others_say_so_and_end():
    ranks = ByHand(3, [0, 1, 2], "--timeout=40", RANK_STRUCK="0", STRIKE="SIGKILL", STRIKE_AT="Looker")
    ended = ranks.end(within=45)
    for rank in (1, 2):
        status, text = ended[rank]
        assert (status, text.count("error:")) == (USER_ERROR, 1)
        assert f"127.0.0.1:{ranks.port + 1}" in text


@pytest.mark.parametrize(("mode", "status"), [((), USER_ERROR), (("--preflight",), BAD_NODES)])
def test_an_address_where_nobody_listens(mode, status):
    ranks = ByHand(3, [1, 2], "--timeout=5", *mode)
    for rank, (ended, text) in ranks.end(within=10).items():
        assert (ended, text.count("error:")) == (status, 1)
        assert (
            f"rank {rank} on {socket.gethostname()} cannot reach the first rank at 127.0.0.1:{ranks.port + 1}" in text
        )
        assert len(text.splitlines()) == 1


@pytest.mark.ranks
def test_a_port_that_another_program_holds():
    port = free_port()
    with socket.socket() as other:
        other.bind(("", port + 1))
        other.listen()
        ended = ByHand(2, [0, 1], "--timeout=8", port=port).end(within=15)
    assert f"port {port + 1} on {socket.gethostname()} cannot be opened" in ended[0][1]
    assert f"listens at 127.0.0.1:{port + 1}" in ended[1][1] and "export another MASTER_PORT" in ended[1][1]
    assert {status for status, _ in ended.values()} == {USER_ERROR}


@pytest.mark.ranks
def test_the_port_that_training_will_take_must_be_free_too():
    port = free_port()
    with socket.socket() as other:
        other.bind(("", port))
        other.listen()
        ended = ByHand(2, [0, 1], "--timeout=40", port=port).end(within=45)
    assert ended[0][0] == USER_ERROR
    assert "which training takes, cannot be opened" in " ".join(ended[0][1].split())
