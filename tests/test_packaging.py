"""The wheel carries what a clone has: recipes, DeepSpeed configs, templates, commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import environment, metrics, pretrain_options

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built and unpacked far from the clone; dependencies are this interpreter's."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def run(installed, tmp_path, code):
    variables = environment(PYTHONPATH=str(installed))
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True, check=True
    ).stdout


def test_recipes_and_configs_are_found_from_the_wheel(installed, tmp_path):
    code = (
        "import electra_ds, data_prep; from electra_ds import resources\n"
        "print(electra_ds.__file__); print(data_prep.__file__)\n"
        "for kind, name, ending in (('recipes', 'small', '.yaml'), ('ds_configs', 'zero1', '.json')):\n"
        "    print(resources.find(kind, name, ending))\n"
        "print(resources.folder('slurm'))"
    )
    lines = run(installed, tmp_path, code).split()
    assert len(lines) == 5
    assert all(line.startswith(str(installed)) for line in lines)
    assert Path(lines[-1]).is_dir()


def test_the_wheel_holds_no_tests_and_every_data_file(installed):
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    for name in ("recipes", "ds_configs", "slurm", "templates"):
        folder = ROOT / (name if (ROOT / name).is_dir() else f"electra_ds/{name}")
        for path in folder.iterdir():
            if path.is_file():
                assert f"electra_ds/{name}/{path.name}" in files
    assert not [name for name in files if name.startswith(("tests", "demo"))]


def test_commands_run_from_the_wheel(installed, tmp_path, tiny_shards):
    arguments = ["pretrain", *pretrain_options(tiny_shards, tmp_path / "run", training__steps=3)]
    run(installed, tmp_path, f"import sys; from electra_ds.cli import main; sys.exit(main({arguments!r}))")
    assert metrics(tmp_path / "run")[-1]["step"] == 3
    arguments = ["convert", str(tmp_path / "run"), "--output", str(tmp_path / "hf"), "--verify"]
    assert "verified" in run(installed, tmp_path, f"from electra_ds.cli import main; main({arguments!r})")
