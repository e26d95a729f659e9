"""Reading a whole shard set to compare every byte with what was written."""

from __future__ import annotations

import os
from collections.abc import Callable

from electra_ds.data.format.manifest import LARGEST_MANIFEST, MANIFEST_NAME, Manifest
from electra_ds.data.format.tokenizer_files import tokenizer_fingerprint
from electra_ds.errors import DataError
from electra_ds.storage import open_folder, sha256_in


def verify_shards(
    folder: str | os.PathLike[str], manifest: Manifest, advance: Callable[[int], None] = lambda _: None
) -> list[str]:
    """Check every byte of manifest, tars, indexes and tokenizer.

    Args:
        folder: the shard set, a folder or URL.
        manifest: what it should hold.
        advance: called with the bytes of tars read since the last call, for a progress bar.

    Returns:
        One sentence per problem, empty if all is whole.
    """
    storage = open_folder(folder)
    problems = []
    try:
        if storage.read_file(MANIFEST_NAME, LARGEST_MANIFEST) != manifest.encode():
            problems.append(f"{storage.path(MANIFEST_NAME)}: its bytes are not those that were written; restore it")
    except DataError as error:
        problems.append(str(error))
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        for ending, expected in (("tar", shard.sha256), ("idx", shard.index_sha256)):
            name = f"{shard.name}.{ending}"
            try:
                found = sha256_in(storage, name, advance if ending == "tar" else lambda _: None)
            except DataError as error:
                problems.append(str(error))
                continue
            if found != expected:
                problems.append(
                    f"{storage.path(name)}: sha256 differs from the manifest ({found[:12]}... where "
                    f"{expected[:12]}... was expected); delete it and rerun prep to rebuild it"
                )
    if tokenizer_fingerprint(f"{storage.path('tokenizer')}") != manifest.tokenizer.fingerprint:
        problems.append(f"{storage.path('tokenizer')}: its files are not those the shards were made with")
    storage.close()
    return problems
