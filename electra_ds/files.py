"""Writing files so that a reader sees either the old content or the whole new one.

Standard library only: `data_prep` uses this on machines without torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from electra_ds.errors import UserError

TEMPORARY_SUFFIX = ".partial"
"""Ending of names that are not finished; a rerun may delete them."""

_CHUNK = 1 << 20


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_folder(path: str | os.PathLike[str]) -> None:
    """Make the renames inside a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success sync it and rename it to `path`.

    Args:
        path: final name; an existing file is replaced in one step.
        mode: ``"wb"`` or ``"w"`` (UTF-8).

    Raises:
        UserError: the disk is full; the message names the path and the space left.
    """
    path = Path(path)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    encoding = None if "b" in mode else "utf-8"
    with explain_full_disk(path):
        try:
            with open(temporary, mode, encoding=encoding) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        os.replace(temporary, path)
        fsync_folder(path.parent)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically and byte for byte repeatable."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, sort_keys=True, ensure_ascii=False)
        file.write("\n")


@contextmanager
def explain_full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn "no space left" (also quota, and torch's iostream errors) into a `UserError`."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise UserError(full_disk_message(path, error)) from error
        raise


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that there is no room: disk, quota, file size limit, or torch's word for them."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, RuntimeError) and ("iostream error" in str(error) or "PytorchStreamWriter" in str(error))


def full_disk_message(path: str | os.PathLike[str], error: BaseException) -> str:
    """Say which path could not be written and how much space its file system has left."""
    return (
        f"cannot write {path}: {error} ({free_space(path)}); nothing that was finished before is affected. Free some "
        "space and run the same command again"
    )


def free_space(path: str | os.PathLike[str]) -> str:
    """Room that is left where a path lies, in words; raises nothing, whatever the file system does."""
    folder = os.path.abspath(path)
    while True:
        try:
            return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB free on that file system"
        except FileNotFoundError:
            if folder == os.path.dirname(folder):
                return "no such file system"
            folder = os.path.dirname(folder)
        except OSError as error:
            return f"its free space cannot be told: {error}"


def take_output_folder(output: str, settings: str, results: str, ours: Callable[[str], bool]) -> tuple[Path, set[str]]:
    """Create a command's output folder, or take over an unfinished one of its own; nothing is deleted.

    Args:
        output: its path.
        settings: name of the file that is written first and marks the folder as the command's.
        results: name of the file that is written last and marks it as finished.
        ours: whether a name, without `TEMPORARY_SUFFIX`, is one that the command writes.

    Returns:
        The folder, and the names that lie in it.

    Raises:
        UserError: it holds finished results, or something else, or cannot be created.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output: {output} is a file, expected a folder that is new or empty")
    names = set(os.listdir(folder)) if folder.exists() else set()
    if results in names:
        raise UserError(f"output: {output} holds finished results; choose another --output, or delete it to run again")
    foreign = sorted(name for name in names if not ours(name.removesuffix(TEMPORARY_SUFFIX)))
    if foreign or (names and settings not in names):
        found = ", ".join((foreign or sorted(names))[:3])
        raise UserError(f"output: {output} holds something else ({found}); choose a new or empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: {output} cannot be created ({error.strerror})") from error
    return folder, names
