"""One job at a time in a run folder, on any node of the cluster.

``RUN/lock.json`` names the holder; rank 0 writes it anew every few seconds. Locks of the file system are not relied
on: parallel file systems are often mounted without them. A lock whose holder is known to be gone is taken over; where
that cannot be known, one that stays as it is for `STALE_SECONDS` is.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from electra_ds.errors import UserError
from electra_ds.files import explain_full_disk
from electra_ds.lives import node_name

LOCK_NAME = "lock.json"
BEAT_SECONDS = 5.0
STALE_SECONDS = 45.0
"""A live holder's file changes at least this often, slow file systems included."""
_ALIVE = ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING")
_ENDING = ("COMPLETING", "STAGE_OUT")
"""Slurm's states of a job whose ranks may still write."""


@dataclass(frozen=True)
class Holder:
    """Who has a run folder."""

    key: str
    """Random; tells two lives apart."""
    host: str
    boot: str
    """Identifier of the host's boot: process numbers of another boot mean nothing."""
    pid: int
    started: float
    """When the process started, in the kernel's ticks: a number that is given again is another process."""
    node: str
    job: str | None
    """Slurm's job, None outside of one."""
    restart: str
    """How often Slurm had started that job before."""
    beat: int = 0
    """Grows as long as the holder lives."""


class RunLock:
    """Holds a run folder from `take` to `release`; rank 0 only."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: of the run; it exists."""
        self._path = folder / LOCK_NAME
        self._me = Holder(
            secrets.token_hex(8),
            socket.gethostname(),
            _boot(),
            os.getpid(),
            _start_of(os.getpid()) or 0.0,
            node_name(),
            os.environ.get("SLURM_JOB_ID"),
            os.environ.get("SLURM_RESTART_COUNT", "0"),
        )
        self._ends = threading.Event()
        self.is_lost = False

    @property
    def key(self) -> str:
        """Random name of this life."""
        return self._me.key

    def take(self) -> None:
        """Take the folder, from a holder that is gone too.

        Raises:
            UserError: another job or process has it; says which, and what to do.
        """
        deadline, seen = time.monotonic() + STALE_SECONDS, ""
        while not self._create():
            text = _read(self._path)
            holder = _parse(text)
            if holder is None or is_gone(holder, self._me):
                self._replace(text)
                break
            if is_alive(holder, self._me) or (seen and text != seen):  # it changed while we looked: its holder lives
                raise UserError(self._refusal(holder))
            seen = text
            if time.monotonic() > deadline:
                self._replace(text)
                break
            time.sleep(BEAT_SECONDS / 5)
        self.check()
        threading.Thread(target=self._beat, name="run lock", daemon=True).start()

    def check(self) -> None:
        """See that the folder is still ours, before something in it is replaced.

        Raises:
            UserError: another life took it over, as this one showed no sign of life.
        """
        holder = _parse(_read(self._path))
        if holder is None or holder.key != self._me.key:
            by = f"job {holder.job} on {holder.node}" if holder else "nobody that can be read"
            raise UserError(
                f"{self._path}: the run folder was taken over by {by} while this life showed no sign of life; nothing "
                "of the other's is touched, and this life ends"
            )

    def release(self) -> None:
        """Give the folder free."""
        self._ends.set()
        holder = _parse(_read(self._path))
        if holder is not None and holder.key == self._me.key:
            self._path.unlink(missing_ok=True)

    def _refusal(self, holder: Holder) -> str:
        who = f"Slurm job {holder.job}" if holder.job else f"process {holder.pid} on {holder.host}"
        how = f"scancel {holder.job}" if holder.job else "end that process"
        return (
            f"{self._path.parent}: {who} (rank 0 on {holder.node}) trains in it; wait for it or end it ('{how}', or "
            f"'touch {self._path.parent}/STOP'), or choose another --output. If it is certainly gone, delete "
            f"{self._path}"
        )

    def _create(self) -> bool:
        """Create the file unless it is there: a link to a finished file is whole or absent, also over NFS."""
        own = self._write_own()
        try:
            os.link(own, self._path)
            return True
        except FileExistsError:
            return False
        except OSError:  # no links on this file system
            with contextlib.suppress(FileExistsError), open(self._path, "x", encoding="utf-8") as file:
                file.write(own.read_text("utf-8"))
                return True
            return False
        finally:
            own.unlink(missing_ok=True)

    def _replace(self, text: str) -> None:
        """Take over what a dead holder left, unless somebody else was faster."""
        own = self._write_own()
        if _read(self._path) == text:
            os.replace(own, self._path)
            time.sleep(0.5)  # two that take over at once: the later rename wins, and `check` tells the other
        else:
            own.unlink(missing_ok=True)

    def _write_own(self) -> Path:
        own = self._path.with_name(f".{LOCK_NAME}.{self._me.key}")
        with explain_full_disk(own):
            own.write_text(json.dumps(asdict(self._me)) + "\n", "utf-8")
        return own

    def _beat(self) -> None:
        count = 0
        while not self._ends.wait(BEAT_SECONDS):
            count += 1
            try:
                holder = _parse(_read(self._path))
                if holder is None or holder.key != self._me.key:
                    self.is_lost = True
                    return
                own = self._path.with_name(f".{LOCK_NAME}.{self._me.key}")
                own.write_text(json.dumps({**asdict(self._me), "beat": count}) + "\n", "utf-8")
                os.replace(own, self._path)
            except OSError:
                continue


def is_gone(holder: Holder, me: Holder) -> bool:
    """Whether a holder is certainly dead."""
    if holder.job is not None and holder.job == me.job:
        return holder.restart != me.restart or _is_dead_here(holder, me)
    if holder.job is not None:
        return job_state(holder.job) not in ("", *_ALIVE, *_ENDING)
    return _is_dead_here(holder, me)


def is_alive(holder: Holder, me: Holder) -> bool:
    """Whether a holder certainly lives: another job that Slurm says runs (or is suspended), or a process of this host.

    Of all others only their lock's beat tells.
    """
    if holder.job is not None and holder.job != me.job:
        return job_state(holder.job) in _ALIVE
    return holder.host == socket.gethostname() and holder.boot == _boot() and _start_of(holder.pid) == holder.started


def job_state(job: str) -> str:
    """State of a Slurm job; ``GONE`` if Slurm does not know it any more, empty if Slurm cannot be asked."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    if asked.returncode:
        return "GONE" if "Invalid job id" in asked.stderr else ""
    return asked.stdout.strip() or "GONE"


def _is_dead_here(holder: Holder, me: Holder) -> bool:
    if holder.host != me.host:
        return False
    return holder.boot != me.boot or _start_of(holder.pid) != holder.started


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _start_of(pid: int) -> float | None:
    """When a process of this host started (ticks since boot), None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else float(fields[19])


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _parse(text: str) -> Holder | None:
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None
