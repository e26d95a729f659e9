"""``electra-ds finetune --suite``: every task of a suite, one after another, and one table of what came out."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from electra_ds.command_line import DEBUG_VARIABLE, dump_yaml, plain
from electra_ds.distributed import Place
from electra_ds.errors import DataError, UserError
from electra_ds.files import atomic_write
from electra_ds.finetune import models, output, processes, suite_table
from electra_ds.finetune.config import WITH_BASELINE, FinetuneConfig
from electra_ds.finetune.presets import PRESETS, SUITES
from electra_ds.finetune.sources import files_of, suite_folder

SETTINGS = "suite.yaml"
"""Written first; it marks a folder as a suite's."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that the suite runs on."""

    name: str
    """Column of the table and folder of its results."""
    path: str
    """Folder, or ``hf:NAME``."""


def parse_models(text: str) -> list[Candidate]:
    """Read ``FOLDER,FOLDER`` or ``NAME=FOLDER,NAME=FOLDER``.

    Raises:
        UserError: two models of one name.
    """
    found: list[Candidate] = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, equals, path = entry.partition("=")
        if not equals:
            name, path = Path(entry.removeprefix("hf:")).name, entry
        if not name or not path or "/" in name or name.startswith("."):
            raise UserError(f"model: {entry!r}, expected FOLDER or NAME=FOLDER")
        if any(other.name == name for other in found):
            raise UserError(f"model: two models are called '{name}'; name them apart: one={path},other=...")
        found.append(Candidate(name, path))
    if not found:
        raise UserError("model: names no folder")
    return found


def find_tasks(config: FinetuneConfig) -> tuple[dict[str, str | None], list[str]]:
    """Say which tasks of the suite run, and where their files lie.

    Returns:
        Task to its folder (None: from the hub), and the tasks without files.

    Raises:
        DataError: no file of any task.
    """
    assert config.suite is not None
    names = config.task_names or SUITES[config.suite]
    if config.data is None:
        return dict.fromkeys(names), []
    found: dict[str, str | None] = {}
    missing = []
    for name in names:
        folder = suite_folder(name, Path(config.data))
        if folder is None:
            missing.append(name)
        else:
            found[name] = str(folder)
    if not found:
        raise DataError(
            f"data: {config.data} holds no training texts of {', '.join(names)}; expected folders such as cola/, "
            "mrpc/, sst2/ or CoLA/, MRPC/, SST-2/ with the published files in them"
        )
    return found, missing


def run_suite(config: FinetuneConfig, place: Place) -> int:
    """Run every task on every model; one that fails does not stop the others.

    Returns:
        0, or 1 if a task failed.
    """
    from electra_ds.finetune.command import begin

    candidates = parse_models(config.model)
    for candidate in candidates:
        models.check_model_folder(candidate.path)
    tasks, missing = find_tasks(config)
    begin(config, place)
    folder = Path(config.output)
    with processes.first_only() as first:
        if first:
            _prepare(folder, config)
    if missing:
        _say(f"no files of {', '.join(missing)} in {config.data}: left out")
    done: dict[tuple[str, str], dict[str, Any]] = {}
    failed: dict[tuple[str, str], str] = {}
    for candidate in candidates:
        for name, source in tasks.items():
            _say(f"\n== {candidate.name}: {name}")
            try:
                done[candidate.name, name] = _run_task(config, candidate, name, source)
            except UserError as error:
                failed[candidate.name, name] = str(error)
            except Exception as error:  # one task's trouble is not the others'; several processes cannot go on apart
                if place.world_size > 1:
                    raise
                if os.environ.get(DEBUG_VARIABLE):
                    traceback.print_exc()
                failed[candidate.name, name] = f"{type(error).__name__}: {error}"
            if (candidate.name, name) in failed:
                _say(f"{name} failed: {failed[candidate.name, name]}", error=True)
            with processes.first_only() as first:
                if first:
                    suite_table.write(folder, config, candidates, list(tasks), missing, done, failed)
    with processes.first_only() as first:
        if first:
            _collect_submissions(folder, candidates, list(tasks))
    _say("\n" + (folder / suite_table.MARKDOWN).read_text("utf-8").rstrip())
    _say(f"wrote {folder / suite_table.MARKDOWN}, {folder / suite_table.JSON}, {folder / suite_table.PLOT}")
    if failed:
        names = ", ".join(f"{task} on {model}" for model, task in failed)
        _say(
            f"{len(failed)} of {len(done) + len(failed)} failed: {names}; the same command runs only these again", True
        )
    return 1 if failed else 0


def _prepare(folder: Path, config: FinetuneConfig) -> None:
    if folder.is_file():
        raise UserError(f"output: {folder} is a file, expected a folder that is new, empty or this suite's")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SETTINGS).is_file():
        raise UserError(f"output: {folder} holds something else; choose a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / SETTINGS, "w") as file:
        file.write(dump_yaml(config))


def task_config(config: FinetuneConfig, candidate: Candidate, task: str, data: str | None) -> FinetuneConfig:
    """Return the config of one task of the suite; a head of Google's code where there is another than the stock one."""
    differs = PRESETS[task].kind in ("classification", "regression", "question_answering")
    validated = data is None or "validation" in files_of(task, Path(data))
    return dataclasses.replace(
        config,
        suite=None,
        tasks=None,
        task=task,
        head=config.head if differs else "transformers",
        baseline=config.baseline and PRESETS[task].kind in WITH_BASELINE,
        data=data,
        held_out=None if validated else config.held_out,
        model=candidate.path,
        output=str(Path(config.output) / candidate.name / task),
    )


def _run_task(config: FinetuneConfig, candidate: Candidate, task: str, data: str | None) -> dict[str, Any]:
    """Run one task, or take its finished results."""
    from electra_ds.finetune.command import check, fill_in, finetune

    own = task_config(config, candidate, task, data)
    finished = Path(own.output) / output.RESULTS
    if finished.is_file():
        results: dict[str, Any] = json.loads(finished.read_text("utf-8"))
        read, splits = check(own)
        with processes.first_only() as first, models.quiet_libraries():
            if first:
                model_config = models.load_config(own.model, own.dropout, read.head_config())
                settings = plain(fill_in(read.config, own, model_config)[0])
                compared = output.check_same(Path(own.output), results, settings, splits)
                silent = "" if compared else " (an earlier version's, which kept no digest of its texts and weights)"
                _say(f"finished before: {finished}{silent}")
        return results
    return finetune(own, *check(own))


def _collect_submissions(folder: Path, candidates: list[Candidate], tasks: list[str]) -> None:
    """Put every task's files for GLUE's server into one folder per model."""
    for candidate in candidates:
        made = [
            path
            for task in tasks
            if PRESETS[task].submission
            for path in sorted((folder / candidate.name / task / output.SUBMISSION).glob("*.tsv"))
        ]
        target = folder / candidate.name / output.SUBMISSION
        if made:
            target.mkdir(parents=True, exist_ok=True)
        for path in made:
            shutil.copyfile(path, target / path.name)


def _say(text: str, error: bool = False) -> None:
    if processes.is_first():
        print(text, file=sys.stderr if error else sys.stdout, flush=True)
