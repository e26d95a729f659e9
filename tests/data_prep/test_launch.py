"""What the environment tells of the launcher, and what cores a rank takes.

The environments are those of Slurm 22.05 and MPICH 5.0: 2 nodes, 4 tasks.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.mpi import Launch, find_launch, mpich_settings, share_of_cores
from tests.conftest import environment

STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_TASKS_PER_NODE": "2(x2)",
}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_TASKS_PER_NODE": "2(x2)"}
TASKS, PMI, OPEN_MPI = "SLURM_STEP_NUM_TASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"
ENVIRONMENTS = {
    "a shell": ({}, Launch(1)),
    "mpirun": ({"PMI_RANK": "0", PMI: "4", "MPI_LOCALNRANKS": "4"}, Launch(4, PMI)),
    "mpirun of Open MPI": ({OPEN_MPI: "4", "PMIX_RANK": "0"}, Launch(4, OPEN_MPI)),
    "srun": (STEP, Launch(4, TASKS)),
    "srun --mpi=pmi2": ({**STEP, "PMI_RANK": "1", PMI: "4"}, Launch(4, PMI)),
    "srun --mpi=pmix": ({**STEP, "PMIX_RANK": "1"}, Launch(4, TASKS)),
    "srun --ntasks=1": ({**STEP, TASKS: "1"}, Launch(1, TASKS)),
    "a batch script": (BATCH, Launch(1)),
    "the shell of salloc": ({**BATCH, "SLURM_STEP_ID": "4294967290", TASKS: "1"}, Launch(1, TASKS)),
    "mpirun in a batch script": ({**STEP, TASKS: "2", PMI: "4", "MPI_LOCALNRANKS": "2"}, Launch(4, PMI)),
    "mpirun -n 1 in a batch script": ({**STEP, TASKS: "2", PMI: "1"}, Launch(1, PMI)),
    "mpirun of Open MPI in a batch script": ({**STEP, TASKS: "2", OPEN_MPI: "8", PMI: "2"}, Launch(8, OPEN_MPI)),
    "a number that is none": ({PMI: "many"}, Launch(1)),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_how_many_processes_were_started_together(name):
    variables, expected = ENVIRONMENTS[name]
    assert find_launch(variables) == expected


def test_settings_are_for_ranks_of_srun_itself():
    assert mpich_settings(STEP)
    assert not mpich_settings(BATCH)
    assert not mpich_settings({**STEP, "MPI_LOCALNRANKS": "2"})
    assert not mpich_settings({PMI: "4", "MPI_LOCALNRANKS": "4"})


def prep(*python: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run prep alone, as if a launcher had started it beside others."""
    code = "import sys; from electra_ds.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", "".join(python) + code, "prep", "--inputs=none.txt", "--output=none"],
        env=environment(**variables),
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_processes_of_srun_that_do_not_know_each_other_are_refused():
    done = prep(**{**STEP, "SLURM_PROCID": "0"})
    assert done.returncode == 2
    assert re.search(r"error: 4 processes .* each is alone .* add --mpi=pmi2 to srun", done.stderr)
    assert "Traceback" not in done.stderr


def test_only_the_first_of_them_tells_it():
    done = prep(**STEP)
    assert done.returncode == 2
    assert done.stderr == ""


def test_without_mpi4py_srun_is_told_both():
    done = prep("import sys; sys.modules['mpi4py'] = None; ", **{**STEP, "SLURM_PROCID": "0"})
    assert done.returncode == 2
    assert re.search(r"error: 4 processes .* pip install 'electra_ds\[mpi\]'.* add --mpi=pmi2 to srun", done.stderr)


def test_ranks_of_another_mpi_are_refused():
    done = prep(OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="0")
    assert done.returncode == 2
    assert re.search(r"error: 4 processes .* each is alone .* start them by the mpirun of", done.stderr)


def test_a_batch_script_is_one_process():
    done = prep(**BATCH)
    assert done.returncode == 2
    assert "none.txt" in done.stderr


@pytest.mark.parametrize(
    ("affinities", "asked", "shares"),
    [
        ([{0, 1, 2, 3}] * 2, "", [2, 2]),  # mpirun without binding
        ([{0, 1}, {2, 3}], "", [2, 2]),  # each its own, as srun binds --cpus-per-task=2
        ([{0, 1, 2}, {2, 3}, {2, 3}], "", [1, 1, 1]),
        ([set(range(64))] * 4, "8", [8] * 4),  # a cluster that binds nothing
        ([{0, 1}] * 4, "16", [1] * 4),
        ([{5}], "", [1]),
    ],
)
def test_cores_of_a_rank(affinities, asked, shares):
    assert [share_of_cores(mine, affinities, asked) for mine in affinities] == shares


@given(st.lists(st.sets(st.integers(0, 15), min_size=1), min_size=1, max_size=8))
def test_ranks_take_no_more_cores_than_there_are(affinities):
    """But every rank takes one."""
    shares = [share_of_cores(mine, affinities) for mine in affinities]
    assert min(shares) >= 1
    assert sum(share for share in shares if share > 1) <= len(set().union(*affinities))
