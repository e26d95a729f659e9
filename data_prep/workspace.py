"""The output folder: is it new, begun by this very command, finished, or somebody else's?"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.progress import say
from electra_ds.data.format import MANIFEST_NAME, Manifest, read_manifest
from electra_ds.data.format.manifest import tokenizer_fingerprint
from electra_ds.errors import DataError, UserError
from electra_ds.files import TEMPORARY_SUFFIX, fsync_folder, sha256_of, write_json

WORK_FOLDER = ".prep"
STATE_NAME = "state.json"


@dataclass(frozen=True)
class Workspace:
    """An output folder that this preparation may write to, and holds the lock of."""

    output: Path
    manifest: Manifest | None
    """Of a finished set; shards that are missing from it are to be rebuilt."""
    missing: tuple[str, ...] = ()
    """What a finished set lacks."""

    @property
    def work(self) -> Path:
        """Folder of the part files."""
        return self.output / WORK_FOLDER

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer; it is there as a whole or not at all."""
        return self.output / "tokenizer"

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return self.manifest is not None and not self.missing

    def publish_tokenizer(self, folder: Path) -> None:
        """Move a finished tokenizer folder to its place."""
        for path in folder.iterdir():
            fsync_folder(path)
        fsync_folder(folder)
        os.replace(folder, self.tokenizer)
        fsync_folder(self.output)

    def shard_target(self) -> Path:
        """Folder that shards are written to: rebuilt ones stay aside until they are known to fit the manifest."""
        if self.manifest is None:
            return self.output
        target = self.work / "rebuilt"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return target

    def publish_rebuilt(self) -> None:
        """Move rebuilt shards, which fit the manifest, to their place."""
        for path in sorted((self.work / "rebuilt").iterdir()):
            os.replace(path, self.output / path.name)
        fsync_folder(self.output)


@contextmanager
def claim(output: Path, identity: dict[str, Any], versions: list[str]) -> Iterator[Workspace]:
    """Take the output folder for one preparation.

    Args:
        output: the folder; it is made if it is not there.
        identity: ``config``, ``inputs`` and ``evaluation_files``: what decides the bytes.
        versions: of the inputs; where one is not what it was, what was begun from it is begun anew.

    Raises:
        UserError: the folder holds something else, another preparation, or is in use.
    """
    identity = json.loads(json.dumps(identity))
    if output.exists() and not output.is_dir():
        raise UserError(f"output: {output} is a file; name a folder that is new or empty")
    made = not output.exists()
    manifest = _finished(output, identity)
    work = output / WORK_FOLDER
    if manifest is None and not made:
        _check_unfinished(output, identity)
    missing = tuple(_missing(output, manifest)) if manifest else ()
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output: {output} cannot be made ({error.strerror or error}); name a folder that can be written to"
        ) from error
    with open(work / "lock", "w") as lock:
        _lock(lock, output)  # a refusal leaves everything as it is: it belongs to the preparation at work
        try:
            state = {**identity, "versions": versions}
            if (work / STATE_NAME).exists() and _read_state(work) != state:
                say(f"an input of {output} was written anew since this preparation was begun: it begins anew, too")
                _begin_anew(output, manifest)
            if not (work / STATE_NAME).exists():
                write_json(work / STATE_NAME, state)
            yield Workspace(output, manifest, missing)
            shutil.rmtree(work)
        except BaseException:
            _tidy(output, made)
            raise


def _lock(lock: Any, output: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"output: another preparation is writing to {output}; wait for it or choose another") from None
    except OSError:
        pass  # a file system without locks


def _tidy(output: Path, made: bool) -> None:
    """After an error, remove the work folder if there is nothing in it that a rerun could use."""
    work = output / WORK_FOLDER
    if any(work.glob("parts/*/*.t*")) or (output / "tokenizer").exists():
        return
    with suppress(OSError):
        if not any(work.glob("shards/*")):
            shutil.rmtree(work)
        if made:
            output.rmdir()


def _finished(output: Path, identity: dict[str, Any]) -> Manifest | None:
    if not (output / MANIFEST_NAME).exists():
        return None
    manifest = read_manifest(output)
    statistics = manifest.statistics
    there = {
        "config": manifest.config,
        "inputs": statistics.get("inputs"),
        "evaluation_files": statistics.get("evaluation_files", []),
    }
    if there != identity:
        raise UserError(
            f"output: {output} holds a finished shard set made otherwise ({_difference(there, identity)}); "
            "nothing was changed. Choose another --output, or delete that folder"
        )
    return manifest


def _check_unfinished(output: Path, identity: dict[str, Any]) -> None:
    names = sorted(os.listdir(output))
    work = output / WORK_FOLDER
    if (work / STATE_NAME).exists():
        there = {key: value for key, value in _read_state(work).items() if key != "versions"}
        if there != identity:
            raise UserError(
                f"output: {output} holds a preparation that was begun otherwise ({_difference(there, identity)}); "
                "run it to its end with its own settings, choose another --output, or delete that folder"
            )
        return
    if work.is_dir() and set(names) == {WORK_FOLDER}:
        return  # killed before the state was written
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(
            f"output: {output} is not empty and holds no {MANIFEST_NAME} ({shown}); nothing was changed. "
            "Name a folder that is new or empty"
        )


def _read_state(work: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((work / STATE_NAME).read_text("utf-8"))
        return state
    except ValueError as error:
        raise DataError(f"{work / STATE_NAME}: damaged ({error}); delete {work.parent} and run again") from error


def _begin_anew(output: Path, manifest: Manifest | None) -> None:
    """Remove what was made from inputs that are no longer there; a finished set keeps what it has."""
    work = output / WORK_FOLDER
    for path in list(work.iterdir()):
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if manifest is None:
        for path in list(output.iterdir()):
            if path.name == "tokenizer":
                shutil.rmtree(path)
            elif path.suffix in (".tar", ".idx", TEMPORARY_SUFFIX):
                path.unlink()


def _missing(output: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what is missing of a finished set, by looking at sizes and the small files only.

    Raises:
        DataError: something was altered: it is not ours to overwrite.
    """

    def altered(path: Path, what: str) -> DataError:
        return DataError(f"{path}: {what} differs from the manifest; delete it and run the same command to rebuild it")

    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        tar, idx = output / f"{shard.name}.tar", output / f"{shard.name}.idx"
        if tar.exists() and tar.stat().st_size != shard.bytes:
            raise altered(tar, f"its size ({tar.stat().st_size} bytes, {shard.bytes} expected)")
        if idx.exists() and sha256_of(idx) != shard.index_sha256:
            raise altered(idx, "its sha256")
        yield from (path.name for path in (tar, idx) if not path.exists())
    tokenizer = output / "tokenizer"
    if not tokenizer.exists():
        yield "tokenizer"
    elif tokenizer_fingerprint(tokenizer) != manifest.tokenizer.fingerprint:
        raise altered(tokenizer, "its fingerprint")


def _difference(there: Any, here: Any, path: str = "") -> str:
    """Name the first field in which two JSON values differ, and both values."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            if there.get(key) != here.get(key):
                return _difference(there.get(key), here.get(key), f"{path}.{key}" if path else key)
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for number, (old, new) in enumerate(zip(there, here, strict=True)):
            if old != new:
                return _difference(old, new, f"{path}[{number}]")
    name = path.removeprefix("config.")
    return f"{name}: {json.dumps(there, ensure_ascii=False)} there, {json.dumps(here, ensure_ascii=False)} now"
