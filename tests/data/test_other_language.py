"""The format's page lets someone write a reader in another language: its own, in C, is compiled and run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from electra_ds.data.shards import ShardSet

PAGE = Path(__file__).resolve().parents[2] / "docs/data-format.md"


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """The program of the page."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("reader")
    (source,) = re.findall(r"```c\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (folder / "reader.c").write_text(source)
    done = subprocess.run(
        [compiler, "-Wall", "-O1", "-o", folder / "reader", folder / "reader.c", "-lz"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "zlib.h" in done.stderr:
        pytest.skip("no zlib headers")
    assert done.returncode == 0, done.stderr
    return folder / "reader"


def test_the_reader_of_the_page_reads_a_shard(reader, tiny_shards):
    shards = ShardSet(tiny_shards)
    names = [shard.name for shard in shards.manifest.splits["train"]]
    total = 0
    for name in names:
        done = subprocess.run(
            [reader, tiny_shards / f"{name}.idx", tiny_shards / f"{name}.tar"],
            capture_output=True,
            text=True,
            check=True,
        )
        total += int(re.search(r"sum of ids (\d+)", done.stdout)[1])
    assert total == sum(int(shards.read(block).tokens.sum(dtype=int)) for block in range(len(shards)))


def test_the_reader_of_the_page_notices_damage(reader, tiny_shards, tmp_path):
    data = bytearray((tiny_shards / "train-000000.tar").read_bytes())
    data[5000] ^= 1
    (tmp_path / "damaged.tar").write_bytes(data)
    done = subprocess.run([reader, tiny_shards / "train-000000.idx", tmp_path / "damaged.tar"], check=False)
    assert done.returncode == 2


def test_the_digests_are_what_the_page_says(tiny_shards):
    value = json.loads((tiny_shards / "manifest.json").read_text("utf-8"))
    decides = {key: value[key] for key in ("format", "version", "dtype", "tokenizer", "splits")}
    fingerprint = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    assert value["fingerprint"] == fingerprint
    rest = {key: value[key] for key in value if key != "checksum"}
    assert value["checksum"] == hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
