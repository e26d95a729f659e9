"""Runs submitted to a real Slurm cluster, and what they are held against."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.conftest import TINY_MODEL, consumed, metrics
from tests.slurm.cluster import SEARCH_PATH, Cluster

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STEPS = 24
RECIPE = {
    **TINY_MODEL,
    "training.steps": STEPS,
    "checkpoint.every": 6,
    "checkpoint.keep_last": 4,
    "data.audit": "true",
    "logging.flush_every": 1,
}
"""Of every run here: what a test does not change."""
COMPARED = ("step", "loss", "generator_loss", "discriminator_loss", "gradient_norm", "rows_consumed", "tokens_consumed")


def recipe_options(shards: Path, output: Path, **changes: object) -> list[str]:
    """Options of ``pretrain``, and of ``submit`` that hands them on; `changes` use __ for the dot."""
    options = {**RECIPE, "data.path": shards, "output": output}
    options.update({name.replace("__", "."): value for name, value in changes.items()})
    return ["--config", "small", *(f"--{name}={value}" for name, value in options.items())]


class Submitted:
    """A run that ``electra-ds submit`` hands to a cluster, life after life."""

    def __init__(self, cluster: Cluster, shards: Path, output: Path) -> None:
        self.cluster, self.shards, self.output = cluster, shards, output
        self.job = ""

    def submit(self, *options: str, strike: dict | None = None, **changes: object) -> str:
        """Submit; returns what the command printed. `strike`: see striking/sitecustomize.py."""
        variables = {
            "PATH": f"{BIN}:{SEARCH_PATH}",
            "PYTHONPATH": f"{ROOT / 'tests/slurm/striking'}:{ROOT}" if strike else "",
            "STRIKE": json.dumps(strike) if strike else "",
        }
        command = [sys.executable, "-m", "electra_ds", "submit", *recipe_options(self.shards, self.output, **changes)]
        if not any(option.startswith("--preflight") for option in options):
            command.append("--preflight=false")
        done = self.cluster.run(*command, *options, **variables)
        assert done.returncode == 0, done.stdout
        self.job = re.search(r"submitted pretrain: job (\d+)", done.stdout).group(1)
        return done.stdout

    def wait(self, state: str = "COMPLETED", seconds: float = 180) -> None:
        """Wait for the job's end, requeues included; it must be in that state then."""
        end = time.monotonic() + seconds
        while (found := self.cluster.wait(self.job, seconds)) == "REQUEUE_HOLD" or found == "NODE_FAIL":
            assert time.monotonic() < end, self.log
            time.sleep(0.2)
        assert found == state, f"{found}\n{self.log}"

    def until(self, condition: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until a condition holds, while the job lives."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def until_step(self, step: int) -> None:
        """Wait until metrics.jsonl tells of a step."""
        self.until(lambda: (self.output / "metrics.jsonl").exists() and self.last_step() >= step)

    def last_step(self) -> int:
        steps = [line["step"] for line in metrics(self.output)]
        return max(steps, default=0)

    def freeze(self, node: str) -> list[psutil.Process]:
        """Stop everything that runs on a node, as a node does whose network or kernel is gone."""
        frozen = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            environment, words = process.info["environ"] or {}, process.info["cmdline"] or []
            here = environment.get("SLURMD_NODENAME") == node and environment.get("SLURM_JOB_ID") == self.job
            daemon = words[:1] and words[0].endswith("slurmd") and node in words
            if (here and "electra_ds" in words) or (daemon and str(self.cluster.folder) in str(environment)):
                process.suspend()
                frozen.append(process)
        return frozen

    @property
    def log(self) -> str:
        """The job's log, and those of its ranks."""
        files = sorted((self.output / "logs").rglob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text('utf-8', 'replace')}" for path in files)


def curve(run: Path) -> list[tuple]:
    """What a run logged of each step."""
    return [tuple(line[key] for key in COMPARED) for line in metrics(run)]


def assert_same_run(ours: Path, undisturbed: Path, tolerance: float | None = None) -> None:
    """Every row exactly once and in its step; the same losses, bit for bit unless a relative tolerance is given."""
    assert consumed(ours) == consumed(undisturbed)
    mine, other = curve(ours), curve(undisturbed)
    assert [line[0] for line in mine] == [line[0] for line in other]
    if tolerance is None:
        assert mine == other
        return
    for one, two in zip(mine, other, strict=True):
        for value, wanted in zip(one, two, strict=True):
            assert abs(value - wanted) <= tolerance * abs(wanted), (one, two)


def run_undisturbed(shards: Path, output: Path, ranks: int, **changes: object) -> Path:
    """The same run by torchrun, left alone."""
    from tests.conftest import run_ranks

    run_ranks(ranks, ["pretrain", *recipe_options(shards, output, **changes)])
    assert [line["step"] for line in metrics(output)] == list(range(1, STEPS + 1))
    return output


def events(run: Path) -> list[str]:
    """What befell a run, in order."""
    return [line["event"] for line in metrics(run, "event")]


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command."""
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
