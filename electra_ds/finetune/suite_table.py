"""One table of a suite's results: JSON for machines, Markdown for pages, a plot of every seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from electra_ds.files import atomic_write, write_json
from electra_ds.finetune.presets import GLUE_AVERAGE, PRESETS
from electra_ds.finetune.results import CORRELATIONS

if TYPE_CHECKING:
    from electra_ds.finetune.config import FinetuneConfig
    from electra_ds.finetune.suite import Candidate

JSON, MARKDOWN, PLOT = "suite.json", "suite.md", "suite.svg"
FORMAT_VERSION = 1
"""Of suite.json."""
Done = dict[tuple[str, str], dict[str, Any]]
"""results.json by (model, task)."""


def write(
    folder: Path,
    config: FinetuneConfig,
    candidates: Sequence[Candidate],
    tasks: list[str],
    missing: list[str],
    done: Done,
    failed: dict[tuple[str, str], str],
) -> None:
    """Write the three forms into `folder`."""
    columns = _columns([candidate.name for candidate in candidates], done)
    table = {
        "format": "electra_ds finetune suite",
        "version": FORMAT_VERSION,
        "suite": config.suite,
        "models": {candidate.name: candidate.path for candidate in candidates},
        "tasks": tasks,
        "without_files": missing,
        "failed": [{"model": model, "task": task, "error": error} for (model, task), error in failed.items()],
        "results": {
            _title(column): {
                task: _entry(done[column[0], task], column[1]) for task in tasks if (column[0], task) in done
            }
            for column in columns
        },
        "glue_average": {_title(column): glue_average(done, column) for column in columns},
    }
    write_json(folder / JSON, table)
    with atomic_write(folder / MARKDOWN, "w") as file:
        file.write(markdown(table, columns, tasks, done))
    if done:
        plot(folder / PLOT, columns, tasks, done)


def _columns(models: list[str], done: Done) -> list[tuple[str, str]]:
    """(model, initialization), pretrained first."""
    kinds = {(model, run["initialization"]) for (model, _), results in done.items() for run in results["runs"]}
    return sorted(kinds, key=lambda column: (models.index(column[0]), column[1] != "pretrained"))


def _title(column: tuple[str, str]) -> str:
    model, initialization = column
    return model if initialization == "pretrained" else f"{model}, from scratch"


def scores_of(results: dict[str, Any], initialization: str, split: str) -> list[float]:
    """Every seed's score of the task's metric."""
    return [
        run["scores"][split][results["metric"]]
        for run in results["runs"]
        if run["initialization"] == initialization and split in run["scores"]
    ]


def _entry(results: dict[str, Any], initialization: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"metric": results["metric"]}
    for split in results["data"]:
        scores = scores_of(results, initialization, split)
        if scores:
            entry[split] = {
                "rows": results["data"][split]["rows"],
                "scores": scores,
                "median": statistics.median(scores),
                "minimum": min(scores),
                "maximum": max(scores),
                "standard_deviation": statistics.stdev(scores) if len(scores) > 1 else None,
            }
    return entry


def glue_average(done: Done, column: tuple[str, str]) -> dict[str, Any]:
    """Mean over GLUE's eight tasks without WNLI of the medians on validation, where all eight are there.

    Matthews' correlation for CoLA, Spearman's for STS-B, accuracy elsewhere, MNLI matched (arXiv 2003.10555).
    """
    medians, missing, held_out, partial = [], [], [], []
    for task in GLUE_AVERAGE:
        results = done.get((column[0], task))
        scores = scores_of(results, column[1], "validation") if results else []
        if not scores or results is None:
            missing.append(task)
            continue
        medians.append(statistics.median(scores))
        if results["data"]["validation"].get("held_out"):
            held_out.append(task)
        if _is_partial(task, results):
            partial.append(task)
    found: dict[str, Any] = {"average": None if missing else statistics.fmean(medians), "missing": missing}
    return found | {name: tasks for name, tasks in (("set_aside", held_out), ("partial", partial)) if tasks}


def _is_partial(task: str, results: dict[str, Any]) -> bool:
    """Whether the validation file is a part of GLUE's, as CoLA's in_domain_dev.tsv is."""
    return Path(results["data"]["validation"].get("source", "")).name in PRESETS[task].partial


def markdown(table: dict[str, Any], columns: list[tuple[str, str]], tasks: list[str], done: Done) -> str:
    """Return a table for each split that has scores, validation first, and what is missing."""
    lines = [f"# {table['suite']}", ""]
    splits = dict.fromkeys(["validation", "test", *(name for results in done.values() for name in results["data"])])
    for split in splits:
        rows = [_row(task, split, columns, done) for task in tasks]
        if any(row is not None for row in rows):
            lines += [
                f"Scores on {split}, in percent, correlations as numbers: median over the seeds (smallest to largest).",
                "",
            ]
            lines += ["| " + " | ".join(["task", "metric", "rows", "majority", *map(_title, columns)]) + " |"]
            lines += ["|---|---|" + "--:|" * (2 + len(columns))]
            lines += [row for row in rows if row is not None]
            lines += [""]
    seeds = sorted({results["settings"]["seeds"] for results in done.values()})
    if seeds:
        lines.append(f"Seeds per task: {', '.join(map(str, seeds))}.")
    for title, average in table["glue_average"].items():
        if average["average"] is not None:
            lines.append(
                f"GLUE average of {title} (8 tasks without WNLI, correlations times 100): "
                f"{100 * average['average']:.1f}."
            )
        elif len(average["missing"]) < len(GLUE_AVERAGE):
            lines.append(f"GLUE average of {title}: none, without {', '.join(average['missing'])}.")
    set_aside = sorted({t for (_, t), results in done.items() if results["data"]["validation"].get("held_out")})
    if set_aside:
        lines.append(
            f"{', '.join(set_aside)}: no validation texts of their own; a part of the training texts was set aside, so "
            "these scores are not those of the published validation set."
        )
    for task in sorted({task for (_, task), results in done.items() if _is_partial(task, results)}):
        here = next(results["data"]["validation"] for (_, other), results in done.items() if other == task)
        lines.append(
            f"{task}: validated on {Path(here['source']).name} ({here['rows']:,} rows), a part of GLUE's dev.tsv, so "
            "this score and an average with it are not those of the published validation set."
        )
    if table["without_files"]:
        lines.append(f"No files of {', '.join(table['without_files'])}.")
    for entry in table["failed"]:
        lines.append(f"Failed: {entry['task']} on {entry['model']}: {entry['error']}")
    return "\n".join(lines).rstrip() + "\n"


def _row(task: str, split: str, columns: list[tuple[str, str]], done: Done) -> str | None:
    results = next((done[model, task] for model, _ in columns if (model, task) in done), None)
    if results is None or not any(split in run["scores"] for run in results["runs"]):
        return None
    cells = [PRESETS[task].title, results["metric"].replace("_", " "), f"{results['data'][split]['rows']:,}"]
    baseline: dict[str, Any] = next(iter(results["baselines"].values()), {})
    floor = baseline.get(split, {}).get(results["metric"])
    cells.append("–" if floor is None else _shown(floor, results["metric"]))
    for model, initialization in columns:
        scores = scores_of(done[model, task], initialization, split) if (model, task) in done else []
        if scores:
            low, middle, high = (
                _shown(value, results["metric"]) for value in (min(scores), statistics.median(scores), max(scores))
            )
            cells.append(f"{middle} ({low} to {high})" if len(scores) > 1 else middle)
        else:
            cells.append("–")
    return "| " + " | ".join(cells) + " |"


def _shown(score: float, metric: str) -> str:
    """A score in percent; a correlation as it is."""
    return f"{score:.3f}" if metric in CORRELATIONS else f"{100 * score:.1f}"


def plot(path: Path, columns: list[tuple[str, str]], tasks: list[str], done: Done) -> None:
    """Draw every seed's validation score as a dot and the median as a line, task by task."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    shown = [task for task in tasks if any((model, task) in done for model, _ in columns)]
    with rc_context({"svg.hashsalt": "electra_ds", "font.size": 9}):
        figure = Figure(figsize=(7.5, 0.8 + 0.3 * len(shown) * max(1, len(columns))), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        tick = min(0.12, 0.28 / len(columns))
        for number, column in enumerate(columns):
            colour = f"C{number}"
            for place, task in enumerate(shown):
                if (column[0], task) not in done:
                    continue
                scores = [100 * score for score in scores_of(done[column[0], task], column[1], "validation")]
                height = place + 0.7 * ((number + 0.5) / len(columns) - 0.5)
                axes.plot(scores, [height] * len(scores), "o", color=colour, alpha=0.6, markersize=4)
                if scores:
                    axes.plot(
                        [statistics.median(scores)] * 2, [height - tick, height + tick], color=colour, linewidth=2
                    )
            axes.plot([], [], "o", color=colour, label=_title(column))
        axes.set_yticks(range(len(shown)), [_tick(task, columns, done) for task in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("validation score in percent (correlations times 100): each seed, and the median")
        axes.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        with atomic_write(path, "w") as file:
            figure.savefig(file, format="svg", metadata={"Date": None})


def _tick(task: str, columns: list[tuple[str, str]], done: Done) -> str:
    results = next(done[model, task] for model, _ in columns if (model, task) in done)
    return f"{PRESETS[task].title}\n{results['metric'].replace('_', ' ')}"
