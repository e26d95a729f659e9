"""Commands of the guide can be typed: kinds, options and their values exist."""

import re
import shlex
from pathlib import Path

import pytest

from electra_ds.command_line import bare_flag, field_paths, several
from electra_ds.evaluate.bias import BiasConfig
from electra_ds.evaluate.command import EVALUATIONS
from electra_ds.evaluate.heldout import HeldoutConfig
from electra_ds.evaluate.robustness import RobustnessConfig
from electra_ds.evaluate.zero_shot import ZeroShotConfig

CONFIGS = {"heldout": HeldoutConfig, "zero-shot": ZeroShotConfig, "bias": BiasConfig, "robustness": RobustnessConfig}
ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def typed():
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for line in text.splitlines():
            if line.startswith("    electra-ds evaluate "):
                yield page.name, shlex.split(line.partition(" #")[0])[2:]


def test_the_guide_shows_every_kind():
    assert {words[0] for page, words in typed() if page == "evaluating.md"} == set(EVALUATIONS) == set(CONFIGS)


@pytest.mark.parametrize(("page", "words"), typed(), ids=lambda value: value if isinstance(value, str) else value[0])
def test_commands_parse(page, words):
    from electra_ds.command_line import parse

    kind, *arguments = words
    config = parse(CONFIGS[kind], several(bare_flag(arguments, "--card"), "--other"), "electra-ds evaluate")
    assert isinstance(config, CONFIGS[kind]), page


def test_every_option_has_a_help_text(capsys):
    from electra_ds.cli import main

    for kind, config in CONFIGS.items():
        with pytest.raises(SystemExit):
            main(["evaluate", kind, "--help"])
        text = capsys.readouterr().out
        for name in field_paths(config):
            assert re.search(rf"--{name} .*?\n? +[A-Z`]", text), f"{kind}: {name}"
