"""A Slurm cluster of one's own, on this machine: munged, slurmctld and some slurmd in a temporary folder.

    with slurm_cluster(nodes=4) as cluster:
        job = cluster.submit("--nodes=2", "job.sbatch")

or, in a shell, `python -m tests.slurm.cluster 4`: it prints the `export SLURM_CONF=...` for other shells and runs until
Ctrl-C. Nothing outside the folder is touched, and any user may start one.

The daemons belong to a keeper, a process of its own that ends as soon as its standard input does: when the block is
left, and also when the test's process is killed in the middle. The keeper adopts what its daemons leave behind (every
job step is a daemon, too), and kills all of it.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo")
PATIENCE = 30.0
"""Seconds for the nodes to come up, and for everything to end."""

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
"""Daemons lie where only root's PATH looks."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
# Ports of jobs follow from their numbers, and several clusters may run on this host.
FirstJobId={first_job}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
# A job that is requeued waits until its old credential has expired.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
KillWait=5
ReturnToService=2
# What a test has stopped for longer than this would otherwise leave its node drained.
UnkillableStepTimeout=600
# Nodes are as large as they are said to be here.
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
# A job of the second takes the nodes of the first's, which have the grace time to save and are queued again.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Name the programs that a cluster needs and this machine lacks; empty if there are all."""
    return ", ".join(name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None)


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs."""

    folder: Path
    """Of its configuration and logs."""

    @property
    def environment(self) -> dict[str, str]:
        """What its commands need to find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands to its end; `variables` are added to the environment."""
        return subprocess.run(
            command,
            env=_without_launcher() | self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    def submit(self, *arguments: str, **variables: str) -> str:
        """Hand a job to sbatch; return its number."""
        done = self.run("sbatch", "--parsable", *arguments, **variables)
        if done.returncode:
            raise RuntimeError(f"sbatch {' '.join(arguments)}: {done.stdout}")
        return done.stdout.strip()

    def facts(self, job: str) -> dict[str, str]:
        """What scontrol shows of a job, by its names: JobState, NodeList, ExitCode, Restarts, ..."""
        shown = self.run("scontrol", "show", "job", job).stdout.split()
        return dict(fact.split("=", 1) for fact in shown if "=" in fact)

    def wait(self, job: str, seconds: float = 60.0) -> str:
        """Wait for a job to end; return its state: COMPLETED, FAILED, CANCELLED, ..."""
        end = time.monotonic() + seconds
        while True:
            state = self.facts(job).get("JobState", "")
            if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"):
                return state
            if time.monotonic() > end:
                raise TimeoutError(f"job {job} is {state} after {seconds:g} s: {self.facts(job)}")
            time.sleep(0.1)

    def settle(self) -> None:
        """Cancel what is left of jobs, and wait until every node is free for the next.

        Raises:
            RuntimeError: a node is down, drained or busy; says why. It is put back to work as far as possible.
        """
        self.run("scancel", "--state=PENDING")
        self.run("scancel", "--state=RUNNING")
        end = time.monotonic() + PATIENCE
        while True:
            states = self.run("sinfo", "--noheader", "--Node", "--partition=all", "--format=%N %T %E").stdout
            busy = [line for line in states.splitlines() if line.split()[1] != "idle"]
            if not busy:
                return
            if time.monotonic() > end:
                for line in busy:
                    self.run("scontrol", "update", f"nodename={line.split()[0]}", "state=resume")
                raise RuntimeError(f"nodes are not free again: {'; '.join(busy)}")
            time.sleep(0.1)


@contextmanager
def slurm_cluster(nodes: int = 4, cpus: int = 2) -> Iterator[Cluster]:
    """Start a cluster of nodes n1, n2, ..., and end it with everything that runs on it.

    Args:
        nodes: number of nodes.
        cpus: CPUs of a node, as Slurm counts them; they need not be there.

    Raises:
        RuntimeError: a program is missing or a daemon does not come up; the message holds its log.
    """
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.slurm.cluster", str(nodes), str(cpus)],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests: the keeper ends after them
    )
    assert keeper.stdin is not None and keeper.stdout is not None
    try:
        line = keeper.stdout.readline()
        if not line.startswith("export SLURM_CONF="):
            raise RuntimeError(f"no Slurm cluster: {line}{keeper.stdout.read()}")
        yield Cluster(Path(line.strip().partition("=")[2]).parent)
    finally:
        keeper.stdin.close()
        keeper.wait(PATIENCE)
        keeper.stdout.close()


def _without_launcher() -> dict[str, str]:
    prefixes = ("SLURM_", "SBATCH_", "PMI", "OMPI_", "MPI_", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)} | {"PATH": SEARCH_PATH}


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _write_configuration(folder: Path, nodes: int, cpus: int) -> None:
    (folder / "state").mkdir()
    (folder / "munge.key").touch(0o600)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    host, ports = socket.gethostname().partition(".")[0], _free_ports(nodes + 1)
    lines = [
        f"NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[number]} CPUs={cpus} RealMemory=100000"
        for number in range(1, nodes + 1)
    ]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            host=host,
            ports=ports,
            user=getpass.getuser(),
            first_job=1000 + secrets.randbelow(50000),
            nodes="\n".join(lines),
        )
    )


def _start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a daemon in the foreground; it ends with the keeper, however that ends."""
    prctl = ctypes.CDLL(None).prctl
    with open(folder / "daemons.log", "ab") as log:
        return subprocess.Popen(
            [shutil.which(command[0], path=SEARCH_PATH) or command[0], *command[1:]],
            env=_without_launcher() | {"SLURM_CONF": str(folder / "slurm.conf")},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )


def _start_all(folder: Path, nodes: int) -> None:
    munged = ("munged", "--foreground", "--force", *(f"--{what}={folder}/munge.{ending}" for what, ending in (
        ("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed")
    )))  # fmt: skip
    daemons = [_start(folder, *munged)]
    end = time.monotonic() + PATIENCE
    while not (folder / "munge.socket").exists():
        _check_alive(folder, daemons, end)
    daemons.append(_start(folder, "slurmctld", "-D"))
    daemons += [_start(folder, "slurmd", "-D", "-N", f"n{number}") for number in range(1, nodes + 1)]
    cluster = Cluster(folder)
    while cluster.run("sinfo", "--noheader", "--format=%D %t").stdout.split() != [str(nodes), "idle"]:
        _check_alive(folder, daemons, end)


def _check_alive(folder: Path, daemons: Sequence[subprocess.Popen[bytes]], end: float) -> None:
    ended = [str(daemon.args) for daemon in daemons if daemon.poll() is not None]
    if ended or time.monotonic() > end:
        logs = "\n".join(f"{path.name}:\n{path.read_text('utf-8', 'replace')}" for path in folder.glob("*.log"))
        raise RuntimeError(f"{'ended: ' + ', '.join(ended) if ended else 'the nodes do not come up'}\n{logs}")
    time.sleep(0.1)


def _kill_all() -> None:
    """Kill everything below this process, daemons first: they would start more."""
    end = time.monotonic() + PATIENCE
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < end:
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.05)


def keep(nodes: int, cpus: int) -> None:
    """Start a cluster, tell where it is, and end it when standard input ends."""
    if lacking := missing():
        print(f"not installed: {lacking} (Debian: apt-get install slurm-wlm munge)", flush=True)
        raise SystemExit(1)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise SystemExit("this kernel does not let a process adopt orphans")
    # Not below a test's own folder: a socket's path may have 107 characters only.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munged wants its socket reachable
    try:
        _write_configuration(folder, nodes, cpus)
        _start_all(folder, nodes)
        print(f"export SLURM_CONF={folder}/slurm.conf", flush=True)
        sys.stdin.read()
    except RuntimeError as error:
        print(error, flush=True)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        pass
    finally:
        _kill_all()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    keep(int(sys.argv[1]) if len(sys.argv) > 1 else 4, int(sys.argv[2]) if len(sys.argv) > 2 else 2)
