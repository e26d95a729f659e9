"""``electra-ds bench all``: every benchmark, one after another, and one table of what is measured and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from electra_ds.bench.machine import describe
from electra_ds.bench.report import Report, Section, command_line
from electra_ds.bench.statistics import Spread
from electra_ds.command_line import bare_flag, parse, plain
from electra_ds.errors import did_you_mean

LEAD = """\
Which benchmarks ran here, each as a command of its own, and the figures of the training step by model and device, from
the reports in this folder, wherever they were made. A cell without a figure was not measured."""

TAKES_DEVICE = ("step", "kernels")
"""Benchmarks of what a GPU computes; the others measure disks, processors and memory."""
STEPS = {"small": 128, "base": 512, "large": 512}
"""Recipes whose step is measured, and their row lengths (tokens)."""
ON_CPU = ("small", "base")
"""Of these on a CPU: large would take an hour and say nothing new."""
NOT_MEASURED = "not measured"
FIGURES = (
    "tokens_per_second", "mfu", "ratio", "ratio_compiled", "peak_bytes", "memory_ratio", "head_share", "data_wait",
    "overhead", "zero",
)  # fmt: skip
"""Of a step's report that the tables show, as `step_summary.summarise` names them."""
_CPU_STEP = {
    "small": ["--micro_batch=16"],
    "base": ["--micro_batch=8", "--attention=eager", "--rounds=2", "--steps_per_round=2", "--warm_steps=1"],
}
_GPU_STEP = {
    "small": ["--variants=[kernels.cuda_graphs=true]"],
    "large": ["--variants=[kernels.activation_checkpointing=true]"],
}
"""What a recipe leaves off and a GPU may want: networks shorter than their launches, and ones that fill the memory."""
_TWO_RANKS = ["--ranks=2", "--micro_batch=16", "--stages=[0,1]", "--peer="]


@dataclass(frozen=True, kw_only=True)
class AllBenchConfig:
    """Run every benchmark and write each one's report, and all.md, which says what was measured."""

    output: Path = Path("benchmarks")
    """Folder for all reports."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cuda: the benchmarks that a GPU computes, on one GPU; the others do not use one and are left out."""
    only: list[str] = field(default_factory=list)
    """Names of the benchmarks to run; empty for all that suit the device."""
    micro_batch: int | None = None
    """cuda: rows of a step; null tries powers of two until one does not fit."""
    short: bool = False
    """Every benchmark in its short mode: shows that they run; the figures mean nothing."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.only if name not in _names()]
        if unknown:
            raise ValueError(
                f"only={self.only}: no benchmark '{unknown[0]}'{did_you_mean(unknown[0], _names())}; "
                f"there are {', '.join(_names())}"
            )


def _names() -> list[str]:
    from electra_ds.bench.command import BENCHMARKS

    return [name for name in BENCHMARKS if name != "all"]


def main(arguments: list[str], program: str) -> int:
    """Run them; return 0, or 1 when one failed."""
    config = parse(AllBenchConfig, bare_flag(arguments, "--short"), program)
    report = run(config, command_line(program, arguments))
    told = [
        f"{one['benchmark']:<12} {'ok' if not one['failed'] else 'FAILED: ' + one['failed']}"
        for one in report.results["runs"]
    ]
    report.publish(config.output, *told)
    return 1 if any(one["failed"] for one in report.results["runs"]) else 0


def run(config: AllBenchConfig, command: str) -> Report:
    """Run every benchmark that was asked for, and gather what the folder then holds.

    Args:
        config: which.
        command: how the reader repeats it.
    """
    report = Report("all", "What is measured", LEAD, command, describe(("torch", "deepspeed")), plain(config))
    runs = []
    for arguments in commands(config):
        if sys.stderr.isatty():
            print(f"bench {' '.join(arguments)}", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "electra_ds", "bench", *arguments], capture_output=True, text=True, check=False
        )
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        runs.append(
            {
                "benchmark": arguments[0],
                "arguments": arguments[1:],
                "seconds": time.perf_counter() - begun,
                "failed": lines[-1] if done.returncode else "",
            }
        )
    cells = [one for device in ("cpu", "cuda") for recipe in STEPS for one in cells_of(config.output, recipe, device)]
    report.results = {"runs": runs, "steps": cells}
    report.sections = [_steps(cells), _within(cells), _runs(runs)]
    return report


def commands(config: AllBenchConfig) -> list[list[str]]:
    """Arguments of each run, its name first."""
    wanted = config.only or [name for name in _names() if config.device == "cpu" or name in TAKES_DEVICE]
    found = []
    for name in wanted:
        common = [f"--output={config.output}"]
        common += [f"--device={config.device}"] if name in TAKES_DEVICE else []
        common += ["--short"] if config.short else []
        if name != "step" or config.short:
            found.append([name, *common])
        elif config.device == "cuda":
            rows = [f"--micro_batch={config.micro_batch}"] if config.micro_batch else []
            found += [[name, f"--recipe={recipe}", *rows, *_GPU_STEP.get(recipe, []), *common] for recipe in STEPS]
        else:
            found += [[name, f"--recipe={recipe}", *_CPU_STEP[recipe], *common] for recipe in ON_CPU]
            found.append([name, *_TWO_RANKS, *common])
    return found


def cells_of(folder: Path, recipe: str, device: str) -> list[dict[str, Any]]:
    """Figures of one model's step on one kind of device, from the reports in a folder: as the recipe is, with other
    settings, and on two ranks, as far as they were measured. None stands for a figure that was not.
    """
    name = f"step-{recipe}-{STEPS[recipe]}"
    found = []
    for ranks in (1, 2):
        path = folder / "".join([name, "-2-ranks" if ranks == 2 else "", "-cuda" if device == "cuda" else "", ".json"])
        common: dict[str, Any] = {"recipe": recipe, "length": STEPS[recipe], "device": device, "ranks": ranks}
        common |= {"on": None, "micro_batch": None, "setting": None}
        if not path.is_file():
            found += [{**common, **dict.fromkeys(FIGURES)}] if ranks == 1 else []
            continue
        page = json.loads(path.read_text("utf-8"))
        results, machine = page["results"], page["machine"]
        common["on"] = machine.get("GPU") or f"{machine['processor']}, {machine['cores'].split()[0]} cores"
        common["micro_batch"] = results["setting"]["micro_batch"]
        for setting, figures in ((None, results), *results.get("variants", {}).items()):
            found.append({**common, "setting": setting, **{key: figures.get(key) for key in FIGURES}})
    return found


def _steps(cells: list[dict[str, Any]]) -> Section:
    header = (
        "model", "on", "rows", "tokens/s", "MFU", "of transformers, compiled", "of transformers", "peak, GB",
        "memory of transformers'",
    )  # fmt: skip
    rows = [
        [
            *_names_of(one),
            _shown(one["micro_batch"], ",d"),
            _shown(one["tokens_per_second"], ",.0f"),
            _shown(one["mfu"], ".1%"),
            _shown(one["ratio_compiled"], ".2f", " x"),
            _shown(one["ratio"], ".2f", " x"),
            _shown(one["peak_bytes"] and one["peak_bytes"] / 1e9, ".1f"),
            _shown(one["memory_ratio"], ".0%"),
        ]
        for one in cells
    ]
    return Section("The training step", "Rows are those of a rank.", header, rows)


def _within(cells: list[dict[str, Any]]) -> Section:
    """What a step is made of, where it was looked into."""
    header = ("model", "on", "vocabulary head", "data wait", "metrics, audit, progress", "ZeRO 1 over ZeRO 0")
    rows = [
        [
            *_names_of(one),
            _shown(one["head_share"], ".1%"),
            _shown(one["data_wait"], ".2%"),
            _shown(one["overhead"], ".2%"),
            _zero(one["zero"]),
        ]
        for one in cells
    ]
    return Section("Within the step", "Shares of a step's time; of the last, tokens a second.", header, rows)


def _names_of(one: dict[str, Any]) -> list[str]:
    """Model and machine of a cell."""
    model = f"{one['recipe']}, L {one['length']}" + (f", {one['ranks']} ranks" if one["ranks"] > 1 else "")
    model += f", `{one['setting']}`" if one["setting"] else ""
    return [model, one["on"] or f"{'GPU' if one['device'] == 'cuda' else 'CPU'}: {NOT_MEASURED}"]


def _zero(stages: dict[str, list[float]] | None) -> str:
    """Tokens a second at ZeRO stage 1 over those at stage 0: the median over rounds, the lowest and the highest."""
    if not stages or not {"0", "1"} <= set(stages):
        return NOT_MEASURED
    return Spread(tuple(stages["1"])).show(".3f") + " x"


def _shown(value: Any, form: str, unit: str = "") -> str:
    return NOT_MEASURED if value is None else f"{value:{form}}{unit}"


def _runs(runs: list[dict[str, Any]]) -> Section:
    rows = [
        [
            f"`bench {' '.join([one['benchmark'], *one['arguments']])}`",
            f"{one['seconds']:,.0f}",
            f"failed: {one['failed']}" if one["failed"] else "ran",
        ]
        for one in runs
    ]
    return Section("What ran", "", ("command", "seconds", ""), rows)
