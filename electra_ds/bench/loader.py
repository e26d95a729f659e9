"""``electra-ds bench loader``: rows a second on one core, this package's loader beside others on the same tokens."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from electra_ds.bench import loader_report, scale
from electra_ds.bench.huge import measure_huge, write_huge_set
from electra_ds.bench.loader_report import OURS
from electra_ds.bench.machine import describe
from electra_ds.bench.report import Report, command_line
from electra_ds.bench.sides import SIDES, Spec
from electra_ds.bench.statistics import in_turn
from electra_ds.bench.text import write_text_set
from electra_ds.bench.worker import Worker, is_installed
from electra_ds.command_line import bare_flag, parse, plain
from electra_ds.data.config import DataConfig
from electra_ds.data.loader import RowSource, open_shards
from electra_ds.errors import UserError

PACKAGES = ("numpy", "webdataset", "mosaicml-streaming", "datasets", "pyarrow", "torch")
_CHUNK_ROWS = 4096
_FAR_ROW = 10**9


@dataclass(frozen=True, kw_only=True)
class LoaderBenchConfig:
    """Measure the loader on one core beside others that read the same tokens, and write a report."""

    output: Path = Path("benchmarks")
    """Folder for loader.md and loader.json."""
    shards: str | None = None
    """Shard set to read; null makes one of synthetic text. Others get a copy of its rows, so keep it small."""
    tokens: int = 8_388_608
    """Tokens of the synthetic set; a set given by `shards` may have at most four times as many."""
    lengths: list[int] = field(default_factory=lambda: [512, 128])
    """Row lengths (tokens)."""
    batch: int = 128
    """Rows of a batch."""
    rounds: int = 5
    """Epochs of each side, in turn."""
    sides: list[str] = field(default_factory=lambda: list(SIDES))
    """Loaders to measure; those whose package is not installed are named in the report."""
    world_sizes: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 64])
    """Numbers of ranks whose reads are counted, one rank after another in one process."""
    huge_tokens: int = 1_000_000_000_000
    """Tokens of the set without text whose opening and seeking are measured; 0 leaves it out."""
    short: bool = False
    """A few seconds: a small set and two rounds. For tests; its figures mean nothing."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.sides if name not in SIDES]
        if unknown or OURS not in self.sides:
            raise ValueError(f"sides={self.sides}: must hold {OURS} and otherwise some of {', '.join(SIDES)}")
        for name in ("tokens", "batch", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark; return 0."""
    config = parse(LoaderBenchConfig, bare_flag(arguments, "--short"), program)
    with tempfile.TemporaryDirectory(prefix="bench-loader-") as folder:
        run(config, Path(folder), command_line(program, arguments)).publish(config.output)
    return 0


def run(config: LoaderBenchConfig, folder: Path, command: str) -> Report:
    """Measure everything, and describe it.

    Args:
        config: what to measure.
        folder: for the sets and copies; may be deleted afterwards.
        command: how the reader repeats it.
    """
    small = config.short
    tokens = 200_000 if small else config.tokens
    shards = config.shards or str(write_text_set(folder / "shards", tokens, block_tokens=8192 if small else 262_144))
    total = open_shards(DataConfig(path=shards)).manifest.total("train", "tokens")
    if config.shards and total > 4 * tokens:
        raise UserError(
            f"shards={shards}: {total:,} tokens, and every side copies them; the most is four times tokens={tokens:,}. "
            "Raise --tokens, or take a smaller set"
        )
    report = Report("loader", "The loader, on one core", loader_report.LEAD, command, describe(PACKAGES), plain(config))
    report.results["tokens"] = total
    for length in config.lengths:
        result = compare(config, shards, folder / str(length), length, 2 if small else config.rounds)
        report.results[f"length_{length}"] = result
        report.sections.append(loader_report.comparison(result, length))
    missing = [name for name in config.sides if not is_installed(SIDES[name].package)]
    report.results["missing"] = missing
    if missing:
        report.sections.append(loader_report.missing(sorted({SIDES[name].package or name for name in missing})))
    # Many small blocks, as a large set has many: with one block a stream all that counts is where the borders fall.
    many = config.shards or str(write_text_set(folder / "many", tokens, block_tokens=256 if small else 8192))
    ranks = scale.count_reads(many, config.lengths[0], config.batch, config.world_sizes)
    report.results["ranks"] = ranks
    report.sections.append(loader_report.ranks(ranks, config.lengths[0]))
    if config.huge_tokens:
        asked = min(config.huge_tokens, 10**9) if small else config.huge_tokens
        report.results["huge"] = measure_huge(write_huge_set(folder / "huge", asked), config.lengths[0], _FAR_ROW)
        report.sections.append(loader_report.huge(report.results["huge"], config.lengths[0]))
    report.sections.append(loader_report.fairness())
    return report


def compare(config: LoaderBenchConfig, shards: str, folder: Path, length: int, rounds: int) -> dict[str, Any]:
    """Measure every side at one row length.

    Returns:
        ``rows`` and ``row_bytes`` of an epoch, and ``sides``: of each what it stores, reads and needs, and the seconds
        of each round; or ``failed``, why it could not be measured.

    Raises:
        UserError: this package's own loader failed, or a side delivered other tokens.
    """
    folder.mkdir(parents=True)
    rows = store_rows(shards, length, config.batch, folder / "rows.npy")
    names = [name for name in config.sides if is_installed(SIDES[name].package)]
    workers: dict[str, Worker] = {}
    results: dict[str, Any] = {name: {"title": SIDES[name].title} for name in names}
    try:
        for name in names:
            own = folder / name
            own.mkdir()
            spec = Spec(shards, str(folder / "rows.npy"), str(own), length, config.batch)
            try:
                workers[name] = Worker(name, vars(spec))
                results[name] |= _first_epoch(workers[name])
            except UserError as error:
                if name.startswith(OURS):
                    raise
                results[name]["failed"] = str(error)
        able = [name for name in names if "failed" not in results[name]]
        delivered = {name: (results[name]["rows"], results[name]["sum_of_ids"]) for name in able}
        if len(set(delivered.values())) != 1:
            raise UserError(f"the sides did not deliver the same tokens: {delivered}")
        for _, name in in_turn(able, rounds):
            _say(f"length {length}: {SIDES[name].title}")
            measured = workers[name].ask("epoch")
            for clock in ("seconds", "cpu_seconds"):
                results[name][clock].append(measured.pop(clock))
            results[name] |= measured
    finally:
        for worker in workers.values():
            worker.close()
    return {"rows": rows[0], "row_bytes": rows[1], "sides": results}


def _first_epoch(worker: Worker) -> dict[str, Any]:
    """Let a side write its files, start cold, and read all once: what is measured then is warm."""
    size = worker.ask("prepare")["bytes"]
    cold = worker.ask("cold")
    return {
        "stored_bytes": size,
        "cold_seconds": cold["seconds"],
        "cold_dropped": cold["dropped"],
        "start_memory": worker.start_memory,
        "seconds": [],
        "cpu_seconds": [],
        **worker.ask("sum"),
    }


def store_rows(shards: str, length: int, batch: int, path: Path) -> tuple[int, int]:
    """Write the rows of the whole batches of an epoch as one npy file, in the order of the shards.

    Returns:
        Number of rows, and bytes of their ids.

    Raises:
        UserError: not even one batch.
    """
    config = DataConfig(path=shards)
    source = RowSource(open_shards(config), config, length, seed=0)
    count = source.total - source.total % batch
    if not count:
        raise UserError(f"{shards}: {source.total} rows of {length} tokens, fewer than one batch of {batch}")
    numbers = np.sort(source.order.locate(np.arange(count)).row_id)
    stored = np.lib.format.open_memmap(path, "w+", np.dtype(source.shards.manifest.dtype), (count, length))
    for begin in range(0, count, _CHUNK_ROWS):
        stored[begin : begin + _CHUNK_ROWS] = source.unshuffled(numbers[begin : begin + _CHUNK_ROWS]).ids
    stored.flush()
    return count, stored.nbytes


def _say(message: str) -> None:
    if sys.stderr.isatty():
        print(message, file=sys.stderr, flush=True)
