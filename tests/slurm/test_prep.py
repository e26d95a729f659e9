"""Preparation as jobs of a real Slurm: the same bytes as one process makes, whatever becomes of ranks and nodes."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pytest

from tests.data_prep.conftest import contents, options, prep
from tests.slurm.cluster import SEARCH_PATH, Cluster, slurm_cluster

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

STRUCK = """
import os, signal, sys, time
from pathlib import Path

first = os.environ["STRIKE"] != "nothing" and "SLURM_RESTART_COUNT" not in os.environ
left = 3 if first and os.environ["SLURM_PROCID"] == "3" else 0
rename = os.replace


def replace(*paths):
    global left
    rename(*paths)
    left -= 1
    if left == 0:
        Path(sys.argv[0] + ".struck").touch()
        if os.environ["STRIKE"] == "sleep":
            time.sleep(1000)
        os.kill(os.getpid(), getattr(signal, os.environ["STRIKE"]))


os.replace = replace

from electra_ds.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
"""The command, in which the last rank is struck after its third file, in the job's first life: by a signal or by
sleep."""

TWO_BY_TWO = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1")


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster(nodes=4) as running:
        yield running


@pytest.fixture(scope="module")
def inputs(corpus, tmp_path_factory) -> str:
    """A pattern: twelve files, each a piece, so that each of four ranks has work."""
    folder = tmp_path_factory.mktemp("inputs")
    lines = corpus.read_text("utf-8").splitlines(keepends=True)
    for number in range(12):
        (folder / f"{number:02d}.jsonl").write_text("".join(lines[number::12]), "utf-8")
    return f"{folder}/*.jsonl"


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory) -> dict[str, str]:
    """What one process makes."""
    output = tmp_path_factory.mktemp("alone") / "set"
    assert prep(inputs, output) == 0
    return contents(output)


class Job:
    """A batch script, its log, and the folder it writes to."""

    def __init__(self, cluster: Cluster, folder: Path, script: str) -> None:
        self.cluster, self.folder, self.output, self._log = cluster, folder, folder / "set", folder / "log"
        (folder / "struck.py").write_text(STRUCK)
        (folder / "job.sbatch").write_text(f"#!/bin/bash\nset -e\n{script}\n")

    def submit(self, inputs: str, strike: str = "nothing", script: Path | None = None) -> str:
        arguments = options(inputs=inputs, output=self.output)
        # `electra-ds prep` is the template's own part of the line.
        given = arguments[1:] if script else arguments
        return self.cluster.submit(
            *(*TWO_BY_TWO, "--requeue", "--open-mode=append", f"--output={self._log}", f"--chdir={self.folder}"),
            *(str(script or self.folder / "job.sbatch"), *given),
            PATH=f"{BIN}:{SEARCH_PATH}",
            STRIKE=strike,
            OMP_NUM_THREADS="1",
        )

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8") if self._log.exists() else ""

    def parts(self) -> int:
        return len(list(self.output.glob(".prep/parts/*/*.text")))


SRUN = f'srun --mpi=pmi2 --kill-on-bad-exit=1 {shlex.quote(sys.executable)} struck.py "$@"'


def test_the_shipped_script_on_two_nodes_makes_the_bytes_of_one_process(cluster, inputs, alone, tmp_path):
    job = Job(cluster, tmp_path, "")
    number = job.submit(inputs, script=ROOT / "slurm/prep.sbatch")
    assert cluster.wait(number) == "COMPLETED", job.log
    assert job.log.count("training a wordpiece vocabulary") == 1
    assert contents(job.output) == alone


def test_mpirun_inside_a_job_and_the_batch_script_alone(cluster, inputs, alone, tmp_path):
    job = Job(cluster, tmp_path, 'mpirun -n 4 electra-ds "$@"; electra-ds "$@"; electra-ds "$@" --output=again')
    assert cluster.wait(job.submit(inputs)) == "COMPLETED", job.log
    assert contents(job.output) == contents(tmp_path / "again") == alone
    assert job.log.count("nothing to do") == 1


def test_srun_without_pmi_is_refused_with_what_to_do(cluster, inputs, tmp_path):
    job = Job(cluster, tmp_path, 'srun --kill-on-bad-exit=1 electra-ds "$@"')
    assert cluster.wait(job.submit(inputs)) == "FAILED"
    assert job.log.count("electra-ds: error:") == 1
    assert "add --mpi=pmi2 to srun" in job.log
    assert not job.output.exists()


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_a_killed_rank_ends_the_job_and_the_same_job_goes_on(signal, cluster, inputs, alone, tmp_path):
    job = Job(cluster, tmp_path, SRUN)
    assert cluster.wait(job.submit(inputs, strike=signal)) == "FAILED"
    assert "Traceback" not in job.log
    assert job.parts() > 0
    assert cluster.wait(job.submit(inputs)) == "COMPLETED", job.log
    assert "parts kept from before" in job.log
    assert contents(job.output) == alone


def test_a_job_that_loses_a_node_comes_back_on_another_and_goes_on(cluster, inputs, alone, tmp_path):
    job = Job(cluster, tmp_path, SRUN)
    number = job.submit(inputs, strike="sleep")
    end = time.monotonic() + 60
    while not (tmp_path / "struck.py.struck").exists():
        assert time.monotonic() < end, job.log
        time.sleep(0.1)
    lost = cluster.facts(number)["NodeList"].removesuffix("]")[-1]  # n[1-2]: the second, where the last rank is
    cluster.run("scontrol", "update", f"nodename=n{lost}", "state=down", "reason=test")
    assert cluster.wait(number) == "COMPLETED", job.log
    assert cluster.facts(number)["Restarts"] == "1"
    assert "parts kept from before" in job.log
    assert contents(job.output) == alone
