"""What is looked at before anything is written or submitted. Imports no torch."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from electra_ds import resources
from electra_ds.data.format import read_manifest
from electra_ds.errors import UserError
from electra_ds.recipe import RECIPE_NAME, Recipe, check_same_run, parse_recipe, read_recipe
from electra_ds.submit.config import SubmitConfig, time_limit
from electra_ds.submit.lead import EARLY_SECONDS
from electra_ds.training.command import has_begun
from electra_ds.training.schedule import plan_phases

LOCAL_FILE_SYSTEMS = ("tmpfs", "ramfs", "devtmpfs")
"""Kinds that no other node ever sees."""


def read_whole_recipe(words: list[str], shards: str | None, makes_shards: bool) -> Recipe:
    """The recipe with absolute paths; where prep makes the shards and no place is named, they go into the run folder.

    Args:
        words: the recipe's options.
        shards: output that the prep stage was told, if any.
        makes_shards: whether the prep stage is part of the chain.
    """
    program = "electra-ds pretrain"  # whose --help lists these fields
    named = any(word.partition("=")[0] == "--data.path" for word in words)
    if not makes_shards:
        return _absolute(parse_recipe(words, program))
    if shards is not None and not named:
        return _absolute(parse_recipe([*words, f"--data.path={shards}"], program))
    try:
        recipe = parse_recipe(words, program)
    except UserError:
        if named:
            raise
        recipe = parse_recipe([*words, "--data.path=shards"], program)
        recipe = replace(recipe, data=replace(recipe.data, path=f"{recipe.output}/shards"))
    recipe = _absolute(recipe)
    if shards is not None and absolute(shards) != recipe.data.path:
        raise UserError(f"--prep.output {shards} and data.path {recipe.data.path} differ; give one of them")
    return recipe


def _absolute(recipe: Recipe) -> Recipe:
    folder = recipe.data.cache_folder
    data = replace(recipe.data, path=absolute(recipe.data.path), cache_folder=absolute(folder) if folder else None)
    return replace(recipe, output=absolute(recipe.output), data=data)


def absolute(path: str) -> str:
    """A path from the root; URLs stay."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def check_run(recipe: Recipe) -> None:
    """Refuse a folder that holds something else, or another run; writes nothing.

    Raises:
        UserError: as `prepare_folder`, which a job runs again.
    """
    folder = Path(recipe.output)
    if "://" in recipe.output:
        raise UserError(f"--output {recipe.output}: expected a folder on a file system that all nodes share")
    stored = folder / RECIPE_NAME
    if stored.is_file():
        if has_begun(folder):
            check_same_run(read_recipe(stored), recipe, folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {folder}: holds something else and no run; choose an empty or a new folder")


def check_training(config: SubmitConfig, recipe: Recipe, lead: int, makes_shards: bool) -> None:
    """Refuse what every rank would refuse, hours later in the queue.

    Raises:
        UserError: ranks that do not divide a batch, a time limit too short to save in, no shards.
    """
    plan_phases(recipe, config.nodes * config.ranks_per_node)
    resources.find("ds_configs", recipe.deepspeed, ".json")
    limit = time_limit(config.time, "time")
    if limit is not None and limit <= lead + EARLY_SECONDS:
        raise UserError(
            f"--time {config.time} ({limit} s): no time to train, as the job is signalled {lead} s before its limit, "
            f"or up to {EARLY_SECONDS} s earlier, to save; give more --time, or less --signal_seconds than a step, a "
            "validation and two saves take"
        )
    if not makes_shards and "://" not in recipe.data.path:
        read_manifest(recipe.data.path)


def check_new(folder: Path, stage: str) -> None:
    """Refuse an output of a later stage that its command would refuse."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder}: the {stage} stage writes there, and it is not empty; remove it, or leave {stage} out"
        )


def check_slurm() -> None:
    """Refuse where there is no sbatch."""
    if shutil.which("sbatch") is None:
        raise UserError("sbatch not found: submit where Slurm's commands are (a login node), or look with --dry_run")


def sharing_note(folder: Path, nodes: int) -> str | None:
    """A warning if a folder lies on a file system that other nodes cannot see."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return None
    above = {str(parent) for parent in (folder, *folder.parents)}
    kind = max((len(point), kind) for point, kind in mounts if point in above)[1]
    if nodes > 1 and kind in LOCAL_FILE_SYSTEMS:
        return f"note: {folder} lies on {kind}, in this machine's memory, which other nodes do not see"
    return None
