"""Look-ups in a shared matrix: gradients are summed in float32 whatever the dtype, and added to what is handed on."""

import pytest
import torch
from torch.nn import functional

from electra_ds.kernels.embedding import SharedMatrix
from tests.kernels.reference import within

PADDING = 5


def gradient_of_uses(weight, uses):
    """Gradient of the matrix, looked up once for each (ids, gradient) in order."""
    shared = SharedMatrix(weight, PADDING)
    rows = [shared.look_up(ids) for ids, _ in uses]
    (found,) = torch.autograd.grad(rows, weight, [gradient for _, gradient in uses])
    return found


def exact(weight, uses):
    """The same in float64, and the sum of the magnitudes."""
    double = weight.detach().double().requires_grad_()
    sums = []
    for change in (lambda value: value, torch.abs):
        rows = [functional.embedding(ids, double, PADDING) for ids, _ in uses]
        sums += torch.autograd.grad(rows, double, [change(gradient.double()) for _, gradient in uses])
    return sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("uses", [1, 2, 3])
def test_gradients_are_those_of_the_formula(dtype, uses):
    generator = torch.Generator().manual_seed(uses)
    weight = torch.randn(40, 6, generator=generator).to(dtype).requires_grad_()
    made = []
    for _ in range(uses):
        ids = torch.randint(0, 12, (3, 50), generator=generator)
        made.append((ids, torch.randn(3, 50, 6, generator=generator).to(dtype)))
    found, (expected, magnitude) = gradient_of_uses(weight, made), exact(weight, made)
    # Each use is summed in float32 and rounded once, then added to the sum so far, which is rounded too.
    within(found, expected, 150 * uses, magnitude * (1 + (2 * uses - 1) * torch.finfo(dtype).eps * 2.0**24 / 150))
    assert found.dtype == dtype and not found[PADDING].any() and not found[12:].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_thousands_of_masks_are_added_up_and_do_not_stall(dtype):
    """In 16 bits alone a sum of ones ends at 256 in bfloat16, at 2,048 in float16."""
    weight, mask = torch.zeros(10, 4, dtype=dtype, requires_grad=True), torch.full((5000,), 7)
    ones = torch.ones(5000, 4, dtype=dtype)
    assert torch.equal(gradient_of_uses(weight, [(mask, ones)])[7], torch.full((4,), 5000.0).to(dtype))
    other = (torch.tensor([7, 2]), torch.ones(2, 4, dtype=dtype))
    for uses in ([(mask, ones), other], [other, (mask, ones)]):
        found = gradient_of_uses(weight, uses)
        torch.testing.assert_close(found[7].float(), torch.full((4,), 5001.0), rtol=torch.finfo(dtype).eps, atol=0)
        assert torch.equal(found[2], torch.ones(4, dtype=dtype)) and found.count_nonzero() == 8


def test_two_runs_give_the_same_bits():
    torch.manual_seed(0)
    weight = torch.randn(30, 8).bfloat16().requires_grad_()
    uses = [(torch.randint(0, 30, (200,)), torch.randn(200, 8).bfloat16()) for _ in range(2)]
    assert torch.equal(gradient_of_uses(weight, uses), gradient_of_uses(weight, uses))


def test_no_token_is_no_gradient():
    weight = torch.randn(30, 8).bfloat16().requires_grad_()
    nothing = (torch.zeros(0, dtype=torch.long), torch.zeros(0, 8).bfloat16())
    assert not gradient_of_uses(weight, [nothing, nothing]).any()
