"""``electra-ds submit`` before Slurm is asked: options, checks, what it writes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from electra_ds.cli import main
from electra_ds.errors import UserError
from electra_ds.recipe import read_recipe
from electra_ds.submit.cluster import read_cluster
from electra_ds.submit.config import time_limit
from electra_ds.submit.lead import DEFAULT_SECONDS, Measured, measure, read_measured, signal_lead
from electra_ds.submit.options import sort_words
from tests.conftest import TINY_MODEL, pretrain_options

SBATCH = """#!/bin/bash
echo "$@" >> "$0.asked"
case "$*" in *finetune.sbatch*) [ ! -e "$0.full" ] || { echo "sbatch: error: queue is full" >&2; exit 1; } ;; esac
wc -l < "$0.asked"
"""


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A stand-in that numbers jobs from 1 and keeps what it was asked; the real one is used in tests/slurm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in (("sbatch", SBATCH), ("scancel", SBATCH)):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("ELECTRA_DS_CLUSTER", raising=False)
    return folder / "sbatch"


def submit(shards, output, *words: str, **changes: object) -> int:
    return main(["submit", *pretrain_options(shards, output, **changes), *words])


def test_options_go_to_whom_they_are_for():
    words = sort_words(
        ["--config", "base", "--gpus-per-node=4", "--dry-run", "--data.cache-folder", "/x", "--prep.config", "p.yaml",
         "--finetune.learning-rate=1e-4", "--nodes", "8", "--data.weights.my-corpus", "2"]
    )  # fmt: skip
    assert words.submit == ["--gpus_per_node=4", "--dry_run", "--nodes", "8"]
    assert words.recipe == ["--config", "base", "--data.cache_folder", "/x", "--data.weights.my-corpus", "2"]
    assert words.stages == {"prep": ["--config", "p.yaml"], "convert": [], "finetune": ["--learning_rate=1e-4"]}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tiem", "3"], "did you mean 'time'"),
        (["--nodes", "4+4"], "heterogeneous jobs are not supported"),
        (["--nodes", "4", ":", "--nodes", "2"], "heterogeneous jobs are not supported"),
        (["--nodes", "3"], "these counts of ranks divide it: 1, 2, 4, 8"),
        (["--nodes", "0"], "--nodes 0: must be at least 1"),
        (["--time", "0:05:00"], "is signalled 300 s before its limit"),
        (["--time", "soon"], "expected a time limit such as"),
        (["--stages", "prep,pretain"], "did you mean 'pretrain'"),
        (["--prep.inputs", "x"], "there is no prep stage"),
        (["--output", "s3://bucket/run"], "a file system that all nodes share"),
        (["--data.path", "/nowhere"], "/nowhere: no manifest.json"),
        (["--model.layerz", "2"], "did you mean 'model.layers'"),
        (["--deepspeed", "zero9"], "zero9"),
        (["--stages", "finetune", "--finetune.train", "x"], "validation"),
        (["eight"], "expected an option"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(words, told, sbatch, tiny_shards, tmp_path, capsys):
    assert submit(tiny_shards, tmp_path / "run", *words) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert not Path(f"{sbatch}.asked").exists()


def test_a_cluster_file_is_read_strictly(tmp_path, monkeypatch):
    path = tmp_path / "cluster.yaml"
    path.write_text("partition: gpu\nacount: mine\n")
    with pytest.raises(UserError, match=r"--cluster .*cluster.yaml:2: unknown key 'acount'; did you mean 'account'"):
        read_cluster(str(path))
    path.write_text("container: {kind: pyxis}\n")
    with pytest.raises(UserError, match=r"cluster.yaml: container.image: missing"):
        read_cluster(str(path))
    path.write_text("mem: 64G\n")
    monkeypatch.setenv("ELECTRA_DS_CLUSTER", str(path))
    assert read_cluster(None)[0].mem == "64G"
    with pytest.raises(UserError, match="no such file"):
        read_cluster(str(tmp_path / "other.yaml"))


def test_a_dry_run_shows_the_script_and_needs_no_slurm(tiny_shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert submit(tiny_shards, tmp_path / "run", "--nodes", "2", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "#SBATCH --nodes=2" in said
    assert "nothing written, nothing submitted" in said
    assert not (tmp_path / "run").exists()
    assert submit(tiny_shards, tmp_path / "run", "--nodes", "2") == 2
    assert "sbatch not found" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_inside_a_heterogeneous_job_nothing_is_submitted(sbatch, tiny_shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_HET_SIZE", "2")
    assert submit(tiny_shards, tmp_path / "run") == 2
    assert "heterogeneous" in capsys.readouterr().err


def test_what_is_written_and_told(sbatch, tiny_shards, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    words = ("--training.stop_after", "5", "--deepspeed", "own.json", "--nodes", "2")
    assert submit(os.path.relpath(tiny_shards), "run", *words) == 0
    run, said = tmp_path / "run", capsys.readouterr().out
    for told in ("submitted pretrain: job 1", f"tail -F {run}/logs/pretrain-1.log", f"touch {run}/STOP", "scancel 1"):
        assert told in said
    assert f"electra-ds submit --config {run}/recipe.yaml --nodes 2" in said
    (first,) = run.glob("slurm/recipe-*.yaml")
    recipe, content = read_recipe(first), first.read_bytes()
    assert recipe.training.stop_after == 5
    assert recipe.data.path == str(tiny_shards)
    assert Path(recipe.deepspeed).parent == run / "slurm" and "own" not in recipe.deepspeed
    assert json.loads(Path(recipe.deepspeed).read_text())["zero_optimization"]["stage"] == 2
    assert read_recipe(run / "recipe.yaml").training.stop_after is None
    assert Path(f"{sbatch}.asked").read_text() == f"--parsable {run}/slurm/pretrain.sbatch\n"
    # What submit has written does not stand in the way of the run, or of another submit.
    (tmp_path / "own.json").write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    assert submit(str(tiny_shards), "run", "--nodes", "4", "--deepspeed", "own.json") == 0
    # And a job that was submitted before goes on reading what it was submitted with.
    assert first.read_bytes() == content
    assert json.loads(Path(recipe.deepspeed).read_text())["zero_optimization"]["stage"] == 2
    assert len(list(run.glob("slurm/recipe-*.yaml"))) == 2


def test_a_chain_waits_link_by_link(sbatch, tmp_path, capsys):
    words = [f"--{name}={value}" for name, value in TINY_MODEL.items()]
    run = tmp_path / "run"
    command = [
        *("submit", "--config", "small", *words, "--output", str(run), "--stages", "prep,pretrain,convert,finetune"),
        *("--prep.inputs", "texts", "--finetune.train", "a", "--finetune.validation", "b"),
    ]
    assert main(command) == 0
    asked = Path(f"{sbatch}.asked").read_text().splitlines()
    assert asked[0] == f"--parsable {run}/slurm/prep.sbatch"
    assert asked[3] == f"--parsable --dependency=afterok:3 --kill-on-invalid-dep=yes {run}/slurm/finetune.sbatch"
    (recipe,) = run.glob("slurm/recipe-*.yaml")
    assert yaml.safe_load(recipe.read_text())["data"]["path"] == f"{run}/shards"
    said = capsys.readouterr().out
    assert f"scores   {run}/finetune/results.json" in said


def test_a_chain_that_breaks_off_is_withdrawn(sbatch, tmp_path, capsys):
    Path(f"{sbatch}.full").touch()
    words = [f"--{name}={value}" for name, value in TINY_MODEL.items()]
    command = [
        *(
            "submit",
            "--config",
            "small",
            *words,
            "--output",
            str(tmp_path / "run"),
            "--stages",
            "prep,pretrain,finetune",
        ),
        *("--prep.inputs", "texts", "--finetune.train", "a", "--finetune.validation", "b", "--finetune.model", "m"),
    ]
    assert main(command) == 2
    assert "queue is full; nothing is submitted (withdrawn again: 1 2)" in capsys.readouterr().err
    assert Path(f"{sbatch.with_name('scancel')}.asked").read_text() == "1 2\n"


def test_another_run_in_the_folder_is_refused(sbatch, tiny_shards, tmp_path, capsys):
    run = tmp_path / "run"
    assert submit(tiny_shards, run) == 0
    (run / "metrics.jsonl").write_text('{"kind": "event", "event": "start"}\n')
    assert submit(tiny_shards, run, training__seed=5) == 2
    assert "training.seed: 0 then, 5 now" in capsys.readouterr().err
    assert submit(tiny_shards, run, "--dry-run", training__seed=5) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").touch()
    assert submit(tiny_shards, tmp_path / "full") == 2
    assert "holds something else" in capsys.readouterr().err


def test_the_snapshot_is_what_a_job_imports_whatever_the_code_becomes(sbatch, tiny_shards, tmp_path):
    run = tmp_path / "run"
    assert submit(tiny_shards, run) == 0
    script = (run / "slurm/pretrain.sbatch").read_text()
    export = next(line for line in script.splitlines() if line.startswith("export PYTHONPATH="))
    (code,) = (run / "code").iterdir()
    edited = tmp_path / "clone"
    shutil.copytree(code / "electra_ds", edited / "electra_ds")
    for path in edited.rglob("*.py"):
        path.chmod(0o644)
    (edited / "electra_ds/__init__.py").write_text("raise SystemExit('edited code')\n")
    look = "import electra_ds, data_prep, electra_ds.resources as r; print(electra_ds.__file__, data_prep.__file__)"
    look += "; print(r.find('ds_configs', 'zero1', '.json')); print(r.folder('slurm'))"
    done = subprocess.run(
        ["bash", "-c", f'{export}\n"{sys.executable}" -c "{look}"'],
        cwd=edited, env={**os.environ, "PYTHONPATH": str(edited)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(word.startswith(str(code)) for word in done.stdout.split())
    assert (Path(done.stdout.split()[-1]) / "pretrain.sbatch").is_file()
    told = json.loads((code / "code.json").read_text())
    assert told["sha256"].startswith(code.name)
    assert set(told) == {"version", "commit", "edited", "sha256"}
    assert not (code / "electra_ds/__init__.py").stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP)


def line(kind: str, step: int, elapsed: float, **more: object) -> dict:
    return {"kind": kind, "step": step, "elapsed_seconds": elapsed, **more}


def test_the_lead_follows_from_measured_times(tmp_path):
    lines = [{"kind": "event", "event": "start"}]
    lines += [line("train", step, 2.0 * step) for step in range(10, 101, 10)]
    lines += [line("validation", 100, 215.0)]
    lines += [{"kind": "event", "event": "save", "seconds": 40.0}, {"kind": "event", "event": "save", "seconds": 30.0}]
    lines += [line("train", 110, 300.0)]  # after a save: no step's time
    measured = measure(lines)
    assert measured == Measured(step=2.0, validation=15.0, save=40.0)
    assert signal_lead(measured) == 180  # 2 x 2 + 15 + 2 x 40 + 60, up to half a minute
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "tr')
    assert read_measured(tmp_path / "metrics.jsonl") == measured


def test_the_lead_of_a_run_that_measured_nothing(tmp_path):
    assert signal_lead(read_measured(tmp_path / "metrics.jsonl")) == DEFAULT_SECONDS
    assert signal_lead(measure([line("train", 1, 1.0), line("train", 2, 2.0)])) == DEFAULT_SECONDS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("24:00:00", 86400), ("2-12", 216000), ("1-00:30", 88200), ("UNLIMITED", None)],
)
def test_time_limits_as_sbatch_reads_them(text, seconds):
    assert time_limit(text, "time") == seconds
