"""``electra-ds submit`` on a real Slurm: a run to its end, a chain from text to scores, and jobs that get nowhere."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest

from electra_ds.lives import NO_PROGRESS, USER_ERROR
from tests.conftest import MODULES, TINY_MODEL, metrics
from tests.slurm.cluster import SEARCH_PATH, Cluster, slurm_cluster

pytestmark = pytest.mark.ranks
BIN = Path(sys.executable).parent
FAIL_AT_ONCE = """
import os, signal, sys
if "pretrain" in sys.orig_argv and "SLURM_PROCID" in os.environ:
    if os.environ["SLURM_PROCID"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    import time
    time.sleep(30)
"""
"""sitecustomize.py that takes the second rank away as soon as it starts; the others wait for it."""

LACKS_DATA = """
import os, sys
if "doctor" in sys.orig_argv and os.environ.get("SLURM_PROCID") == "1":
    real = os.open
    def open(path, *rest, **named):
        if str(path).endswith("manifest.json"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, *rest, **named)
    os.open = open
"""
"""sitecustomize.py of a node that does not see the shard set, for the preflight's second rank."""


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster(nodes=4) as running:
        yield running


class Submission:
    """What ``electra-ds submit`` printed, and the jobs it named."""

    def __init__(self, cluster: Cluster, run: Path, *words: str, **variables: str) -> None:
        self.cluster, self.run = cluster, run
        options = [f"--{name}={value}" for name, value in TINY_MODEL.items()]
        command = [str(BIN / "python"), "-m", "electra_ds", "submit", "--config", "small", *options]
        done = cluster.run(
            *command, f"--output={run}", "--time=0:30:00", *words, PATH=f"{BIN}:{SEARCH_PATH}", OMP_NUM_THREADS="1",
            **variables,
        )  # fmt: skip
        self.status, self.said = done.returncode, done.stdout
        self.jobs = dict(re.findall(r"submitted (\w+): job (\d+)", self.said))

    def wait(self, stage: str = "pretrain", seconds: float = 120) -> str:
        """Wait for the end of a stage's job, requeues included; returns its state."""
        end = time.monotonic() + seconds
        while True:
            state = self.cluster.wait(self.jobs[stage], seconds)
            if state not in ("REQUEUE_HOLD", "NODE_FAIL") or time.monotonic() > end:
                return state
            time.sleep(0.2)

    def exit_status(self, stage: str = "pretrain") -> int:
        return int(self.cluster.facts(self.jobs[stage])["ExitCode"].partition(":")[0])

    def log(self, stage: str = "pretrain") -> str:
        path = self.run / f"logs/{stage}-{self.jobs[stage]}.log"
        return path.read_text("utf-8") if path.exists() else ""

    def lives(self) -> list[dict]:
        return [json.loads(line) for line in (self.run / "lives.jsonl").read_text("utf-8").splitlines()]


def test_a_run_of_two_nodes_to_its_end(cluster, tiny_shards, tmp_path):
    done = Submission(cluster, tmp_path / "run", f"--data.path={tiny_shards}", "--training.steps=6", "--nodes=2")
    assert done.status == 0, done.said
    assert done.wait() == "COMPLETED", done.log()
    life = tmp_path / f"run/logs/{done.jobs['pretrain']}.0"
    assert {path.name for path in life.glob("rank-*.log")} == {"rank-00000.log", "rank-00001.log"}
    assert "preflight good: 2 nodes" in done.log()
    assert "finished after step 6 of 6" in done.log()
    assert [(one["event"], one["step"]) for one in done.lives()] == [("begin", 0), ("end", 6)]
    assert metrics(tmp_path / "run")[-1]["step"] == 6


def test_from_text_to_scores_in_one_chain(cluster, corpus, tmp_path):
    texts = [json.loads(line)["text"] for line in corpus.read_text("utf-8").splitlines()]
    words = set(MODULES.split())
    rows = [f"{' '.join(text.split())[:200]}\t{int(any(word in text for word in words))}\n" for text in texts]
    for name, part in (("train", rows[::2]), ("validation", rows[1::2])):
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "".join(part), "utf-8")
    run = tmp_path / "run"
    done = Submission(
        cluster, run, "--stages=prep,pretrain,convert,finetune", "--nodes=2", "--training.steps=4",
        "--preflight=false", "--prep_tasks_per_node=1", f"--prep.inputs={corpus}", "--prep.tokenizer.type=wordpiece",
        "--prep.tokenizer.vocab_size=1000", "--prep.block_tokens=4096", "--prep.validation_fraction=0.1",
        "--prep.workers=1", "--convert.verify=true", f"--finetune.train={tmp_path}/train.tsv",
        f"--finetune.validation={tmp_path}/validation.tsv", "--finetune.epochs=1", "--finetune.seeds=1",
        "--finetune.max_length=32",
    )  # fmt: skip
    assert done.status == 0, done.said
    assert list(done.jobs) == ["prep", "pretrain", "convert", "finetune"]
    assert done.wait("finetune", 240) == "COMPLETED", "".join(map(done.log, done.jobs))
    assert "verified discriminator" in done.log("convert")
    scores = json.loads((run / "finetune/results.json").read_text("utf-8"))
    assert scores["data"]["validation"]["rows"] == len(rows[1::2])
    assert 0 < scores["runs"][0]["scores"]["validation"]["accuracy"] <= 1


def test_a_rank_that_is_killed_is_named_and_two_lives_that_get_nowhere_end_the_chain(cluster, tiny_shards, tmp_path):
    (tmp_path / "strike").mkdir()
    (tmp_path / "strike/sitecustomize.py").write_text(FAIL_AT_ONCE)
    done = Submission(
        cluster, tmp_path / "run", f"--data.path={tiny_shards}", "--nodes=2", "--preflight=false",
        "--stages=pretrain,convert", PYTHONPATH=str(tmp_path / "strike"),
    )  # fmt: skip
    assert done.wait() == "FAILED", done.log()
    assert done.exit_status() == NO_PROGRESS
    assert len(re.findall(r"first to fail: rank 1 on n\d: Killed", done.log())) == 2
    assert "no progress: lives 0 and 1 of this job both began at step 0" in done.log()
    assert [one["event"] for one in done.lives()] == ["begin", "end", "begin", "end"]
    assert done.wait("convert") == "CANCELLED"


def test_a_mistake_that_only_a_rank_finds_is_told_once_and_not_repeated(cluster, tiny_shards, tmp_path):
    words = (f"--data.path={tiny_shards}", "--nodes=2", "--preflight=false", "--data.mixing=weights")
    done = Submission(cluster, tmp_path / "run", *words, "--data.weights.nowhere=1")
    assert done.wait() == "FAILED", done.log()
    assert done.exit_status() == USER_ERROR
    assert done.log().count("electra-ds: error:") == 1
    assert [one["event"] for one in done.lives()] == ["begin", "end"]


def test_signalled_the_job_goes_on_cancelled_it_does_not_come_back(cluster, tiny_shards, tmp_path):
    words = (f"--data.path={tiny_shards}", "--nodes=2", "--preflight=false", "--training.steps=100000")
    done = Submission(cluster, tmp_path / "run", *words)
    job = done.jobs["pretrain"]

    def until(condition) -> None:
        end = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < end, done.log()
            time.sleep(0.1)

    until(lambda: "step 1/" in done.log())
    cluster.run("scancel", "--signal=USR2", job)
    until(lambda: len(done.lives()) == 3)  # begin, end, begin
    assert done.lives()[1]["requeue"] is True
    assert done.lives()[2]["step"] == done.lives()[1]["step"] > 0
    until(lambda: "resume" in [line["event"] for line in metrics(tmp_path / "run", "event")])
    cluster.run("scancel", job)
    assert done.wait() == "CANCELLED"
    assert cluster.facts(job)["Restarts"] == "1"


def test_a_spare_node_replaces_a_bad_one(cluster, tiny_shards, tmp_path):
    words = (f"--data.path={tiny_shards}", "--nodes=2", "--spares=1", "--training.steps=2")
    (tmp_path / "strike").mkdir()
    (tmp_path / "strike/sitecustomize.py").write_text(LACKS_DATA)
    done = Submission(cluster, tmp_path / "run", *words, PYTHONPATH=str(tmp_path / "strike"))
    assert done.wait() == "COMPLETED", done.log()
    bad = re.search(r"node (n\d) is not used:", done.log()).group(1)
    chosen = json.loads((tmp_path / f"run/logs/{done.jobs['pretrain']}.0/nodes.json").read_text())["nodes"]
    assert len(chosen) == 2
    assert bad not in chosen
