"""Who am I: rank, world size, local rank and rendezvous, from Slurm, torchrun, MPI or nothing.

All five rendezvous variables are always set before DeepSpeed starts: with any of them missing it tries MPI discovery,
and under a plain srun every rank would believe it is rank 0 of 1.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from electra_ds.errors import UserError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

_SPECIAL_STEPS = 0xFFFFFFF0
"""Slurm numbers batch, interactive and external steps from here on."""


@dataclass(frozen=True)
class Place:
    """This process among the others."""

    rank: int
    world_size: int
    local_rank: int
    master_addr: str
    master_port: int
    launcher: str
    """``torchrun``, ``srun``, ``mpirun``, ``environment`` (the five variables set by hand) or ``single``."""
    local_world_size: int = 1
    """Ranks on this machine, as far as the launcher tells."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that speaks and writes."""
        return self.rank == 0

    def export(self) -> None:
        """Set all five variables, where torch and DeepSpeed look for them."""
        values = (self.rank, self.world_size, self.local_rank, self.master_addr, self.master_port)
        os.environ.update({name: str(value) for name, value in zip(VARIABLES, values, strict=True)})


def find_place(environment: Mapping[str, str] | None = None) -> Place:
    """Read the launcher's variables.

    Raises:
        UserError: the five variables are set in part, a number is none or out of range, two launchers contradict each
            other, or a job of several tasks was started without srun.
    """
    env = dict(os.environ if environment is None else environment)
    if "TORCHELASTIC_RUN_ID" in env:
        return _checked(_from_variables(env, "torchrun"))
    # mpirun inside an allocation starts its helpers by srun, so ranks see Slurm's variables of those; its own count. A
    # plain srun --mpi=pmi2 sets PMI_RANK too, but never MPI_LOCALRANKID.
    by_mpirun = "OMPI_COMM_WORLD_RANK" in env or ("PMI_RANK" in env and "MPI_LOCALRANKID" in env)
    scheduler = _mpi(env) if by_mpirun else _slurm(env) or _mpi(env)
    given = [name for name in VARIABLES if env.get(name)]
    if len(given) == len(VARIABLES):
        place = _checked(_from_variables(env, "environment"))
        if scheduler and (scheduler.rank, scheduler.world_size) != (place.rank, place.world_size):
            raise UserError(
                f"RANK={place.rank} WORLD_SIZE={place.world_size} contradict {scheduler.launcher}, which says rank "
                f"{scheduler.rank} of {scheduler.world_size}; unset RANK and WORLD_SIZE, or start by one launcher only"
            )
        return place
    if given:
        # A site may export only a rendezvous; ranks are then the scheduler's.
        if scheduler and set(given) <= {"MASTER_ADDR", "MASTER_PORT"}:
            return _checked(_with_rendezvous(scheduler, env))
        missing = [name for name in VARIABLES if name not in given]
        raise UserError(
            f"{', '.join(given)} set but {', '.join(missing)} not; set all five of {', '.join(VARIABLES)}, or none and "
            "start by srun, torchrun or mpirun"
        )
    if scheduler:
        return _checked(_with_rendezvous(scheduler, env))
    return Place(0, 1, 0, "127.0.0.1", _free_port(), "single", 1)


def _slurm(env: Mapping[str, str]) -> Place | None:
    if "SLURM_JOB_ID" not in env:
        return None
    tasks = _number(env, "SLURM_STEP_NUM_TASKS") or _number(env, "SLURM_NTASKS") or 1
    step = env.get("SLURM_STEP_ID", "")
    if not step.isdigit() or int(step) >= _SPECIAL_STEPS:
        # The batch script itself, or an interactive shell: their steps have no number, or a reserved one.
        if tasks > 1:
            raise UserError(
                f"inside a Slurm job of {tasks} tasks but not started by srun, so {tasks - 1} of them would be "
                "missing; put 'srun' before electra-ds in the batch script"
            )
        return None
    per_node = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or "1"
    here = int(re.split(r"\D", per_node)[0] or 1)  # "2(x3),1" is two on each of three nodes: the first node's count
    return Place(_need(env, "SLURM_PROCID"), tasks, _need(env, "SLURM_LOCALID"), "", 0, "srun", here)


def _mpi(env: Mapping[str, str]) -> Place | None:
    for rank, size, local, here in (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ):
        if rank in env and size in env:
            local_size = _number(env, here) or 1
            return Place(_need(env, rank), _need(env, size), _number(env, local) or 0, "", 0, "mpirun", local_size)
    return None


def _with_rendezvous(place: Place, env: Mapping[str, str]) -> Place:
    """Fill in address and port: the environment's, else the launcher's own way."""
    address, port = env.get("MASTER_ADDR"), _number(env, "MASTER_PORT")
    if place.world_size == 1:
        address, port = address or "127.0.0.1", port or _free_port()
    elif place.launcher == "srun":
        address = address or _address_of(_first_host(env))
        port = port or 20000 + int(env["SLURM_JOB_ID"]) % 20000 + int(env["SLURM_STEP_ID"]) % 64
    elif not (address and port):
        address, port = _agree_by_mpi()
    return replace(place, master_addr=address, master_port=port)


def _first_host(env: Mapping[str, str]) -> str:
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or ""
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return listed.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(
            f"cannot find the first node of '{nodes}' ('scontrol show hostnames' failed: {error}); "
            "export MASTER_ADDR in the batch script"
        ) from error


def _address_of(node: str) -> str:
    """The node's name where it resolves, else the address that Slurm knows it by: the two need not agree."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        pass
    try:
        shown = subprocess.run(["scontrol", "show", "node", node], capture_output=True, text=True, check=True).stdout
        found = re.search(r"\bNodeAddr=(\S+)", shown)
    except (OSError, subprocess.CalledProcessError):
        found = None
    return found.group(1) if found else node


def _agree_by_mpi() -> tuple[str, int]:
    """Rank 0 offers its host name and a free port; MPI is closed again at once."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except ImportError as error:
        raise UserError(
            "started by mpirun, but mpi4py is not installed, so the ranks cannot agree on an address: "
            "pip install '.[mpi]' in the clone, or export MASTER_ADDR and MASTER_PORT"
        ) from error
    MPI.Init()
    world = MPI.COMM_WORLD
    names = set(world.allgather(socket.gethostname()))
    host = "127.0.0.1" if len(names) == 1 else socket.gethostname()
    address, port = world.bcast((host, _free_port()) if world.Get_rank() == 0 else None, root=0)
    MPI.Finalize()
    return address, port


def _from_variables(env: Mapping[str, str], launcher: str) -> Place:
    numbers = {name: _need(env, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    return Place(
        numbers["RANK"],
        numbers["WORLD_SIZE"],
        numbers["LOCAL_RANK"],
        env["MASTER_ADDR"],
        numbers["MASTER_PORT"],
        launcher,
        _number(env, "LOCAL_WORLD_SIZE") or 1,
    )


def _checked(place: Place) -> Place:
    if not 0 <= place.rank < place.world_size:
        raise UserError(f"rank {place.rank} of {place.world_size} ({place.launcher}): expected 0 <= rank < world size")
    if not 0 <= place.local_rank <= place.rank:
        raise UserError(f"LOCAL_RANK={place.local_rank} with RANK={place.rank}: expected 0 <= local rank <= rank")
    if not 0 < place.master_port < 65536:
        raise UserError(f"MASTER_PORT={place.master_port}: expected a port from 1 to 65535")
    return place


def _number(env: Mapping[str, str], name: str) -> int | None:
    return _need(env, name) if env.get(name) else None


def _need(env: Mapping[str, str], name: str) -> int:
    value = env.get(name, "")
    try:
        return int(value)
    except ValueError:
        raise UserError(f"{name}='{value}': expected a whole number from the launcher") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def leave(status: int) -> NoReturn:
    """End this rank without running the libraries' exit handlers.

    Ranks that finished well otherwise die of SIGABRT at random while gloo's threads are torn down.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
