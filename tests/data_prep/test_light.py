"""Data can be prepared on a machine without torch and deepspeed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import electra_ds
from tests.data_prep.conftest import options

SCRIPT = """
import sys
import data_prep.command, electra_ds.data.inspect
if __name__ == "__main__":
    assert data_prep.command.main(sys.argv[2:], "electra-ds prep") == 0
    assert electra_ds.data.inspect.main([sys.argv[1]], "electra-ds inspect") == 0
    assert electra_ds.data.inspect.main([sys.argv[1], "--verify"], "electra-ds inspect") == 0
    from transformers import AutoTokenizer
    print(AutoTokenizer.from_pretrained(sys.argv[1] + "/tokenizer")("return").input_ids)
    try:
        import torch
    except ImportError:
        sys.exit(0)
    sys.exit("torch is installed here, so this shows nothing")
"""


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory) -> dict[str, str]:
    """An environment whose packages are this one's without torch and deepspeed."""
    folder = tmp_path_factory.mktemp("site")
    for site in {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]}:
        for entry in Path(site).iterdir():
            if not re.match(r"torch|deepspeed|triton|accelerate", entry.name) and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    root = Path(electra_ds.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{folder}", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "existing"])
def test_prep_inspect_and_the_tokenizer_need_no_torch(kind, corpus, tiny_shards, without_torch, tmp_path):
    (tmp_path / "run.py").write_text(SCRIPT)
    taken = {"tokenizer__path": tiny_shards / "tokenizer", "tokenizer__vocab_size": None} if kind == "existing" else {}
    arguments = options(inputs=corpus, output=tmp_path / "set", workers=2, tokenizer__type=kind, **taken)[1:]
    command = [sys.executable, "-S", str(tmp_path / "run.py"), str(tmp_path / "set"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=without_torch, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_packages_is_light():
    code = "import sys, data_prep, data_prep.command, electra_ds, electra_ds.cli, electra_ds.data.format\n"
    code += "heavy = {'torch', 'deepspeed', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)\n"
    code += "sys.exit(f'imports {heavy}' if heavy else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
