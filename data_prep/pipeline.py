"""The preparation from beginning to end: sample, tokenizer, parts, shards, manifest.

    sources -> documents -> units (4 MB) -> parts (workers) -> blocks -> shards
                   |
                   +-> sample -> tokenizer

Every stage leaves whole files or none, and passes over what is whole already: a rerun goes on where a killed run
ended, to the same bytes. The manifest is written last.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.config import PrepConfig
from data_prep.documents import sample_texts, stream
from data_prep.pack import assemble
from data_prep.progress import Progress, say
from data_prep.sources import Document, Source, open_sources
from data_prep.tokenizer import make_tokenizer, needs_sample, tokenizer_info
from data_prep.units import form_units
from data_prep.workers import Job, make_parts
from data_prep.workspace import Workspace, claim
from electra_ds.data.format import Manifest, ShardInfo, token_dtype
from electra_ds.errors import DataError, UserError


def run(config: PrepConfig) -> tuple[Manifest, bool]:
    """Prepare `config.inputs` into `config.output`.

    Returns:
        The manifest, and whether there was anything to do.

    Raises:
        UserError: bad input, a folder that holds something else, a full disk.
    """
    sources = open_sources(config)
    inputs = [source.identity() for source in sources]
    with claim(config.output, {"config": config.recorded(), "inputs": inputs}) as workspace:
        if workspace.finished and workspace.manifest:
            return workspace.manifest, False
        if workspace.missing:
            say(f"rebuilding what {config.output} lacks: {', '.join(workspace.missing)}")
        _tokenizer(config, sources, workspace)
        manifest = _shards(config, sources, workspace, inputs)
        if workspace.manifest is None:
            manifest.write(config.output)
        elif workspace.manifest.fingerprint == manifest.fingerprint:
            workspace.publish_rebuilt()
        else:
            raise DataError(
                f"{config.output}: what was rebuilt differs from the manifest, so the inputs or a library changed "
                "since; prepare into a new folder"
            )
    return manifest, True


def _tokenizer(config: PrepConfig, sources: list[Source], workspace: Workspace) -> None:
    if workspace.tokenizer.exists():
        return
    texts: list[str] = []
    if needs_sample(config.tokenizer):
        progress = Progress("reading a sample", sources)
        texts = sample_texts(_counted(sources, progress), config.tokenizer.sample_bytes, config.seed)
        progress.close()
        if not texts:
            raise UserError(f"inputs: {config.inputs} hold no document; give files with text")
        size = sum(len(text.encode()) for text in texts)
        say(f"training a {config.tokenizer.type} vocabulary of {config.tokenizer.vocab_size} on {size / 1e6:.1f} MB")
    folder = workspace.work / "tokenizer"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    make_tokenizer(texts, config.tokenizer, folder)
    workspace.publish_tokenizer(folder)


def _shards(config: PrepConfig, sources: list[Source], workspace: Workspace, inputs: list[dict[str, Any]]) -> Manifest:
    tokenizer = tokenizer_info(workspace.tokenizer, config.tokenizer.type)
    if workspace.manifest and tokenizer != workspace.manifest.tokenizer:
        raise DataError(
            f"{workspace.tokenizer}: what was rebuilt differs from the manifest, so the inputs or a library changed "
            "since; prepare into a new folder"
        )
    job = Job(workspace.tokenizer, workspace.work, config.validation_fraction, config.seed)
    progress = Progress("tokenizing", sources)
    parts: list[Path] = []
    made = made_bytes = 0
    for unit, new in make_parts(form_units(_read(sources, progress)), job, config.worker_count()):
        parts.append(workspace.work / unit.part_name)
        progress.done(unit.bytes)
        made, made_bytes = made + new, made_bytes + unit.bytes * new
    progress.close()
    kept = f", {len(parts) - made} of {len(parts)} parts kept from before" if made < len(parts) else ""
    rate = made_bytes / progress.seconds / 1e6
    say(f"tokenized {made_bytes / 1e6:.1f} MB in {progress.seconds:.1f} s ({rate:.1f} MB/s){kept}; writing shards")
    dtype = token_dtype(tokenizer.vocab_size)
    target = workspace.shard_target()
    splits, counts = assemble(parts, config.output, target, config.block_tokens, config.shard_blocks, dtype)
    if not splits["train"]:
        raise UserError(f"inputs: {config.inputs} hold no token for training; give files with text")
    for source in sources:
        for reason, count in source.dropped.items():
            counts["dropped"][reason] = counts["dropped"].get(reason, 0) + count
    return Manifest(str(dtype), tokenizer, splits, config.recorded(), _statistics(counts, splits, inputs))


def _read(sources: list[Source], progress: Progress) -> Iterator[Document]:
    for document in stream(sources):
        progress.read(len(document.text.encode()))
        yield document


def _counted(sources: list[Source], progress: Progress) -> Iterator[Document]:
    pending = 0
    for document in _read(sources, progress):
        yield document
        pending += len(document.text.encode())
        if pending > 1 << 20:
            progress.done(pending)
            pending = 0
    progress.done(pending)


def _statistics(
    counts: dict[str, Any], splits: dict[str, tuple[ShardInfo, ...]], inputs: list[dict[str, Any]]
) -> dict[str, Any]:
    tokens = sum(shard.tokens for shards in splits.values() for shard in shards)
    return {
        "documents_read": counts["read"] + sum(n for reason, n in counts["dropped"].items() if "docstring" in reason),
        "documents_kept": counts["kept"],
        "documents_dropped": {reason: count for reason, count in sorted(counts["dropped"].items()) if count},
        "documents_cut": counts["cut"],
        "text_bytes": counts["bytes"],
        "tokens": tokens,
        "unknown_tokens": counts["unknown"],
        "sources": {
            name or "unnamed": dict(zip(("documents", "bytes", "tokens"), values, strict=True))
            for name, values in sorted(counts["sources"].items())
        },
        "inputs": inputs,
    }
