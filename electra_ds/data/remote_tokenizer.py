"""A remote tokenizer, brought to local disk where libraries can load it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from electra_ds.data.cache import default_folder
from electra_ds.data.format import Manifest
from electra_ds.data.format.tokenizer_files import fingerprint_of, tokenizer_files, tokenizer_fingerprint
from electra_ds.errors import DataError
from electra_ds.remote import is_url
from electra_ds.storage import open_folder

LARGEST_FILE = 1 << 30
"""Bytes of the largest tokenizer file that is taken."""


def local_tokenizer(
    folder: str | os.PathLike[str], manifest: Manifest, cache_folder: str | os.PathLike[str] | None = None
) -> Path:
    """Local folder of a shard set's tokenizer; that of a URL is fetched into the cache first.

    Args:
        folder: the shard set, a folder or URL.
        manifest: of that set; its fingerprint names what is fetched, so that it is fetched once.
        cache_folder: unset: `default_folder`; where it cannot be written, a new folder among the temporary files.

    Raises:
        DataError: a remote one cannot be fetched, or is not the one the shards were made with. A local one is not
            looked at.
    """
    if not is_url(folder):
        return Path(folder) / "tokenizer"
    expected = manifest.tokenizer.fingerprint
    parent = Path(cache_folder or default_folder()) / "tokenizers"
    target = parent / expected
    if tokenizer_fingerprint(target) == expected:
        return target
    storage = open_folder(f"{folder}/tokenizer")
    files = {name: storage.read_file(name, LARGEST_FILE) for name in tokenizer_files(storage)}
    if fingerprint_of({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}) != expected:
        raise DataError(
            f"{folder}/tokenizer: its files ({', '.join(files) or 'none'}) are not those the shards were made with; "
            "copy the folder of the set anew"
        )
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return _publish(files, target, expected)
    except OSError:  # no room, or not ours: the cache is a help, not a need
        return _publish(files, Path(tempfile.mkdtemp(prefix="electra_ds-")) / expected, expected)


def _publish(files: dict[str, bytes], target: Path, expected: str) -> Path:
    """Write the files aside and rename their folder; another process may do the same."""
    temporary = Path(tempfile.mkdtemp(dir=target.parent))
    for name, data in files.items():
        (temporary / os.path.basename(name)).write_bytes(data)
    if target.exists() and tokenizer_fingerprint(target) != expected:
        with contextlib.suppress(OSError):
            target.rename(Path(tempfile.mkdtemp(dir=target.parent)) / "damaged")
    try:
        temporary.rename(target)
    except OSError:
        if tokenizer_fingerprint(target) != expected:
            return temporary
        shutil.rmtree(temporary, ignore_errors=True)
    return target
