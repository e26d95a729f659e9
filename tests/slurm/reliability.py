"""Kills, many times over: ``make reliability`` writes benchmarks/reliability.json, which reliability.md tells of.

Each run trains on the four-node cluster, life after life. A life is one ``srun``; at a random moment, or as soon as a
checkpoint is being written, some of its ranks are killed (SIGKILL), and the same command starts the next life: on the
same ranks at the same ZeRO stage ("same"), or on others ("resized"). At the end the rows that each step consumed are
held against a run that nothing happened to; in "same" runs the losses, too, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from electra_ds.checkpoint import list_checkpoints, step_of
from electra_ds.training.fit import versions
from tests.conftest import consumed, metrics, real_documents, run_ranks
from tests.slurm.cluster import SEARCH_PATH, Cluster, _without_launcher, slurm_cluster
from tests.slurm.runs import BIN, ROOT, curve, recipe_options

STAGES = ("zero1", "zero2", "zero3")
RANKS = (1, 2, 4)
SAVE_EVERY = 8


@dataclass
class Counts:
    """What happened, over all runs."""

    kills: int = 0
    lives: int = 0
    killed_ranks: int = 0
    runs: int = 0
    steps: int = 0
    steps_redone: int = 0
    rows: int = 0
    rows_lost: int = 0
    rows_repeated: int = 0
    checkpoints_published: int = 0
    checkpoints_damaged: int = 0
    runs_bit_for_bit: int = 0
    runs_to_be_bit_for_bit: int = 0
    moments: Counter = field(default_factory=Counter)
    """Kills by what rank 0 had done last in that life."""


class Run:
    """One run, from its first life to its last step."""

    def __init__(self, cluster: Cluster, job: str, shards: Path, output: Path, dice: random.Random, same: bool) -> None:
        self.cluster, self.job, self.shards, self.output, self.dice, self.same = (
            cluster,
            job,
            shards,
            output,
            dice,
            same,
        )
        self.ranks, self.stage = 2, dice.choice(STAGES)

    def options(self, steps: int) -> list[str]:
        """What decides the result; the stage does not, by much."""
        precision = "bf16" if self.same else "float32"
        return recipe_options(
            self.shards,
            self.output,
            training__steps=steps,
            training__precision=precision,
            training__start_seconds=60,
            checkpoint__every=SAVE_EVERY,
            validation__every=40,
        )

    def life(self, steps: int) -> subprocess.Popen:
        """Start the ranks."""
        if not self.same:
            self.ranks, self.stage = self.dice.choice(RANKS), self.dice.choice(STAGES)
        nodes = min(self.ranks, self.dice.choice((2, 4)))
        (self.output.parent / "logs").mkdir(exist_ok=True)
        command = ["srun", f"--jobid={self.job}", "--overlap", f"--nodes={nodes}", f"--ntasks={self.ranks}",
                   "--kill-on-bad-exit=1", f"--output={self.output.parent}/logs/{self.output.name}-%t.log",
                   "--open-mode=append", sys.executable, "-m", "electra_ds", "pretrain", *self.options(steps),
                   f"--deepspeed={self.stage}"]  # fmt: skip
        variables = (
            _without_launcher() | self.cluster.environment | {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{SEARCH_PATH}"}
        )
        return subprocess.Popen(command, env=variables, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def processes(self) -> dict[int, psutil.Process]:
        """Ranks that live, by their numbers."""
        found = {}
        for process in psutil.process_iter(["cmdline", "environ"]):
            environment, words = process.info["environ"] or {}, process.info["cmdline"] or []
            if environment.get("SLURM_JOB_ID") == self.job and "pretrain" in words and "srun" not in words[0]:
                found[int(environment["SLURM_PROCID"])] = process
        return found

    def kill(self) -> int:
        """Kill one rank, or all; returns how many."""
        ranks = self.processes()
        victims = list(ranks.values()) if self.dice.random() < 0.3 else [ranks[self.dice.choice(sorted(ranks))]]
        for process in victims:
            process.kill()
        return len(victims)

    def moment(self, begun: float) -> str:
        """What rank 0 did last in this life."""
        if any(path.is_dir() for path in self.output.glob("checkpoints/*.partial")):
            return "while a checkpoint was being written"
        path = self.output / "metrics.jsonl"
        if not path.exists() or path.stat().st_mtime < begun:
            return "while starting"
        lines = path.read_text("utf-8").splitlines()
        try:
            last = json.loads(lines[-1])
        except (ValueError, IndexError):
            return "while writing metrics"
        if last.get("event") in ("start", "resume"):
            return "before the first step"
        return "right after a checkpoint was published" if last.get("event") == "save" else "between or in steps"


def torment(run: Run, steps: int, kills: int, counts: Counts) -> None:
    """Kill a run's lives until so many kills are done, then let it end."""
    done = 0
    while True:
        begun = time.time()
        before = _newest(run.output)
        life = run.life(steps)
        counts.lives += 1
        wait = run.dice.uniform(3, 14) if done < kills else None
        in_a_save = wait is not None and run.dice.random() < 0.3
        while life.poll() is None and wait is not None:
            time.sleep(0.005)
            late = time.time() - begun > (30 if in_a_save else wait)
            saving = in_a_save and time.time() - begun > wait / 3 and any(run.output.glob("checkpoints/*.partial"))
            if (late or saving) and run.processes():
                counts.moments[run.moment(begun)] += 1
                counts.killed_ranks += run.kill()
                counts.kills += 1
                done += 1
                break
        life.wait(180)
        _wait_until_gone(run)
        reached = max((line["step"] for line in metrics(run.output)), default=0) if _has_metrics(run.output) else 0
        if reached >= steps and _newest(run.output) >= steps:
            return
        counts.steps_redone += max(0, reached - max(_newest(run.output), before))


def judge(run: Run, undisturbed: Path, counts: Counts) -> None:
    """Hold a finished run against the undisturbed one."""
    ours, wanted = consumed(run.output), consumed(undisturbed)
    counts.runs += 1
    counts.steps += len(wanted)
    for step in sorted(ours.keys() | wanted.keys()):
        mine, theirs = Counter(ours.get(step, [])), Counter(wanted.get(step, []))
        counts.rows += sum(theirs.values())
        counts.rows_lost += sum((theirs - mine).values())
        counts.rows_repeated += sum((mine - theirs).values())
    if run.same:
        counts.runs_to_be_bit_for_bit += 1
        counts.runs_bit_for_bit += curve(run.output) == curve(undisturbed)
    counts.checkpoints_published += sum(line["event"] == "save" for line in metrics(run.output, "event"))
    logs = "".join(
        path.read_text("utf-8", "replace") for path in run.output.parent.glob(f"logs/{run.output.name}-*.log")
    )
    counts.checkpoints_damaged += logs.count("skipped: checkpoint")


def kill_many(cluster: Cluster, shards: Path, folder: Path, kills: int, per_run: int, steps: int, seed: int) -> Counts:
    """Torment runs, half of them resized, until there were so many kills."""
    counts, dice = Counts(), random.Random(seed)
    job = cluster.submit("--nodes=4", "--ntasks-per-node=2", "--time=600", "--output=/dev/null", "--wrap=sleep 100000")
    undisturbed: dict[tuple[bool, str], Path] = {}
    try:
        while cluster.facts(job).get("JobState") != "RUNNING":
            time.sleep(0.2)
        while counts.kills < kills:
            same = counts.runs % 2 == 0
            run = Run(cluster, job, shards, folder / f"run-{counts.runs}", dice, same)
            torment(run, steps, min(per_run, kills - counts.kills), counts)
            key = (same, run.stage if same else "zero1")
            if key not in undisturbed:
                undisturbed[key] = folder / f"undisturbed-{'-'.join(map(str, key))}"
                left_alone = Run(cluster, job, shards, undisturbed[key], dice, same)
                run_ranks(2, ["pretrain", *left_alone.options(steps), f"--deepspeed={key[1]}"])
            judge(run, undisturbed[key], counts)
            print(json.dumps({**asdict(counts), "moments": dict(counts.moments)}), flush=True)
    finally:
        cluster.run("scancel", job)
    return counts


def page(report: dict) -> str:
    """The report for people."""
    counts, machine = report["counts"], report["machine"]
    rows = [
        ("lives", counts["lives"]),
        ("kills survived", counts["kills"]),
        ("ranks killed", counts["killed_ranks"]),
        *((f"kills {moment}", number) for moment, number in sorted(counts["moments"].items())),
        ("runs, each brought to its end", counts["runs"]),
        ("rows that these runs had to consume", counts["rows"]),
        ("**rows lost**", counts["rows_lost"]),
        ("**rows repeated**", counts["rows_repeated"]),
        ("steps", counts["steps"]),
        ("steps made again, from the checkpoint before a kill", counts["steps_redone"]),
        ("checkpoints published", counts["checkpoints_published"]),
        ("published checkpoints found damaged", counts["checkpoints_damaged"]),
        ("runs on the same ranks and stage", counts["runs_to_be_bit_for_bit"]),
        ("of these, losses bit for bit those of the undisturbed run", counts["runs_bit_for_bit"]),
    ]
    counted = "\n".join(f"| {name} | {number:,} |" for name, number in rows)
    on = "\n".join(f"| {name} | {value} |" for name, value in machine.items())
    words = " ".join(f"--{name} {value}" for name, value in report["options"].items())
    return f"""# Kills, many times over

Small runs train on a Slurm cluster of four nodes (real daemons, on one machine); ranks are killed with SIGKILL, one or
all, at random moments or as soon as a checkpoint is being written; the same command starts the next life. At the end
the rows that each step consumed, by the ranks' audit, are held against a run that nothing happened to. Half of the runs
(bf16) keep two ranks and their ZeRO stage; of these the losses, gradient norms and counts of every step are compared,
too, bit for bit. The others (float32) come back each time on 1, 2 or 4 ranks, on 1 to 4 nodes, at stage 1, 2 or 3.

| | |
| :--- | ---: |
{counted}

A kill counts as "while a checkpoint was being written" if an unfinished checkpoint lay there. What killed lives had
done since the last checkpoint was done again; nothing else was. It took {report["minutes"]:.0f} minutes.

`tests/slurm/test_survival.py` strikes at chosen places instead, through `electra-ds submit` and Slurm's own requeue:
in the middle of a step, of a write, before a checkpoint's publication, between that and `latest`; and does the rest of
what clusters do.

## On what

| | |
| :--- | :--- |
{on}

## How to repeat it

    make reliability        # python -m tests.slurm.reliability {words}

Every number is in `reliability.json`. Not in it: a kernel that dies with data it had not written yet (files are synced
before they are published, which no kill of a process can put to the test), GPUs, NCCL, more than one machine.
"""


def _newest(run: Path) -> int:
    published = list_checkpoints(run / "checkpoints")
    return step_of(published[-1]) if published else 0


def _has_metrics(run: Path) -> bool:
    try:
        metrics(run)
        return True
    except (OSError, ValueError):
        return False


def _wait_until_gone(run: Run) -> None:
    end = time.monotonic() + 60
    while run.processes():
        assert time.monotonic() < end, "ranks do not end"
        time.sleep(0.1)


def main() -> None:
    """Make a shard set, start a cluster, kill, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--per_run", type=int, default=12)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/reliability.json")
    given = parser.parse_args()
    from electra_ds.bench.machine import describe
    from electra_ds.cli import main as electra_ds

    begun = time.time()
    with tempfile.TemporaryDirectory() as name, slurm_cluster(nodes=4) as cluster:
        folder = Path(name)
        corpus = folder / "corpus.jsonl"
        corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in real_documents()), "utf-8")
        prep = {"inputs": corpus, "output": folder / "shards", "tokenizer.type": "wordpiece",
                "tokenizer.vocab_size": 1000, "block_tokens": 4096, "validation_fraction": 0.1}  # fmt: skip
        assert electra_ds(["prep", *(f"--{key}={value}" for key, value in prep.items())]) == 0
        counts = kill_many(cluster, folder / "shards", folder, given.kills, given.per_run, given.steps, given.seed)
        slurm = cluster.run("sinfo", "--version").stdout.strip()
    report = {
        "counts": {**asdict(counts), "moments": dict(counts.moments)},
        "options": {key: str(value) for key, value in vars(given).items() if key != "output"},
        "minutes": (time.time() - begun) / 60,
        "machine": {**versions(), **describe(()), "Slurm": slurm, "system": platform.platform()},
    }
    given.output.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", "utf-8")
    given.output.with_suffix(".md").write_text(page(report), "utf-8")
    failed = counts.rows_lost or counts.rows_repeated or counts.runs_bit_for_bit != counts.runs_to_be_bit_for_bit
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
