"""Bias and GELU in one kernel give what the formula says, and the same bits each time."""

import subprocess
import sys

import pytest
import torch

from electra_ds.kernels.gelu import bias_gelu
from tests.kernels.reference import Refused, doubled, gelu_reference, gradients, interpret, needs_triton, within

pytestmark = needs_triton


def make(shape, dtype=torch.float32, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    case = {
        "hidden": (2 * torch.randn(shape, generator=generator)).to(dtype),
        "bias": torch.randn(shape[-1], generator=generator).to(dtype) if bias else None,
    }
    return case, torch.randn(shape, generator=generator).to(dtype)


def compare(case, grad, result):
    exact = doubled(case)
    output = gelu_reference(**exact)
    expected = gradients(output, grad.double(), exact)
    size = exact["hidden"].abs().detach() + (0.0 if case["bias"] is None else exact["bias"].abs().detach()) + 1
    within(result["output"], output.detach(), 0, size, operations=8)
    # The slope changes by less than 1 for each unit of the sum.
    within(result["grad hidden"], expected["hidden"], 0, grad.double().abs() * size, operations=12)
    if case["bias"] is not None:
        rows = output.numel() // output.shape[-1]
        within(result["grad bias"], expected["bias"], rows, (grad.double().abs() * size).flatten(0, -2).sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 3, 48), (5, 300), (2, 9, 257), (2, 3, 4, 16)])
def test_output_and_gradients_are_those_of_the_formula(shape, dtype):
    case, grad = make(shape, dtype, seed=len(shape))
    compare(case, grad, interpret("bias_gelu", {"output": grad}, **case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bias_can_be_left_out(dtype):
    case, grad = make((2, 11, 40), dtype, bias=False)
    compare(case, grad, interpret("bias_gelu", {"output": grad}, **case))


def test_the_bias_may_have_another_dtype():
    case, grad = make((2, 11, 40), torch.bfloat16)
    case["bias"] = case["bias"].float() * 1.1
    result = interpret("bias_gelu", {"output": grad}, **case)
    assert result["output"].dtype == torch.bfloat16 and result["grad bias"].dtype == torch.float32
    compare(case, grad, result)


def test_rows_beyond_one_round_of_the_programs_are_summed_too():
    case, grad = make((67, 300))
    compare(case, grad, interpret("bias_gelu", {"output": grad}, programs=5, **case))


def test_far_out_the_function_is_zero_or_the_identity():
    hidden = torch.tensor([[-1e30, -40.0, 0.0, 40.0, 1e30, float("inf"), float("nan")]])
    result = interpret("bias_gelu", {"output": torch.ones_like(hidden)}, hidden=hidden, bias=None)
    assert result["output"][0, :6].tolist() == [0, 0, 0, 40, torch.tensor(1e30), float("inf")]
    assert result["grad hidden"][0, :6].tolist() == [0, 0, 0.5, 1, 1, 1]
    assert result["output"][0, 6].isnan() and result["grad hidden"][0, 6].isnan()


def test_without_rows_the_gradients_are_zero():
    case, grad = make((0, 16))
    result = interpret("bias_gelu", {"output": grad}, **case)
    assert result["output"].shape == (0, 16)
    assert torch.equal(result["grad bias"], torch.zeros(16))


@pytest.mark.parametrize("bias", [True, False])
def test_torch_finds_no_fault_with_the_operator(bias):
    case, grad = make((2, 3, 24), bias=bias)
    interpret("bias_gelu", {"output": grad}, checked=True, **case)


def test_two_runs_and_a_compiled_one_give_the_same_bits():
    case, grad = make((3, 9, 80), torch.bfloat16)
    first = interpret("bias_gelu", {"output": grad}, **case)
    for compiled in (False, True):
        again = interpret("bias_gelu", {"output": grad}, compiled=compiled, **case)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.ones(2, 8, dtype=torch.int64)}, "hidden: dtype torch.int64"),
        ({"bias": torch.ones(7)}, r"bias: shape \(7,\); expected \(8,\)"),
        ({"bias": torch.ones(8).double()}, "bias: dtype torch.float64"),
    ],
)
def test_unfit_inputs_are_refused_by_name(changes, message):
    case, _ = make((2, 8))
    with pytest.raises(Refused, match=f"ValueError: {message}"):
        interpret("bias_gelu", **{**case, **changes})


def test_a_cpu_outside_the_interpreter_is_refused():
    with pytest.raises(ValueError, match="hidden: on device cpu; the triton kernels need a GPU: use backend torch"):
        bias_gelu(torch.ones(2, 8), None, backend="triton")


def test_without_triton_the_import_says_what_to_install():
    command = "import sys; sys.modules['triton'] = None; import electra_ds.kernels.triton.gelu"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert "ImportError: package 'triton' cannot be imported" in done.stderr and "pip install triton" in done.stderr
