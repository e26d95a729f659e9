"""docs/flops.md says what the code counts."""

import dataclasses
import re
from pathlib import Path

import pytest

from electra_ds.model.flops import encoder_flops, step_flops_by_part, step_flops_per_token
from electra_ds.recipe import parse_recipe

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "flops.md").read_text("utf-8")
PARTS = ("generator", "generator_head", "discriminator", "discriminator_head")


def recipe(name):
    """A shipped recipe, and its model with the paper's vocabulary."""
    found = parse_recipe([f"--config={name}", "--output=unused", "--data.path=unused"], "test")
    return found, dataclasses.replace(found.model, vocab_size=30_522)


def rows(name):
    """The page's table rows of a recipe, as lists of cells."""
    lines = re.findall(rf"^\| {name} \|(.+)\|$", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_the_worked_example_is_what_the_function_returns(name):
    found, model = recipe(name)
    length, selected = found.data.sequence_length, found.objective.mask_fraction
    parts = step_flops_by_part(model, selected, length)
    total = step_flops_per_token(model, selected, length)
    everywhere = step_flops_per_token(model, 1.0, length) / total - 1
    expected = [f"{length}", f"{selected:g}", *(f"{parts[part] / 1e6:,.2f}" for part in PARTS)]
    expected += [f"{total / 1e6:,.2f}", f"+{everywhere:.1%}"]
    per_token, whole_run = rows(name)
    assert per_token == expected
    batch, steps = found.training.global_batch_size, found.training.steps
    run = f"{total * length * batch * steps:.2e}".replace("e+", "e")
    assert whole_run[:3] == [f"{batch:,}", f"{steps:,}", run]


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_attention_is_the_share_that_the_page_says(name):
    found, model = recipe(name)
    length, selected = found.data.sequence_length, found.objective.mask_fraction
    share = 1 - step_flops_per_token(model, selected, 0) / step_flops_per_token(model, selected, length)
    assert f"{share:.0%} for {name}" in PAGE


def test_the_parts_make_the_whole():
    _, model = recipe("base")
    parts = step_flops_by_part(model, 0.15, 200.0)
    assert set(parts) == set(PARTS)
    assert sum(parts.values()) == step_flops_per_token(model, 0.15, 200.0)
    assert parts["discriminator"] == 3 * encoder_flops(768, 768, 3072, 12, 200.0)
