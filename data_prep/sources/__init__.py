"""Where documents come from: one small class per kind of input, chosen by `open_sources`.

To add a kind, write a `Source` and an entry in `BY_PREFIX` (``name:...``), `BY_ENDING` (files) or `BY_FOLDER`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path

from data_prep.config import PrepConfig
from data_prep.sources.base import Document, Source
from data_prep.sources.docstrings import DocstringsSource
from data_prep.sources.files import COMPRESSIONS
from data_prep.sources.hf_datasets import HubSource, SavedSource, is_saved_dataset
from data_prep.sources.json_lines import JsonLinesSource
from data_prep.sources.parquet import ParquetSource
from data_prep.sources.text import TextSource
from electra_ds.errors import UserError

__all__ = ["Document", "Source", "open_sources"]

BY_PREFIX: dict[str, Callable[[str, PrepConfig], Source]] = {
    "docstrings": DocstringsSource,
    "hf": HubSource,
}
"""``PREFIX`` or ``PREFIX:...``: not a file."""

BY_ENDING: dict[str, Callable[[str, PrepConfig], Source]] = {
    ".txt": TextSource,
    ".text": TextSource,
    ".md": TextSource,
    ".rst": TextSource,
    ".jsonl": JsonLinesSource,
    ".ndjson": JsonLinesSource,
    ".json": JsonLinesSource,
    ".parquet": ParquetSource,
}
"""File name ending, after a compression's ending is taken off."""

BY_FOLDER: list[tuple[Callable[[str], bool], Callable[[str, PrepConfig], Source]]] = [
    (is_saved_dataset, SavedSource),
]
"""Folders that are one input."""


def open_sources(config: PrepConfig) -> list[Source]:
    """Resolve the inputs, in the order given; the matches of a pattern in sorted order.

    Raises:
        UserError: a pattern matches nothing, or a file is of no known kind.
    """
    sources: list[Source] = []
    for pattern in config.patterns():
        prefix, _, rest = pattern.partition(":")
        if prefix in BY_PREFIX and not os.path.exists(pattern):
            sources.append(BY_PREFIX[prefix](rest, config))
            continue
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        found = [_open_path(path, config) for path in matches if pattern == path or not os.path.isdir(path)]
        if not found:
            raise UserError(
                f"inputs: '{pattern}' matches no file (looked from {os.getcwd()}); "
                "give a path, a glob pattern in quotes, hf:NAME, or docstrings"
            )
        sources += found
    return sources


def _open_path(path: str, config: PrepConfig) -> Source:
    if os.path.isdir(path):
        for fits, build in BY_FOLDER:
            if fits(path):
                return build(path, config)
        raise UserError(f"inputs: {path} is a folder; name its files by a pattern such as '{path}/*.jsonl.zst'")
    name = Path(path)
    ending = name.suffix.lower()
    if ending in COMPRESSIONS:
        ending = name.with_suffix("").suffix.lower()
    if ending not in BY_ENDING:
        raise UserError(
            f"inputs: {path} has the ending '{name.suffix}'; known are {', '.join(BY_ENDING)}, "
            f"also compressed as {', '.join(COMPRESSIONS)}"
        )
    if not os.access(path, os.R_OK):
        raise UserError(f"inputs: {path} cannot be read (permission); change its mode or run as its owner")
    return BY_ENDING[ending](path, config)
