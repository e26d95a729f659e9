"""The reference of the vocabulary head: gradients made in the forward pass are those of the loss."""

import pytest
import torch
from torch.nn import functional

from electra_ds.kernels import vocabulary
from electra_ds.kernels.vocabulary import vocabulary_head
from tests.kernels.reference import within
from tests.kernels.test_triton_vocabulary import ONE, compare, draws_agree, make


def run(case, compiled=False, gradient=ONE, **options):
    """Outputs and gradients by name, as `interpret` gives them."""
    leaves = {name: case[name].clone().requires_grad_() for name in ("hidden", "weight", "bias")}
    output = vocabulary_head(**{**case, **leaves}, compiled=compiled, **options)
    found = torch.autograd.grad(output.loss, list(leaves.values()), gradient)
    named = {f"grad {name}": value for name, value in zip(leaves, found, strict=True)}
    return {"loss": output.loss.detach(), "samples": output.samples, "correct": output.correct, **named}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("count", "width", "entries", "vocab_size"), [(1, 16, 64, 64), (5, 40, 100, 91), (33, 48, 320, 300)]
)
def test_loss_gradients_and_samples_are_those_of_the_whole_logits(count, width, entries, vocab_size, compiled):
    case = make(count, width, entries, vocab_size, seed=width)
    case["targets"][-1] = vocab_size - 1
    result = run(case, compiled)
    compare(case, result)
    assert draws_agree(case, result["samples"]) >= 0.9 * count


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_gradients_are_off_by_their_own_rounding_only(dtype):
    case = make(24, 48, 320, 300, dtype)
    result = run(case)
    logits = (case["hidden"].double() @ case["weight"].double().t() + case["bias"].double()).to(dtype).double()
    logits[:, 300:] = -torch.inf
    onehot = functional.one_hot(case["targets"], 320).double()
    slope = (logits.softmax(-1) - onehot) * case["weights"].double()[:, None]
    # Three roundings: softmax times weight, the subtraction at the target, and the gradient itself.
    kind = torch.finfo(dtype)
    rounded = 2 * (kind.eps * (slope.abs() + onehot * case["weights"][:, None]) + kind.smallest_normal * kind.eps)
    for name, exact, bound in (
        ("hidden", slope @ case["weight"].double(), rounded @ case["weight"].double().abs()),
        ("weight", slope.t() @ case["hidden"].double(), rounded.t() @ case["hidden"].double().abs()),
        ("bias", slope.sum(0), rounded.sum(0)),
    ):
        error = (result[f"grad {name}"].double() - exact).abs()
        assert (error <= bound + kind.eps * exact.abs()).all(), name


def test_portions_of_the_positions_give_the_same(monkeypatch):
    case = make(40, 16, 300, 290)
    whole = run(case)
    monkeypatch.setattr(vocabulary, "CHUNK_ENTRIES", 300 * 7)
    parts = run(case)
    assert torch.equal(parts["samples"], whole["samples"]) and torch.equal(parts["correct"], whole["correct"])
    compare(case, parts)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("disallow", [False, True])
def test_draws_are_those_of_sample_tokens(temperature, disallow):
    case = make(40, 16, 300, 290)
    result = run(case, temperature=temperature, disallow_correct=disallow)
    draws_agree(case, result["samples"], temperature, disallow)
    assert not disallow or (result["samples"] != case["targets"]).all()


def test_the_gradient_follows_the_loss_that_it_is_part_of():
    case = make(9, 16, 100, 91)
    once, scaled = run(case), run(case, gradient=torch.tensor(-2.5))
    for name in ("grad hidden", "grad weight", "grad bias"):
        assert torch.equal(scaled[name], once[name] * -2.5)


def test_no_position_is_no_loss():
    case = make(3, 16, 100, 91)
    case["weights"].zero_()
    result = run(case)
    assert result["loss"] == 0
    assert all(not result[f"grad {name}"].any() for name in ("hidden", "weight", "bias"))


def test_what_is_not_finite_reaches_the_loss():
    case = make(5, 16, 100, 91)
    case["hidden"][2] = torch.nan
    assert run(case)["loss"].isnan()


def test_a_matrix_handed_on_collects_all_gradients_in_one_buffer():
    from electra_ds.kernels.embedding import SharedMatrix

    torch.manual_seed(0)
    ids, later = torch.randint(0, 91, (2, 7)), torch.randint(0, 91, (2, 7))
    ids[0, 0] = later[1, 3] = 5  # padding
    case = make(14, 16, 100, 91)
    weight = torch.randn(100, 16).requires_grad_()
    rest = {name: value for name, value in case.items() if name not in ("hidden", "weight")}

    def loss(first, head, second):
        return head * 3 + (first * first).sum() + (second**3).sum()

    def apart(matrix):
        first = functional.embedding(ids, matrix, 5)
        head = vocabulary_head(first.flatten(0, 1), matrix, **rest).loss
        return loss(first, head, functional.embedding(later, matrix, 5))

    shared = SharedMatrix(weight, 5)
    first = shared.look_up(ids)
    output = vocabulary_head(first.flatten(0, 1), shared.weight, **rest)
    shared.weight = output.weight
    (together,) = torch.autograd.grad(loss(first, output.loss, shared.look_up(later)), [weight])
    other = weight.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(apart(other), [other])
    within(together, expected.double(), 100, expected.double().abs() + 1)
    assert not together[91:].any()
