"""Tables and curves of the comparison, from the small files that run.py keeps.

    python experiments/objectives/results.py experiments/objectives/results

reads OBJECTIVE-SEED/{recipe.yaml,metrics.jsonl,TASK-RATE.json} and scratch/TASK-RATE.json there, and writes results.md,
scores.svg and curves.svg beside them. Of several rates of fine-tuning, each model has the best on the task at hand.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from electra_ds.bench import plots

TASKS = {"sst2": "accuracy", "cola": "matthews", "mrpc": "accuracy", "wnut17": "f1"}
"""The metric that counts for each task; all but Matthews' correlation between 0 and 1."""
FLOOR = "from scratch"
ORDER = ("electra", "all_tokens_mlm", "replace_mlm", "electra_15", "mlm")
"""From the paper's full objective to the one that it is held against."""


@dataclass(frozen=True)
class Model:
    """One pretraining run, or the network without any."""

    objective: str
    seed: int
    recipe: dict[str, Any]
    lines: list[dict[str, Any]]
    """Of metrics.jsonl; none from scratch."""
    results: dict[str, dict[str, Any]]
    """results.json of fine-tuning, by task; none where a model was only pretrained."""

    def scores(self, task: str, split: str = "validation") -> list[float]:
        """The score of each fine-tuning seed."""
        return [float(run["scores"][split][TASKS[task]]) for run in self.results[task]["runs"]]

    def score(self, task: str) -> float:
        """Median over the fine-tuning seeds."""
        return statistics.median(self.scores(task))

    def train(self) -> list[dict[str, Any]]:
        """The lines of training steps."""
        return [line for line in self.lines if line["kind"] == "train"]

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Share of the run's FLOPs, and a held-out value there."""
        found = [line for line in self.lines if line["kind"] == "validation" and name in line]
        return [line["step"] / self.recipe["training"]["steps"] for line in found], [
            float(line[name]) for line in found
        ]


def read(folder: Path) -> list[Model]:
    """All models of a folder, by objective and seed, and the network without pretraining last.

    Raises:
        OSError: a file is missing.
    """
    found = []
    for objective in ORDER:
        for path in sorted(folder.glob(f"{objective}-[0-9]*")):
            text = (path / "metrics.jsonl").read_text("utf-8")
            recipe = yaml.safe_load((path / "recipe.yaml").read_text("utf-8"))
            lines = [json.loads(line) for line in text.splitlines()]
            found.append(Model(objective, int(path.name.rpartition("-")[2]), recipe, lines, _results(path)))
    return [*found, Model(FLOOR, 0, {}, [], _results(folder / "scratch"))]


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for task, metric in TASKS.items():
        rates = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob(f"{task}-*.json"))]
        if rates:
            found[task] = max(
                rates, key=lambda one: statistics.median(run["scores"]["validation"][metric] for run in one["runs"])
            )
    return found if len(found) == len(TASKS) else {}


def finetuned(models: Sequence[Model]) -> list[Model]:
    """Those that have scores."""
    return [model for model in models if model.results]


def by_objective(models: Sequence[Model]) -> dict[str, list[Model]]:
    """Models of each objective, in the order given."""
    groups: dict[str, list[Model]] = {}
    for model in models:
        groups.setdefault(model.objective, []).append(model)
    return groups


def spread(values: Sequence[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean and standard deviation."""
    text = f"{scale * statistics.mean(values):.{digits}f}"
    return f"{text} ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def score_table(models: Sequence[Model]) -> str:
    """Means and standard deviations over pretraining seeds of medians; of one model, over its fine-tuning seeds."""
    rows = []
    for name, group in by_objective(finetuned(models)).items():
        by_task = {task: _dots(group, task) for task in TASKS}
        means = [statistics.mean(values) for values in zip(*by_task.values(), strict=True)]
        rows.append([f"`{name}`" if name != FLOOR else name, *map(spread, by_task.values()), spread(means)])
    for name, cells in _baselines(models[-1]).items():
        rows.append([name, *("–" if value is None else f"{100 * value:.1f}" for value in cells), ""])
    return _table(["", *(f"{task} ({metric})" for task, metric in TASKS.items()), "mean"], rows)


def _dots(group: Sequence[Model], task: str) -> list[float]:
    """A score for each pretraining seed; of one model, or from scratch, for each fine-tuning seed."""
    return group[0].scores(task) if len(group) == 1 else [model.score(task) for model in group]


def _baselines(floor: Model) -> dict[str, list[float | None]]:
    """Scores of what needs no network, for each task."""
    found: dict[str, dict[str, float]] = {}
    for task, results in floor.results.items():
        for name, entry in results["baselines"].items():
            value = entry.get("validation", {}).get(TASKS[task])
            if value is not None:
                found.setdefault(name, {})[task] = float(value)
    return {name: [values.get(task) for task in TASKS] for name, values in found.items()}


def paired_table(models: Sequence[Model]) -> str:
    """What each objective has over mlm from the same seed: means over seeds, and how many seeds are above."""
    groups = by_objective(finetuned(models))
    if "mlm" not in groups:
        return ""
    base = {model.seed: model for model in groups["mlm"]}
    rows = []
    for name, group in groups.items():
        if name in ("mlm", FLOOR):
            continue
        pairs = [(model, base[model.seed]) for model in group if model.seed in base]
        cells = []
        for task in TASKS:
            apart = [model.score(task) - other.score(task) for model, other in pairs]
            cells.append(f"{100 * statistics.mean(apart):+.1f} ({sum(one > 0 for one in apart)} of {len(apart)})")
        total = [statistics.mean(model.score(task) - other.score(task) for task in TASKS) for model, other in pairs]
        cells.append(f"{100 * statistics.mean(total):+.1f} ({sum(one > 0 for one in total)} of {len(total)})")
        rows.append([f"`{name}`", *cells])
    return _table(["less `mlm`", *TASKS, "mean"], rows)


def cost_table(models: Sequence[Model]) -> str:
    """Steps, tokens, pace, and the losses on held-out text after the last step."""
    rows = []
    for name, group in by_objective(models).items():
        if name == FLOOR:
            continue
        held_out = [[line for line in model.lines if line["kind"] == "validation"][-1] for model in group]
        pace = statistics.median(line["tokens_per_second"] for model in group for line in model.train())
        steps, last = group[0].recipe["training"]["steps"], group[0].train()[-1]
        tokens = last["tokens_consumed"] / last["step"] * steps  # lines are written every so many steps
        cells = [str(len(group)), f"{steps:,}", f"{tokens / 1e6:.1f}"]
        for key in ("generator_loss", "vocabulary_loss", "discriminator_loss", "discriminator_auc"):
            values = [line[key] for line in held_out if key in line]
            cells.append(spread(values, 1.0, 3) if values else "–")
        rows.append([f"`{name}`", *cells, f"{pace / 1000:.1f}"])
    header = ["", "seeds", "steps", "million tokens", "generator loss", "vocabulary loss", "discriminator loss", "AUC"]
    return _table([*header, "thousand tokens/s"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, [":---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def draw_scores(models: Sequence[Model]) -> str:
    """A panel for each task: a dot for each pretraining seed (of one model: each fine-tuning), a bar at their mean."""
    drawing, panels = plots.figure(9.0, 2.6, len(TASKS))
    groups = by_objective(finetuned(models))
    for panel, (task, metric) in zip(panels, TASKS.items(), strict=True):
        for place, (name, group) in enumerate(groups.items()):
            values = _dots(group, task)
            colour = plots.COLOURS[0 if name.startswith("electra") else 4 if name == FLOOR else 1]
            panel.plot([100 * value for value in values], [place] * len(values), "o", color=colour, markersize=4.5)
            panel.plot([100 * statistics.mean(values)], [place], "|", color=plots.INK, markersize=15)
        for value in [cells[list(TASKS).index(task)] for cells in _baselines(models[-1]).values()]:
            if value is not None:
                panel.axvline(100 * value, color=plots.INK, linewidth=0.9, linestyle=(0, (3, 3)))
        panel.set_yticks(range(len(groups)), list(groups) if panel is panels[0] else [""] * len(groups))
        panel.set_ylim(len(groups) - 0.5, -0.5)
        panel.set_xlabel(f"{task}: {metric} × 100")
    return plots.svg(drawing, "objectives-scores")


def draw_curves(models: Sequence[Model]) -> str:
    """Held-out losses over the FLOPs: of the vocabulary (left), and the discriminator's AUC (right)."""
    drawing, panels = plots.figure(9.0, 3.0, 2)
    for panel, keys, label in (
        (panels[0], ("vocabulary_loss", "generator_loss"), "cross-entropy over the vocabulary, nats"),
        (panels[1], ("discriminator_auc",), "discriminator’s AUC"),
    ):
        for place, (name, group) in enumerate(by_objective(models).items()):
            # The generator of replace_mlm and all_tokens_mlm learns as that of electra does.
            for key in (key for key in keys if key != "generator_loss" or name == "electra"):
                curves = [model.curve(key) for model in group]
                for number, (xs, ys) in enumerate(curve for curve in curves if curve[0]):
                    told = f"{name}, generator" if key == "generator_loss" else name
                    colour = plots.COLOURS[place % len(plots.COLOURS)]
                    panel.plot(xs, ys, color=colour, linewidth=1.3, label=told if number == 0 else None)
        panel.set_xlabel("share of the FLOPs")
        panel.set_ylabel(label)
        panel.legend(fontsize=8, frameon=False, labelcolor=plots.INK)
    return plots.svg(drawing, "objectives-curves")


def write(folder: Path) -> None:
    """Write results.md and the drawings beside the files that they are made from."""
    models = read(folder)
    tables = (score_table(models), paired_table(models), cost_table(models))
    (folder / "results.md").write_text("\n\n".join(tables) + "\n", "utf-8")
    (folder / "scores.svg").write_text(draw_scores(models), "utf-8")
    (folder / "curves.svg").write_text(draw_curves(models), "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
