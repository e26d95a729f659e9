"""The processes of one preparation: one alone, or the ranks of an MPI job (mpirun, or srun with --mpi=pmi2).

mpi4py is imported only where the environment shows that a launcher started several ranks. Waiting ranks sleep: an MPI
library would spin on a core that another rank could use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from electra_ds.errors import UserError

Value = TypeVar("Value")

_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE")
"""Variables by which launchers tell the number of ranks."""
_LOCAL_SIZES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")


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

    def abort(self) -> None:
        """End the other ranks, which would wait for this one."""


class MpiTeam(Team):
    """The ranks of an MPI job."""

    def __init__(self) -> None:
        """Join.

        Raises:
            UserError: mpi4py or an MPI library is missing.
        """
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"several ranks were started, but MPI cannot be used ({error}); pip install 'electra_ds[mpi]', or "
                "build mpi4py for this machine's MPI"
            ) from error
        self._mpi = MPI
        self._comm = MPI.COMM_WORLD
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()

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
    """Join the MPI job that this process is a rank of, if it is."""
    size = next((int(os.environ[name]) for name in _SIZES if os.environ.get(name, "").isdigit()), 1)
    return MpiTeam() if size > 1 else Team()


def local_ranks() -> int:
    """How many ranks of the job run on this machine, by the launcher's variables; 1 if they do not tell."""
    return next((int(os.environ[name]) for name in _LOCAL_SIZES if os.environ.get(name, "").isdigit()), 1)
