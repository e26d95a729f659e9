"""Rank, world size and rendezvous from every launcher, and contradictions refused."""

import os

import pytest

from electra_ds.distributed import Place, find_place
from electra_ds.errors import UserError

FIVE = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "MASTER_ADDR": "n1",
}


def test_alone_it_is_rank_0_of_1():
    place = find_place({})
    assert (place.rank, place.world_size, place.launcher) == (0, 1, "single")
    assert 0 < place.master_port < 65536


def test_the_five_variables_are_taken():
    assert find_place(FIVE) == Place(3, 8, 1, "n1", 29500, "environment")


def test_torchrun_inside_srun_is_torchruns():
    found = find_place({**SRUN, **FIVE, "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"})
    assert (found.rank, found.world_size, found.launcher, found.local_world_size) == (3, 8, "torchrun", 2)


def test_srun_gives_rank_and_a_port_that_all_ranks_agree_on():
    found = find_place(SRUN)
    assert (found.rank, found.world_size, found.local_rank) == (5, 8, 1)
    assert (found.master_addr, found.launcher, found.local_world_size) == ("n1", "srun", 4)
    assert found.master_port == find_place({**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).master_port


BATCH = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}


def test_mpirun_and_torchrun_inside_an_allocation_count_for_themselves():
    rendezvous = {"MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    open_mpi = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    assert find_place({**BATCH, **rendezvous, **open_mpi}).rank == 1
    assert find_place({**BATCH, **FIVE, "TORCHELASTIC_RUN_ID": "x"}).rank == 3
    # MPICH starts one helper a node by srun: both ranks of node 1 see that helper's Slurm rank.
    helper = {**SRUN, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "MASTER_PORT": "29500"}
    for rank in (2, 3):
        ours = {"PMI_RANK": str(rank), "PMI_SIZE": "4", "MPI_LOCALRANKID": str(rank - 2), "MPI_LOCALNRANKS": "2"}
        assert (find_place({**helper, **ours}).rank, find_place({**helper, **ours}).world_size) == (rank, 4)


def test_srun_with_pmi_keeps_to_slurm():
    assert find_place({**SRUN, "PMI_RANK": "5", "PMI_SIZE": "8"}).launcher == "srun"


def test_mpi_of_both_kinds():
    rendezvous = {"MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    mpich = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
    open_mpi = {
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    }
    for variables in (mpich, open_mpi):
        assert find_place({**rendezvous, **variables}) == Place(1, 4, 1, "n1", 29500, "mpirun", 2)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK, WORLD_SIZE set but LOCAL_RANK, MASTER_ADDR, MASTER_PORT not"),
        ({**FIVE, "RANK": "8"}, "rank 8 of 8"),
        ({**FIVE, "RANK": "two"}, "RANK='two': expected a whole number"),
        ({**FIVE, "MASTER_PORT": "70000"}, "MASTER_PORT=70000"),
        ({**FIVE, "LOCAL_RANK": "5"}, "LOCAL_RANK=5 with RANK=3"),
        ({**SRUN, **FIVE}, "RANK=3 WORLD_SIZE=8 contradict srun, which says rank 5 of 8"),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, "not started by srun"),
        ({**SRUN, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "4"}, "not started by srun"),
    ],
)
def test_half_set_wrong_and_contradicting_variables_are_refused(variables, message):
    with pytest.raises(UserError, match=message):
        find_place(variables)


def test_a_batch_script_of_one_task_runs_alone():
    assert find_place({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}).world_size == 1


def test_export_sets_all_five(monkeypatch):
    for name in FIVE:
        monkeypatch.setenv(name, "replaced below, and restored when the test ends")
    find_place({**SRUN, "MASTER_PORT": "29501"}).export()
    assert [os.environ[name] for name in FIVE] == ["5", "8", "1", "n1", "29501"]
