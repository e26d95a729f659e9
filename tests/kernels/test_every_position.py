"""Heads at every position: what autograd makes of the formula, portions that change nothing, and extreme gates."""

import pytest
import torch

from electra_ds.kernels import vocabulary
from electra_ds.kernels.attention import causal_layout, segment_bias
from electra_ds.kernels.every_position import cloze_head, copy_head
from electra_ds.kernels.sampling import sample_tokens

COUNT, WIDTH, ENTRIES, VOCABULARY = 37, 16, 96, 90


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    targets = torch.randint(VOCABULARY, (COUNT,), generator=generator)
    kept = torch.rand(COUNT, generator=generator) < 0.6
    return {
        "hidden": normal(COUNT, WIDTH),
        "weight": normal(ENTRIES, WIDTH),
        "bias": normal(ENTRIES),
        "gate": normal(COUNT),
        "inputs": torch.where(kept, targets, torch.randint(VOCABULARY, (COUNT,), generator=generator)),
        "targets": targets,
        "weights": torch.rand(COUNT, generator=generator) * kept.float().clamp(min=0.2),
        "uniforms": torch.rand(COUNT, generator=generator),
        "sampled": torch.rand(COUNT, generator=generator) < 0.3,
    }


def leaves_of(case, names):
    return {name: case[name].clone().requires_grad_() for name in names}


def gradients(loss, leaves):
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def copied(case):
    leaves = leaves_of(case, ("hidden", "weight", "bias", "gate"))
    rest = {name: case[name] for name in ("inputs", "targets", "weights")}
    output = copy_head(**leaves, **rest, vocab_size=VOCABULARY)
    return output, gradients(output.loss * 1.7, leaves)


def clozed(case, **options):
    leaves = leaves_of(case, ("hidden", "weight", "bias"))
    rest = {name: case[name] for name in ("targets", "weights", "uniforms", "sampled")}
    output = cloze_head(**leaves, **rest, vocab_size=VOCABULARY, **options)
    return output, gradients(output.loss * 1.7, leaves)


def plain_probabilities(case, leaves):
    logits = (leaves["hidden"] @ leaves["weight"].T + leaves["bias"])[:, :VOCABULARY]
    return logits.softmax(-1)


def test_a_copy_or_the_softmax_as_the_formula_says(case):
    output, found = copied(case)
    double = {name: v.double() if v.is_floating_point() else v for name, v in case.items()}
    leaves = leaves_of(double, ("hidden", "weight", "bias", "gate"))
    gate = leaves["gate"].sigmoid()[:, None]
    copy = torch.nn.functional.one_hot(case["inputs"], VOCABULARY)
    mixed = gate * copy + (1 - gate) * plain_probabilities(double, leaves)
    chosen = mixed.gather(1, case["targets"][:, None])[:, 0]
    losses = -chosen.log() * double["weights"]
    torch.testing.assert_close(output.loss.double(), losses.sum(), rtol=1e-5, atol=0)
    torch.testing.assert_close(output.losses.double(), losses.detach(), rtol=1e-4, atol=1e-6)
    assert torch.equal(output.correct, mixed.argmax(-1) == case["targets"])
    for name, slope in gradients(losses.sum() * 1.7, leaves).items():
        torch.testing.assert_close(found[name].double(), slope, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("gate", [-300.0, -90.0, 90.0, 300.0])
def test_a_gate_that_is_shut_or_open_stays_finite(case, gate):
    case["gate"] = torch.full((COUNT,), gate)
    output, found = copied(case)
    assert torch.isfinite(output.losses).all()
    assert all(torch.isfinite(slope).all() for slope in found.values())
    same = case["inputs"] == case["targets"]
    if gate > 0:  # copied: nothing to learn where the input is right, and the gate alone where it is not
        assert float(output.losses[same].abs().max()) < 1e-6
        assert float(output.losses[~same].min()) > 0.1 * gate * float(case["weights"][~same].min())


def test_a_target_that_the_softmax_gives_no_weight_costs_what_the_gate_says(case):
    case["bias"] = torch.full((ENTRIES,), 0.0)
    case["bias"][case["targets"][0]] = -1e6
    case["inputs"][0] = case["targets"][0]
    case["weights"][0] = 1.0
    output, found = copied(case)
    assert float(output.losses[0]) == pytest.approx(-float(torch.nn.functional.logsigmoid(case["gate"][0])), rel=1e-5)
    assert all(torch.isfinite(slope).all() for slope in found.values())


@pytest.mark.parametrize("options", [{}, {"temperature": 1.4}, {"temperature": 0.7, "disallow_correct": True}])
def test_cloze_loss_samples_and_their_log_probability(case, options):
    output, found = clozed(case, **options)
    leaves = leaves_of(case, ("hidden", "weight", "bias"))
    logits = (leaves["hidden"] @ leaves["weight"].T + leaves["bias"])[:, :VOCABULARY]
    losses = torch.nn.functional.cross_entropy(logits, case["targets"], reduction="none") * case["weights"]
    torch.testing.assert_close(output.loss, losses.sum(), rtol=1e-5, atol=0)
    torch.testing.assert_close(output.losses, losses.detach(), rtol=1e-4, atol=1e-6)
    temperature = options.get("temperature", 1.0)
    forbidden = case["targets"] if options.get("disallow_correct") else None
    drawn = sample_tokens(logits, case["uniforms"], temperature, forbidden)
    tokens = torch.where(case["sampled"], drawn, case["targets"])
    assert torch.equal(output.tokens, tokens)
    log_q = (logits.detach() / temperature).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(output.log_q, log_q, rtol=1e-5, atol=1e-5)
    assert not output.log_q.requires_grad
    assert torch.equal(output.correct, logits.argmax(-1) == case["targets"])
    for name, slope in gradients(losses.sum() * 1.7, leaves).items():
        torch.testing.assert_close(found[name], slope, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("head", [copied, clozed])
def test_portions_of_positions_change_nothing(case, head, monkeypatch):
    whole, slopes = head(case)
    monkeypatch.setattr(vocabulary, "CHUNK_ENTRIES", 5 * ENTRIES)
    parts, others = head(case)
    for name, value in whole._asdict().items():
        torch.testing.assert_close(getattr(parts, name), value, rtol=1e-6, atol=1e-6, msg=name)
    for name, slope in slopes.items():
        torch.testing.assert_close(others[name], slope, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("forwards", [True, False])
def test_a_causal_layout_shows_one_side_of_the_own_segment(forwards):
    segments = torch.tensor([[1, 1, 1, 2, 2, 0, 0]])
    layout = causal_layout(segments, torch.float32, forwards)
    for i in range(7):
        for j in range(7):
            seen = segments[0, i] == segments[0, j] and (j <= i if forwards else j >= i)
            assert (layout.bias[0, 0, i, j] == 0) == bool(seen)
    assert torch.equal(layout.bias + segment_bias(segments, torch.float32) == 0, layout.bias == 0)
