"""``electra-ds pretrain``."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from electra_ds.checkpoint import CHECKPOINTS, METRICS_NAME, list_checkpoints
from electra_ds.command_line import DEBUG_VARIABLE, print_error
from electra_ds.data.format import read_manifest, tokenizer_fingerprint
from electra_ds.data.remote_tokenizer import local_tokenizer
from electra_ds.distributed import Place, find_place, leave
from electra_ds.errors import DataError, UserError
from electra_ds.files import TEMPORARY_SUFFIX, atomic_write
from electra_ds.recipe import RECIPE_NAME, Recipe, check_same_run, parse_recipe, read_recipe, recipe_yaml


def main(arguments: list[str], program: str) -> int:
    """Train, or go on training, as the recipe says; the same command under any launcher.

    All ranks leave through `distributed.leave`: status 0 well, 2 a user's error, told once with the rank that met it.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        parse_recipe(arguments, program)
    place = find_place()
    try:
        recipe = parse_recipe(arguments, program)
        _set_threads(recipe, place)
        _train(recipe, place)
    except UserError as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        _tell(error, place)
        leave(2)
    except KeyboardInterrupt:
        if place.is_first:
            print_error(UserError("interrupted; the same command goes on from the newest checkpoint"))
        leave(130)
    except Exception:
        sys.stderr.write(f"rank {place.rank} of {place.world_size} on {socket.gethostname()} failed:\n")
        traceback.print_exc()
        leave(1)
    leave(0)


def _train(recipe: Recipe, place: Place) -> None:
    import torch

    # torch deprecates the collectives that DeepSpeed calls; once a rank and a step is no news to a user.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    from electra_ds.training.engine import choose_device, start_process_group
    from electra_ds.training.loop import Trainer

    if place.world_size == 1:
        prepare_folder(recipe)  # an answer before the slow imports below are used
    if place.launcher == "srun" and torch.cuda.device_count() == 1:
        place = replace(place, local_rank=0)  # Slurm shows each task its own GPU alone (--gpus-per-task, --gpu-bind)
    device = choose_device(recipe.training.device, recipe.training.precision, place.local_rank)
    start_process_group(place, device)
    _agree(lambda: prepare_folder(recipe), place)
    _agree(lambda: keep_tokenizer(recipe), place)
    trainer = Trainer(recipe, place, device)
    if place.is_first:
        store_recipe(recipe)  # only now: a resume that was refused changes nothing
    trainer.run()
    torch.distributed.barrier()
    if place.is_first:
        _write_report(recipe)


def _write_report(recipe: Recipe) -> None:
    """Leave report.html in the run folder; a report that fails is said and takes nothing from the run."""
    from electra_ds.report.config import ReportConfig
    from electra_ds.report.page import write_report

    try:
        print(f"report: {write_report(ReportConfig(run=recipe.output))}", flush=True)
    except Exception as error:
        print(f"no report: {error}; 'electra-ds report {recipe.output}' tries again", flush=True)


def _agree(action: Callable[[], None], place: Place) -> None:
    """Let the first rank act; if it meets a user's error, every rank raises it."""
    import torch

    problem: list[str | None] = [None]
    if place.is_first:
        try:
            action()
        except UserError as error:
            problem = [str(error)]
    torch.distributed.broadcast_object_list(problem)
    if problem[0] is not None:
        raise UserError(problem[0])


def _tell(error: UserError, place: Place) -> None:
    """Print an error once: the first rank to meet it speaks, and says which it is if it is not rank 0."""
    import torch

    if torch.distributed.is_initialized():
        from torch.distributed.distributed_c10d import _get_default_store

        try:
            speaks = _get_default_store().add("electra_ds/error", 1) == 1
        except RuntimeError:  # rank 0, which keeps the store, has spoken and left
            speaks = False
    else:
        speaks = True
    if speaks:
        print_error(error if place.is_first else UserError(f"rank {place.rank} of {place.world_size}: {error}"))


def _set_threads(recipe: Recipe, place: Place) -> None:
    """Share the cores this process may use among the ranks of its machine."""
    import torch

    threads = recipe.training.threads
    if threads is None and "OMP_NUM_THREADS" in os.environ:
        return
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // place.local_world_size))


def prepare_folder(recipe: Recipe) -> None:
    """Create the run folder, or check that it holds this run.

    A run that made no step yet (it failed while it was set up) may be begun again under other settings.

    Raises:
        UserError: it holds something else, or a run with other settings.
    """
    folder = Path(recipe.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: exists and is no folder; choose another")
    stored = folder / RECIPE_NAME
    if stored.is_file():
        if has_begun(folder):
            check_same_run(read_recipe(stored), recipe, folder)
            return
    elif folder.is_dir() and any(folder.iterdir()):
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:5])
        raise UserError(
            f"--output {folder}: holds something else ({names}) and no run; choose an empty or a new folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    store_recipe(recipe)


def has_begun(folder: Path) -> bool:
    """Whether a run left checkpoints or metrics."""
    metrics = folder / METRICS_NAME
    return bool(list_checkpoints(folder / CHECKPOINTS)) or (metrics.is_file() and metrics.stat().st_size > 0)


def store_recipe(recipe: Recipe) -> None:
    """Write recipe.yaml; where this life stops is no part of the run, so that the file repeats it to its end."""
    whole = replace(recipe, training=replace(recipe.training, stop_after=None))
    with atomic_write(Path(recipe.output) / RECIPE_NAME, "w") as file:
        file.write(recipe_yaml(whole))


def keep_tokenizer(recipe: Recipe) -> None:
    """Copy the shards' tokenizer into the run folder, so that the run can be converted wherever it is moved.

    Raises:
        DataError: its files are not those the shards were made with.
    """
    manifest = read_manifest(recipe.data.path)
    source = local_tokenizer(recipe.data.path, manifest, recipe.data.cache_folder)
    target = Path(recipe.output) / "tokenizer"
    if tokenizer_fingerprint(source) != manifest.tokenizer.fingerprint:
        raise DataError(
            f"{source}: its files are not those the shards were made with; restore them, or rerun prep into a new "
            "folder"
        )
    same = target.is_dir() and tokenizer_fingerprint(target) == manifest.tokenizer.fingerprint
    if target.is_dir() and not same and has_begun(Path(recipe.output)):
        raise DataError(f"{target}: not the tokenizer of {recipe.data.path}; give the run its own shards as data.path")
    if not same:
        shutil.rmtree(target, ignore_errors=True)
        temporary = target.with_name(target.name + TEMPORARY_SUFFIX)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        temporary.rename(target)
