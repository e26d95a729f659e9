"""The processes of one preparation: one alone, or the ranks of an MPI job (mpirun, or srun with --mpi=pmi2).

mpi4py is imported only where the environment shows that a launcher started several processes. If MPI then does not join
them, that is an error: each would think it is alone, and prepare everything. Waiting ranks sleep: an MPI library would
spin on a core that another rank could use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from electra_ds.errors import UserError

Value = TypeVar("Value")

_STEP = "SLURM_STEP_NUM_TASKS"
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", _STEP)
"""Variables that tell the number of processes that were started together, the innermost launcher's first: `mpirun` in a
Slurm allocation starts its helpers by srun, so its ranks see the size of that step, too."""


class Launch(NamedTuple):
    """What the environment tells of the launcher."""

    size: int
    """Processes that were started together, this one among them."""
    variable: str = ""
    """Where that was read; empty for a process that no launcher started."""


class SharedError(UserError):
    """A user's error that every rank has learnt of: each raises it at the same collective."""


class Team:
    """One process alone: every collective is the identity."""

    rank = 0
    size = 1

    def gather_all(self, value: Value) -> list[Value]:
        """Return each rank's value, by rank, on every rank."""
        return [value]

    def gather(self, value: Value) -> list[Value] | None:
        """Return each rank's value, by rank, on rank 0; None on the others."""
        return [value]

    def exchange(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Send rows[r] to rank r; return what came, in the order of the ranks. All [N_r, K], K and dtype the same."""
        return rows[0]

    def agree(self, action: Callable[[], Value]) -> Value:
        """Let rank 0 act and share the result; a user's error there is raised on every rank."""
        return action()

    def check(self, problem: UserError | None) -> None:
        """Tell the other ranks of a user's error, whichever collective they wait in; raise it on every rank.

        A rank that met an error calls this where the others call their next collective.
        """
        if problem is not None:
            raise problem

    def cores(self) -> int:
        """CPU cores for this rank's work."""
        return len(os.sched_getaffinity(0))

    def abort(self) -> None:
        """End the other ranks, which would wait for this one."""


class MpiTeam(Team):
    """The ranks of an MPI job."""

    def __init__(self, launch: Launch) -> None:
        """Join.

        Args:
            launch: what the environment tells.

        Raises:
            UserError: mpi4py or an MPI library is missing, or does not know of the other processes.
        """
        for name, value in mpich_settings(os.environ).items():
            os.environ.setdefault(name, value)
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"{launch.size} processes were started together ({launch.variable}), but MPI cannot be used ({error}); "
                f"pip install 'electra_ds[mpi]', or build mpi4py for this machine's MPI{_under_srun(launch)}"
            ) from error
        self._mpi = MPI
        self._comm = MPI.COMM_WORLD
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        if self.size == 1:
            name, version = MPI.get_vendor()
            raise UserError(
                f"{launch.size} processes were started together ({launch.variable}), but each is alone for MPI "
                f"({name} {'.'.join(map(str, version))}) and would prepare everything"
                f"{_under_srun(launch) or f'; start them by the mpirun of {name}'}"
            )

    def gather_all(self, value: Value) -> list[Value]:
        """See `Team`."""
        return self._gather_all(value, None)

    def _gather_all(self, value: Value, problem: UserError | None) -> list[Value]:
        self._meet()
        gathered: list[tuple[Value, UserError | None]] = self._comm.allgather((value, problem))
        first = next((found for _, found in gathered if found is not None), None)
        if first is not None:
            raise SharedError(*first.args)
        return [found for found, _ in gathered]

    def gather(self, value: Value) -> list[Value] | None:
        """See `Team`; sent one by one, so that a message stays within MPI's 32-bit counts."""
        self.gather_all(None)
        if self.rank != 0:
            self._comm.send(value, 0)
            return None
        return [value, *(self._comm.recv(source=rank) for rank in range(1, self.size))]

    def exchange(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """See `Team`; counts may exceed MPI's 32 bits, so rows travel in rounds."""
        columns, dtype = rows[0].shape[1], rows[0].dtype
        most = max(1, (1 << 28) // (columns * dtype.itemsize * self.size))
        rounds = max(self.gather_all(max(-(-len(block) // most) for block in rows)))
        received: list[list[np.ndarray]] = [[] for _ in range(self.size)]
        for number in range(rounds):
            parts = [np.ascontiguousarray(block[number * most : (number + 1) * most]) for block in rows]
            sends = np.array([part.size for part in parts], np.int64)
            takes = np.empty_like(sends)
            self._comm.Alltoall(sends, takes)
            out, into = np.concatenate(parts).reshape(-1), np.empty(int(takes.sum()), dtype)
            kind = self._mpi._typedict[dtype.char]
            self._comm.Alltoallv(
                [out, sends, np.cumsum(sends) - sends, kind], [into, takes, np.cumsum(takes) - takes, kind]
            )
            for rank, piece in enumerate(np.split(into, np.cumsum(takes)[:-1])):
                received[rank].append(piece.reshape(-1, columns))
        return np.concatenate([piece for pieces in received for piece in pieces] or [np.empty((0, columns), dtype)])

    def agree(self, action: Callable[[], Value]) -> Value:
        """See `Team`."""
        value: Any = None
        problem: UserError | None = None
        if self.rank == 0:
            try:
                value = action()
            except UserError as error:
                problem = error
        shared: Value = self._gather_all(value, problem)[0]
        return shared

    def check(self, problem: UserError | None) -> None:
        """See `Team`."""
        self._gather_all(None, problem)

    def cores(self) -> int:
        """See `Team`; every rank calls this."""
        machine, mine = self._mpi.Get_processor_name(), os.sched_getaffinity(0)
        everywhere = self.gather_all((machine, mine))
        here = [cores for name, cores in everywhere if name == machine]
        return share_of_cores(mine, here, os.environ.get("SLURM_CPUS_PER_TASK", ""))

    def abort(self) -> None:
        """See `Team`."""
        self._comm.Abort(1)

    def _meet(self) -> None:
        """Wait for all ranks without spinning."""
        request = self._comm.Ibarrier()
        pause = 0.0005
        while not request.Test():
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)


def find_team() -> Team:
    """Join the MPI job that this process is a rank of, if it is.

    Raises:
        UserError: several processes were started together, but MPI does not join them.
    """
    launch = find_launch(os.environ)
    if launch.size == 1:
        return Team()
    try:
        return MpiTeam(launch)
    except UserError as error:
        if launch.variable == _STEP and os.environ.get("SLURM_PROCID") != "0":
            time.sleep(1.0)  # the first tells it, before srun ends all for the status of another
            raise SystemExit(2) from error
        raise


def find_launch(environment: Mapping[str, str]) -> Launch:
    """Tell by the environment how many processes were started together.

    A batch script, and a shell in an allocation, see the allocation's `SLURM_NTASKS` (and are told that they are
    `SLURM_PROCID` 0), though nothing was started beside them: only a step's own variables count.
    """
    for variable in _SIZES:
        if environment.get(variable, "").isdigit():
            return Launch(int(environment[variable]), variable)
    return Launch(1)


def share_of_cores(mine: set[int], here: Sequence[set[int]], asked: str = "") -> int:
    """How many cores are a rank's own share.

    Args:
        mine: cores that it may run on.
        here: those of every rank on this machine: all the same, or each its own where the launcher binds them.
        asked: `SLURM_CPUS_PER_TASK`, which not every cluster enforces.
    """
    sharing = max(sum(core in theirs for theirs in here) for core in mine)
    share = max(1, len(mine) // sharing)
    return min(share, int(asked)) if asked.isdigit() and int(asked) else share


def mpich_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings under which MPICH's ranks, started by srun itself, find each other however the last job ended.

    MPICH cuts UCX's long addresses into lines of up to 1,080 characters, and Slurm's pmi2 takes 1,024 (pmodels/mpich
    issue 6924), so that it depends on what is in those addresses whether the ranks start; libfabric's are short. And
    shared memory is named after job and step alone: what a killed rank leaves in /dev/shm is in the way of the same
    job, requeued on that node. The little that ranks tell each other may as well go through the network's loopback.

    mpirun has lines and names of its own: MPI_LOCALNRANKS tells that one of its helpers is between srun and the rank.
    """
    if "SLURM_STEP_ID" not in environment or "MPI_LOCALNRANKS" in environment:
        return {}
    return {"MPIR_CVAR_CH4_NETMOD": "ofi", "MPIR_CVAR_NOLOCAL": "1"}


def _under_srun(launch: Launch) -> str:
    """What to do about processes that srun started without telling MPI; empty for other launchers."""
    if launch.variable != _STEP:
        return ""
    return (
        "; add --mpi=pmi2 to srun (srun --mpi=pmi2 electra-ds prep ...), or the type that this MPI was built for "
        "('srun --mpi=list'); for one process alone, srun --ntasks=1"
    )
