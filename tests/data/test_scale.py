"""A set of a trillion tokens: a million blocks in four thousand shards, with tars that are holes."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from electra_ds.data.format import INDEX_RECORD, Manifest, ShardIndex, ShardInfo, TokenizerInfo
from tests.conftest import environment

SHARDS, BLOCKS, TOKENS = 3907, 256, 1_000_000

OPEN = """
import re, time
from electra_ds.data.shards import ShardSet
begun = time.perf_counter()
shards = ShardSet({folder!r})
shards.manifest.fingerprint
seconds = time.perf_counter() - begun
print(len(shards), int(shards.records["tokens"].sum(dtype="int64")), shards._find(999_999)[0].name, shards.bytes_read)
# Not getrusage: its peak counts what the parent held when it forked.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024, f"{{seconds:.3f}}")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trillion")
    records = np.zeros(BLOCKS, INDEX_RECORD)
    records["tokens"], records["documents"], records["sentences"] = TOKENS + np.arange(BLOCKS), 900, 30_000
    records["size"] = 512 * -(-(2 * records["tokens"] + 4 * 30_900 + 6000) // 512)
    records["offset"] = np.cumsum(records["size"], dtype=np.uint64) - records["size"]
    size = int(records["size"].sum(dtype=np.uint64)) + 1024
    shards = []
    for number in range(SHARDS):
        name = f"train-{number:06d}"
        index = ShardIndex(records, size, hashlib.sha256(name.encode()).hexdigest())
        records["crc32"] = np.arange(BLOCKS) + number
        body = struct.pack("<8sIIQQ", b"EDSINDEX", 1, 32, BLOCKS, size) + bytes.fromhex(index.tar_sha256)
        body += records.tobytes()
        body += struct.pack("<I", zlib.crc32(body))
        (folder / f"{name}.idx").write_bytes(body)
        with open(folder / f"{name}.tar", "wb") as tar:
            tar.truncate(size)
        shards.append(ShardInfo.of_index(name, index, hashlib.sha256(body).hexdigest()))
    tokenizer = TokenizerInfo("wordpiece", "0" * 64, 30_522, 0, 1, 2, 3, 4)
    Manifest("uint16", tokenizer, {"train": tuple(shards), "validation": ()}).write(folder)
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell its memory")
def test_a_trillion_tokens_open_in_little_memory_without_reading_a_tar(folder, record_property):
    code = OPEN.format(folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    blocks, tokens, shard, bytes_read, megabytes, seconds = done.stdout.split()
    assert int(blocks) == SHARDS * BLOCKS >= 1_000_000
    assert int(tokens) >= 1_000_000_000_000
    assert shard == "train-003906"
    assert int(bytes_read) == 0
    assert int(megabytes) < 300
    record_property("seconds", seconds)  # a time is no promise of a test
