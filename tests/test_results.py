"""docs/results.md says what the runs in experiments/objectives/results measured, and these are comparable."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from electra_ds.model.config import ModelConfig
from electra_ds.model.flops import step_flops_per_token

ROOT = Path(__file__).resolve().parents[1]
KEPT = [ROOT / "experiments/objectives" / name for name in ("results", "results-long")]
"""Runs of minutes, and of an hour."""


@pytest.fixture(scope="module")
def results():
    """The module beside the experiment, which is no package."""
    spec = importlib.util.spec_from_file_location("objectives_results", ROOT / "experiments/objectives/results.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=KEPT, ids=lambda folder: folder.name)
def models(results, request):
    return results.read(request.param)


def test_the_page_has_the_tables_of_the_runs(results, models):
    page = (ROOT / "docs/results.md").read_text("utf-8")
    for table in (results.score_table(models), results.paired_table(models), results.cost_table(models)):
        assert len(table.splitlines()) > 2
        assert table in page


def test_runs_differ_in_objective_seed_and_steps_and_nothing_else(models):
    runs = [model.recipe for model in models if model.recipe]
    assert len({(run["objective"]["name"], run["training"]["seed"]) for run in runs}) == len(runs)
    common = set()
    for run in runs:
        run = json.loads(json.dumps(run))
        run.pop("output")
        run["objective"].pop("name")
        for key in ("seed", "steps"):
            run["training"].pop(key)
        common.add(json.dumps(run, sort_keys=True))
    assert len(common) == 1


def test_runs_cost_the_same_useful_flops(models):
    costs = []
    for model in models:
        if model.recipe:
            sizes = ModelConfig(**{**model.recipe["model"], "vocab_size": 8192})
            share, length = model.recipe["objective"]["mask_fraction"], model.recipe["data"]["sequence_length"]
            step = step_flops_per_token(sizes, share, length, model.objective)
            costs.append(step * model.recipe["training"]["steps"])
            held_out = [line["step"] for line in model.lines if line["kind"] == "validation"]
            assert held_out[-1] == model.recipe["training"]["steps"]
    assert max(costs) / min(costs) < 1.001


def test_no_path_of_a_machine_is_kept():
    for path in (path for folder in KEPT for path in folder.rglob("*")):
        if path.suffix in (".json", ".yaml", ".jsonl"):
            text = path.read_text("utf-8")
            assert "/tmp/" not in text and "/home/" not in text and "/root" not in text, path
