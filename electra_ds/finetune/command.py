"""``electra-ds finetune``: read and check everything, run the seeds, say what they show."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from electra_ds import __version__
from electra_ds.command_line import dump_yaml, parse, plain
from electra_ds.errors import UserError
from electra_ds.files import atomic_write, write_json
from electra_ds.finetune import models, output, processes, results
from electra_ds.finetune.config import FinetuneConfig, size_defaults
from electra_ds.finetune.tasks import build_task
from electra_ds.finetune.tasks.base import Encoded, Split, Task

FORMAT_VERSION = 1
"""Of results.json."""


def main(arguments: list[str], program: str) -> int:
    """Run the command; see `FinetuneConfig` for its options."""
    config = parse(FinetuneConfig, arguments, program)
    place = processes.check_place(config)
    if config.suite is not None:
        from electra_ds.finetune.suite import run_suite

        status = run_suite(config, place)
    else:
        status = 0
        try:
            task, splits = check(config)
        except UserError:
            if place.is_first:
                raise
            return 2  # every process reads the same texts; one says what is wrong with them
        begin(config, place)
        finetune(config, task, splits)
    if place.world_size > 1:
        from electra_ds.distributed import leave

        processes.end(place)
        leave(status)
    return status


def begin(config: FinetuneConfig, place: Any) -> None:
    """Join the other processes, and take the configured number of threads."""
    processes.begin(place)
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)


def check(config: FinetuneConfig) -> tuple[Task, dict[str, Split]]:
    """Check model folder and texts, before anything slow is imported."""
    models.check_model_folder(config.model)
    task = build_task(config)
    splits = task.read()
    task.metric  # noqa: B018  (refuses a wrong one)
    return task, splits


def finetune(config: FinetuneConfig, task: Task, splits: dict[str, Split]) -> dict[str, Any]:
    """Train every seed, write predictions, the best model and results.json into the output folder; return them."""
    began = time.perf_counter()
    with processes.first_only() as first:
        if first:
            output.prepare(config.output)
    folder = Path(config.output)
    with models.quiet_libraries():
        models.check_precision(config.precision)
        models.refuse_code(config.model)  # now, not after the texts were tokenized
        tokenizer = models.load_tokenizer(config.model)
        model_config = models.load_config(config.model, config.dropout, task.head_config())
        models.check_fit(config.model, model_config, tokenizer, config.max_length)
        task.config, size, lines = fill_in(task.config, config, model_config)
        config = task.config
        encoded = {name: task.encode(split, tokenizer) for name, split in splits.items()}
        kept: Any = None
        known: dict[str, str] = {}
        with processes.first_only() as first:
            if first:
                known = output.fingerprint(plain(config), encoded, config.model)
                kept = output.take_over(
                    folder, known, plain(config), [(extra, seed) for extra, _, seed in plan(config)]
                )
                with atomic_write(folder / output.SETTINGS, "w") as file:
                    file.write(dump_yaml(config))
        kept = processes.share(kept)
        from electra_ds.finetune.training import unlayered

        lines += unlayered(task, config, model_config)
        _say("\n".join([*_announce(config, task, size, encoded), *lines]))
        runs, saved = _run_all(config, task, model_config, tokenizer, encoded, folder, kept, known)
    result = {
        "format": "electra_ds finetune",
        "version": FORMAT_VERSION,
        "task": config.task,
        "kind": config.kind,
        "model": config.model,
        "head": task.original_head if config.head == "original" else task.head,
        "metric": task.metric,
        "labels": task.label_names(),
        "units": task.units,
        "settings": plain(config),
        "size": size,
        "processes": processes.world()[1],
        "data": {name: {**e.split.counts, "truncated": e.truncated, **e.notes} for name, e in encoded.items()},
        "runs": runs,
        "summary": results.summarize_runs(runs),
        "best": saved,
        "baselines": task.baselines(splits) if processes.is_first() else {},
        "fingerprint": {**known, "texts": output.texts_digest(splits)} if known else {},
        "seconds": round(time.perf_counter() - began, 3),
        "versions": _versions(),
    }
    with processes.first_only() as first:
        if first:
            _copy_submission(folder, saved)
            write_json(folder / output.RESULTS, result)
            (folder / output.BEST).unlink(missing_ok=True)
    _say(results.describe(result))
    loads = f", loads by {saved['loads_by']}" if saved["loads_by"].startswith("electra_ds") else ""
    _say(f"best: {saved['initialization']}, seed {saved['seed']}, saved in {folder / output.MODEL}{loads}")
    _say(f"wrote {folder / output.RESULTS} ({result['seconds']:.1f} s)")
    return result


def _say(text: str) -> None:
    if text and processes.is_first():
        print(text, flush=True)


def fill_in(config: FinetuneConfig, given: FinetuneConfig, model_config: Any) -> tuple[FinetuneConfig, str, list[str]]:
    """Fill in what the paper gives by model size; a default length beyond the model's positions is cut.

    Returns:
        The config, the size, and what is to be said.
    """
    defaults = size_defaults(model_config.hidden_size)
    rate = defaults.learning_rate if config.learning_rate is None else config.learning_rate
    decay = defaults.layer_decay if config.layer_decay is None else config.layer_decay
    length, lines = config.max_length, []
    positions = models.usable_positions(model_config)
    if given.max_length is None and length is not None and positions is not None and length > positions:
        lines = [f"max_length: {length} is usual, but {config.model} has {positions} positions; using {positions}"]
        length = positions
    return (
        dataclasses.replace(config, learning_rate=rate, layer_decay=decay, max_length=length),
        defaults.size,
        lines,
    )


_NOTES = {
    "empty_texts": "{:,} empty texts kept",
    "dropped_rows": "{:,} rows dropped",
    "held_out": "{:,} set aside",
    "mended_tags": "{:,} entities that begin with I- read as beginnings",
    "misplaced_answers": "{:,} with answers not where the file says (scores compare texts)",
    "also_in_training": "{:,} ids are in the training texts too (--evaluate_unseen true leaves them out)",
    "seen_in_training": "{:,} left out, their ids are in the training texts",
    "in_both_orders": "{:,} pairs in both orders",
    "answers_in_no_window": "{:,} answers that no window holds whole, trained as without answer",
    "tokens_unknown_to_tokenizer": "{:,} tokens of which the tokenizer makes nothing, read as unknown",
    "windowed": "{:,} in several windows",
}


def _announce(config: FinetuneConfig, task: Task, size: str, encoded: dict[str, Encoded]) -> list[str]:
    lines = []
    for name, part in encoded.items():
        counts = {**part.split.counts, **part.notes}
        skipped = ("held_out",) if name == "validation" else ()  # its source says so
        notes = [f"{counts['rows']:,} {'pairs of texts' if counts.get('pairs') else task.units}"]
        notes += [text.format(counts[key]) for key, text in _NOTES.items() if counts.get(key) and key not in skipped]
        if counts.get("tag_scheme", "bio") != "bio":
            notes.append(f"{counts['tag_scheme']} tags rewritten to BIO")
        if part.truncated:
            notes.append(f"{part.truncated:,} truncated to {_limit(config)} tokens")
        if not part.split.labelled:
            notes.append("no labels: predictions only")
        lines.append(f"{name}: {part.split.source}, {', '.join(notes)}")
        name_there, why = task.submission_name(part.split), task.without_numbers(part.split)
        if name_there is not None and why is not None:
            lines.append(f"{name}: no {name_there} for GLUE's server is written: {why} in {part.split.source}")
    validation, test = encoded["validation"].split, encoded.get("test")
    if test is not None and validation.source == test.split.source:
        lines.append("validation and test are the same texts, so the best seed's test score is chosen by itself")
    lines.append(
        f"{config.model} ({size}), learning rate {config.learning_rate:g}, layer decay {config.layer_decay:g} "
        f"({config.layer_decay_kind}), {config.epochs:g} epochs of batches of {config.batch_size}"
    )
    return lines


def _limit(config: FinetuneConfig) -> int | None:
    return config.max_query_length if config.kind == "question_answering" else config.max_length


def _run_all(
    config: FinetuneConfig,
    task: Task,
    model_config: Any,
    tokenizer: Any,
    encoded: dict[str, Encoded],
    folder: Path,
    kept: dict[tuple[bool, int], dict[str, Any]],
    known: dict[str, str],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run every seed, pretrained first; save the best of the first kind at once; return the runs and the best."""
    from electra_ds.finetune.training import run_seed, updates_of

    planned = plan(config)
    runs: list[dict[str, Any]] = []
    best: dict[str, Any] | None = None
    for (extra, _), run in kept.items():
        if not extra and (best is None or _better(run, best, task)):
            best = run
    with _progress(len(planned) * updates_of(len(encoded["train"].features), config)) as (advance, say):
        for number, (extra, from_scratch, seed) in enumerate(planned, start=1):
            title = f"run {number}/{len(planned)}: {'from_scratch' if from_scratch else 'pretrained'}, seed {seed}"
            if (extra, seed) in kept:
                runs.append(kept[extra, seed])
                say(f"{title}: kept from the interrupted run")
                continue
            place = output.seed_folder(folder, seed, extra)
            outcome = run_seed(
                task, config, model_config, tokenizer, encoded, seed, from_scratch, place, known, advance
            )
            run = _record(outcome, from_scratch, seed, str(place.relative_to(folder)))
            runs.append(run)
            is_best = not extra and (best is None or _better(run, best, task))
            best = run if is_best else best
            with processes.first_only() as first:
                if first:
                    _write_run(task, encoded, outcome, place)
                    output.finish_seed(place, run, known)
                    if is_best:
                        output.save_model(folder, outcome.network.cpu(), tokenizer, run, task.metric)
                    output.clear_checkpoints(place)  # last: a seed whose model is missing goes on from them
            score = run["scores"]["validation"][task.metric]
            early = "" if outcome.best_update is None else f", best after update {outcome.best_update:,}"
            resumed = f", went on after update {outcome.resumed_after:,}" if outcome.resumed_after else ""
            say(f"{title}: {task.metric} {score:.4f}{early}{resumed} ({outcome.seconds:.1f} s)"
                f"{results.undefined_note(run['undefined'])}")  # fmt: skip
    assert best is not None
    chosen = {"model": output.MODEL, "loads_by": task.loads_by, "chosen_by": f"validation {task.metric}"}
    return runs, {**best, **chosen}


def plan(config: FinetuneConfig) -> list[tuple[bool, bool, int]]:
    """Return the runs: (only for the comparison, from random weights, seed), the pretrained ones first."""
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    runs = [(False, config.from_scratch, seed) for seed in seeds]
    return runs + ([(True, True, seed) for seed in seeds] if config.compare_from_scratch else [])


def _better(run: dict[str, Any], other: dict[str, Any], task: Task) -> bool:
    return bool(run["scores"]["validation"][task.metric] > other["scores"]["validation"][task.metric])


def _record(outcome: Any, from_scratch: bool, seed: int, folder: str) -> dict[str, Any]:
    run = {
        "initialization": "from_scratch" if from_scratch else "pretrained",
        "seed": seed,
        "scores": {name: dict(scored) for name, scored in outcome.scores.items()},
        "undefined": {name: list(scored.undefined) for name, scored in outcome.scores.items() if scored.undefined},
        "loss": outcome.loss,
        "updates": outcome.updates,
        "seconds": round(outcome.seconds, 3),
        "folder": folder,
    }
    if outcome.evaluations:
        run |= {"evaluations": outcome.evaluations, "best_update": outcome.best_update}
    return run


def _write_run(task: Task, encoded: dict[str, Encoded], outcome: Any, place: Path) -> None:
    """Write predictions, and where GLUE's server takes a split, the file for it."""
    place.mkdir(parents=True, exist_ok=True)
    for name, outputs in outcome.logits.items():
        suffix = "" if name == "validation" else f"-{name}"
        task.write_predictions(place / f"predictions{suffix}.{task.ending}", encoded[name], outputs)
        task.write_submission(place / output.SUBMISSION, encoded[name], outputs)


def _copy_submission(folder: Path, best: dict[str, Any]) -> None:
    """Put the best seed's files for GLUE's server where they are found."""
    made = folder / best["folder"] / output.SUBMISSION
    if made.is_dir():
        shutil.rmtree(folder / output.SUBMISSION, ignore_errors=True)
        shutil.copytree(made, folder / output.SUBMISSION)


@contextmanager
def _progress(updates: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A bar over all updates of all seeds on a terminal, else plain lines; both on the first process only."""
    if not processes.is_first():
        yield lambda: None, lambda line: None
        return
    if not sys.stderr.isatty():
        yield lambda: None, lambda line: print(line, flush=True)
        return
    from tqdm import tqdm

    with tqdm(total=updates, unit="update", dynamic_ncols=True, leave=False) as bar:
        yield lambda: bar.update() and None, lambda line: bar.write(line, file=sys.stdout)


def _versions() -> dict[str, str]:
    libraries = ("torch", "transformers", "tokenizers", "accelerate", "scikit-learn", "scipy", "seqeval", "numpy")
    return {
        "electra_ds": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }
