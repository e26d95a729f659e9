"""Lives of a run: how a process ends, and what it leaves for whoever reads the logs afterwards.

A *life* is one start of a run's job. The batch script gives each life a folder, ``RUN/logs/JOB.RESTART``, and tells the
ranks by `LIFE_VARIABLE`; there lie a log per rank and, after a failure, a record of each rank that met one. Standard
library only: the batch script's helper must start fast.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

DONE = 0
"""The run, or the part of it that was asked for, is finished."""
FAILED = 1
"""An unexpected error: another life may go on from the newest checkpoint."""
USER_ERROR = 2
"""Nothing that another life would mend: settings, data, a full disk."""
STOPPED = 3
"""Saved and ended because of a STOP file: not finished, and not to be started again by itself."""
REQUEUE = 75
"""Saved and ended because of a signal: to be started again (EX_TEMPFAIL of sysexits.h)."""
HUNG = 76
"""Ended by the watchdog: no step within the stated time. To be started again."""
NO_PROGRESS = 77
"""Two lives of the job in a row ended where they began: not to be started again."""
TOO_MANY_RESTARTS = 78
"""The job was started again as often as it may be."""
BAD_NODES = 79
"""The preflight found fewer good nodes than the job needs."""

MEANING = {
    DONE: "finished",
    FAILED: "an unexpected error",
    USER_ERROR: "an error that a restart would not mend",
    STOPPED: "stopped by a STOP file",
    REQUEUE: "saved after a signal",
    HUNG: "the watchdog saw no step within its time",
    NO_PROGRESS: "no progress in two lives",
    TOO_MANY_RESTARTS: "as many restarts as allowed",
    BAD_NODES: "too few good nodes",
}
"""Exit status: what it says, in words."""

LIFE_VARIABLE = "ELECTRA_DS_LIFE"
"""Environment variable: folder of this life's logs and records."""
FAILURES = "failures"
"""Folder of a life where ranks leave their records."""
OUTCOME_NAME = "outcome.json"
"""File of a run: how its last life ended. torchrun hides the status, so it stands here too."""


@dataclass(frozen=True)
class Failure:
    """What a rank met."""

    rank: int
    node: str
    time: float
    """Seconds since 1970, by the node's clock."""
    kind: str
    """``error``, ``hang`` or ``peer`` (a connection that another rank's end broke)."""
    message: str
    """One line."""
    step: int | None = None
    """Updates made when it happened, if the rank had begun to train."""


def node_name() -> str:
    """Name of this node: Slurm's, else the host's."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def life_folder() -> Path | None:
    """Folder of this life, None outside a batch script that makes one."""
    named = os.environ.get(LIFE_VARIABLE)
    return Path(named) if named else None


def record_failure(rank: int, kind: str, message: str, step: int | None = None) -> None:
    """Leave a record in this life's folder; silent where there is none or it cannot be written.

    The first record of a rank stays: what follows, such as peers that go away, is its consequence.
    """
    folder = life_folder()
    if folder is None:
        return
    failure = Failure(rank, node_name(), time.time(), kind, " ".join(message.split()), step)
    try:
        (folder / FAILURES).mkdir(parents=True, exist_ok=True)
        with open(folder / FAILURES / f"rank-{rank:05d}.json", "x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(failure)) + "\n")
    except OSError:
        return


def read_failures(folder: Path) -> list[Failure]:
    """Records of a life, the first to happen first; a peer's broken connection after everything else."""
    found: list[Failure] = []
    for path in _records(folder):
        try:
            found.append(Failure(**json.loads(path.read_text("utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda failure: (failure.kind == "peer", failure.time, failure.rank))


def _records(folder: Path) -> Iterable[Path]:
    return (folder / FAILURES).glob("rank-*.json")
