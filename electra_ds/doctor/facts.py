"""What a rank knows of itself, without touching a shared file system."""

from __future__ import annotations

import os
import resource
import socket
import sys
from dataclasses import dataclass, field
from glob import glob
from typing import Any

from electra_ds.distributed import Place
from electra_ds.doctor.software import kernels, optional_packages, versions
from electra_ds.lives import node_name

UNLIMITED = -1
"""Stands for no limit."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU that a rank sees."""

    name: str
    memory: int
    """Bytes."""
    bf16: bool
    """Whether it computes in bfloat16 by itself."""
    uuid: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One rank's own."""

    rank: int
    node: str
    host: str = ""
    local_rank: int = 0
    local_world_size: int = 1
    """Ranks on this machine, as far as the launcher tells."""
    versions: dict[str, str] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    """GPUs that torch sees."""
    gpu_files: int = 0
    """GPUs that the driver shows, whether torch can use them or not."""
    device: int | None = None
    """Which of the GPUs is this rank's own; None without."""
    cores: tuple[int, ...] = ()
    """Numbers of the CPU cores this process may use."""
    machine_cores: int = 0
    load: float = 0.0
    """Processes that ran or waited, on average over the last minute."""
    omp_threads: str | None = None
    """OMP_NUM_THREADS."""
    open_files: int = UNLIMITED
    """Limit (ulimit -n)."""
    locked_memory: int = UNLIMITED
    """Limit (bytes; ulimit -l)."""
    infiniband: bool = False
    """Whether there is a device for remote memory access."""
    ahead: float | None = None
    """Seconds that this clock is ahead of the first rank's; None where it was not measured."""
    round_trip: float | None = None
    """Seconds; the clock's difference is known to half of it."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Facts:
        """Back from what `dataclasses.asdict` made of it."""
        return cls(**{**value, "gpus": tuple(Gpu(**gpu) for gpu in value["gpus"]), "cores": tuple(value["cores"])})


def collect_facts(place: Place) -> Facts:
    """Look at this rank."""
    gpus = _gpus()
    # As in training: Slurm may show each task its own GPU alone.
    device = 0 if place.launcher == "srun" and len(gpus) == 1 else place.local_rank
    return Facts(
        rank=place.rank,
        node=node_name(),
        host=socket.gethostname(),
        local_rank=place.local_rank,
        local_world_size=place.local_world_size,
        versions=versions(),
        kernels=kernels(),
        packages=optional_packages(),
        gpus=gpus,
        gpu_files=len(glob("/dev/nvidia[0-9]*")),
        device=device if device < len(gpus) else None,
        cores=_cores(),
        machine_cores=os.cpu_count() or 1,
        load=os.getloadavg()[0],
        omp_threads=os.environ.get("OMP_NUM_THREADS"),
        open_files=_limit(resource.RLIMIT_NOFILE),
        locked_memory=_limit(resource.RLIMIT_MEMLOCK),
        infiniband=os.path.isdir("/dev/infiniband"),
    )


def _gpus() -> tuple[Gpu, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(
            Gpu(
                name=properties.name,
                memory=properties.total_memory,
                bf16=properties.major >= 8,
                uuid=str(getattr(properties, "uuid", number)),
            )
        )
    return tuple(found)


def _cores() -> tuple[int, ...]:
    if sys.platform == "linux":
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _limit(what: int) -> int:
    soft, _ = resource.getrlimit(what)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft
