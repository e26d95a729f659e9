"""What a failed life left: which rank failed first, on which node, and its error. Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from electra_ds.lives import Failure, read_failures
from electra_ds.submit.nodes import read_nodes

SRUN_LOG = "srun.log"
"""What srun itself said, in a life's folder."""
LAST_LINES = 12
"""Lines of a rank's log that a summary shows."""
_TAIL_BYTES = 20_000

_TASK = re.compile(r"srun: error: (?P<node>\S+): tasks? (?P<ranks>[\d,-]+): (?P<what>.+)")
_LOST = re.compile(r"srun: error: Node failure on (?P<node>\S+)")
_SIGNALS = {
    "Hangup": 1,
    "Interrupt": 2,
    "Illegal instruction": 4,
    "Aborted": 6,
    "Bus error": 7,
    "Floating point exception": 8,
    "Killed": 9,
    "Segmentation fault": 11,
    "Terminated": 15,
    "Out Of Memory": 9,
}
"""What srun calls the end of a task by a signal: its number."""


@dataclass(frozen=True)
class TaskEnd:
    """A task's bad end, as srun told it."""

    rank: int | None
    """None for a whole node."""
    node: str
    message: str
    status: int
    """128 + signal for a signal."""


@dataclass(frozen=True)
class FirstFailure:
    """The rank that failed first."""

    rank: int | None
    """None where a whole node was lost."""
    node: str
    message: str


def rank_log(life: Path, rank: int) -> Path:
    """Log of a rank in a life's folder, as the batch script names it."""
    return life / f"rank-{rank:05d}.log"


def read_task_ends(log: str) -> list[TaskEnd]:
    """Tasks that ended badly, in the order in which srun learned of it."""
    found = []
    for line in log.splitlines():
        if lost := _LOST.search(line):
            found.append(TaskEnd(None, lost["node"], "node failure", 137))
        elif match := _TASK.search(line):
            what = match["what"].strip()
            exited = re.search(r"exit code (\d+)", what)
            number = next((value for name, value in _SIGNALS.items() if what.startswith(name)), 0)
            status = int(exited.group(1)) if exited else 128 + number if number else 1
            found.append(TaskEnd(int(re.split(r"[,-]", match["ranks"])[0]), match["node"], what, status))
    return found


def first_failure(records: Iterable[Failure], ends: Iterable[TaskEnd]) -> FirstFailure | None:
    """Choose who failed first.

    A rank's own record is the best witness, unless it only tells that a peer went away. A rank that was killed leaves
    none: srun's first line names it.
    """
    records, ends = list(records), list(ends)
    own = [record for record in records if record.kind == "error"]
    told = {record.rank for record in (own or records)}
    silent = [end for end in (ends[:1] if own else ends) if end.rank not in told and (end.status > 128 or not own)]
    if silent:
        return FirstFailure(silent[0].rank, silent[0].node, silent[0].message)
    for record in own or records:
        return FirstFailure(record.rank, record.node, record.message)
    return None


def hang_suspects(records: Iterable[Failure], world_size: int) -> list[int]:
    """Ranks whose watchdog stayed silent while others' spoke: they could not even look at the clock."""
    told = {record.rank for record in records if record.kind == "hang"}
    return [rank for rank in range(world_size) if rank not in told] if told else []


def summarize(life: Path) -> list[str]:
    """Lines about the failure of a life, from its folder alone."""
    records = read_failures(life)
    ends = read_task_ends(tail(life / SRUN_LOG, _TAIL_BYTES))
    nodes, tasks_per_node = read_nodes(life)
    suspects = hang_suspects(records, len(nodes) * tasks_per_node)
    if suspects:
        rank = suspects[0]
        named = ", ".join(map(str, suspects[:8])) + (", ..." if len(suspects) > 8 else "")
        lines = [f"hung: every rank but {named} told so. Look first at rank {rank} on {nodes[rank // tasks_per_node]}"]
    else:
        first = first_failure(records, ends)
        if first is None:
            return ["no rank left a record, and srun named none"]
        if first.rank is None:
            return [f"first to fail: node {first.node}: {first.message}"]
        rank, lines = first.rank, [f"first to fail: rank {first.rank} on {first.node}: {first.message}"]
    if rank == 0:  # its log stands above, in the job's own
        return lines
    log = rank_log(life, rank)
    last = [line for line in tail(log, _TAIL_BYTES).splitlines() if line.strip()][-LAST_LINES:]
    if last:
        lines += [f"last lines of {log}:", *(f"    {line[:500]}" for line in last)]
    return lines


def tail(path: Path, size: int) -> str:
    """The last `size` bytes of a text file; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
