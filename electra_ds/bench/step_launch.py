"""Starting the ranks of `bench step`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from electra_ds.bench.machine import usable_cores
from electra_ds.bench.plan_launch import MMAP_BYTES
from electra_ds.bench.step_sides import Setting, Side
from electra_ds.command_line import plain
from electra_ds.errors import UserError


class Launcher:
    """Runs jobs of `step_worker`, each in processes of its own."""

    def __init__(self, folder: Path, ranks: int) -> None:
        """Args: folder: for what ranks write. ranks: of every job."""
        self._folder, self._ranks, self._count = folder, ranks, 0

    def run(self, mode: str, setting: Setting, sides: Sequence[Side], **details: Any) -> list[dict[str, Any]]:
        """Run one job; what each rank wrote.

        Args:
            mode: of `step_worker.MODES`.
            setting: what the sides have in common.
            sides: what to build.
            details: further entries of the job.

        Raises:
            UserError: it failed; the message is the first error it named.
        """
        self._count += 1
        own = self._folder / f"job-{self._count}"
        own.mkdir(parents=True)
        job = {"mode": mode, "setting": asdict(setting), "sides": [asdict(side) for side in sides], **plain(details)}
        (own / "job.json").write_text(json.dumps(job), "utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self._ranks}"]
        done = subprocess.run(
            [*command, "-m", "electra_ds.bench.step_worker", str(own / "job.json")],
            env={**os.environ, **self._environment(mode)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UserError(f"bench step, {mode}: {_first_error(done.stderr)}")
        return [json.loads((own / f"rank-{rank}.json").read_text("utf-8")) for rank in range(self._ranks)]

    def _environment(self, mode: str) -> dict[str, str]:
        threads = str(max(1, len(usable_cores()) // self._ranks))
        environment = {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo", "TRANSFORMERS_VERBOSITY": "error"}
        if mode == "memory":
            # What is freed leaves at once, so that resident pages follow the tensors.
            environment["MALLOC_MMAP_THRESHOLD_"] = str(MMAP_BYTES)
        return environment


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "Error" in line and "ChildFailedError" not in line]
    return lines[0] if lines else text[-300:]
