"""What defines each objective: labels, weights, what is seen and counted; and that the batch's cut changes nothing."""

import dataclasses
from pathlib import Path

import pytest
import torch

from electra_ds.kernels.config import Backends
from electra_ds.model.config import ModelConfig, ObjectiveConfig, check_objective, decays, idle_settings
from electra_ds.model.flops import encoder_flops, step_flops_by_part, step_flops_per_token
from electra_ds.model.objectives import OBJECTIVES, build
from electra_ds.model.objectives.electra_15 import selected_tokens
from electra_ds.model.statistics import STATISTICS, metrics
from electra_ds.recipe import parse_recipe
from tests.model.conftest import SPECIAL
from tests.model.objectives.reference import TINY, VOCABULARY, batch_of, make

NAMES = list(OBJECTIVES)


def named(output):
    return dict(zip(STATISTICS, output["statistics"].tolist(), strict=True))


def rows_of(batch, rows):
    fields = {name: v[rows] if torch.is_tensor(v) and v.ndim else v for name, v in vars(batch).items()}
    return type(batch)(**fields)


@pytest.mark.parametrize("pairs", [None, torch.tensor([True, False, True, False])], ids=["one kind", "pairs"])
@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_add_up_to_the_whole_with_dropout_too(name, pairs):
    objective = ObjectiveConfig(name=name)
    model, batch = make(objective, dropout=0.1), batch_of(objective, rows=4, pairs=pairs)
    whole = model(batch)
    parts = [model(rows_of(batch, rows)) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(sum(part["loss"] for part in parts), whole["loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(sum(part["statistics"] for part in parts), whole["statistics"], rtol=1e-6, atol=0)
    assert torch.equal(sum(part["histogram"] for part in parts), whole["histogram"])
    if objective.has_generator:
        assert torch.equal(torch.cat([part["samples"] for part in parts]), whole["samples"])


@pytest.mark.parametrize("name", NAMES)
def test_logged_losses_are_those_that_are_trained_on(name):
    for pairs in (None, torch.tensor([True, False, False])):
        objective = ObjectiveConfig(name=name, generator_weight=0.7, vocabulary_weight=1.3)
        output = make(objective)(batch_of(objective, pairs=pairs))
        found = metrics(output["statistics"], output["histogram"], objective)
        assert found["loss"] == pytest.approx(output["loss"].item(), rel=1e-5)
        assert all(found[key] is not None for key in found if key.endswith("_loss"))


COMMON = {"loss"}
GENERATOR = {"generator_loss", "generator_accuracy", "sample_accuracy", "replaced_rate"}
DISCRIMINATOR = {
    "discriminator_loss", "discriminator_accuracy", "discriminator_precision", "discriminator_recall",
    "discriminator_auc",
}  # fmt: skip
VOCABULARY_HEAD = {"vocabulary_loss", "vocabulary_accuracy"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("electra", COMMON | GENERATOR | DISCRIMINATOR),
        ("electra_15", COMMON | GENERATOR | DISCRIMINATOR),
        ("electric", COMMON | GENERATOR | DISCRIMINATOR),
        ("mlm", COMMON | VOCABULARY_HEAD),
        ("replace_mlm", COMMON | GENERATOR | VOCABULARY_HEAD),
        ("all_tokens_mlm", COMMON | GENERATOR | VOCABULARY_HEAD),
    ],
)
def test_metrics_that_an_objective_does_not_have_are_absent(name, expected):
    objective = ObjectiveConfig(name=name)
    output = make(objective)(batch_of(objective))
    assert set(metrics(output["statistics"], output["histogram"], objective)) == expected
    paired = make(objective)(batch_of(objective, pairs=torch.tensor([True, False, False])))
    extra = {f"pair_{metric}" for metric in expected if metric.endswith("_loss")}
    assert set(metrics(paired["statistics"], paired["histogram"], objective)) == expected | extra


def test_electric_labels_every_selected_position_even_where_the_sample_is_right():
    objective = ObjectiveConfig(name="electric", mask_fraction=0.3)
    model, batch = make(objective), batch_of(objective)
    with torch.no_grad():  # a generator that is always right
        model.generator_head.bias.zero_()
        model.embeddings.word.weight.zero_()
        model.generator_head.bias[7] = 40.0
    batch = dataclasses.replace(batch, input_ids=torch.where(selected_tokens(batch), 7, batch.input_ids))
    output = model(batch)
    sums = named(output)
    assert torch.equal(output["corrupted_ids"], batch.input_ids)
    assert sums["sample_correct"] == sums["selected"] == sums["labelled"] > 50
    assert sums["replaced"] == 0
    same = make(dataclasses.replace(objective, name="electra"))(batch)
    assert named(same)["labelled"] == named(same)["replaced"]


def test_a_tower_does_not_see_the_token_it_is_asked_about_nor_another_segment():
    objective = ObjectiveConfig(name="electric")
    model, batch = make(objective), batch_of(objective)
    states = []

    def keep(_, __, output):
        states.append(output)

    model.generator.register_forward_hook(keep)
    row, place = 0, 5
    segment = batch.segments[row, place]
    changed = batch.input_ids.clone()
    changed[row, place] = (changed[row, place] + 1) % VOCABULARY
    model(batch)
    model(dataclasses.replace(batch, input_ids=changed))
    differs = (states[0] != states[1]).any(-1)
    own = torch.zeros_like(differs)
    own[row] = batch.segments[row] == segment
    own[row, place] = False
    assert torch.equal(differs, own)


def test_electra_15_sums_over_selected_positions_and_divides_by_all_real_tokens():
    objective = ObjectiveConfig(name="electra_15")
    model, batch = make(objective), batch_of(objective)
    output = model(batch)
    selected = selected_tokens(batch)
    labels = (output["corrupted_ids"] != batch.input_ids)[selected].double()
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        output["discriminator_logits"][selected].double(), labels, reduction="sum"
    )
    found = metrics(output["statistics"], output["histogram"], objective)
    assert found["discriminator_loss"] == pytest.approx(float(losses / (batch.segments > 0).sum()), rel=1e-5)
    assert named(output)["judged"] == int(selected.sum())
    whole = make(ObjectiveConfig())(batch)
    assert named(whole)["judged"] == int((batch.segments > 0).sum())


@pytest.mark.parametrize("name", NAMES)
def test_padding_takes_no_part(name):
    objective = ObjectiveConfig(name=name)
    model, batch = make(objective), batch_of(objective)
    padding = batch.segments == 0
    assert padding.any()
    other = dataclasses.replace(batch, positions=batch.positions.masked_fill(padding, 3))
    assert torch.equal(model(batch)["loss"], model(other)["loss"])


@pytest.mark.parametrize("name", NAMES)
def test_recomputed_layers_give_the_same_gradients(name):
    objective = ObjectiveConfig(name=name)
    found = []
    for recomputes in (False, True):
        model = make(objective, dropout=0.1)
        model.recompute_layers(recomputes)
        model(batch_of(objective, rows=2, length=48))["loss"].backward()
        found.append({parameter: p.grad for parameter, p in model.named_parameters()})
    for parameter, slope in found[0].items():
        assert torch.equal(slope, found[1][parameter]), parameter


def test_towers_keep_the_attention_that_takes_a_mask():
    model = make(ObjectiveConfig(name="electric"))
    model.use(Backends(attention="varlen"))
    assert {layer.backends.attention for layer in model.generator.forwards.layers} == {"torch"}
    assert {layer.backends.attention for layer in model.discriminator.layers} == {"varlen"}


@pytest.mark.parametrize(
    ("name", "sharing", "why"),
    [
        ("mlm", "untied", "one network, which has nothing to share"),
        ("mlm", "gdes", "one network, which has nothing to share"),
        ("mlm", "all_tied", "one network, which has nothing to share"),
        ("electric", "all_tied", "see one side of a token each"),
    ],
)
def test_ways_of_sharing_without_a_meaning_are_refused_with_the_reason(name, sharing, why):
    model = ModelConfig(**TINY, generator_width=1.0, vocab_size=VOCABULARY, sharing=sharing)
    with pytest.raises(ValueError, match=rf"model\.sharing={sharing}.*objective\.name={name}.*{why}|{why}"):
        check_objective(model, ObjectiveConfig(name=name))
    with pytest.raises(ValueError, match=why):
        build(model, ObjectiveConfig(name=name), SPECIAL)


def test_settings_without_an_effect_are_named():
    model = ModelConfig(generator_layers=4)
    assert idle_settings(model, ObjectiveConfig(temperature=2.0)) == []
    mlm = ObjectiveConfig(name="mlm", temperature=2.0, discriminator_weight=10.0, mask_token_probability=0.9)
    assert idle_settings(model, mlm) == [
        "objective.temperature=2.0",
        "model.generator_layers=4",
        "objective.mask_token_probability=0.9",
        "objective.discriminator_weight=10.0",
    ]
    google = dataclasses.replace(mlm, mlm_masking="google")
    assert "objective.mask_token_probability=0.9" not in idle_settings(model, google)
    assert idle_settings(ModelConfig(), dataclasses.replace(google, name="replace_mlm")) == [
        "objective.mlm_masking=google",
        "objective.discriminator_weight=10.0",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_biases_and_norms_do_not_decay(name):
    model = make(ObjectiveConfig(name=name))
    kept = {parameter for parameter, p in model.named_parameters() if not decays(parameter)}
    assert kept == {parameter for parameter, p in model.named_parameters() if p.ndim == 1}


def test_useful_flops_of_each_objective():
    """Small at 128 tokens, by hand, in units of a forward pass per token."""
    config = ModelConfig(vocab_size=30522)
    generator, full = encoder_flops(128, 64, 256, 12, 128), encoder_flops(128, 256, 1024, 12, 128)
    towers = 2 * encoder_flops(128, 64, 256, 12, 64)
    small_head, head = 2 * 128 * (64 + 30522) * 0.15, 2 * 128 * (256 + 30522)
    verdict = 2 * 256 * 257
    expected = {
        "electra": generator + small_head + full + verdict,
        "electra_15": generator + small_head + full + 0.15 * verdict,
        "mlm": full + 0.15 * head,
        "replace_mlm": generator + small_head + full + 0.15 * head,
        "all_tokens_mlm": generator + small_head + full + head + 2 * 256,
        "electric": towers + 2 * 128 * (128 + 30522) + full + verdict,
    }
    for name, forward in expected.items():
        assert step_flops_per_token(config, 0.15, 128, name) == pytest.approx(3 * forward), name
        assert tuple(step_flops_by_part(config, 0.15, 128, name)) == OBJECTIVES[name].parts


def test_the_documented_costs_are_those_that_are_counted():
    text = (Path(__file__).parents[3] / "docs" / "objectives.md").read_text("utf-8")
    sizes = {}
    for name in ("small", "base", "large"):
        recipe = parse_recipe([f"--config={name}", "--data.path=x", "--output=y"], "test")
        model = dataclasses.replace(recipe.model, vocab_size=30522)
        sizes[name] = (model, recipe.objective.mask_fraction, recipe.data.sequence_length)
    for name in NAMES:
        cells = []
        for size in sizes.values():
            flops, usual = step_flops_per_token(*size, name), step_flops_per_token(*size)
            cells.append(f"{flops / 1e6:,.2f} ({flops / usual:.3f})")
        assert f"| `{name}` | {' | '.join(cells)} |" in text
