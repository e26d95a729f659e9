"""The shipped fine-tuning script on a real Slurm: tasks of one step share each batch, and one of them writes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.finetune.conftest import VOCABULARY, sentences, write_electra, write_tokenizer, write_tsv
from tests.slurm.cluster import slurm_cluster

ROOT = Path(__file__).resolve().parents[2]


def test_two_tasks_finetune_as_one_run(tmp_path):
    write_electra(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf", VOCABULARY)
    rows = write_tsv(tmp_path / "train.tsv", sentences(40, 1))
    words = [
        f"--model={tmp_path / 'hf'}", f"--train={rows}", f"--validation={rows}", f"--output={tmp_path / 'ft'}",
        "--seeds=1", "--epochs=1", "--max_length=32",
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with slurm_cluster(nodes=1, cpus=2) as cluster:
        job = cluster.submit(
            "--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0", f"--output={tmp_path / 'log'}",
            str(ROOT / "slurm" / "finetune.sbatch"), *words, PATH=path, PYTHONPATH=str(ROOT),
        )  # fmt: skip
        state = cluster.wait(job, 120)
    log = (tmp_path / "log").read_text("utf-8")
    assert state == "COMPLETED", log
    assert log.count("wrote ") == 1, "one task speaks"
    found = json.loads((tmp_path / "ft" / "results.json").read_text("utf-8"))
    assert found["processes"] == 2 and found["runs"][0]["updates"] == 2
