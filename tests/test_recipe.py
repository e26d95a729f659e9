"""Recipes: each shipped one parses, says every field, survives YAML, and mistakes are told apart."""

import json

import pytest
import yaml

from electra_ds import resources
from electra_ds.command_line import field_paths, parse
from electra_ds.errors import UserError
from electra_ds.recipe import Recipe, check_same_run, parse_recipe, read_recipe, recipe_yaml
from electra_ds.training.engine import FILLED_IN, read_deepspeed_config

RECIPES = sorted(path.stem for path in resources.folder("recipes").glob("*.yaml"))
CONFIGS = sorted(path.stem for path in resources.folder("ds_configs").glob("*.json"))


def recipe(*options, name="small"):
    return parse_recipe(["--config", name, "--data.path=x", "--output=y", *options], "electra-ds pretrain")


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_parses_and_comments_every_field(name):
    recipe(name=name)
    text = (resources.folder("recipes") / f"{name}.yaml").read_text("utf-8")
    written = set()
    for section, fields in yaml.safe_load(text).items():
        written |= {f"{section}.{field}" for field in fields} if isinstance(fields, dict) else {section}
    sections = {path.partition(".")[0] for path in field_paths(Recipe) if "." in path}
    expected = {path for path in field_paths(Recipe) if path not in sections} - {"output", "data.path"}
    assert expected <= written, f"{name}.yaml leaves out {sorted(expected - written)}"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("small", (12, 256, 4, 1024, 128, 64, 1, 128, 5e-4, 128, 1_000_000)),
        ("base", (12, 768, 12, 3072, 768, 256, 4, 512, 2e-4, 256, 766_000)),
        ("large", (24, 1024, 16, 4096, 1024, 256, 4, 512, 2e-4, 2048, 400_000)),
    ],
)
def test_sizes_are_the_papers(name, sizes):
    r = recipe(name=name)
    m = r.model
    found = (m.layers, m.hidden_size, m.heads, m.intermediate_size, m.embedding_size)
    found += (m.generator_hidden_size, m.generator_heads, r.data.sequence_length)
    assert (*found, r.optimizer.learning_rate, r.training.global_batch_size, r.training.steps) == sizes
    assert r.data.pairs
    assert not r.optimizer.bias_correction
    assert r.objective.mask_fraction == (0.25 if name == "large" else 0.15)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_own_yaml(name, tmp_path):
    phases = '[{"share": 0.9, "sequence_length": 64}, {"share": 0.1, "sequence_length": 128}]'
    before = recipe(f"--training.phases={phases}", "--model.dropout=0.05", name=name)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(before), "utf-8")
    assert read_recipe(path) == before


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_deepspeed_config_leaves_the_recipes_facts_to_the_recipe(name):
    assert not set(read_deepspeed_config(name)) & set(FILLED_IN)


def test_stages_are_the_names():
    for stage in range(4):
        assert read_deepspeed_config(f"zero{stage}")["zero_optimization"]["stage"] == stage


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--training.stepz=5"], r"'training\.stepz'; did you mean 'training\.steps'"),
        (["--model.hiden_size=5"], r"did you mean 'model\.hidden_size'"),
        (["--steps=5"], r"did you mean 'training\.steps'"),
        (["--training.steps=many"], r"training\.steps.*Expected.*int.*many"),
        (["--training.precision=bf17"], r"training\.precision.*bf16.*bf17"),
        (["--model.heads=5"], r"model\.heads=5 does not divide model\.hidden_size=256"),
        (["--data.sequence_length=1024"], r"sequence_length=1024 is longer than model\.max_positions=512"),
        (['--training.phases=[{"share": 0.5, "sequence_length": 64}]'], r"training\.phases: their shares make 0\.5"),
        (["--config=smal"], r"'smal' is neither a file nor one of the shipped recipes.*did you mean 'small'"),
    ],
)
def test_mistakes_are_told_with_the_field_and_what_is_allowed(options, message):
    with pytest.raises(UserError, match=message):
        recipe(*options)


def test_a_misspelt_key_in_a_file_is_told_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: {hiden_size: 64}\n", "utf-8")
    with pytest.raises(UserError, match=r"hiden_size.*did you mean"):
        parse(Recipe, ["--config", str(path), "--output=y", "--data.path=x"], "electra-ds pretrain")


@pytest.mark.parametrize("key", ["gradient_clipping", "bf16", "train_batch_size", "scheduler"])
def test_a_deepspeed_file_that_repeats_the_recipe_is_refused(tmp_path, key):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({key: 1, "zero_optimization": {"stage": 1}}), "utf-8")
    with pytest.raises(UserError, match=f"remove {key} .*instead"):
        read_deepspeed_config(str(path))


def test_a_resumed_run_may_change_what_decides_nothing(tmp_path):
    before = recipe()
    check_same_run(before, recipe("--training.stop_after=5", "--deepspeed=zero3", "--checkpoint.every=7"), tmp_path)
    with pytest.raises(UserError, match=r"model\.layers: 12 then, 6 now.*training\.seed: 0 then, 1 now"):
        check_same_run(before, recipe("--model.layers=6", "--training.seed=1"), tmp_path)
