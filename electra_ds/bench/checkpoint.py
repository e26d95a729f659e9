"""``electra-ds bench checkpoint``: what a checkpoint costs, written in the background or not, and going on from it."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_ds.bench.machine import describe
from electra_ds.bench.plan import TINY
from electra_ds.bench.report import Report, Section, command_line
from electra_ds.bench.statistics import Spread, in_turn
from electra_ds.bench.text import write_text_set
from electra_ds.command_line import bare_flag, parse, plain
from electra_ds.errors import UserError

LEAD = """\
Real runs of `electra-ds pretrain` over gloo, a checkpoint every few steps, by turns with `checkpoint.in_background` on
and off. *Stall*: how long training stood still for a checkpoint (the copy to host memory and what DeepSpeed gathers; or
all of the writing). *Published*: from its beginning until `latest` names it. *Steps between*: tokens a second over the
steps of the whole run, saves included, so that what the writing thread takes from the cores shows. The last checkpoint
of a run is always waited for and is left out."""


@dataclass(frozen=True, kw_only=True)
class CheckpointBenchConfig:
    """Measure saving in the background and not, and resuming on the same ranks and on others."""

    output: Path = Path("benchmarks")
    """Folder for checkpoint.md and checkpoint.json."""
    ranks: int = 2
    """Ranks that save, all on this machine over gloo."""
    rounds: int = 2
    """Runs of each side."""
    short: bool = False
    """One tiny model, one round: for tests."""

    def __post_init__(self) -> None:
        if self.ranks < 2 or self.ranks % 2:
            raise ValueError(f"ranks={self.ranks}: must be even, as resuming on half of them is measured too")
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds}: must be at least 1")


@dataclass(frozen=True)
class Size:
    """A model to save, and how often."""

    name: str
    options: tuple[str, ...]
    rows: int
    """Of a step and rank."""
    steps: int
    every: int


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark; return 0."""
    config = parse(CheckpointBenchConfig, bare_flag(arguments, "--short"), program)
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-") as folder:
        run(config, Path(folder), command_line(program, arguments)).publish(config.output)
    return 0


def sizes_of(config: CheckpointBenchConfig) -> list[Size]:
    """What is saved."""
    if config.short:
        return [Size("tiny", TINY, 2, 6, 2)]
    return [Size("small", ("--config=small",), 8, 24, 6), Size("base", ("--config=base",), 1, 12, 4)]


def run(config: CheckpointBenchConfig, folder: Path, command: str) -> Report:
    """Measure every size; `folder` is for shards and runs and may be deleted afterwards."""
    machine = describe(("torch", "deepspeed"))
    shards = write_text_set(folder / "shards", 100_000, block_tokens=8192)
    results = []
    for size in sizes_of(config):
        sides: dict[str, list[dict[str, Any]]] = {"true": [], "false": []}
        for number, side in in_turn(list(sides), 1 if config.short else config.rounds):
            output = folder / f"{size.name}-{side}-{number}"
            pretrain_run(size, shards, output, config.ranks, [f"--checkpoint.in_background={side}"])
            sides[side].append(_measured(output, size))
        results.append({"size": size.name, "sides": sides, "resumed": _resumed(size, shards, output, config.ranks)})
    report = Report("checkpoint", "What a checkpoint costs", LEAD, command, machine, plain(config))
    report.results["sizes"] = results
    report.sections = [_saving(results), _resuming(results, config.ranks)]
    return report


def pretrain_run(size: Size, shards: Path, output: Path, ranks: int, options: Sequence[str]) -> None:
    """Run ranks to the end.

    Raises:
        UserError: they fail; the message is the last thing they said.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    recipe = [
        *size.options,
        "--data.sequence_length=128",
        f"--data.path={shards}",
        f"--output={output}",
        f"--training.global_batch_size={4 * size.rows}",
        f"--training.micro_batch_size={size.rows}",
        f"--training.steps={size.steps}",
        f"--checkpoint.every={size.every}",
        "--checkpoint.keep_last=2",
        "--training.try_batch=false",
        "--logging.every=1",
        "--model.dropout=0",
    ]
    done = subprocess.run(
        [*launcher, "-m", "electra_ds", "pretrain", *recipe, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"{size.name} on {ranks} ranks failed: {done.stdout.strip().splitlines()[-1]}")


def _lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]


def _measured(output: Path, size: Size) -> dict[str, Any]:
    """Saves of a run but its last, and its throughput."""
    lines = _lines(output)
    saves = [line for line in lines if line.get("event") == "save" and line["step"] < size.steps]
    train = [line for line in lines if line["kind"] == "train"]
    first, last = train[0], train[-1]
    seconds = last["elapsed_seconds"] - first["elapsed_seconds"]
    return {
        "stall_seconds": [line["stall_seconds"] for line in saves],
        "seconds": [line["seconds"] for line in saves],
        "bytes": saves[-1]["bytes"],
        "tokens_per_second": (last["tokens_consumed"] - first["tokens_consumed"]) / seconds,
    }


def _resumed(size: Size, shards: Path, output: Path, ranks: int) -> dict[str, float]:
    """Seconds from choosing a checkpoint until it is loaded, by ranks and stage."""
    found = {}
    for name, new_ranks, stage in (("as saved", ranks, 1), ("half the ranks", ranks // 2, 1), ("stage 3", ranks, 3)):
        copy = output.with_name(f"{output.name}-resumed")
        shutil.copytree(output, copy)
        shutil.rmtree(copy / "checkpoints" / f"step-{size.steps:08d}")
        pretrain_run(size, shards, copy, new_ranks, [f"--deepspeed=zero{stage}"])
        found[name] = next(line["seconds"] for line in _lines(copy) if line.get("event") == "resume")
        shutil.rmtree(copy)
    return found


def _saving(results: list[dict[str, Any]]) -> Section:
    rows = []
    for result in results:
        for side, runs in result["sides"].items():
            stalls = Spread(tuple(value for one in runs for value in one["stall_seconds"]))
            published = statistics.median(value for one in runs for value in one["seconds"])
            speed = Spread(tuple(one["tokens_per_second"] for one in runs))
            written = "in the background" if side == "true" else "while training waits"
            size = f"{runs[0]['bytes'] / 1e6:,.0f}"
            rows.append([result["size"], written, size, stalls.show(".3f"), f"{published:.2f}", speed.show(",.0f")])
    header = ("model", "written", "MB", "stall, s", "published, s", "steps between, tokens/s")
    return Section("Saving", "ZeRO stage 1, bf16; medians, with the range in brackets.", header, rows)


def _resuming(results: list[dict[str, Any]], ranks: int) -> Section:
    text = (
        f"Seconds from looking for the newest checkpoint (its SHA-256 sums included) until {ranks} ranks hold it at "
        "stage 1, half of them do, or all do at stage 3. Its files were read before, so they are in the page cache."
    )
    rows = [[result["size"], *(f"{seconds:.2f}" for seconds in result["resumed"].values())] for result in results]
    return Section("Going on", text, ("model", *results[0]["resumed"]), rows)
