"""A set as large as one likes, without its text: what opening it and finding a row cost.

Manifest and indexes are those that `prep` would write; the tars are files of the right size that hold nothing. Run as
``python -m electra_ds.bench.huge FOLDER LENGTH ROW`` it measures, in a process that has done nothing else, and prints
one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from electra_ds.bench.machine import ONE_THREAD
from electra_ds.bench.text import SHARD_BLOCKS, VOCABULARY
from electra_ds.bench.worker import peak_memory
from electra_ds.data.config import DataConfig
from electra_ds.data.format import INDEX_RECORD, Manifest, ShardIndex, ShardInfo, TokenizerInfo, token_dtype
from electra_ds.data.format.index import encode_index, tar_bytes_of
from electra_ds.data.loader import RowSource, open_shards
from electra_ds.errors import UserError

BLOCK_TOKENS = 1_000_000
"""Tokens of a block: a trillion tokens are a million blocks."""
DOCUMENT_TOKENS, SENTENCE_TOKENS = 550, 25
"""Tokens of a document and of a sentence (means)."""


def write_huge_set(folder: Path, tokens: int) -> Path:
    """Write manifest, indexes and empty tars for at least `tokens` tokens; return the folder."""
    folder.mkdir(parents=True)
    blocks = -(-tokens // BLOCK_TOKENS)
    dtype = token_dtype(VOCABULARY)
    shards: list[ShardInfo] = []
    for first in range(0, blocks, SHARD_BLOCKS):
        records = np.zeros(min(SHARD_BLOCKS, blocks - first), INDEX_RECORD)
        number = first + np.arange(len(records))
        records["tokens"] = BLOCK_TOKENS + number % 500
        records["documents"] = records["tokens"] // DOCUMENT_TOKENS
        records["sentences"] = records["tokens"] // SENTENCE_TOKENS
        payload = dtype.itemsize * records["tokens"] + 4 * (records["documents"] + records["sentences"])
        records["size"] = 512 * -(-(payload + 8 * 512) // 512)
        records["offset"] = np.cumsum(records["size"], dtype=np.uint64) - records["size"]
        records["crc32"] = number
        name = f"train-{len(shards):06d}"
        index = ShardIndex(records, tar_bytes_of(records), hashlib.sha256(name.encode()).hexdigest())
        data = encode_index(index)
        (folder / f"{name}.idx").write_bytes(data)
        with open(folder / f"{name}.tar", "wb") as tar:
            tar.truncate(index.tar_bytes)
        shards.append(ShardInfo.of_index(name, index, hashlib.sha256(data).hexdigest()))
    tokenizer = TokenizerInfo("wordpiece", "0" * 64, VOCABULARY, 0, 1, 2, 3, 4)
    Manifest(dtype.name, tokenizer, {"train": tuple(shards), "validation": ()}).write(folder)
    return folder


def measure_huge(folder: Path, length: int, row: int) -> dict[str, Any]:
    """Open a set in a process of its own, and find a row far inside.

    Args:
        folder: from `write_huge_set`.
        length: L, tokens of a row.
        row: position in the run's order.

    Returns:
        Counts of the set; seconds to open it, to describe its rows, to lay out an epoch and to find `row`; bytes of
        manifest and indexes; memory before opening and at the end (bytes).
    """
    command = [sys.executable, "-m", "electra_ds.bench.huge", str(folder), str(length), str(row)]
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the set without text could not be measured: {done.stderr.strip().splitlines()[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    stored = (path.stat().st_size for path in folder.iterdir() if path.suffix in (".idx", ".json"))
    return measured | {"index_bytes": sum(stored)}


def _measure(folder: str, length: int, row: int) -> dict[str, Any]:
    config = DataConfig(path=folder)
    before, times = peak_memory(), [time.perf_counter()]
    shards = open_shards(config)
    times.append(time.perf_counter())
    source = RowSource(shards, config, length, seed=0)
    times.append(time.perf_counter())
    source.order.locate(np.array([0]))
    times.append(time.perf_counter())
    source.order.locate(np.array([row % source.total]))
    times.append(time.perf_counter())
    opening, describing, layout, finding = np.diff(times).tolist()
    return {
        "shards": len(shards.manifest.splits["train"]),
        "blocks": len(shards),
        "tokens": shards.manifest.total("train", "tokens"),
        "rows": source.total,
        "row": row % source.total,
        "open_seconds": opening,
        "describe_seconds": describing,
        "layout_seconds": layout,
        "find_seconds": finding,
        "bytes_read": shards.bytes_read,
        "memory_before": before,
        "memory": peak_memory(),
    }


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
