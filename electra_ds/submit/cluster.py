"""A site's facts, kept in one file: cluster.yaml. Imports no torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from electra_ds.command_line import parse
from electra_ds.errors import UserError

CLUSTER_VARIABLE = "ELECTRA_DS_CLUSTER"
"""Environment variable: the cluster file where --cluster names none."""


@dataclass(frozen=True, kw_only=True)
class ContainerConfig:
    """Whether commands run in a container."""

    kind: Literal["none", "apptainer", "pyxis"] = "none"
    """none: in the environment of `venv`; apptainer: apptainer exec; pyxis: srun --container-image (Enroot)."""
    image: str | None = None
    """Apptainer's .sif file, or Enroot's .sqsh file or registry URL."""
    mounts: list[str] = field(default_factory=list)
    """Folders to mount, PATH or PATH:INSIDE; the run folder, the shards and the working folder always are."""
    options: list[str] = field(default_factory=list)
    """Further options of apptainer exec, or of srun (pyxis)."""

    def __post_init__(self) -> None:
        if self.kind != "none" and not self.image:
            raise ValueError(f"container.image: missing, but container.kind is {self.kind}; name the image")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How ranks reach each other."""

    interface: str | None = None
    """Network interface for NCCL and gloo, for example ib0; null leaves the choice to them."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables to export, for example {NCCL_IB_HCA: mlx5}."""

    def __post_init__(self) -> None:
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ValueError(f"network.environment: {name!r} is no name of a variable")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What is the same for every job of a site."""

    partition: str | None = None
    """sbatch --partition; null leaves it to the site, as with the next four."""
    account: str | None = None
    """sbatch --account."""
    qos: str | None = None
    """sbatch --qos."""
    constraint: str | None = None
    """sbatch --constraint: features that nodes must have."""
    reservation: str | None = None
    """sbatch --reservation."""
    gpu_request: str = "--gpus-per-node={count}"
    """The sbatch option that asks for the GPUs of a node, for example --gres=gpu:a100:{count}."""
    cpus_per_task: int | None = None
    """Cores of a rank, unless --cpus_per_task says otherwise."""
    mem: str | None = None
    """Memory of a node, unless --mem says otherwise."""
    modules: list[str] = field(default_factory=list)
    """Environment modules to load."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell, run in the batch script after the modules."""
    venv: str | None = None
    """Virtual environment to activate; null takes the one 'electra-ds submit' runs in, and none in a container."""
    container: ContainerConfig = field(default_factory=ContainerConfig)
    """Container."""
    scratch: str | None = None
    """Folder on a node's own disk, exported as ELECTRA_DS_CACHE (data.cache_folder); may name $SLURM_JOB_ID."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Network."""
    mpi: str = "pmi2"
    """srun --mpi of the prep stage; 'srun --mpi=list' shows what the site has."""
    sbatch: list[str] = field(default_factory=list)
    """Further options of sbatch, for example --exclusive."""

    def __post_init__(self) -> None:
        if "{count}" not in self.gpu_request:
            raise ValueError(f"gpu_request: {self.gpu_request!r} does not say how many; write {{count}} for the number")
        for option in (self.gpu_request, *self.sbatch):
            if not re.fullmatch(r"--[a-zA-Z][\w-]*(=.*)?", option):
                raise ValueError(f"{option!r}: expected an option of sbatch as --name=value")


def read_cluster(named: str | None) -> tuple[ClusterConfig, Path | None]:
    """The site's file: the one named, else that of $ELECTRA_DS_CLUSTER, else none.

    Raises:
        UserError: it does not exist, or holds an unknown key (with its line) or an impossible value.
    """
    from_variable = os.environ.get(CLUSTER_VARIABLE)
    name = named or from_variable
    if not name:
        return ClusterConfig(), None
    path = Path(name).expanduser()
    if not path.is_file():
        origin = "--cluster" if named else f"${CLUSTER_VARIABLE}"
        raise UserError(
            f"{origin} {name}: no such file; copy slurm/cluster-gpu.yaml or slurm/cluster-cpu.yaml and edit"
        )
    try:
        return parse(ClusterConfig, ["--config", str(path)], "electra-ds submit"), path.absolute()
    except UserError as error:
        message = str(error).replace("--config ", "--cluster ")
        raise UserError(message if str(path) in message else f"--cluster {path}: {message}") from error
