"""What grows and what does not: speed by number of processes, memory by size of the input."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from electra_ds.bench.corpus import write_copies
from electra_ds.bench.machine import usable_cores
from electra_ds.bench.prep_sides import Prep
from electra_ds.bench.statistics import in_turn
from electra_ds.bench.worker import is_installed
from electra_ds.errors import UserError

DISK, PREPARED = 1.7, 1.2
"""Bytes on disk per byte of text at most while copies of a corpus are prepared: the copies (compressed), the parts, the
shards; and without the copies."""
CURVE_POINTS = 100
RANKS = 2


def scaling(
    prep: Prep,
    tokenizer: Path,
    text_bytes: int,
    wanted: int,
    counts: list[int],
    rounds: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Prepare copies of the corpus by several numbers of processes, in turn, each on as many cores.

    Args:
        prep: the corpus.
        tokenizer: folder.
        text_bytes: of the corpus.
        wanted: bytes of text to prepare, about.
        counts: numbers of workers.
        rounds: measurements of each.
        say: told what comes next.

    Returns:
        ``name``, ``processes`` and ``rounds`` of each.
    """
    folder = prep.folder / "scaling"
    inputs = write_copies(prep.corpus, text_bytes, wanted, folder)
    sides: dict[str, tuple[int, list[str]]] = {f"{count} worker{'s' * (count > 1)}": (count, []) for count in counts}
    launcher = find_launcher()
    if launcher and len(usable_cores()) >= RANKS:
        sides[f"mpirun -n {RANKS}, 1 worker each"] = RANKS, [launcher, "-n", str(RANKS)]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number, name in in_turn(list(sides), rounds):
        say(f"scaling, round {number + 1}: {name}")
        count, started = sides[name]
        measured, _ = prep.existing(tokenizer, 1 if started else count, inputs, started, count)
        found[name].append(measured)
    shutil.rmtree(folder)
    return [{"name": name, "processes": sides[name][0], "rounds": taken} for name, taken in found.items()]


def memory(
    prep: Prep, tokenizer: Path, text_bytes: int, points: list[tuple[int, int]], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Prepare copies of the corpus of several sizes, once each.

    Args:
        prep: the corpus.
        tokenizer: folder.
        text_bytes: of the corpus.
        points: bytes of text and number of workers, those of a size one after another.
        say: told what comes next.

    Returns:
        What each took, or ``skipped``, why; the largest has a ``curve``: seconds since the start, and resident bytes of
        the largest process then.
    """
    found: list[dict[str, Any]] = []
    curve: list[list[float]] = []
    largest = -1
    for wanted, group in groupby(points, lambda point: point[0]):
        folder, inputs = prep.folder / "memory", ""
        for workers in (point[1] for point in group):
            say(f"memory: {wanted / 1e6:,.1f} MB, workers {workers}")
            point: dict[str, Any] = {"wanted_bytes": wanted, "workers": workers}
            found.append(point)
            free, needed = shutil.disk_usage(prep.folder).free, (PREPARED if inputs else DISK) * wanted
            if free < needed:
                point["skipped"] = f"{free / 1e9:,.1f} GB free in the temporary folder, {needed / 1e9:,.1f} needed"
                continue
            inputs = inputs or write_copies(prep.corpus, text_bytes, wanted, folder)
            try:
                measured, usage = prep.existing(tokenizer, workers, inputs)
            except UserError as error:  # the last and longest measurements must not take the others with them
                point["skipped"] = str(error)
                continue
            point.update(measured)
            if largest < 0 or measured["text_bytes"] > found[largest]["text_bytes"]:
                largest, step = len(found) - 1, max(1, len(usage.curve) // CURVE_POINTS)
                curve = [[round(seconds, 2), size] for seconds, size in usage.curve[::step]]
        shutil.rmtree(folder, ignore_errors=True)
    if largest >= 0:
        found[largest]["curve"] = curve
    return found


def find_launcher() -> str | None:
    """The command that starts MPI ranks of this environment; None where there is none."""
    if not is_installed("mpi4py"):
        return None
    return shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
