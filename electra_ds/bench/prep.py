"""``electra-ds bench prep``: text to shards, by number of workers. Each side runs as a user runs it: as a command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from electra_ds.bench.corpus import write_documents
from electra_ds.bench.machine import describe, usable_cores
from electra_ds.bench.report import Report, Section, command_line
from electra_ds.bench.statistics import Spread, in_turn, ratios
from electra_ds.bench.worker import is_installed
from electra_ds.command_line import bare_flag, parse, plain
from electra_ds.data.format import read_manifest
from electra_ds.errors import UserError

PACKAGES = ("tokenizers", "sentencepiece", "datasets", "transformers", "pyarrow", "numpy")
OURS, PEER = "electra-ds prep", "datasets.map"

_LEAD = """\
How fast text becomes tokens on disk, beside the few lines one would write with Hugging Face `datasets` on the same text
with the same tokenizer. Each side is a command of its own, held to as many cores as it has workers; the sides take
turns. Figures are medians, with the lowest and the highest round in brackets. Starting Python and importing is part of
the time on both sides."""

_TABLE = """\
{documents} documents, {megabytes:,.1f} MB of text as JSON lines. *Ours / theirs*: how many times as fast `electra-ds
prep` is with as many workers, round by round. *CPU*: of all processes together. *Memory*: of the largest process."""

_FAIRNESS = """\
`electra-ds prep`, with its defaults, reads the lines, drops exact duplicates, finds sentences, tokenizes, shuffles the
documents over the shards, packs blocks with their checksums, and writes WebDataset shards, indexes and a manifest,
synced and renamed. `datasets.map` reads the lines, tokenizes whole documents in batches of a thousand, and saves Arrow
files: no sentences, no shuffle, no checksums."""


@dataclass(frozen=True, kw_only=True)
class PrepBenchConfig:
    """Measure the preparation by number of workers, and write a report."""

    output: Path = Path("benchmarks")
    """Folder for prep.md and prep.json."""
    megabytes: float = 50.0
    """Text to prepare (million bytes of UTF-8): documentation strings of what is installed."""
    tokenizer: str = "wordpiece"
    """Kind of vocabulary, trained once beforehand: wordpiece, unigram or bpe."""
    vocab_size: int = 30522
    """Its entries."""
    workers: list[int] = field(default_factory=lambda: [1, 2])
    """Numbers of worker processes."""
    rounds: int = 3
    """Preparations of each kind, in turn."""
    short: bool = False
    """Half a minute: little text and one round, for tests; its figures mean nothing."""

    def __post_init__(self) -> None:
        for name in ("megabytes", "rounds", "vocab_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        if not self.workers or min(self.workers) < 1:
            raise ValueError(f"workers={self.workers}: must be numbers from 1 on")


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark; return 0."""
    config = parse(PrepBenchConfig, bare_flag(arguments, "--short"), program)
    with tempfile.TemporaryDirectory(prefix="bench-prep-") as folder:
        page = run(config, Path(folder), command_line(program, arguments)).write(config.output)
    print(f"{page}\n{page.with_suffix('.json')}")
    return 0


def run(config: PrepBenchConfig, folder: Path, command: str) -> Report:
    """Measure everything, and describe it.

    Args:
        config: what to measure.
        folder: for text and shards; may be deleted afterwards.
        command: how the reader repeats it.
    """
    corpus = folder / "corpus.jsonl"
    documents, size = write_documents(corpus, int(1e6 * (0.3 if config.short else config.megabytes)))
    entries = 1000 if config.short else config.vocab_size
    kind = [f"--tokenizer.type={config.tokenizer}", f"--tokenizer.vocab_size={entries}"]
    first = _prepare(corpus, folder / "first", [*kind, f"--workers={len(usable_cores())}"], len(usable_cores()))
    tokenizer = folder / "first" / "tokenizer"
    able = [OURS, PEER] if is_installed("datasets") else [OURS]
    sides: dict[tuple[str, int], list[dict[str, Any]]] = {(s, w): [] for s in able for w in config.workers}
    for number, name in in_turn([f"{side}|{workers}" for side, workers in sides], 1 if config.short else config.rounds):
        side, workers = name.split("|")
        output = folder / f"{number}-{side.replace(' ', '-')}-{workers}"
        if side == OURS:
            existing = ["--tokenizer.type=existing", f"--tokenizer.path={tokenizer}", f"--workers={workers}"]
            measured = _prepare(corpus, output, existing, int(workers))
        else:
            output.mkdir()
            words = ["-m", "electra_ds.bench.prep_peer", str(corpus), str(tokenizer), str(output), workers]
            measured, said = _timed(words, int(workers))
            measured["tokens"] = int(said.split()[-1])
        sides[side, int(workers)].append(measured)
    report = Report("prep", "The preparation", _LEAD, command, describe(PACKAGES), plain(config))
    report.sections += [_table(sides, documents, size), Section("What is compared", _FAIRNESS)]
    report.results = {
        "documents": documents,
        "bytes": size,
        "with_tokenizer": first,
        "sides": [{"side": side, "workers": workers, "rounds": rounds} for (side, workers), rounds in sides.items()],
    }
    return report


def _prepare(corpus: Path, output: Path, options: list[str], cores: int) -> dict[str, Any]:
    """Run ``electra-ds prep`` once."""
    words = ["-m", "electra_ds", "prep", f"--inputs={corpus}", f"--output={output}", *options]
    measured, _ = _timed(words, cores)
    manifest = read_manifest(output)
    return measured | {"tokens": sum(manifest.total(split, "tokens") for split in manifest.splits)}


def _timed(words: Sequence[str], cores: int) -> tuple[dict[str, Any], str]:
    """Run Python on some cores; return seconds, CPU seconds and peak memory, and what it printed.

    Raises:
        UserError: it failed; the message is its last line.
    """
    chosen = usable_cores()[-cores:]
    pin = (lambda: os.sched_setaffinity(0, chosen)) if hasattr(os, "sched_setaffinity") else None
    environment = {**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    if cores == 1:
        environment |= {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as said:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words], stdout=said, stderr=subprocess.STDOUT, env=environment, preexec_fn=pin
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().strip()
    if process.returncode:
        raise UserError(f"{' '.join(words[:3])} failed: {text.splitlines()[-1] if text else process.returncode}")
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "memory": memory}, text


def _table(sides: dict[tuple[str, int], list[dict[str, Any]]], documents: int, size: int) -> Section:
    header = ["", "workers", "MB of text/s", "documents/s", "tokens/s", "tokens", "ours / theirs", "CPU", "memory"]
    section = Section("Text to tokens", _TABLE.format(documents=f"{documents:,}", megabytes=size / 1e6), header)
    for (side, workers), rounds in sides.items():
        seconds = [measured["seconds"] for measured in rounds]
        speed = Spread(tuple(size / 1e6 / value for value in seconds))
        middle = Spread(tuple(seconds)).median
        ours = [measured["seconds"] for measured in sides[OURS, workers]]
        section.rows.append(
            [
                f"`{side}`",
                str(workers),
                speed.show(".2f"),
                f"{documents / middle:,.0f}",
                f"{rounds[0]['tokens'] / middle:,.0f}",
                f"{rounds[0]['tokens']:,}",
                "" if side == OURS else ratios(seconds, ours).show(".2f"),
                f"{Spread(tuple(measured['cpu_seconds'] for measured in rounds)).median:.1f} s",
                f"{max(measured['memory'] for measured in rounds) / 2**20:,.0f} MiB",
            ]
        )
    return section
