"""``electra-ds pretrain``."""

from __future__ import annotations

import os
import shutil
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from electra_ds.checkpoint import CHECKPOINTS, METRICS_NAME, list_checkpoints
from electra_ds.command_line import DEBUG_VARIABLE, print_error
from electra_ds.data.format import read_manifest, tokenizer_fingerprint
from electra_ds.data.remote_tokenizer import local_tokenizer
from electra_ds.data.summary import SUMMARY_NAME, data_summary
from electra_ds.distributed import Place, find_place, leave
from electra_ds.errors import DataError, MachineError, UserError
from electra_ds.files import TEMPORARY_SUFFIX, atomic_write, write_json
from electra_ds.lives import (
    FAILED,
    MEANING,
    OUTCOME_NAME,
    REQUEUE,
    USER_ERROR,
    life_folder,
    node_name,
    record_failure,
)
from electra_ds.recipe import RECIPE_NAME, Recipe, check_same_run, parse_recipe, read_recipe, recipe_yaml
from electra_ds.training.stopping import listen

if TYPE_CHECKING:
    from electra_ds.training.lock import RunLock
    from electra_ds.training.loop import Trainer
    from electra_ds.training.watchdog import Watchdog


def main(arguments: list[str], program: str) -> int:
    """Train, or go on training, as the recipe says; the same command under any launcher.

    All ranks leave through `distributed.leave`, by one of the statuses in `lives`. A user's error is told once, with
    the rank that met it; what other ranks met because that one left is one line each.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        parse_recipe(arguments, program)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else stacks of C++ with every lost connection
    _allow_many_connections()
    listen()  # from here on SIGUSR2 and SIGTERM are requests: the imports below take seconds
    place = None
    life: list[Life] = []
    try:
        place = find_place()
        recipe = parse_recipe(arguments, program)
        _set_threads(recipe, place)
        status = _train(recipe, place, life)
    except UserError as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        spoke = _tell(error, place)
        status = FAILED if isinstance(error, MachineError) else USER_ERROR
        status = _end_life(life, place, status, error, "error" if spoke else "peer")
    except KeyboardInterrupt:
        if place is None or place.is_first:
            print_error(UserError("interrupted; the same command goes on from the newest checkpoint"))
        status = 130
    except Exception as error:
        from electra_ds.training.peers import is_lost_peer

        lost = is_lost_peer(error)
        who = f"rank {place.rank} of {place.world_size} on {node_name()}" if place else node_name()
        if lost and not os.environ.get(DEBUG_VARIABLE):
            first_line = str(error).strip().splitlines()[0]
            sys.stderr.write(
                f"{who} lost the connection to another rank, which ended or cannot be reached: {first_line}\n"
            )
        else:
            sys.stderr.write(f"{who} failed:\n")
            traceback.print_exc()
        status = _end_life(life, place, FAILED, error, "peer" if lost else "error")
    leave(status)


@dataclass
class Life:
    """What must be put right when this life ends, however it does."""

    watchdog: Watchdog
    folder: Path
    lock: RunLock | None = None
    """On rank 0."""
    has_folder: bool = False
    """Whether rank 0 took the run folder: another's is not written to."""
    trainer: Trainer | None = None

    @property
    def step(self) -> int | None:
        """Updates made so far."""
        return self.trainer.state.step if self.trainer else None


def _train(recipe: Recipe, place: Place, life: list[Life]) -> int:
    import torch

    # torch deprecates the collectives that DeepSpeed calls; once a rank and a step is no news to a user.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    from electra_ds.training.agreement import check_ranks_agree, check_shared_folder, raise_what_nodes_met
    from electra_ds.training.allocator import keep_freed_memory
    from electra_ds.training.engine import choose_device
    from electra_ds.training.lock import RunLock
    from electra_ds.training.loop import Trainer
    from electra_ds.training.peers import Peers, start_process_group
    from electra_ds.training.supply import see_the_same_set
    from electra_ds.training.watchdog import Watchdog

    if place.world_size == 1:
        prepare_folder(recipe)  # an answer before the slow imports below are used
    first_of_node = place.local_rank == 0
    if place.launcher == "srun" and torch.cuda.device_count() == 1:
        place = replace(place, local_rank=0)  # Slurm shows each task its own GPU alone (--gpus-per-task, --gpu-bind)
    device = choose_device(recipe.training.device, recipe.training.precision, place.local_rank)
    if device.type == "cpu":
        keep_freed_memory()
    start_process_group(place, device, recipe.training.start_seconds)
    watchdog = Watchdog(place.rank, recipe.training.watchdog_seconds)
    peers = Peers(place, first_of_node)
    check_ranks_agree(recipe, peers)
    folder = Path(recipe.output)
    mine = Life(watchdog, folder)
    life.append(mine)

    def take_folder() -> str:
        prepare_folder(recipe)
        lock = RunLock(folder)
        lock.take()
        mine.lock = lock
        return lock.key

    key = peers.from_first(take_folder)
    mine.has_folder = True
    check_shared_folder(folder, key, peers)
    manifest = peers.from_first(lambda: keep_tokenizer(recipe))
    problem = see_the_same_set(recipe, manifest) if first_of_node else None
    raise_what_nodes_met(problem, peers, "; every node must read the same shard set")
    mine.trainer = Trainer(recipe, peers, device, mine.lock, key, watchdog)
    if place.is_first:
        store_recipe(recipe)  # only now: a resume that was refused changes nothing
        _write_outcome(mine, None, "training")
    status = mine.trainer.run()
    peers.barrier()
    watchdog.close()
    if place.is_first:
        _write_outcome(mine, status, MEANING[status])
        if mine.lock:
            mine.lock.release()
        if status != REQUEUE:  # then every second counts
            _write_report(recipe)
    peers.barrier()  # whoever leaves first with a status other than 0 makes Slurm end the others
    return status


def _end_life(life: list[Life], place: Place | None, status: int, error: Exception, kind: str) -> int:
    """Leave a record of what a rank met, and free the run folder if it is ours; returns the status."""
    step = life[0].step if life else None
    if place is not None:
        known = isinstance(error, UserError)
        record_failure(place.rank, kind, str(error) if known else f"{type(error).__name__}: {error}", step)
    for one in life:
        one.watchdog.close()
        if kind == "error":
            _write_outcome(one, status, str(error))
        if one.lock:
            one.lock.release()
    return status


def _write_outcome(life: Life, status: int | None, why: str) -> None:
    """Leave outcome.json, for launchers that hide the status; null while the life goes on.

    In the run folder if it is this life's, and in the folder of this life's logs.
    """
    outcome = {"status": status, "why": why, "step": life.step, "time": time.time()}
    lost = life.lock is not None and life.lock.is_lost
    for folder in (life.folder if life.has_folder and not lost else None, life_folder()):
        try:
            if folder is not None:
                write_json(folder / OUTCOME_NAME, outcome)
        except (OSError, UserError) as error:
            sys.stderr.write(f"{folder}/{OUTCOME_NAME} cannot be written: {error}\n")


def _write_report(recipe: Recipe) -> None:
    """Leave report.html in the run folder; a report that fails is said and takes nothing from the run."""
    from electra_ds.report.config import ReportConfig
    from electra_ds.report.page import write_report

    try:
        print(f"report: {write_report(ReportConfig(run=recipe.output))}", flush=True)
    except Exception as error:
        print(f"no report: {error}; 'electra-ds report {recipe.output}' tries again", flush=True)


def _tell(error: UserError, place: Place | None) -> bool:
    """Print an error once: the first rank to meet it speaks, and says which it is if it is not rank 0.

    Returns:
        Whether this rank spoke.
    """
    import torch

    if place is None:
        speaks = os.environ.get("SLURM_PROCID", "0") == "0" or os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1"
    elif torch.distributed.is_initialized():
        from torch.distributed.distributed_c10d import _get_default_store

        try:
            speaks = _get_default_store().add("electra_ds/error", 1) == 1
        except RuntimeError:  # rank 0, which keeps the store, has spoken and left
            speaks = False
    else:
        speaks = True
    if speaks:
        who = "" if place is None or place.is_first else f"rank {place.rank} of {place.world_size} on {node_name()}"
        print_error(error if str(error).startswith(who) else UserError(f"{who}: {error}"))
    return speaks


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as it may be: each rank of a large world is connected to all others."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _set_threads(recipe: Recipe, place: Place) -> None:
    """Share the cores this process may use among the ranks of its machine."""
    import torch

    threads = recipe.training.threads
    if threads is None and (of_environment := os.environ.get("OMP_NUM_THREADS")) is not None:
        if of_environment.isdigit() and int(of_environment):  # torch read it too, but this process may have changed it
            torch.set_num_threads(int(of_environment))
        return
    cores = len(os.sched_getaffinity(0))
    if place.launcher == "srun" and (of_task := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        own = min(cores, int(of_task))  # a task may see its own cores alone, or those of the whole job
    else:
        own = cores // place.local_world_size
    torch.set_num_threads(threads or max(1, own))


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


def keep_tokenizer(recipe: Recipe) -> str:
    """Copy the shards' tokenizer into the run folder, so that the run can be converted wherever it is moved.

    Beside it goes what a model card tells of the data.

    Returns:
        Fingerprint of the shard set's manifest.

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
    if not (Path(recipe.output) / SUMMARY_NAME).is_file() or not has_begun(Path(recipe.output)):
        write_json(Path(recipe.output) / SUMMARY_NAME, data_summary(manifest))
    return manifest.fingerprint
