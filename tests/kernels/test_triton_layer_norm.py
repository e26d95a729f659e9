"""Bias, dropout, residual and LayerNorm in one kernel give what the formula says, and the same bits each time."""

import pytest
import torch

from electra_ds.kernels.dropout import keep_mask
from tests.kernels.reference import (
    Refused,
    doubled,
    gradients,
    interpret,
    layer_norm_reference,
    needs_triton,
    within,
)

pytestmark = needs_triton


def make(shape, dtype=torch.float32, bias=True, probability=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = shape[-1]
    case = {
        "hidden": torch.randn(shape, generator=generator).to(dtype),
        "bias": torch.randn(features, generator=generator).to(dtype) if bias else None,
        "residual": torch.randn(shape, generator=generator).to(dtype),
        "weight": torch.randn(features, generator=generator).to(dtype),
        "shift": torch.randn(features, generator=generator).to(dtype),
        "eps": 1e-6,
        "keys": torch.randint(-(2**31), 2**31, (shape[0], 2), generator=generator, dtype=torch.int64).int(),
        "probability": probability,
    }
    if not probability:
        case["keys"] = None
    return case, torch.randn(shape, generator=generator).to(dtype)


def compare(case, grad, result):
    exact = doubled(case)
    output = layer_norm_reference(**exact)
    names = ("hidden", "bias", "residual", "weight", "shift")
    expected = gradients(output, grad.double(), {name: exact[name] for name in names})
    with torch.no_grad():
        scaled = 1 / (1 - case["probability"])
        hidden = exact["hidden"].abs() + (0.0 if case["bias"] is None else exact["bias"].abs())
        size = (hidden * scaled + exact["residual"].abs()).amax(-1, keepdim=True)
        # Of a normalised element before the mean is taken away: errors of the sum and of the statistics scale with it.
        relative = 1 + size / deviations(exact)
        weight, shift, upper = exact["weight"].abs(), exact["shift"].abs(), grad.double().abs()
        inner = relative**3 / deviations(exact) * (upper * weight).amax(-1, keepdim=True)
    features = case["hidden"].shape[-1]
    rows = case["hidden"].numel() // features
    within(result["output"], output.detach(), features, relative**2 * weight + shift)
    within(result["grad residual"], expected["residual"], features, inner)
    within(result["grad hidden"], expected["hidden"], features, inner * scaled)
    if case["bias"] is not None:
        within(result["grad bias"], expected["bias"], features + rows, (inner * scaled).sum())
    within(result["grad weight"], expected["weight"], features + rows, (upper * relative**2).flatten(0, -2).sum(0))
    within(result["grad shift"], expected["shift"], rows, upper.flatten(0, -2).sum(0))


def deviations(exact):
    """Standard deviations [..., 1] that the rows are divided by."""
    value = exact["hidden"] if exact["bias"] is None else exact["hidden"] + exact["bias"]
    if exact["keys"] is not None:
        kept = keep_mask(exact["keys"], value.shape, exact["probability"])
        value = torch.where(kept, value / (1 - exact["probability"]), 0.0)
    return ((exact["residual"] + value).var(-1, correction=0, keepdim=True) + exact["eps"]).sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 5, 48), (2, 3, 768), (2, 1, 1500), (1, 2, 4096)])
def test_output_and_gradients_are_those_of_the_formula(shape, dtype):
    case, grad = make(shape, dtype)
    compare(case, grad, interpret("dropout_add_layer_norm", {"output": grad}, **case))


@pytest.mark.parametrize(("bias", "probability"), [(False, 0.5), (True, 0.0), (False, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_and_dropout_can_each_be_left_out(dtype, bias, probability):
    case, grad = make((2, 7, 72), dtype, bias, probability)
    compare(case, grad, interpret("dropout_add_layer_norm", {"output": grad}, **case))


def test_each_tensor_may_have_its_own_dtype():
    case, grad = make((2, 6, 40), torch.bfloat16)
    for name in ("residual", "weight", "bias"):
        case[name] = case[name].float() * 1.1
    result = interpret("dropout_add_layer_norm", {"output": grad}, **case)
    assert result["output"].dtype == result["grad hidden"].dtype == result["grad shift"].dtype == torch.bfloat16
    assert result["grad residual"].dtype == result["grad weight"].dtype == torch.float32
    compare(case, grad, result)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_mask_is_that_of_the_other_backends_bit_for_bit(probability):
    case, grad = make((3, 37, 70), probability=probability)
    case["keys"][1] = torch.tensor([2**31 - 1, -(2**31)])
    result = interpret("dropout_add_layer_norm", {"output": grad}, **case)
    kept = keep_mask(case["keys"], case["hidden"].shape, probability)
    assert torch.equal(result["grad hidden"] != 0, kept)


def test_rows_beyond_one_round_of_the_programs_are_summed_too():
    case, grad = make((2, 10, 600))
    result = interpret("dropout_add_layer_norm", {"output": grad}, programs=3, **case)
    compare(case, grad, result)


def test_views_that_are_not_contiguous_are_read_as_what_they_are():
    case, grad = make((4, 6, 32))
    plain = interpret("dropout_add_layer_norm", {"output": grad}, **case)
    for name in ("hidden", "residual"):
        case[name] = case[name].transpose(0, 1).contiguous().transpose(0, 1)
    grad = grad[..., None].expand(*grad.shape, 2)[..., 0]
    turned = interpret("dropout_add_layer_norm", {"output": grad}, **case)
    assert all(torch.equal(plain[name], turned[name]) for name in plain)


def test_without_tokens_the_gradients_are_zero():
    case, grad = make((0, 5, 16))
    result = interpret("dropout_add_layer_norm", {"output": grad}, **case)
    assert result["output"].shape == grad.shape
    assert not result["grad weight"].any() and result["grad bias"].shape == (16,)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_row_and_no_other(value):
    case, grad = make((1, 3, 24), probability=0.0)
    case["residual"][0, 1, 5] = value
    result = interpret("dropout_add_layer_norm", {"output": grad}, **case)
    for name in ("output", "grad hidden"):
        assert result[name][0, 1].isnan().all() and result[name][0, ::2].isfinite().all()
    assert result["grad weight"].isnan().any()


@pytest.mark.parametrize(("bias", "probability"), [(True, 0.1), (False, 0.0)])
def test_torch_finds_no_fault_with_the_operator(bias, probability):
    case, grad = make((2, 3, 24), bias=bias, probability=probability)
    interpret("dropout_add_layer_norm", {"output": grad}, checked=True, **case)


def test_two_runs_and_a_compiled_one_give_the_same_bits():
    case, grad = make((2, 9, 96), torch.bfloat16)
    first = interpret("dropout_add_layer_norm", {"output": grad}, **case)
    for again in (
        interpret("dropout_add_layer_norm", {"output": grad}, **case),
        interpret("dropout_add_layer_norm", {"output": grad}, compiled=True, **case),
    ):
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.ones(2, 3, 8).double()}, "hidden: dtype torch.float64"),
        ({"residual": torch.ones(2, 3, 9)}, r"residual: shape \(2, 3, 9\); expected \(2, 3, 8\)"),
        ({"bias": torch.ones(1, 8)}, "bias: shape"),
        ({"keys": torch.ones(2, 2)}, "keys: dtype torch.float32"),
        ({"keys": torch.ones(3, 2, dtype=torch.int32)}, "keys: shape"),
        ({"probability": 1.0}, "probability: 1.0"),
        ({"hidden": torch.ones(2, 3, 9000)}, "features: 9000"),
    ],
)
def test_unfit_inputs_are_refused_by_name(changes, message):
    case, _ = make((2, 3, 8))
    with pytest.raises(Refused, match=f"ValueError: {message}"):
        interpret("dropout_add_layer_norm", **{**case, **changes})
