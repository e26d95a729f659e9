"""A run's own copy of the code, so that a job which is started again never picks up edited files."""

from __future__ import annotations

import compileall
import hashlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from electra_ds import __version__, resources
from electra_ds.errors import UserError
from electra_ds.files import TEMPORARY_SUFFIX, explain_full_disk, write_json

CODE = "code"
"""Folder of a run with its snapshots, each under the beginning of its own hash."""
CODE_NAME = "code.json"
"""Version, commit and hash of a snapshot."""


def files() -> Iterator[tuple[str, Path]]:
    """Every file of the code as a wheel lays it out: (path inside the snapshot, file)."""
    for package in ("electra_ds", "data_prep"):
        folder = _package_folder(package)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{package}/{path.relative_to(folder)}", path
    for kind in ("ds_configs", "slurm"):
        folder = resources.folder(kind)
        if _package_folder("electra_ds") not in folder.parents:  # in a clone they stand beside the package
            for path in sorted(folder.iterdir()):
                if path.is_file():
                    yield f"electra_ds/{kind}/{path.name}", path


def code_hash() -> str:
    """SHA-256 over names and contents of all files."""
    digest = hashlib.sha256()
    for name, path in files():
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def snapshot_path(run: Path, digest: str) -> Path:
    """Folder of the snapshot with that hash; jobs find it by PYTHONPATH."""
    return run / CODE / digest[:12]


def take_snapshot(run: Path, digest: str) -> Path:
    """Copy the code into the run folder, read-only, unless the same lies there; return the copy."""
    target = snapshot_path(run, digest)
    if (target / CODE_NAME).is_file():
        return target
    temporary = target.with_name(target.name + TEMPORARY_SUFFIX)
    with explain_full_disk(target):
        shutil.rmtree(temporary, ignore_errors=True)
        for name, path in files():
            copy = temporary / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        # Compiled once here, not by every rank of every life.
        compileall.compile_dir(temporary, quiet=2)
        write_json(temporary / CODE_NAME, describe(digest))
        for path in temporary.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    return target


def describe(digest: str) -> dict[str, Any]:
    """Release, commit (null outside a clone), whether files differ from it, and hash."""
    folder = _package_folder("electra_ds").parent
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--", "electra_ds", "data_prep", "ds_configs", "slurm")
    inside = commit is not None and (folder / "setup.py").is_file()
    return {
        "version": __version__,
        "commit": commit if inside else None,
        "edited": bool(changed) if inside else None,
        "sha256": digest,
    }


def _package_folder(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"the package {name} is not installed beside electra_ds; reinstall the project")
    return Path(next(iter(found.submodule_search_locations))).resolve()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
