"""The files of a shard set's tokenizer, and the fingerprint that ties them to the shards."""

from __future__ import annotations

import hashlib
import os

from electra_ds.storage import Storage, open_folder, sha256_in

TOKENIZER_FILES = (
    "added_tokens.json",
    "config.json",
    "merges.txt",
    "sentencepiece.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""What to ask a server for that cannot list a folder; the fingerprint tells whether it was all."""


def tokenizer_fingerprint(folder: str | os.PathLike[str]) -> str:
    """SHA-256 over the names and contents of a tokenizer folder's files, in sorted order; a folder or a URL."""
    storage = open_folder(folder)
    return fingerprint_of({name: sha256_in(storage, name) for name in tokenizer_files(storage)})


def fingerprint_of(digests: dict[str, str]) -> str:
    """Fingerprint of a tokenizer from the SHA-256 of each of its files."""
    digest = hashlib.sha256()
    for name in sorted(digests):
        digest.update(f"{name}\0{digests[name]}\n".encode())
    return digest.hexdigest()


def tokenizer_files(storage: Storage) -> list[str]:
    """Names of the files in a tokenizer folder, sorted; where a server cannot list, those that tokenizers have."""
    found = storage.sizes()
    names = list(found) if found is not None else [name for name in TOKENIZER_FILES if storage.exists(name)]
    return sorted(names)
