"""A remote tokenizer, brought to local disk where libraries can load it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from electra_ds.data.format import Manifest
from electra_ds.data.format.tokenizer_files import fingerprint_of, tokenizer_files, tokenizer_fingerprint
from electra_ds.errors import DataError
from electra_ds.remote import Retry
from electra_ds.storage import open_folder

LARGEST_FILE = 1 << 30
"""Bytes of the largest tokenizer file that is taken."""


def fetch_tokenizer(url: str, manifest: Manifest, cache_folder: Path | None) -> Path:
    """Bring the tokenizer of a remote shard set to a local folder.

    Args:
        url: the shard set.
        manifest: of that set; its fingerprint names the folder, so that what is there is not fetched again.
        cache_folder: where to keep it; unset: a new folder among the temporary files.

    Returns:
        A folder with exactly the files that the fingerprint speaks of.

    Raises:
        DataError: it cannot be fetched, or is not the one the shards were made with.
    """
    expected = manifest.tokenizer.fingerprint
    parent = cache_folder / "tokenizers" if cache_folder is not None else Path(tempfile.mkdtemp(prefix="electra_ds-"))
    target = parent / expected
    if target.is_dir() and tokenizer_fingerprint(target) == expected:
        return target
    storage = open_folder(f"{url}/tokenizer", Retry())
    files = {name: storage.read_file(name, LARGEST_FILE) for name in tokenizer_files(storage)}
    if fingerprint_of({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}) != expected:
        raise DataError(
            f"{url}/tokenizer: its files ({', '.join(files) or 'none'}) are not those the shards were made with; "
            "copy the folder of the set anew"
        )
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent))
    for name, data in files.items():
        (temporary / os.path.basename(name)).write_bytes(data)
    if target.exists():  # damaged: it was looked at above
        with contextlib.suppress(OSError):
            target.rename(Path(tempfile.mkdtemp(dir=parent)) / "damaged")
    try:
        temporary.rename(target)
    except OSError:  # another process was faster
        if tokenizer_fingerprint(target) != expected:
            return temporary
        shutil.rmtree(temporary, ignore_errors=True)
    return target
