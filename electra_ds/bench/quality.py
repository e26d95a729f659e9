"""``electra-ds bench quality``: the fast backends learn what the reference learns, within what seeds differ by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from electra_ds.bench.machine import describe
from electra_ds.bench.plots import Line, lines
from electra_ds.bench.report import Report, Section, command_line
from electra_ds.bench.statistics import Spread
from electra_ds.bench.text import write_text_set
from electra_ds.command_line import bare_flag, parse, plain
from electra_ds.errors import UserError

LEAD = """\
The same run, seed by seed, on the reference backends (plain torch, nothing compiled) and on those that `auto` takes.
Rows, masks and initial weights of a seed are the same on both sides; rounding is not, so samples differ after a while
and the two go their own ways, as two seeds do. *Apart* is how far the sides' means over the seeds are from each other;
*seeds* is how far seeds are from each other on the reference (standard deviation), and the standard error of a
difference of two such means is that times the root of 2 / seeds."""

SIDES = {
    "reference": (
        "--kernels.attention=torch",
        "--kernels.layer_norm=torch",
        "--kernels.gelu=torch",
        "--kernels.vocabulary_head=torch",
        "--kernels.discriminator_head=torch",
        "--kernels.compile=false",
    ),
    "fast": (
        "--kernels.attention=auto",
        "--kernels.layer_norm=auto",
        "--kernels.gelu=auto",
        "--kernels.vocabulary_head=auto",
        "--kernels.discriminator_head=auto",
        "--kernels.compile=null",
    ),
}
"""Options of each side beside the common ones."""
LOSSES = ("generator_loss", "discriminator_loss")
VALIDATED = (*LOSSES, "discriminator_auc", "generator_accuracy")
_WINDOWS = 40
"""Points of a curve: each the mean over as many steps."""


@dataclass(frozen=True, kw_only=True)
class QualityBenchConfig:
    """Train on both sides with several seeds, and compare loss curves and held-out quality."""

    output: Path = Path("benchmarks")
    """Folder for quality.md, quality.json and quality.svg."""
    shards: str | None = None
    """Shard set to learn; null makes one of synthetic text, from which there is little to learn."""
    recipe: str = "demo"
    """Recipe of the runs."""
    steps: int = 3000
    """Optimizer steps of a run."""
    seeds: int = 3
    """Runs of each side."""
    options: list[str] = field(default_factory=lambda: ["--model.dropout=0.1"])
    """Further options of `pretrain` for all runs."""
    threads: int | None = None
    """CPU threads of a run; null takes what `pretrain` takes."""
    short: bool = False
    """A few steps of one seed: shows that it runs; its figures mean nothing."""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark; return 0."""
    config = parse(QualityBenchConfig, bare_flag(arguments, "--short"), program)
    with tempfile.TemporaryDirectory(prefix="bench-quality-") as folder:
        run(config, Path(folder), command_line(program, arguments)).publish(config.output)
    return 0


def run(config: QualityBenchConfig, folder: Path, command: str) -> Report:
    """Train every run, and describe them.

    Args:
        config: what to train.
        folder: for runs and made-up text; may be deleted afterwards.
        command: how the reader repeats it.
    """
    steps, seeds = (8, 1) if config.short else (config.steps, config.seeds)
    shards = config.shards or str(write_text_set(folder / "shards", 100_000, block_tokens=8192))
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in range(seeds):
        for side in SIDES:
            if sys.stderr.isatty():
                print(f"seed {seed}, {side}", file=sys.stderr, flush=True)
            runs[side].append(train(config, shards, folder / f"{side}-{seed}", side, seed, steps))
    report = Report(
        "quality",
        "Loss curves of the fast backends and of the reference",
        LEAD,
        command,
        describe(("torch", "deepspeed", "triton")),
        plain(config),
    )
    report.results = {"steps": steps, "seeds": seeds, "runs": runs, **compare(runs)}
    report.sections = [_curves_section(report.results), _validation_section(report.results)]
    for loss in LOSSES:
        report.figures[_name(loss)] = _drawing(report.results, loss)
        report.figures[_name(loss, "-apart")] = _apart_drawing(report.results, loss)
    return report


def train(config: QualityBenchConfig, shards: str, folder: Path, side: str, seed: int, steps: int) -> dict[str, Any]:
    """One run; its curves and what it reached on held-out text.

    Raises:
        UserError: it failed; the message is the last thing it said.
    """
    arguments = [
        f"--config={config.recipe}",
        *(["--model.layers=1", "--training.global_batch_size=8"] if config.short else []),
        f"--data.path={shards}",
        f"--output={folder}",
        f"--training.steps={steps}",
        f"--training.seed={seed}",
        f"--validation.every={steps}",
        "--logging.every=1",
        "--checkpoint.keep_last=1",
        *([f"--training.threads={config.threads}"] if config.threads else []),
        *SIDES[side],
        *config.options,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "electra_ds", "pretrain", *arguments],
        env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"bench quality: the {side} run with seed {seed} failed: {done.stderr.strip()[-300:]}")
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    trained = [line for line in written if line["kind"] == "train"]
    held_out = [line for line in written if line["kind"] == "validation"]
    # Parts of equal size, the last steps that fill none left out.
    size = max(1, len(trained) // _WINDOWS)
    count = len(trained) // size
    curves = {
        loss: np.array([line[loss] for line in trained[: count * size]]).reshape(count, size).mean(1).tolist()
        for loss in LOSSES
    }
    places = [trained[(number + 1) * size - 1]["step"] for number in range(count)]
    return {
        "steps": places,
        "curves": curves,
        "validation": {name: held_out[-1][name] for name in VALIDATED} if held_out else None,
        "seconds": trained[-1]["elapsed_seconds"],
    }


def compare(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """How far apart the sides are, and the seeds of the reference, along the curves."""
    found: dict[str, Any] = {}
    for loss in LOSSES:
        reference, apart, spread, error = _differences(runs, loss)
        inside = np.abs(apart) <= 2 * error
        found[loss] = {
            "mean": float(reference.mean(0)[-1]),
            "apart_mean": float(np.abs(apart).mean()),
            "apart_largest": float(np.abs(apart).max()),
            "seeds_mean": None if np.isnan(spread).any() else float(spread.mean()),
            "within_two_errors": None if np.isnan(spread).any() else float(inside.mean()),
        }
    return {"compared": found}


def _differences(runs: dict[str, list[dict[str, Any]]], loss: str) -> tuple[np.ndarray, ...]:
    """Seeds of the reference, fast less reference, spread of the seeds, standard error of the difference; by points.

    The last two are NaN where there is one seed.
    """
    reference, fast = (np.array([run["curves"][loss] for run in runs[side]]) for side in SIDES)
    apart = fast.mean(0) - reference.mean(0)
    spread = reference.std(0, ddof=1) if len(reference) > 1 else np.full(apart.shape, np.nan)
    return reference, apart, spread, spread * np.sqrt(2 / len(reference))


def _curves_section(results: dict[str, Any]) -> Section:
    def number(value: float | None, form: str) -> str:
        return "–" if value is None else f"{value:{form}}"

    rows = [
        [
            loss.replace("_", " "),
            f"{found['mean']:.4f}",
            f"{found['apart_mean']:.4f}",
            f"{found['apart_largest']:.4f}",
            number(found["seeds_mean"], ".4f"),
            number(found["within_two_errors"], ".0%"),
        ]
        for loss, found in results["compared"].items()
    ]
    header = ("training", "at the end", "apart, mean", "apart, most", "seeds, mean", "points within 2 errors")
    text = (
        f"{results['steps']:,} steps, {results['seeds']} seeds; a point is the mean over one of {_WINDOWS} equal parts "
        "of the steps; *errors* are standard errors of the difference.\n\n"
    )
    drawn = "\n".join(
        f"![{loss}]({_name(loss)})\n![{loss}, fast less reference]({_name(loss, '-apart')})" for loss in LOSSES
    )
    return Section("Along the curves", text + drawn, header, rows)


def _validation_section(results: dict[str, Any]) -> Section:
    rows = []
    for side, runs in results["runs"].items():
        for name in VALIDATED:
            values = [run["validation"][name] for run in runs if run["validation"]]
            if values and None not in values:
                rows.append([side, name.replace("_", " "), Spread(tuple(values)).show(".4f")])
    return Section("On held-out text, at the end", "Median over the seeds (lowest to highest).", ("side", "", ""), rows)


def _drawing(results: dict[str, Any], loss: str) -> str:
    curves = {side: np.array([run["curves"][loss] for run in runs]) for side, runs in results["runs"].items()}
    steps = results["runs"]["reference"][0]["steps"]
    drawn = [Line(f"{side}, mean of the seeds", steps, curve.mean(0).tolist()) for side, curve in curves.items()]
    for name, choose in (("lowest", np.min), ("highest", np.max)):
        drawn.append(Line(f"reference, {name} seed", steps, choose(curves["reference"], axis=0).tolist()))
    return lines(f"quality-{loss}", drawn, ("step", loss.replace("_", " ") + " (nats)"))


def _apart_drawing(results: dict[str, Any], loss: str) -> str:
    """What the curves themselves are too close to show."""
    _, apart, _, error = _differences(results["runs"], loss)
    steps = results["runs"]["reference"][0]["steps"]
    drawn = [Line("fast less reference", steps, apart.tolist())]
    if not np.isnan(error).any():
        drawn += [Line(f"{times:+d} standard errors", steps, (times * error).tolist()) for times in (2, -2)]
    labels = ("step", loss.replace("_", " ") + ", difference (nats)")
    return lines(f"quality-{loss}-apart", drawn, labels, around_zero=True)


def _name(loss: str, ending: str = "") -> str:
    return f"quality-{loss.replace('_', '-')}{ending}.svg"
