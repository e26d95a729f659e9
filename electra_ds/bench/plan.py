"""``electra-ds bench plan``: what real steps hold and send, beside what `electra-ds plan` says they will."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from electra_ds.bench import plan_report
from electra_ds.bench.machine import describe
from electra_ds.bench.plan_collectives import network
from electra_ds.bench.plan_launch import Job, launch, planned
from electra_ds.bench.report import Report, command_line
from electra_ds.bench.text import write_text_set
from electra_ds.command_line import bare_flag, parse, plain
from electra_ds.plan.wire import sent_bytes

PACKAGES = ("torch", "deepspeed")
SMALL = ("--config=small",)
BASE = ("--config=base", "--model.layers=2", "--data.sequence_length=128")
TINY = (
    "--config=small",
    "--model.layers=1",
    "--model.hidden_size=64",
    "--model.heads=1",
    "--model.intermediate_size=128",
    "--model.embedding_size=32",
    "--model.generator_width=1",
    "--data.sequence_length=64",
    "--kernels.compile=false",
)


@dataclass(frozen=True, kw_only=True)
class PlanBenchConfig:
    """Measure memory and traffic of real steps by ZeRO stage and ranks, and hold the plan against them."""

    output: Path = Path("benchmarks")
    """Folder for plan.md, plan.json and the plot."""
    ranks: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Numbers of ranks, all on this machine over gloo."""
    stages: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    """ZeRO stages."""
    short: bool = False
    """One tiny model, stages 1 and 3, 1 and 2 ranks: for tests."""

    def __post_init__(self) -> None:
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError(f"ranks={self.ranks}: must hold numbers from 1 on")
        if not self.stages or not set(self.stages) <= {0, 1, 2, 3}:
            raise ValueError(f"stages={self.stages}: must hold some of 0, 1, 2, 3")


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark; return 0."""
    config = parse(PlanBenchConfig, bare_flag(arguments, "--short"), program)
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        run(config, Path(folder), command_line(program, arguments)).publish(config.output)
    return 0


def jobs_of(config: PlanBenchConfig) -> list[Job]:
    """Every measurement, in the order of the report."""
    if config.short:
        return [Job("tiny, L 64", TINY, ranks, stage, 2) for ranks in (1, 2) for stage in (1, 3)]
    small = [Job("small, L 128", SMALL, ranks, stage) for ranks in config.ranks for stage in config.stages]
    others = [Job("base of 2 layers, L 128", BASE, 2, stage, 4) for stage in config.stages]
    others += [Job("small, L 128", SMALL, 2, stage, 8, 2) for stage in config.stages]
    others += [Job("small, L 128", SMALL, 2, stage, 16) for stage in config.stages]
    others += [Job("small, L 128", SMALL, 2, stage, 8, precision="float32") for stage in config.stages]
    # Hardly anything but state: the moments after the backward pass are the highest ones.
    others += [Job("base of 2 layers, L 128", BASE, 1, stage, 1) for stage in config.stages]
    checked = {(1, 0), (1, 1), (2, 3)}
    return [*(replace(job, profiled=(job.ranks, job.stage) in checked) for job in small), *others]


def run(config: PlanBenchConfig, folder: Path, command: str) -> Report:
    """Measure every job, and describe it.

    Args:
        config: what to measure.
        folder: for the text and what ranks write; may be deleted afterwards.
        command: how the reader repeats it.
    """
    machine = describe(PACKAGES)
    shards = str(write_text_set(folder / "shards", 60_000, block_tokens=8192))
    results = []
    for number, job in enumerate(jobs_of(config)):
        if sys.stderr.isatty():
            print(job, file=sys.stderr, flush=True)
        results.append(compare(job, shards, folder / str(number)))
    report = Report("plan", "The plan, held against real steps", plan_report.LEAD, command, machine, plain(config))
    report.results["jobs"] = results
    report.sections = plan_report.sections(results)
    report.figures["plan-memory.svg"] = plan_report.figure(results)
    return report


def compare(job: Job, shards: str, folder: Path) -> dict[str, Any]:
    """One job's figures, measured and planned: of the rank that held most, and of all ranks' traffic together."""
    ranks = launch(job, shards, folder)
    peak, exchanges = planned(job, shards)
    most = max(ranks, key=lambda rank: rank["peak"])
    kinds: dict[str, int] = {}
    for name, size, _ in ranks[0]["collectives"]:
        kinds[name] = kinds.get(name, 0) + size
    return {
        "job": {name: value for name, value in vars(job).items() if name != "options"},
        "options": list(job.options),
        "parameters": most["parameters"],
        "measured": {key: value for key, value in most.items() if key not in ("collectives", "parameters", "network")},
        "peaks": [rank["peak"] for rank in ranks],
        "loopback": max(rank["loopback"] for rank in ranks),
        "own_network": most["network"] != network(),
        "collectives": kinds,
        "calls": len(ranks[0]["collectives"]),
        "planned": {
            "peak": peak.total,
            "between": float(peak.between.total),
            "moment": peak.moment,
            "parts": {name: float(value) for name, value in vars(peak.held).items()},
            "collectives": _by_kind(exchanges),
            "sent": job.ranks * sent_bytes(exchanges, job.ranks),
            "sent_by_gloo": job.ranks * sent_bytes(exchanges, job.ranks, gloo=True),
        },
    }


def _by_kind(exchanges: list[Any]) -> dict[str, float]:
    kinds: dict[str, float] = {}
    for exchange in exchanges:
        kinds[exchange.name] = kinds.get(exchange.name, 0.0) + exchange.size
    return kinds
