"""``electra-ds bench prep``: text to shards, as a user runs it, beside the tokenizers' libraries and `datasets`."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from electra_ds.bench import prep_growth, prep_report
from electra_ds.bench.corpus import find_files, write_documents, write_texts
from electra_ds.bench.machine import describe, usable_cores
from electra_ds.bench.prep_sides import Prep, compare, profile
from electra_ds.bench.prep_size import measure_sizes
from electra_ds.bench.report import Report, command_line
from electra_ds.command_line import bare_flag, parse, plain

PACKAGES = ("tokenizers", "sentencepiece", "datasets", "transformers", "pyarrow", "numpy", "zstandard", "mpi4py")
KINDS = ("wordpiece", "unigram", "bpe")


@dataclass(frozen=True, kw_only=True)
class PrepBenchConfig:
    """Measure the preparation: speed beside other tools, workers, memory, size, profile. Write a report."""

    output: Path = Path("benchmarks")
    """Folder for prep.md, prep.json and their plots."""
    corpus: str | list[str] | None = None
    """JSON-lines files to prepare (.jsonl, also .gz, .zst, .bz2, .xz): a pattern in quotes, or a list. Some 100 MB of
    text: the slowest side reads them ``rounds`` times. Unset takes documentation strings of what is installed."""
    text_field: str = "text"
    """Name of the JSON field that holds the text."""
    megabytes: float = 50.0
    """Size of the corpus of documentation strings (million bytes of UTF-8)."""
    tokenizers: list[str] = field(default_factory=lambda: ["wordpiece", "unigram"])
    """Kinds of vocabularies: wordpiece, unigram, bpe. Workers, memory and profile are measured with the first."""
    vocab_size: int = 30522
    """Entries of each, trained once beforehand."""
    sample_megabytes: float = 100.0
    """Text that a vocabulary is trained on, at most (`prep` takes 100 unless told otherwise)."""
    rounds: int = 3
    """Preparations of each kind, in turn."""
    peer_rounds: int = 1
    """Rounds in which `datasets.map` takes part: it is slow. 0 leaves it out."""
    scaling_megabytes: float = 400.0
    """Text prepared by different numbers of workers, the corpus repeated; 0 leaves it out."""
    workers: list[int] = field(default_factory=lambda: [1, 2, 0])
    """Numbers of worker processes; 0 stands for one per core. 1 is always among them."""
    memory_megabytes: list[float] = field(default_factory=lambda: [10.0, 100.0, 300.0])
    """Sizes of text whose preparation's memory is measured, the corpus repeated; empty leaves it out. The largest needs
    about 1.7 times its size in the temporary folder (TMPDIR)."""
    memory_workers: list[int] = field(default_factory=lambda: [1, 2])
    """Numbers of worker processes whose memory is measured."""
    memory_all_up_to: float = 1000.0
    """Sizes above this (MB) are prepared with the first of `memory_workers` only."""
    short: bool = False
    """Half a minute: little text and one round, for tests; its figures mean nothing."""

    def __post_init__(self) -> None:
        for name in ("megabytes", "rounds", "vocab_size", "sample_megabytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        for name in ("scaling_megabytes", "peer_rounds", "memory_all_up_to"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be 0 or more")
        if not self.tokenizers or not set(self.tokenizers) <= set(KINDS):
            raise ValueError(f"tokenizers={self.tokenizers}: must be some of {', '.join(KINDS)}")
        if any(count < 0 for count in self.workers):
            raise ValueError(f"workers={self.workers}: must be numbers from 0 on")
        if any(count < 1 for count in self.memory_workers) or any(size <= 0 for size in self.memory_megabytes):
            raise ValueError("memory_workers and memory_megabytes: must be numbers above 0")

    def worker_counts(self) -> list[int]:
        """Numbers of workers to measure, each once, the smallest first."""
        return sorted({1, *(count or len(usable_cores()) for count in self.workers)})


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark; return 0."""
    config = parse(PrepBenchConfig, bare_flag(arguments, "--short"), program)
    with tempfile.TemporaryDirectory(prefix="bench-prep-") as folder:
        run(config, Path(folder), command_line(program, arguments)).publish(config.output)
    return 0


def run(config: PrepBenchConfig, folder: Path, command: str) -> Report:
    """Measure everything, and describe it.

    Args:
        config: what to measure.
        folder: for text and shards; may be deleted afterwards.
        command: how the reader repeats it.
    """
    report = Report("prep", "The preparation", prep_report.LEAD, command, describe(PACKAGES), plain(config))
    corpus = folder / "corpus.jsonl"
    if config.corpus is None:
        size = 0.3 if config.short else config.megabytes
        inputs = [str(corpus)]
        documents, text_bytes = write_documents(corpus, int(1e6 * size))
    else:
        files = find_files(config.corpus)
        inputs = [str(path.resolve()) for path in files]
        documents, text_bytes = write_texts(files, config.text_field, corpus)
    results = report.results
    results |= {"documents": documents, "bytes": text_bytes}
    prep = Prep(inputs, corpus, folder, config.text_field)
    entries, rounds = (1000, 1) if config.short else (config.vocab_size, config.rounds)
    sample = int(1e6 * config.sample_megabytes)
    results["training"], tokenizers = {}, {}
    for kind in config.tokenizers:
        say(f"training: {kind}")
        results["training"][kind], tokenizers[kind] = prep.train(kind, entries, sample)
    results["kinds"] = compare(prep, tokenizers, rounds, min(rounds, config.peer_rounds), say)
    first = tokenizers[config.tokenizers[0]]
    if config.scaling_megabytes:
        wanted = 1 if config.short else config.scaling_megabytes
        counts = config.worker_counts()
        results["scaling"] = prep_growth.scaling(prep, first, text_bytes, int(1e6 * wanted), counts, rounds, say)
    if config.memory_megabytes and config.memory_workers:
        sizes = [0.2, 1.0] if config.short else sorted(config.memory_megabytes)
        most = sizes[0] if config.short else config.memory_all_up_to
        points = [
            (int(1e6 * megabytes), count)
            for megabytes in sizes
            for count in dict.fromkeys(config.memory_workers)
            if count == config.memory_workers[0] or megabytes <= most
        ]
        results["memory"] = prep_growth.memory(prep, first, text_bytes, points, say)
    say("sizes")
    results["size"] = measure_sizes({kind: path.parent for kind, path in tokenizers.items()}, folder)
    say("profile")
    results["profile"] = {kind: profile(prep, tokenizer) for kind, tokenizer in tokenizers.items()}
    report.machine["busy after"] = f"{os.getloadavg()[0]:.1f} processes on average in the minute before the end"
    prep_report.fill(report, config.tokenizers)
    return report


def say(message: str) -> None:
    """Tell on a terminal what is being measured."""
    if sys.stderr.isatty():
        print(message, file=sys.stderr, flush=True)
