"""What the pages tell a reader to type exists: commands, options, files, make targets."""

import re
import shlex
from pathlib import Path

import pytest

from data_prep.config import PrepConfig
from electra_ds.cli import COMMANDS
from electra_ds.command_line import field_paths
from electra_ds.doctor.config import DoctorConfig
from electra_ds.export.command import ConvertConfig
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.plan.config import PlanConfig
from electra_ds.recipe import Recipe
from electra_ds.report.config import ReportConfig
from electra_ds.submit.config import SubmitConfig
from electra_ds.submit.options import COMMAND_STAGES

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"))]
PAGES += sorted((ROOT / "docs").glob("*.md"))
CONFIGS = {
    "prep": PrepConfig,
    "pretrain": Recipe,
    "convert": ConvertConfig,
    "finetune": FinetuneConfig,
    "doctor": DoctorConfig,
    "plan": PlanConfig,
    "report": ReportConfig,
    "submit": SubmitConfig,
}


def known_options(command):
    """Options a command takes; submit hands others on to the recipe and to its stages."""
    names = {"config", "help", "debug", *field_paths(CONFIGS[command])}
    if command == "submit":
        stages = {f"{stage}.{name}" for stage in COMMAND_STAGES for name in known_options(stage)}
        names |= {*known_options("pretrain"), *stages}
        names |= {name.replace("_", "-") for name in names}
    return names


def typed_commands(page):
    """Commands of indented and fenced blocks, continued lines joined."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        found = re.search(r"electra-ds (\w+)((?: (?:'[^']*'|[^\s#|`]+))*)", line)
        if found and found.group(1) in COMMANDS and line.startswith(("    ", "electra-ds")):
            yield found.group(1), shlex.split(found.group(2))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_that_pages_show_exist(page):
    for command, words in typed_commands(page):
        if command in CONFIGS:
            known = known_options(command)
            for word in words:
                if word.startswith("--"):
                    assert word[2:].partition("=")[0] in known, f"{page.name}: electra-ds {command} {word}"


def test_the_readme_shows_every_main_command():
    shown = {command for command, _ in typed_commands(ROOT / "README.md")}
    assert {"prep", "inspect", "pretrain", "convert", "finetune", "report"} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_that_pages_name_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^    |`)make (\w+)", page.read_text("utf-8"), re.MULTILINE))
        assert named <= targets, page.name


def option(words, name):
    return words[words.index(name) + 1] if name in words else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_start_keeps_its_vocabulary_unless_it_says_otherwise(page):
    """`init.vocabulary` is `same`: shards of a trained vocabulary would be refused."""
    commands = list(typed_commands(page))
    shards = {
        option(words, "--output"): option(words, "--tokenizer.path") for name, words in commands if name == "prep"
    }
    for name, words in commands:
        start, path = option(words, "--init.from"), option(words, "--data.path")
        if name == "pretrain" and start and not option(words, "--init.vocabulary") and path in shards:
            assert shards[path] == start, f"{page.name}: {path} has another vocabulary than {start}"


def test_the_readme_shows_how_each_task_and_evaluation_is_run():
    commands = list(typed_commands(ROOT / "README.md"))
    tasks = {option(words, "--task") for name, words in commands if name == "finetune"}
    assert {"sst2", "cola", "mrpc", "wnut17", "xquad"} <= tasks
    text = (ROOT / "README.md").read_text("utf-8")
    for kind in ("heldout", "zero-shot", "bias", "robustness"):
        assert f"    electra-ds evaluate {kind} --model" in text
