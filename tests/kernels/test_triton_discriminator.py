"""The discriminator's loss in one kernel gives what the formula says, and the same bits each time."""

import pytest
import torch
from torch.nn import functional

from tests.kernels.reference import Refused, doubled, gelu_reference, gradients, interpret, needs_triton, within

pytestmark = needs_triton
ONE = torch.tensor(1.0)


def make(shape, dtype=torch.float32, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = shape[-1]
    return {
        "hidden": torch.randn(shape, generator=generator).to(dtype),
        "bias": torch.randn(features, generator=generator).to(dtype) if bias else None,
        "weight": torch.randn(features, generator=generator).to(dtype),
        "shift": torch.randn(1, generator=generator).to(dtype),
        "replaced": torch.rand(shape[:-1], generator=generator) < 0.3,
        "weights": torch.rand(shape[:-1], generator=generator).round(decimals=1),
    }


def compare(case, result, grad=ONE):
    exact = doubled(case)
    value = exact["hidden"] if case["bias"] is None else exact["hidden"] + exact["bias"]
    logits = (gelu_reference(value, None) * exact["weight"]).sum(-1) + exact["shift"]
    losses = functional.binary_cross_entropy_with_logits(logits, case["replaced"].double(), reduction="none")
    names = ("hidden", "bias", "weight", "shift")
    expected = gradients((losses * exact["weights"]).sum(), grad.double(), {name: exact[name] for name in names})
    features, rows = value.shape[-1], losses.numel()
    with torch.no_grad():
        weight, share = exact["weight"].abs(), exact["weights"] * grad.double().abs()
        size = exact["hidden"].abs() + (0.0 if case["bias"] is None else exact["bias"].abs()) + 1
        # The logit's terms; the loss changes by at most as much as the logit, its slope by a quarter of that.
        terms = (size * weight).sum(-1) + exact["shift"].abs() + 1
        inner = share[..., None] * weight * size * terms[..., None]
        within(result["logits"], logits, features, terms)
        within(result["loss"], (losses * exact["weights"]).sum(), features + rows, (terms * exact["weights"]).sum())
        within(result["grad hidden"], expected["hidden"], features, inner)
        if case["bias"] is not None:
            within(result["grad bias"], expected["bias"], features + rows, inner.flatten(0, -2).sum(0))
        outer = (share * terms)[..., None] * size
        within(result["grad weight"], expected["weight"], features + rows, outer.flatten(0, -2).sum(0))
        within(result["grad shift"], expected["shift"], features + rows, (share * terms).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 5, 48), (2, 3, 768), (1, 2, 1500)])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_logits_and_gradients_are_those_of_the_formula(shape, dtype, bias):
    case = make(shape, dtype, bias, seed=shape[-1])
    result = interpret("discriminator_loss", {"loss": ONE}, **case)
    assert result["loss"].dtype == result["logits"].dtype == torch.float32
    compare(case, result)


def test_the_gradient_is_scaled_by_what_comes_from_above():
    case, grad = make((2, 7, 40)), torch.tensor(-3.5)
    compare(case, interpret("discriminator_loss", {"loss": grad}, **case), grad)


def test_rows_beyond_one_round_of_the_programs_are_summed_too():
    case = make((3, 11, 600))
    compare(case, interpret("discriminator_loss", {"loss": ONE}, programs=4, **case))


def test_every_position_may_weigh_and_none_may():
    case = {**make((2, 6, 40)), "weights": torch.ones(2, 6)}
    compare(case, interpret("discriminator_loss", {"loss": ONE}, **case))
    result = interpret("discriminator_loss", {"loss": ONE}, **{**case, "weights": torch.zeros(2, 6)})
    assert result["loss"] == 0
    assert not any(value.any() for name, value in result.items() if name.startswith("grad"))


def test_confident_logits_keep_the_precision_of_their_loss():
    case = make((1, 4, 8))
    case["weight"].zero_()
    case["weights"].fill_(1.0)
    for shift in (90.0, 25.0, -25.0, -90.0):
        case["shift"].fill_(shift)
        for label in (False, True):
            case["replaced"].fill_(label)
            wrong = (shift > 0) != label
            expected = 4 * functional.softplus(torch.tensor(abs(shift) if wrong else -abs(shift)).double())
            loss = interpret("discriminator_loss", **case)["loss"].double()
            assert abs(loss - expected) <= 32 * 2.0**-24 * expected + 2.0**-126


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_the_loss(value):
    case = make((2, 3, 24))
    case["weights"].fill_(1.0)
    case["hidden"][1, 2, 5] = value
    result = interpret("discriminator_loss", {"loss": ONE}, **case)
    assert not result["loss"].isfinite()
    assert not result["logits"][1, 2].isfinite() and result["logits"].isfinite().sum() == 5
    assert result["grad weight"].isnan().any() and result["grad hidden"][0].isfinite().all()


@pytest.mark.parametrize("bias", [True, False])
def test_torch_finds_no_fault_with_the_operator(bias):
    interpret("discriminator_loss", {"loss": ONE}, checked=True, **make((2, 3, 24), bias=bias))


def test_two_runs_and_a_compiled_one_give_the_same_bits():
    case = make((3, 9, 80), torch.bfloat16)
    first = interpret("discriminator_loss", {"loss": ONE}, **case)
    for compiled in (False, True):
        again = interpret("discriminator_loss", {"loss": ONE}, compiled=compiled, **case)
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_without_rows_loss_and_gradients_are_zero():
    result = interpret("discriminator_loss", {"loss": ONE}, **make((0, 5, 16)))
    assert result["loss"] == 0 and result["logits"].shape == (0, 5)
    assert not result["grad weight"].any() and not result["grad shift"].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.ones(2, 3, 8).double()}, "hidden: dtype torch.float64"),
        ({"weight": torch.ones(1, 8)}, r"weight: shape \(1, 8\); expected \(8,\)"),
        ({"shift": torch.tensor(1.0)}, r"shift: shape \(\); expected \(1,\)"),
        ({"replaced": torch.ones(2, 3)}, "replaced: dtype torch.float32; expected torch.bool"),
        ({"weights": torch.ones(2, 4)}, "weights: shape"),
        ({"weights": torch.ones(2, 3).half()}, "weights: dtype torch.float16"),
    ],
)
def test_unfit_inputs_are_refused_by_name(changes, message):
    with pytest.raises(Refused, match=f"ValueError: {message}"):
        interpret("discriminator_loss", **{**make((2, 3, 8)), **changes})
