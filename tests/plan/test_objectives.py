"""Plans of the other objectives: every one can be traced, and what is traced is what really runs."""

import pytest
import torch

from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.masking import SpecialIds
from electra_ds.model.objectives import OBJECTIVES, build
from electra_ds.plan.command import main
from electra_ds.plan.ledger import Ledger, storage_bytes
from electra_ds.plan.trace import TracedModel

SIZES = {"layers": 2, "hidden_size": 64, "heads": 2, "embedding_size": 32, "intermediate_size": 128}
NAMES = [name for name in OBJECTIVES if name != "electra"]


def traced(name, device):
    config = ModelConfig(**SIZES, generator_width=0.5, vocab_size=1000)
    return TracedModel(config, ObjectiveConfig(name=name), "bf16", device)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient_and_every_part_has_its_bytes(name, device):
    model = traced(name, device)
    timeline = model.timeline(3, 32)
    assert timeline.ready[-1] == sum(size for _, size in model.named_sizes())
    assert tuple(timeline.saved) == OBJECTIVES[name].parts
    assert all(size > 0 for size in timeline.saved.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_holds_what_the_same_model_holds_when_it_really_runs(name):
    model = traced(name, "cpu")
    torch.manual_seed(0)
    real = build(model.model.config, model.objective, SpecialIds(0, 1, 2, 3, 4)).to(torch.bfloat16)
    fake = model.batch(4, 32)
    tensors = {field: value for field, value in vars(fake).items() if torch.is_tensor(value)}
    values = {field: torch.zeros(tensor.shape, dtype=tensor.dtype) for field, tensor in tensors.items()}
    values["segments"] += 1
    for parameter in real.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    with Ledger(known=[*real.parameters(), *values.values()]) as ledger:
        real(type(fake)(**values))["loss"].backward()
    assert ledger.high + storage_bytes(values.values()) == pytest.approx(model.timeline(4, 32).peak, rel=0.005)


@pytest.mark.parametrize("name", ["all_tokens_mlm", "electric"])
def test_memory_of_a_head_at_every_position_does_not_grow_with_its_logits(name):
    """A small network on a large vocabulary: four times the rows, and far less than four times the memory."""
    config = ModelConfig(**{**SIZES, "layers": 1}, generator_width=0.5, vocab_size=30522)
    model = TracedModel(config, ObjectiveConfig(name=name), "bf16", "cuda")
    few, many = (model.timeline(rows, 128).peak for rows in (32, 128))
    logits = 2 * 128 * 128 * config.padded_vocab_size
    assert many < 1.5 * few
    assert many - few < 0.3 * logits


def test_a_plan_of_masked_language_modelling_needs_no_generator(capsys):
    sizes = [f"--model.{name}={value}" for name, value in SIZES.items()]
    options = ["--config=small", *sizes, "--objective.name=mlm", "--data.sequence_length=32", "--ranks=1", "--gpu=h100"]
    assert main(options, "electra-ds plan") == 0
    said = capsys.readouterr().out
    assert "by the full-size network's vocabulary head" in said
    assert "saved by the generator" not in said
