"""Files that ship with the project: DeepSpeed configs, Slurm templates, recipes.

In a clone, `ds_configs/` and `slurm/` stand at the top; in an installed wheel they are inside the package.
"""

from __future__ import annotations

from pathlib import Path

from electra_ds.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent
_CLONE = _PACKAGE.parent


def folder(name: str) -> Path:
    """Return the folder of shipped files `name`: ``ds_configs``, ``slurm`` or ``recipes``."""
    in_clone = _CLONE / name
    if (_CLONE / "setup.py").is_file() and in_clone.is_dir():
        return in_clone
    return _PACKAGE / name


def find(kind: str, name: str, ending: str) -> Path:
    """Return a user's file, or the shipped one of that name.

    Args:
        kind: folder of shipped files.
        name: a path to a file, or a shipped file's name without its ending.
        ending: ``.yaml`` or ``.json``.

    Raises:
        UserError: neither exists; names what ships.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = sorted(path.stem for path in folder(kind).glob(f"*{ending}"))
    if name in shipped:
        return folder(kind) / f"{name}{ending}"
    raise UserError(
        f"'{name}' is neither a file nor one of the shipped {kind} ({', '.join(shipped)}){did_you_mean(name, shipped)}"
    )
