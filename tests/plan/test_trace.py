"""The traced model: no memory, every operation, linear in the rows."""

import numpy as np
import pytest
import torch

from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.electra import Electra
from electra_ds.model.masking import SpecialIds
from electra_ds.plan.ledger import Ledger, storage_bytes
from electra_ds.plan.trace import PARTS, TracedModel


def test_rows_between_two_traces_are_worked_out_exactly(traced):
    guessed = traced.timeline(7, 32)
    real = traced._traced(7, 32, False)
    assert len(guessed.held) == len(real.held)
    np.testing.assert_allclose(guessed.held, real.held)
    np.testing.assert_array_equal(guessed.ready, real.ready)
    assert guessed.saved == pytest.approx(real.saved)


def test_every_parameter_gets_a_gradient_in_the_end_and_none_before_the_backward_pass(traced):
    timeline = traced.timeline(4, 32)
    assert timeline.ready[timeline.forward - 1] == 0
    assert timeline.ready[-1] == sum(size for _, size in traced.named_sizes())
    assert (np.diff(timeline.ready) >= 0).all()


def test_the_trace_holds_what_the_same_model_holds_when_it_really_runs(traced):
    """The same code on real tensors: forward and backward of one micro-batch, every byte."""
    torch.manual_seed(0)
    real = Electra(traced.model.config, traced.objective, SpecialIds(0, 1, 2, 3, 4)).to(torch.bfloat16)
    fake = traced.batch(4, 32)
    tensors = {name: value for name, value in vars(fake).items() if torch.is_tensor(value)}
    values = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
    values["segments"] += 1
    batch = type(fake)(**values)
    for parameter in real.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    with Ledger(known=[*real.parameters(), *values.values()]) as ledger:
        output = real(batch)
        saved = ledger.by_part()[""]
        output["loss"].backward()
    timeline = traced.timeline(4, 32)
    assert ledger.high + storage_bytes(values.values()) == pytest.approx(timeline.peak, rel=0.002)
    assert saved == pytest.approx(sum(timeline.saved.values()), rel=0.002)


def test_saved_bytes_are_shown_for_every_part(traced):
    saved = traced.timeline(4, 32).saved
    assert set(saved) == set(PARTS)
    assert all(size > 0 for size in saved.values())


@pytest.mark.parametrize("sharing", ["untied", "gdes", "all_tied"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_way_of_sharing_can_be_traced(sharing, device):
    sizes = {"layers": 1, "hidden_size": 64, "heads": 1, "embedding_size": 32, "intermediate_size": 128}
    config = ModelConfig(**sizes, generator_width=1.0, vocab_size=100, sharing=sharing)
    model = TracedModel(config, ObjectiveConfig(), "bf16", device)
    assert model.timeline(3, 32).ready[-1] == sum(size for _, size in model.named_sizes())


def test_a_gpu_writes_no_probabilities_out(traced):
    on_gpu = TracedModel(traced.model.config, traced.objective, "bf16", "cuda")
    assert on_gpu.timeline(4, 512).peak < 0.7 * traced.timeline(4, 512).peak
