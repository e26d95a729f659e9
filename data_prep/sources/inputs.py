"""From patterns to sources: which files a pattern names, and which class reads which kind."""

from __future__ import annotations

import glob
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from data_prep.config import CorpusConfig, PrepConfig
from data_prep.sources import remote
from data_prep.sources.arrow import ArrowSource
from data_prep.sources.base import Source
from data_prep.sources.compression import COMPRESSIONS
from data_prep.sources.docstrings import DocstringsSource
from data_prep.sources.hf_datasets import SAVED_MARKS, HubSource, HubStreamSource, SavedSource, is_saved_dataset
from data_prep.sources.json_lines import JsonLinesSource
from data_prep.sources.mediawiki import MediaWikiSource
from data_prep.sources.moses import MosesSource
from data_prep.sources.parquet import ParquetSource
from data_prep.sources.stored import LocalFile, RemoteFile, StoredFile
from data_prep.sources.text import TextSource
from data_prep.sources.warc import WarcSource
from electra_ds.errors import UserError
from electra_ds.remote import is_url, location


def _moses(names: str, corpus: CorpusConfig, config: PrepConfig) -> Source:
    """Open ``FIRST+SECOND``, of which either name may hold a plus sign itself."""
    places = [place for place, sign in enumerate(names) if sign == "+"]
    pairs = [(names[:place], names[place + 1 :]) for place in places]
    there = [pair for pair in pairs if all(is_url(name) or os.path.isfile(location(name)) for name in pair)]
    if len(there) != 1:
        raise UserError(
            f"inputs: 'moses:{names}' does not name two files (looked from {os.getcwd()}); expected "
            "moses:FIRST+SECOND, such as moses:corpus.en+corpus.de"
        )
    return MosesSource((_one_file(there[0][0]), _one_file(there[0][1])), corpus, config)


def _one_file(name: str) -> StoredFile:
    if not is_url(name):
        return _local_file(location(name))
    found = list(remote.find(name, lambda _: True))
    if len(found) != 1:
        raise UserError(f"inputs: '{name}' is {len(found)} files; expected one")
    url, about = found[0]
    return RemoteFile(url, remote.size_of(url, about), remote.written(about))


BY_PREFIX: dict[str, Callable[[str, CorpusConfig, PrepConfig], Source]] = {
    "docstrings": DocstringsSource,
    "hf": HubSource,
    "hf-stream": HubStreamSource,
    "moses": _moses,
}
"""``PREFIX`` or ``PREFIX:...``: not a file."""

BY_ENDING: dict[str, Callable[[StoredFile, CorpusConfig, PrepConfig], Source]] = {
    ".txt": TextSource,
    ".text": TextSource,
    ".md": TextSource,
    ".rst": TextSource,
    ".jsonl": JsonLinesSource,
    ".ndjson": JsonLinesSource,
    ".json": JsonLinesSource,
    ".parquet": ParquetSource,
    ".arrow": ArrowSource,
    ".feather": ArrowSource,
    ".xml": MediaWikiSource,
    ".warc": WarcSource,
    ".wet": WarcSource,
}
"""File name ending, after a compression's ending is taken off."""

NEVER_COMPRESSED = (".parquet", ".arrow", ".feather")
"""Endings of kinds that compress inside, and are read from anywhere."""

NEEDED = {".xml": ("mwparserfromhell",), ".warc": ("fastwarc", "resiliparse"), ".wet": ("fastwarc",)}
"""Endings whose reading needs packages that are not always installed."""


def open_sources(corpus: CorpusConfig, config: PrepConfig) -> list[Source]:
    """Resolve a corpus's inputs, in the order given; the matches of a pattern in sorted order.

    Args:
        corpus: one of `PrepConfig.resolved_corpora`.
        config: the preparation.

    Raises:
        UserError: a pattern matches nothing, or a file is of no known kind.
    """
    sources: list[Source] = []
    for pattern in corpus.patterns():
        prefix, _, rest = pattern.partition(":")
        if prefix in BY_PREFIX and not rest.startswith("//") and not os.path.exists(pattern):
            sources.append(BY_PREFIX[prefix](rest, corpus, config))
        elif is_url(pattern):
            sources += _remote(pattern, corpus, config)
        else:
            sources += _local(location(pattern), corpus, config)
    return sources


def _local(pattern: str, corpus: CorpusConfig, config: PrepConfig) -> list[Source]:
    if os.path.isdir(pattern):
        return _local_folder(pattern, corpus, config)
    matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
    found: list[Source] = []
    for path in matches:
        if not os.path.isdir(path):
            found.append(_open(_local_file(path), corpus, config))
        elif is_saved_dataset(path):
            found.append(SavedSource(path, corpus, config))
    if not found:
        raise UserError(
            f"inputs: '{pattern}' matches no file (looked from {os.getcwd()}); "
            "give a path, a folder, a glob pattern in quotes, a URL, hf:NAME, moses:FIRST+SECOND, or docstrings"
        )
    return found


def _local_folder(folder: str, corpus: CorpusConfig, config: PrepConfig) -> list[Source]:
    """Open all files of known kinds in a folder and below; those in hidden folders are not meant."""
    if is_saved_dataset(folder):
        return [SavedSource(folder, corpus, config)]
    found: list[Source] = []
    for parent, folders, names in os.walk(folder):
        saved = [name for name in folders if is_saved_dataset(os.path.join(parent, name))]
        folders[:] = sorted(name for name in folders if name not in saved and not name.startswith("."))
        found += [SavedSource(os.path.join(parent, name), corpus, config) for name in saved]
        paths = [os.path.join(parent, name) for name in names if not name.startswith(".") and _ending(name)]
        found += [_open(_local_file(path), corpus, config) for path in paths]
    if not found:
        raise UserError(f"inputs: {folder} is a folder without a file of a known kind ({', '.join(BY_ENDING)})")
    return sorted(found, key=lambda source: source.name)


def _local_file(path: str) -> StoredFile:
    if not os.access(path, os.R_OK):
        raise UserError(f"inputs: {path} cannot be read (permission); change its mode or run as its owner")
    return LocalFile(path)


def _remote(pattern: str, corpus: CorpusConfig, config: PrepConfig) -> list[Source]:
    found = list(remote.find(pattern, lambda name: bool(_ending(name)) or name.endswith(SAVED_MARKS)))
    marks = [url for url, _ in found if url.endswith(SAVED_MARKS)]
    saved = {url.rpartition("/")[0] for url in marks}
    # A DatasetDict's splits are folders with a mark of their own inside the marked one.
    saved = {folder for folder in saved if not any(folder.startswith(f"{other}/") for other in saved)}
    sources: list[Source] = [SavedSource(folder, corpus, config) for folder in saved]
    for url, about in found:
        if not any(url.startswith(f"{folder}/") for folder in saved):
            file = RemoteFile(url, remote.size_of(url, about), remote.written(about))
            sources.append(_open(file, corpus, config))
    if not sources:
        raise UserError(f"inputs: '{pattern}' matches no file; check the URL, and that this account may list it")
    return sorted(sources, key=lambda source: source.name)


def _ending(name: str) -> str:
    """Return the ending that tells the kind of a file, or an empty string."""
    path = Path(remote.path_of(name))
    ending = path.suffix.lower()
    if ending in COMPRESSIONS:
        ending = path.with_suffix("").suffix.lower()
        ending = "" if ending in NEVER_COMPRESSED else ending
    if ending.startswith(".xml-p"):  # Wikipedia's dumps in parts: pages-articles1.xml-p1p41242.bz2
        ending = ".xml"
    return ending if ending in BY_ENDING else ""


def _open(file: StoredFile, corpus: CorpusConfig, config: PrepConfig) -> Source:
    ending = _ending(file.name)
    if not ending:
        compressible = ", ".join(known for known in BY_ENDING if known not in NEVER_COMPRESSED)
        raise UserError(
            f"inputs: {file.name} has the ending '{Path(file.base_name).suffix}'; known are {', '.join(BY_ENDING)}, "
            f"and {compressible} also compressed as {', '.join(COMPRESSIONS)}"
        )
    for package in NEEDED.get(ending, ()):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"inputs: {file.name}: reading {ending} files needs a package that is not installed ({package}); "
                f"pip install {package}, or electra_ds[web]"
            )
    return BY_ENDING[ending](file, corpus, config)
