"""What a rank finds on its machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from electra_ds.distributed import Place
from electra_ds.doctor.disks import file_system, measure
from electra_ds.doctor.facts import Facts, collect_facts
from electra_ds.doctor.nodes import expected_nodes
from electra_ds.kernels.backends import OPERATIONS
from electra_ds.source import source_hash


def test_facts_survive_the_wire():
    facts = collect_facts(Place(0, 1, 0, "127.0.0.1", 29500, "single"))
    assert Facts.from_json(json.loads(json.dumps(asdict(facts)))) == facts
    assert {"python", "torch", "deepspeed", "transformers", "electra_ds", "source"} <= set(facts.versions)
    assert facts.cores and set(facts.kernels) == {
        f"{operation} {backend}" for operation, backends in OPERATIONS.items() for backend in backends
    }


def test_the_hash_sees_every_source_file_and_nothing_else(tmp_path):
    (tmp_path / "a.py").write_text("one")
    before = source_hash(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"x")
    assert source_hash(tmp_path) == before
    (tmp_path / "b.py").write_text("")
    assert source_hash(tmp_path) != before


def test_a_folder_is_measured_and_left_as_it_was(tmp_path):
    space = measure(tmp_path, "trial")
    assert space.speed and space.free > 0 and not space.error
    assert not list(tmp_path.iterdir())
    assert "No such file" in measure(tmp_path / "nowhere", "trial").error


def test_the_file_system_of_a_path_is_that_of_its_mount():
    assert file_system("/proc/self").startswith("proc ")
    assert file_system(Path("/")) != ""


def test_nodes_expected_without_scontrol(monkeypatch):
    monkeypatch.setenv("PATH", "")
    env = {"SLURM_STEP_NODELIST": "n[1-3]", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1"}
    assert expected_nodes(env, "srun") == {"n1": 2, "n2": 2, "n3": 1}
    assert expected_nodes(env, "torchrun") == {}
