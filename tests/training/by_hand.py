"""Ranks started one by one with the five variables, each with its own arguments and environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from electra_ds.distributed import _free_port
from tests.conftest import environment


class Ranks:
    """Some ranks of a world; use as a context: what still runs at its end is killed."""

    def __init__(self, world_size: int, folder: Path, address: str = "127.0.0.1", port: int | None = None) -> None:
        self.world_size, self.folder = world_size, folder
        self.rendezvous = {"MASTER_ADDR": address, "MASTER_PORT": str(port or _free_port())}
        self.processes: dict[int, subprocess.Popen] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def start(self, rank: int, arguments: list[str], cwd: Path | None = None, **extra: str) -> None:
        """Start ``electra-ds ARGUMENTS`` as one rank."""
        variables = {"RANK": str(rank), "WORLD_SIZE": str(self.world_size), "LOCAL_RANK": "0", **self.rendezvous}
        with open(self.folder / f"{rank}.log", "w") as log:
            self.processes[rank] = subprocess.Popen(
                [sys.executable, "-m", "electra_ds", *arguments],
                env=environment(SLURMD_NODENAME=f"node{rank}", **variables, **extra),
                cwd=cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self, seconds: float = 120) -> dict[int, int]:
        """Exit statuses of all that were started."""
        return {rank: process.wait(seconds) for rank, process in self.processes.items()}

    def log(self, rank: int) -> str:
        return (self.folder / f"{rank}.log").read_text()

    @property
    def logs(self) -> str:
        return "\n".join(self.log(rank) for rank in self.processes)
