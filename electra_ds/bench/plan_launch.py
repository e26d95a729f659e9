"""Starting the ranks of `bench plan`, and what the plan says of the same job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from electra_ds.bench.plan_collectives import own_network
from electra_ds.bench.text import VOCABULARY
from electra_ds.errors import UserError
from electra_ds.plan.memory import Peak, step_peak
from electra_ds.plan.trace import TracedModel
from electra_ds.plan.wire import Exchange, step_exchanges
from electra_ds.plan.zero import Zero
from electra_ds.recipe import Recipe, parse_recipe
from electra_ds.training.engine import complete_config, read_deepspeed_config
from electra_ds.training.schedule import plan_phases

MMAP_BYTES = 65_536
"""Allocations from this size on are pages of their own, given back at once: resident pages then follow the tensors."""


@dataclass(frozen=True)
class Job:
    """One measurement."""

    model: str
    """For people: sizes and row length."""
    options: tuple[str, ...]
    """Of `pretrain`."""
    ranks: int
    stage: int
    micro_batch: int = 8
    """Rows."""
    accumulation: int = 1
    """Micro-batches of a rank in a step."""
    precision: str = "bf16"
    profiled: bool = False
    """Let torch's profiler count too."""

    def arguments(self, shards: str) -> list[str]:
        """Arguments of `pretrain`."""
        batch = self.micro_batch * self.accumulation * self.ranks
        return [
            *self.options,
            f"--data.path={shards}",
            "--output=unused",
            f"--deepspeed=zero{self.stage}",
            f"--training.micro_batch_size={self.micro_batch}",
            f"--training.global_batch_size={batch}",
            f"--training.precision={self.precision}",
        ]

    def __str__(self) -> str:
        return f"{self.model}, {self.micro_batch} rows x {self.accumulation}, {self.ranks} ranks, stage {self.stage}"


def launch(job: Job, shards: str, folder: Path) -> list[dict[str, Any]]:
    """Run a job on its ranks; what each wrote.

    Raises:
        UserError: it failed; the message is the last thing it said.
    """
    folder.mkdir(parents=True)
    file = folder / "job.json"
    file.write_text(json.dumps({"recipe": job.arguments(shards), "profiled": job.profiled}), "utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={job.ranks}"]
    own = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(MMAP_BYTES), "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*launcher, "-m", "electra_ds.bench.plan_worker", str(file)],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        preexec_fn=own_network,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "Error" in line]
        raise UserError(f"bench plan: {job} failed: {lines[0] if lines else done.stderr[-300:]}")
    return [json.loads((folder / f"rank-{rank}.json").read_text("utf-8")) for rank in range(job.ranks)]


def planned(job: Job, shards: str) -> tuple[Peak, list[Exchange]]:
    """The plan's memory and traffic for the same job, on a CPU."""
    recipe = parse_recipe(job.arguments(shards), "bench plan")
    model = _traced(job.options, job.precision, shards)
    phase = plan_phases(recipe, job.ranks)[0]
    sizes = model.named_sizes()
    config = read_deepspeed_config(recipe.deepspeed)
    config = complete_config(config, recipe, [phase], sum(size for _, size in sizes))
    zero = Zero.read(config, sizes, job.ranks, 4 if job.precision == "float32" else 2)
    timeline = model.timeline(phase.micro_batch, phase.sequence_length, zero.stage == 3)
    peak = step_peak(zero, timeline, phase.accumulation)
    return peak, step_exchanges(zero, phase.accumulation)


@cache
def _traced(options: tuple[str, ...], precision: str, shards: str) -> TracedModel:
    recipe: Recipe = parse_recipe([*options, f"--data.path={shards}", "--output=unused"], "bench plan")
    return TracedModel(replace(recipe.model, vocab_size=VOCABULARY), recipe.objective, precision, "cpu")
