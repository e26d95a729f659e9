"""``electra-ds pretrain``."""

from __future__ import annotations

import os
from pathlib import Path

from electra_ds.command_line import print_error
from electra_ds.distributed import Place, find_place, leave
from electra_ds.errors import UserError
from electra_ds.files import atomic_write
from electra_ds.recipe import RECIPE_NAME, Recipe, check_same_run, parse_recipe, read_recipe, recipe_yaml


def main(arguments: list[str], program: str) -> int:
    """Train, or go on training, as the recipe says; the same command under any launcher.

    All ranks leave through `distributed.leave`: status 0 well, 2 a user's error (told once, by the first rank).
    """
    recipe = parse_recipe(arguments, program)
    place = find_place()
    if place.is_first:
        prepare_folder(recipe)
    _set_threads(recipe, place)
    status = 2
    try:
        _train(recipe, place)
        status = 0
    except UserError as error:
        if os.environ.get("ELECTRA_DS_DEBUG"):
            raise
        if place.is_first or _alone(error):
            print_error(error)
    leave(status)


def prepare_folder(recipe: Recipe) -> None:
    """Create the run folder, or check that it holds this run, and write its recipe.yaml.

    Raises:
        UserError: it holds something else, or a run with other settings.
    """
    folder = Path(recipe.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: exists and is no folder; choose another")
    stored = folder / RECIPE_NAME
    if stored.is_file():
        check_same_run(read_recipe(stored), recipe, folder)
    elif folder.is_dir() and any(folder.iterdir()):
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:5])
        raise UserError(f"--output {folder}: holds something else ({names}) and no run; choose an empty or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(stored, "w") as file:
        file.write(recipe_yaml(recipe))


def _train(recipe: Recipe, place: Place) -> None:
    import torch

    from electra_ds.training.engine import choose_device, start_process_group
    from electra_ds.training.loop import Trainer

    device = choose_device(recipe.training.device, recipe.training.precision, place.local_rank)
    start_process_group(place, device)
    trainer = Trainer(recipe, place, device)
    trainer.run()
    torch.distributed.barrier()
