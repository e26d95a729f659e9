"""Imports go down the house's floors, never up, and light imports stay light."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "electra_ds/model": ("electra_ds.training", "electra_ds.data", "electra_ds.recipe", "deepspeed"),
    "electra_ds/kernels": ("electra_ds.model", "electra_ds.training", "electra_ds.data", "deepspeed"),
    "electra_ds/data": ("electra_ds.training", "electra_ds.model", "electra_ds.recipe", "torch", "deepspeed"),
    "electra_ds/export": ("electra_ds.training", "electra_ds.finetune", "electra_ds.recipe"),
    "electra_ds/finetune": ("electra_ds.training", "deepspeed"),
    "electra_ds/evaluate": ("electra_ds.training", "electra_ds.recipe", "deepspeed", "data_prep"),
    "electra_ds/report": ("torch", "transformers", "electra_ds.evaluate", "electra_ds.training", "data_prep"),
    "electra_ds/plan": ("electra_ds.finetune", "electra_ds.cli", "data_prep"),
    "electra_ds/training": ("electra_ds.finetune", "data_prep"),
    "electra_ds/doctor": ("data_prep", "electra_ds.cli", "electra_ds.finetune"),
    "electra_ds/submit": ("torch", "deepspeed", "data_prep"),
    "data_prep": ("torch", "deepspeed", "electra_ds.training", "electra_ds.model", "electra_ds.recipe"),
    "electra_ds": ("data_prep",),
}


def imports(path):
    """Modules a file imports anywhere in it, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_imports_from_a_floor_above(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for module in imports(path):
            for forbidden in FORBIDDEN[room]:
                assert module != forbidden and not module.startswith(forbidden + "."), f"{path}: imports {module}"


def test_nothing_but_the_entry_imports_the_command_line_door():
    for folder in ("electra_ds", "data_prep"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name not in ("cli.py", "__main__.py"):
                assert "electra_ds.cli" not in set(imports(path)), path


@pytest.mark.parametrize(
    "statement",
    [
        "import electra_ds",
        "import data_prep",
        "import electra_ds.cli",
        "import electra_ds.recipe",
        "import data_prep.command",
        "import electra_ds.submit.command",
        "import electra_ds.doctor.command",
        "import electra_ds.evaluate.heldout, electra_ds.evaluate.zero_shot, electra_ds.evaluate.bias",
        "import electra_ds.evaluate.robustness, electra_ds.report.page",
    ],
)
def test_light_imports_load_neither_torch_nor_deepspeed(statement):
    check = f"import sys; {statement}; print([m for m in ('torch', 'deepspeed', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_imports():
    for folder in ("electra_ds", "data_prep"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "__main__.py":
                importlib.import_module(
                    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                )


def test_no_file_is_longer_than_a_reader_can_take():
    for folder in ("electra_ds", "data_prep", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text("utf-8").splitlines()) <= 500, path
