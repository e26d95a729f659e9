"""``electra-ds finetune``: read and check everything, run the seeds, say what they show."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from electra_ds import __version__
from electra_ds.command_line import dump_yaml, parse, plain
from electra_ds.errors import UserError, did_you_mean
from electra_ds.files import atomic_write, write_json
from electra_ds.finetune import models, output, results
from electra_ds.finetune.config import FinetuneConfig, size_defaults
from electra_ds.finetune.tasks import build_task
from electra_ds.finetune.tasks.base import Encoded, Split, Task

FORMAT_VERSION = 1
"""Of results.json."""


def main(arguments: list[str], program: str) -> int:
    """Run the command; see `FinetuneConfig` for its options."""
    config = parse(FinetuneConfig, arguments, program)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("finetune runs as one process; start it without torchrun, mpirun or srun --ntasks")
    models.check_model_folder(config.model)
    task = build_task(config)
    if config.metric is not None and config.metric not in task.metrics:
        raise UserError(
            f"metric: '{config.metric}', expected one of {', '.join(task.metrics)}"
            + did_you_mean(config.metric, task.metrics)
        )
    splits = task.read()
    if config.metric == "f1" and task.head_config()["num_labels"] != 2:
        raise UserError("metric: 'f1' is the F1 of the second of two labels; with more labels use f1_macro")
    folder = output.prepare(config.output)
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    finetune(config, task, splits, folder)
    return 0


def finetune(config: FinetuneConfig, task: Task, splits: dict[str, Split], folder: Path) -> dict[str, Any]:
    """Train every seed, write predictions, the best model and results.json into `folder`; return the results."""
    began = time.perf_counter()
    with models.quiet_libraries():
        models.check_precision(config.precision)
        tokenizer = models.load_tokenizer(config.model)
        model_config = models.load_config(config.model, config.dropout, task.head_config())
        models.check_fit(config.model, model_config, tokenizer, config.max_length)
        config, size = _resolve(config, model_config)
        with atomic_write(folder / output.SETTINGS, "w") as file:
            file.write(dump_yaml(config))
        encoded = {name: task.encode(split, tokenizer) for name, split in splits.items()}
        _announce(config, size, encoded)
        runs, saved = _run_all(config, task, model_config, tokenizer, encoded, folder)
        metric = config.metric or task.metrics[0]
        result = {
            "format": "electra_ds finetune",
            "version": FORMAT_VERSION,
            "task": config.task,
            "model": config.model,
            "head": task.head,
            "metric": metric,
            "labels": list(task.head_config()["id2label"].values()),
            "settings": plain(config),
            "size": size,
            "data": {name: {**e.split.counts, "truncated": e.truncated} for name, e in encoded.items()},
            "runs": runs,
            "summary": results.summarize_runs(runs),
            "best": saved,
            "baselines": task.baselines(splits),
            "seconds": round(time.perf_counter() - began, 3),
            "versions": _versions(),
        }
    write_json(folder / output.RESULTS, result)
    print(results.describe(result))
    print(f"best: {saved['initialization']}, seed {saved['seed']}, saved in {folder / output.MODEL}")
    print(f"wrote {folder / output.RESULTS} ({result['seconds']:.1f} s)", flush=True)
    return result


def _resolve(config: FinetuneConfig, model_config: Any) -> tuple[FinetuneConfig, str]:
    """Fill in what the paper gives by model size."""
    defaults = size_defaults(model_config.hidden_size)
    rate = defaults.learning_rate if config.learning_rate is None else config.learning_rate
    decay = defaults.layer_decay if config.layer_decay is None else config.layer_decay
    return dataclasses.replace(config, learning_rate=rate, layer_decay=decay), defaults.size


def _announce(config: FinetuneConfig, size: str, encoded: dict[str, Encoded]) -> None:
    for name, part in encoded.items():
        counts = part.split.counts
        notes = [f"{counts['rows']:,} {'pairs of texts' if counts.get('pairs') else 'texts'}"]
        if counts.get("empty_texts"):
            notes.append(f"{counts['empty_texts']:,} empty texts kept")
        if part.truncated:
            notes.append(f"{part.truncated:,} truncated to {config.max_length} tokens")
        if not part.split.labelled:
            notes.append("no labels: predictions only")
        print(f"{name}: {part.split.source}, {', '.join(notes)}")
    print(
        f"{config.model} ({size}), learning rate {config.learning_rate:g}, layer decay {config.layer_decay:g} "
        f"({config.layer_decay_kind}), {config.epochs:g} epochs of batches of {config.batch_size}",
        flush=True,
    )


def _run_all(
    config: FinetuneConfig,
    task: Task,
    model_config: Any,
    tokenizer: Any,
    encoded: dict[str, Encoded],
    folder: Path,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run every seed, pretrained first; save the best of the first kind; return the runs and the best."""
    from electra_ds.finetune.training import run_seed, updates_of

    metric = config.metric or task.metrics[0]
    kinds = [config.from_scratch, *([True] if config.compare_from_scratch else [])]
    plan = [(kind, config.first_seed + i) for kind in kinds for i in range(config.seeds)]
    runs: list[dict[str, Any]] = []
    best: Any = None
    with _progress(len(plan) * updates_of(len(encoded["train"].features), config)) as (advance, say):
        for number, (from_scratch, seed) in enumerate(plan, start=1):
            extra = from_scratch and not config.from_scratch
            place = output.seed_folder(folder, seed, extra)
            outcome = run_seed(task, config, model_config, tokenizer, encoded, seed, from_scratch, place, advance)
            for name, logits in outcome.logits.items():
                file = "predictions.tsv" if name == "validation" else f"predictions-{name}.tsv"
                task.write_predictions(place / file, encoded[name], logits)
            run = {
                "initialization": "from_scratch" if from_scratch else "pretrained",
                "seed": seed,
                "scores": outcome.scores,
                "loss": outcome.loss,
                "seconds": round(outcome.seconds, 3),
                "folder": str(place.relative_to(folder)),
            }
            runs.append(run)
            score = outcome.scores["validation"][metric]
            say(f"run {number}/{len(plan)}: {run['initialization']}, seed {seed}: {metric} {score:.4f} "
                f"({outcome.seconds:.1f} s)")  # fmt: skip
            if not extra and (best is None or score > best[0]["scores"]["validation"][metric]):
                best = (run, outcome.network.cpu())
    run, network = best
    output.save_model(folder, network, tokenizer)
    return runs, {**run, "model": output.MODEL, "chosen_by": f"validation {metric}"}


@contextmanager
def _progress(updates: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A bar over all updates of all seeds on a terminal, else plain lines."""
    if not sys.stderr.isatty():
        yield lambda: None, lambda line: print(line, flush=True)
        return
    from tqdm import tqdm

    with tqdm(total=updates, unit="update", dynamic_ncols=True, leave=False) as bar:
        yield lambda: bar.update() and None, lambda line: bar.write(line, file=sys.stdout)


def _versions() -> dict[str, str]:
    libraries = ("torch", "transformers", "tokenizers", "accelerate", "scikit-learn", "numpy")
    return {
        "electra_ds": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }
