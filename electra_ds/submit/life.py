"""What a batch script asks at the beginning and the end of each life of its job.

    python -m electra_ds.submit.life begin --max_restarts 100 -- ARGUMENTS OF pretrain
    python -m electra_ds.submit.life nodes LIFE --allocated n1,n2,n3 --need 2
    python -m electra_ds.submit.life end LIFE --status 137 --max_restarts 100

Answers stand alone on standard output, for the script; all that is meant for people goes to standard error, the job's
log. Standard library only where it can be: a job that is being ended has seconds left.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from electra_ds.checkpoint import CHECKPOINTS, LATEST_NAME, step_of
from electra_ds.errors import UserError
from electra_ds.lives import BAD_NODES, DONE, FAILED, FAILURES, OUTCOME_NAME, STOPPED, USER_ERROR
from electra_ds.submit.nodes import choose_nodes, read_bad_nodes, write_nodes
from electra_ds.submit.policy import Beginning, after, may_begin, meaning, settle
from electra_ds.submit.summary import SRUN_LOG, read_task_ends, summarize, tail

LIVES_NAME = "lives.jsonl"
"""Lives of all jobs of a run: a JSON object for each beginning, and for each end that was seen."""
DATA_PATH_NAME = "data.path"
"""The shard set, for the script's preflight, in a life's folder."""
REQUEUE_WORD = "requeue"
"""`end`'s answer if the job is to be started again; otherwise it is the status to end with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the batch script asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="electra_ds.submit.life", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("begin")
    one.add_argument("--max_restarts", type=int, default=100)
    one.add_argument("arguments", nargs=argparse.REMAINDER)
    one = commands.add_parser("nodes")
    one.add_argument("life", type=Path)
    one.add_argument("--allocated", required=True)
    one.add_argument("--need", type=int, required=True)
    one.add_argument("--tasks_per_node", type=int, default=1)
    one = commands.add_parser("end")
    one.add_argument("life", type=Path)
    one.add_argument("--status", type=int, required=True)
    one.add_argument("--max_restarts", type=int, default=100)
    given = parser.parse_args(arguments)
    try:
        if given.command == "begin":
            return begin(given.arguments[given.arguments[:1] == ["--"] :], given.max_restarts)
        if given.command == "nodes":
            return nodes(given.life, given.allocated.split(","), given.need, given.tasks_per_node)
        return end(given.life, given.status, given.max_restarts)
    except UserError as error:
        _say(f"error: {error}")
        return USER_ERROR


def begin(arguments: Sequence[str], max_restarts: int) -> int:
    """Check recipe and run folder once for all ranks, count this life, and print its folder.

    Returns:
        0, or the status with which the job ends instead of living.
    """
    from electra_ds.recipe import parse_recipe
    from electra_ds.training.command import prepare_folder

    recipe = parse_recipe(arguments, "electra-ds pretrain")
    prepare_folder(recipe)
    run = Path(recipe.output).absolute()
    job, restart = _job(os.environ)
    earlier, step = beginnings(run, job, before=restart), newest_step(run)
    refused = may_begin(earlier, restart, step, max_restarts)
    if refused:
        _say(f"job {job}, restart {restart}: {refused.reason}")
        for life in earlier[-2:]:
            folder = life_path(run, job, life.restart)
            _say("\n  ".join([f"life {job}.{life.restart} began at step {life.step:,}:", *summarize(folder)]))
        _append(run, {"event": "refused", "job": job, "restart": restart, "step": step, "status": refused.status})
        return refused.status
    folder = life_path(run, job, restart)
    shutil.rmtree(folder / FAILURES, ignore_errors=True)  # of a job of the same number, from another time
    (folder / OUTCOME_NAME).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DATA_PATH_NAME).write_text(recipe.data.path + "\n", "utf-8")
    allocated = os.environ.get("SLURM_JOB_NODELIST", "")
    _append(run, {"event": "begin", "job": job, "restart": restart, "step": step, "nodes": allocated})
    where = f" on {allocated}" if allocated else ""
    _say(f"life {job}.{restart} of {run} begins at step {step:,}{where}; logs: {folder}")
    print(folder)
    return DONE


def nodes(life: Path, allocated: Sequence[str], need: int, tasks_per_node: int) -> int:
    """Print the nodes to train on, or return the status of too few good ones."""
    choice = choose_nodes([node for node in allocated if node], need, read_bad_nodes(life) or {})
    for line in choice.messages():
        _say(line)
    if len(choice.chosen) < need:
        good = ", ".join(choice.chosen) or "none"
        _say(
            f"error: {need} nodes needed, {len(choice.chosen)} of {len(allocated)} are good ({good}); exclude the bad "
            "ones (sbatch --exclude), or ask for spares (electra-ds submit --spares 1)"
        )
        return BAD_NODES
    write_nodes(life, choice.chosen, tasks_per_node)
    print(",".join(choice.chosen))
    return DONE


def end(life: Path, status: int, max_restarts: int) -> int:
    """Say how a life ended and what follows; print ``requeue`` or the status for the job to end with."""
    run = life.parent.parent
    job, _, restart = life.name.rpartition(".")
    ends = read_task_ends(tail(life / SRUN_LOG, 1_000_000))
    settled = settle(status, (task.status for task in ends), _outcome(life))
    step = newest_step(run)
    decision = after(beginnings(run, job, before=int(restart) + 1), settled, step, max_restarts)
    _say(f"life {life.name} of {run}: {meaning(settled)} (status {settled}); newest checkpoint: step {step:,}")
    if settled not in (DONE, STOPPED, BAD_NODES):
        for line in summarize(life):
            _say(f"  {line}")
    if settled != DONE:
        _say(decision.reason)
    record = {"event": "end", "job": job, "restart": int(restart), "step": step, "status": settled}
    _append(run, {**record, "requeue": decision.requeue})
    print(REQUEUE_WORD if decision.requeue else decision.status)
    return DONE


def life_path(run: Path, job: str, restart: int) -> Path:
    """Folder of a life: ``RUN/logs/JOB.RESTART``."""
    return run / "logs" / f"{job}.{restart}"


def newest_step(run: Path) -> int:
    """Step of the checkpoint that ``latest`` names, 0 without one: one small read, nothing is verified."""
    try:
        return step_of(Path((run / CHECKPOINTS / LATEST_NAME).read_text("utf-8").strip()))
    except (OSError, UserError):
        return 0


def beginnings(run: Path, job: str, before: int) -> list[Beginning]:
    """Lives of one job below restart `before`, oldest first."""
    found: dict[int, int] = {}
    try:
        lines = (run / LIVES_NAME).read_text("utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            value = json.loads(line)
            if value["event"] == "begin" and value["job"] == job and value["restart"] < before:
                found[value["restart"]] = value["step"]
        except (ValueError, KeyError, TypeError):
            continue  # a line that a dying node cut short
    return [Beginning(restart, step) for restart, step in sorted(found.items())]


def _outcome(life: Path) -> int | None:
    """Status that the ranks themselves recorded for this life."""
    try:
        return int(json.loads((life / OUTCOME_NAME).read_text("utf-8"))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _job(environment: Mapping[str, str]) -> tuple[str, int]:
    job = environment.get("SLURM_JOB_ID")
    if not job:
        raise UserError("SLURM_JOB_ID is not set: this belongs into a batch script; start it by sbatch")
    return job, int(environment.get("SLURM_RESTART_COUNT") or 0)


def _append(run: Path, record: dict[str, Any]) -> None:
    line = json.dumps({**record, "time": round(time.time(), 3)}) + "\n"
    with open(run / LIVES_NAME, "a", encoding="utf-8") as file:
        file.write(line)


def _say(message: str) -> None:
    sys.stderr.write(f"electra-ds: {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as problem:
        _say(f"error: {problem}")
        sys.exit(FAILED)
