"""What several rooms need: real text, a small shard set, and ranks."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

# One thread in this process, as in the ranks that tests start: networks this small lose time to threads, and sums of
# two threads may differ in the last bit from those of one. Before torch is imported, which reads it.
os.environ["OMP_NUM_THREADS"] = "1"

# How long a draw takes says what else the machine does, and nothing about the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def one_thread():
    """Commands may set the threads of their process, which tests share."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """What `--dist loadgroup` keeps in one process: a file, and all tests that share one process group."""
    for item in items if config.pluginmanager.hasplugin("xdist") else ():
        folder = item.path.parent.name
        shared = folder == "training" and "alone" in item.fixturenames
        item.add_marker(pytest.mark.xdist_group("alone" if shared else f"{folder}-{item.path.stem}"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids):
    """A pytest that pytest-xdist does not know loses the groups without a word: tests would disturb each other."""
    if node.config.getoption("dist") == "loadgroup" and not all("@" in one for one in ids):
        pytest.exit("--dist loadgroup has no effect under this pytest; install that of constraints.txt", returncode=4)


MODULES = """
argparse collections decimal doctest email fractions heapq inspect ipaddress logging optparse pathlib pdb pickle
pickletools random shutil smtplib socket statistics string tarfile textwrap threading turtle typing unittest zipfile
"""


def real_documents() -> list[str]:
    """Documentation strings of the standard library: English prose that every machine has."""
    documents = []
    for name in MODULES.split():
        module = __import__(name)
        members = [module, *(value for _, value in sorted(vars(module).items()) if inspect.isclass(value))]
        texts = [inspect.getdoc(member) for member in members]
        documents += [text for text in texts if text and len(text) > 200]
    return sorted(set(documents))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A JSON-lines file of a few hundred documents."""
    path = tmp_path_factory.mktemp("corpus") / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in real_documents()), "utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_shards(corpus, tmp_path_factory) -> Path:
    """A small shard set with a WordPiece vocabulary of 1,000 entries, made by the command itself."""
    from electra_ds.cli import main

    output = tmp_path_factory.mktemp("shards") / "tiny"
    options = {
        "inputs": str(corpus),
        "output": str(output),
        "tokenizer.type": "wordpiece",
        "tokenizer.vocab_size": 1000,
        "block_tokens": 4096,
        "shard_blocks": 4,
        "validation_fraction": 0.1,
        "workers": 1,
    }
    assert main(["prep", *(f"--{name}={value}" for name, value in options.items())]) == 0
    return output


TINY_MODEL = {
    "model.layers": 2,
    "model.hidden_size": 64,
    "model.heads": 2,
    "model.intermediate_size": 128,
    "model.embedding_size": 32,
    "model.generator_width": 0.5,
    "model.dropout": 0.0,
    "data.sequence_length": 32,
    "training.global_batch_size": 8,
    "optimizer.learning_rate": 1e-3,
    "schedule.warmup": 0.1,
    "validation.every": 1000,
    "validation.rows": 20,
    "logging.every": 1,
    "kernels.compile": "false",
}
"""Options that make the shipped recipes small enough for a test."""


def pretrain_options(shards: Path, output: Path, **changes: object) -> list[str]:
    """Arguments of ``electra-ds pretrain`` for a tiny run; `changes` use __ for the dot."""
    options = {**TINY_MODEL, "data.path": shards, "output": output, "training.steps": 12}
    options.update({name.replace("__", "."): value for name, value in changes.items()})
    return ["--config", "small", *(f"--{name}={value}" for name, value in options.items())]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without launcher variables, one thread a rank."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "SLURM_", "PMI_", "OMPI_", "TORCHELASTIC")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(launcher)}
    return {**clean, "OMP_NUM_THREADS": "1", **extra}


def run_ranks(
    ranks: int, arguments: list[str], check: bool = True, launcher: str = "torchrun", **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run ``electra-ds ARGUMENTS`` on some ranks, each a real process; the output is one text."""
    command = [sys.executable, "-m", "electra_ds", *arguments]
    if ranks > 1 and launcher == "torchrun":
        prefix = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m", "electra_ds"]
        command = [sys.executable, *prefix, *arguments]
    elif ranks > 1:
        command = [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks), *command]
    done = subprocess.run(
        command,
        env=environment(**extra),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout
    return done


def metrics(run: Path, kind: str = "train") -> list[dict]:
    """Lines of a run's metrics.jsonl."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line for line in lines if line["kind"] == kind]


def consumed(run: Path) -> dict[int, list[tuple[int, int]]]:
    """(epoch, row) of each row that each step consumed, over all ranks."""
    steps: dict[int, list[tuple[int, int]]] = {}
    for path in sorted((run / "audit").glob("rank-*.jsonl")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            steps.setdefault(line["step"], []).extend(zip(line["epochs"], line["rows"], strict=True))
    return {step: sorted(rows) for step, rows in sorted(steps.items())}
