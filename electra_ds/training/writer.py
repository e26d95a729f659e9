"""What DeepSpeed saves and loads through: copied to host memory at once, written and hashed in the background."""

from __future__ import annotations

import hashlib
import os
import threading
from copy import deepcopy
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from electra_ds.checkpoint import load_weights_only
from electra_ds.files import free_space, full_disk_message, is_full_disk
from electra_ds.lives import node_name


class BackgroundWriter:
    """A checkpoint engine for DeepSpeed.

    `save` copies to host memory and returns; `start` writes what was copied in a thread. Writing
    goes through a Python file object, so a full disk is an `OSError` with a number and the SHA-256 is taken on the way.
    Errors are kept until all ranks can agree on them: raising inside DeepSpeed would leave the others waiting. Reading
    is torch's weights-only loading with a short allow-list.

    Attributes:
        files: name of each file written whole: its ``bytes`` and ``sha256``.
        error: the first thing that went wrong, or None.
        may_pass: whether another try may go better than that: it was no full disk.
        expected: names of the files that `save` was given.
        bytes_written: so far, of the checkpoint at hand.
    """

    def __init__(self, copies: bool) -> None:
        """Args: copies: False writes the tensors themselves: nothing may change them until `busy` is False."""
        self._copies = copies
        self._waiting: list[tuple[Any, Path]] = []
        self._thread: threading.Thread | None = None
        self._host: dict[tuple[str, int], torch.UntypedStorage] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self.error: str | None = None
        self.may_pass = False
        self.expected: set[str] = set()
        self.bytes_written = 0

    @property
    def busy(self) -> bool:
        """Whether files are being written."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to write what `save` was given."""
        self._thread = threading.Thread(target=self._write_all, name="checkpoint writer", daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the files, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def create(self, info: Any) -> None:
        """Begin a checkpoint."""
        self.files, self.error, self.may_pass = {}, None, False
        self._waiting, self.expected, self.bytes_written = [], set(), 0

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Create a folder."""
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            self._fail(path, error)

    def save(self, state_dict: Any, path: str) -> None:
        """Take a copy of one file's content."""
        self.expected.add(Path(path).name)
        if self._copies:
            state_dict = self._to_host(state_dict, Path(path).name)
        self._waiting.append((state_dict, Path(path)))

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file without running anything in it."""
        return load_weights_only(Path(path), map_location)

    def commit(self, info: Any) -> bool:
        """All files of this rank were handed over."""
        return True

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        """Whether this rank writes the module's weights."""
        return dp_rank == 0

    def is_decoupled(self) -> bool:
        """Whether DeepSpeed should wait for another process; ours tells by itself."""
        return False

    def set_commit_info(self, info: Any) -> None:
        """Nothing to keep."""

    def get_commit_info(self) -> None:
        """Nothing kept."""

    def cleanup(self) -> None:
        """Nothing to release."""

    def preserves_storage_sharing(self) -> bool:
        """Tensors that share memory are copied once and saved once."""
        return True

    def _write_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for content, path in waiting:
            if self.error is None:
                try:
                    self._write(content, path)
                except BaseException as error:  # a thread that dies silently would look like one that is done
                    self._fail(path, error)

    def _write(self, content: Any, path: Path) -> None:
        with open(path, "wb") as file:
            hashing = _HashingFile(file, self)
            try:
                torch.save(content, hashing)  # type: ignore[arg-type]
            except RuntimeError as error:
                # torch's archive, closing after a write that failed, complains of its own place in the file.
                raise hashing.error or error from error
            file.flush()
            os.fsync(file.fileno())
        self.files[path.name] = {"bytes": hashing.bytes, "sha256": hashing.digest.hexdigest()}

    def _fail(self, path: str | Path, error: BaseException) -> None:
        if self.error is not None:
            return
        self.error = f"cannot write {path}: {error!r}"  # first of all, in case that the rest fails too
        self.may_pass = not is_full_disk(error)
        if self.may_pass:
            self.error = f"node {node_name()} cannot write {path}: {error!r} ({free_space(path)})"
        else:
            self.error = full_disk_message(path, error)

    def _to_host(self, value: Any, name: str) -> Any:
        """Copy all tensors of a nested value; those that share memory share it again.

        Memory of the copies is kept for the next checkpoint: fresh pages cost more than the copy itself.
        """
        copied: dict[int, torch.UntypedStorage] = {}
        streams = False

        def storage_of(tensor: Tensor) -> torch.UntypedStorage:
            nonlocal streams
            source = tensor.untyped_storage()
            if source.data_ptr() not in copied:
                key = (name, len(copied))
                kept = self._host.get(key)
                if kept is None or kept.nbytes() != source.nbytes():
                    pin = source.device.type == "cuda"
                    kept = torch.empty(source.nbytes(), dtype=torch.uint8, pin_memory=pin).untyped_storage()
                    self._host[key] = kept
                kept.copy_(source, non_blocking=True)
                streams = streams or source.device.type == "cuda"
                copied[source.data_ptr()] = kept
            return copied[source.data_ptr()]

        def copy(item: Any) -> Any:
            if isinstance(item, Tensor):
                if not item.untyped_storage().nbytes():
                    return item.detach().cpu()
                empty = torch.empty(0, dtype=item.dtype)
                return empty.set_(storage_of(item), item.storage_offset(), item.size(), item.stride())
            if isinstance(item, dict):
                return type(item)((key, copy(inner)) for key, inner in item.items())
            if isinstance(item, (list, tuple)) and type(item) in (list, tuple):
                return type(item)(copy(inner) for inner in item)
            return deepcopy(item)  # a loss scaler, for example, which the next step changes

        result = copy(value)
        if streams:
            torch.cuda.synchronize()
        return result


class _HashingFile:
    def __init__(self, file: IO[bytes], counts: BackgroundWriter) -> None:
        self._file, self._counts = file, counts
        self.digest, self.bytes = hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.bytes += len(data)
        self._counts.bytes_written += len(data)
        return written

    def flush(self) -> None:
        self._file.flush()
