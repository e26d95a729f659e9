"""The vocabulary head without logits gives the same loss, gradients and samples as one that has them.

Most cases are on a grid: hidden states in quarters, weights in eighths, so that a logit's sum is exact in float32
whatever its order and its rounding to 16 bits is one number, not two neighbours. What is left is the arithmetic after.
"""

import os
import subprocess
import sys

import pytest
import torch

from electra_ds.kernels.sampling import sample_tokens
from tests.kernels.reference import LARGEST_UNIFORM, ROOT, Refused, interpret, needs_triton, within

pytestmark = needs_triton
ONE = torch.tensor(1.0)
SMALL = (16, 64, 16, 64)
WIDE = (32, 128, 32, 256)


def make(count, width, vocabulary, vocab_size=None, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def grid(most, step, *shape):
        return (torch.randint(-most, most + 1, shape, generator=generator) * step).to(dtype)

    vocab_size = vocab_size or vocabulary
    return {
        "hidden": grid(4, 1 / 4, count, width),
        "weight": grid(4, 1 / 8, vocabulary, width),
        "bias": grid(8, 1 / 8, vocabulary),
        "targets": torch.randint(0, vocab_size, (count,), generator=generator),
        "weights": torch.rand(count, generator=generator),
        "uniforms": torch.rand(count, generator=generator),
        "vocab_size": vocab_size,
    }


def logits_of(case):
    """Float64 logits [N, vocab_size], rounded to the inputs' dtype."""
    exact = case["hidden"].double() @ case["weight"].double().t() + case["bias"].double()
    return exact.to(case["hidden"].dtype).double()[:, : case["vocab_size"]]


def compare(case, result, grad=ONE, exact_logits=True):
    hidden, weight = case["hidden"].double(), case["weight"].double()
    logits, weights = logits_of(case), case["weights"].double()
    size, (count, width), vocab_size = logits.abs().amax() + 1, hidden.shape, case["vocab_size"]
    losses = logits.logsumexp(-1) - logits.gather(1, case["targets"][:, None])[:, 0]
    # Rounding of the logits' own sums, where they are not exact.
    loose = 1 if exact_logits else width * (hidden.abs() @ weight.abs().t()).amax()
    within(result["loss"], (losses * weights).sum(), count + 2 * size, loose * (size * weights).sum())
    at_target = logits.gather(1, case["targets"][:, None])[:, 0]
    assert torch.equal(result["correct"], at_target >= logits.amax(-1))

    share = (weights * grad.double())[:, None]
    onehot = torch.zeros_like(logits).scatter(1, case["targets"][:, None], 1.0)
    dlogits = torch.zeros(count, len(weight), dtype=torch.float64)
    dlogits[:, :vocab_size] = (logits.softmax(-1) - onehot) * share
    magnitude = torch.zeros_like(dlogits)
    magnitude[:, :vocab_size] = (logits.softmax(-1) + onehot) * share.abs() * size * loose
    # The gradients of the logits are rounded to the inputs' dtype before they are multiplied.
    kind = torch.finfo(case["hidden"].dtype)
    half, least = kind.eps / 2 * 2.0**24, kind.smallest_normal * kind.eps * 2.0**24
    rounded = half * dlogits.abs() + least
    within(result["grad hidden"], dlogits @ weight, 0, (magnitude * (vocab_size + 32) + rounded) / 32 @ weight.abs())
    within(
        result["grad weight"], dlogits.t() @ hidden, 0, ((magnitude * (count + 32) + rounded) / 32).t() @ hidden.abs()
    )
    within(result["grad bias"], dlogits.sum(0), count, magnitude.sum(0))
    assert not result["grad weight"][vocab_size:].any() and not result["grad bias"][vocab_size:].any()


def draws_agree(case, samples, temperature=1.0, disallow=False):
    """Assert that samples are those of `sample_tokens`, where no border is within rounding; how many there were."""
    logits = logits_of(case)
    forbidden = case["targets"] if disallow else None
    expected = sample_tokens(logits.float(), case["uniforms"], temperature, forbidden)
    scores = logits / temperature
    if disallow:
        scores = scores.scatter(1, forbidden[:, None], -torch.inf)
    borders = scores.softmax(-1).cumsum(-1)
    clear = (borders - case["uniforms"].double()[:, None]).abs().amin(-1) > 1e-6
    assert torch.equal(samples[clear], expected[clear])
    return int(clear.sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("count", "width", "vocabulary", "vocab_size"),
    [(1, 16, 64, 64), (5, 40, 100, 91), (17, 48, 320, 300), (20, 128, 192, 192), (3, 768, 200, 197)],
)
def test_loss_gradients_and_samples_are_those_of_the_whole_logits(count, width, vocabulary, vocab_size, dtype):
    case = make(count, width, vocabulary, vocab_size, dtype, seed=width)
    case["targets"][-1] = vocab_size - 1
    result = interpret("vocabulary_head", {"loss": ONE}, _tiles=SMALL, **case)
    compare(case, result)
    assert draws_agree(case, result["samples"]) >= 0.9 * count


@pytest.mark.parametrize("count", [1, 20, 130])
def test_the_launch_shape_that_is_chosen_serves_any_number_of_positions(count):
    case = make(count, 24, 260, 250, torch.bfloat16)
    result = interpret("vocabulary_head", {"loss": ONE}, **case)
    compare(case, result)
    draws_agree(case, result["samples"])


def test_any_float32_values_will_do():
    case = make(20, 48, 300, 290)
    for name in ("hidden", "weight", "bias"):
        case[name] = torch.randn(case[name].shape, generator=torch.Generator().manual_seed(3)) / 2
    result = interpret("vocabulary_head", {"loss": torch.tensor(-2.5)}, _tiles=SMALL, **case)
    compare(case, result, torch.tensor(-2.5), exact_logits=False)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("disallow", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draws_are_those_of_sample_tokens(temperature, disallow, dtype):
    case = make(25, 16, 300, 290, dtype)
    result = interpret("vocabulary_head", temperature=temperature, disallow_correct=disallow, _tiles=WIDE, **case)
    assert draws_agree(case, result["samples"], temperature, disallow) > 20
    assert not disallow or (result["samples"] != case["targets"]).all()


@pytest.mark.parametrize("uniform", [0.0, LARGEST_UNIFORM])
@pytest.mark.parametrize("disallow", [False, True])
def test_extreme_uniforms_draw_the_first_and_the_last_entry_that_may_be_drawn(uniform, disallow):
    case = make(12, 16, 256, 200)
    case["uniforms"].fill_(uniform)
    case["bias"][:3], case["bias"][190:] = -torch.inf, -torch.inf
    case["targets"][:6], case["targets"][6:] = 3, 189
    samples = interpret("vocabulary_head", disallow_correct=disallow, _tiles=SMALL, **case)["samples"]
    first = torch.where(case["targets"] == 3, 4, 3) if disallow else torch.tensor(3)
    last = torch.where(case["targets"] == 189, 188, 189) if disallow else torch.tensor(189)
    if uniform:
        # Rounding of the sums may leave the last entries without room above the largest uniform.
        assert (samples <= last).all() and (samples > last - 4).all()
    else:
        assert (samples == first).all()


@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_a_target_far_above_the_rest_is_not_drawn_and_the_rest_keep_their_odds(temperature):
    case = make(30, 16, 200, 200)
    case["targets"].fill_(77)
    case["bias"][77] = 500.0
    result = interpret("vocabulary_head", temperature=temperature, disallow_correct=True, _tiles=SMALL, **case)
    assert result["correct"].all()
    assert draws_agree(case, result["samples"], temperature, True) > 25


def test_an_entry_alone_in_its_group_is_drawn_or_passed_over():
    case = make(50, 16, 192, 192)
    case["bias"][64:128] = -torch.inf
    case["bias"][100] = 3.0
    result = interpret("vocabulary_head", _tiles=SMALL, **case)
    inside = result["samples"][(result["samples"] >= 64) & (result["samples"] < 128)]
    assert len(inside) and (inside == 100).all()
    case["targets"].fill_(100)
    result = interpret("vocabulary_head", disallow_correct=True, _tiles=SMALL, **case)
    assert ((result["samples"] < 64) | (result["samples"] >= 128)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tiles_change_no_sample_and_the_gradients_by_rounding_only(dtype):
    case = make(24, 40, 300, 290, dtype)
    first = interpret("vocabulary_head", {"loss": ONE}, temperature=2.0, _tiles=SMALL, **case)
    for tiles in (WIDE, (64, 64, 64, 128), (128, 256, 16, 512)):
        other = interpret("vocabulary_head", {"loss": ONE}, temperature=2.0, _tiles=tiles, **case)
        for name in ("samples", "correct", "loss"):
            assert torch.equal(first[name], other[name])
        compare(case, other)


def test_torch_finds_no_fault_with_the_operator():
    interpret("vocabulary_head", {"loss": ONE}, checked=True, temperature=2.0, disallow_correct=True, **make(6, 16, 99))


def test_two_runs_and_a_compiled_one_give_the_same_bits():
    case = make(40, 48, 300, 290, torch.bfloat16)
    first = interpret("vocabulary_head", {"loss": ONE}, _tiles=SMALL, **case)
    for compiled in (False, True):
        again = interpret("vocabulary_head", {"loss": ONE}, compiled=compiled, _tiles=SMALL, **case)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("compiled", [False, True])
def test_under_autocast_hidden_and_weight_are_multiplied_in_its_dtype(compiled):
    case = make(20, 16, 200, 190)
    result = interpret(
        "vocabulary_head", {"loss": ONE}, compiled=compiled, autocast=torch.bfloat16, _tiles=SMALL, **case
    )
    low = {name: case[name].bfloat16() for name in ("hidden", "weight", "bias")}
    plain = interpret("vocabulary_head", {"loss": ONE}, _tiles=SMALL, **{**case, **low})
    assert torch.equal(result["loss"], plain["loss"]) and torch.equal(result["samples"], plain["samples"])
    for name in ("grad hidden", "grad weight"):
        assert result[name].dtype == torch.float32 and torch.equal(result[name].bfloat16(), plain[name])


def test_a_position_draws_the_same_whatever_else_is_in_the_batch():
    case = make(40, 48, 300, 290, torch.bfloat16)
    whole = interpret("vocabulary_head", **case)["samples"]
    for rows in (slice(0, 1), slice(17, 25)):
        part = {name: value[rows] for name, value in case.items() if name not in ("weight", "bias", "vocab_size")}
        assert torch.equal(interpret("vocabulary_head", **{**case, **part})["samples"], whole[rows])


def test_positions_without_weight_add_nothing_and_are_drawn_all_the_same():
    case = make(30, 16, 128)
    drawn = interpret("vocabulary_head", **case)["samples"]
    case["weights"][::2] = 0
    some = interpret("vocabulary_head", {"loss": ONE}, **case)
    assert torch.equal(some["samples"], drawn)
    assert not some["grad hidden"][::2].any() and some["grad hidden"][1::2].any(1).all()
    none = interpret("vocabulary_head", {"loss": ONE}, **{**case, "weights": torch.zeros(30)})
    assert none["loss"] == 0
    assert not any(value.any() for name, value in none.items() if name.startswith("grad"))


def test_without_positions_loss_and_gradients_are_zero():
    result = interpret("vocabulary_head", {"loss": ONE}, **make(0, 16, 128))
    assert result["loss"] == 0 and result["samples"].shape == result["correct"].shape == (0,)
    assert result["grad hidden"].shape == (0, 16)
    assert not result["grad weight"].any() and not result["grad bias"].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["hidden", "weight"])
def test_what_is_not_finite_reaches_the_loss(value, place):
    case = make(8, 16, 200)
    case[place][3, 5] = value
    result = interpret("vocabulary_head", {"loss": ONE}, **case)
    assert not result["loss"].isfinite()
    assert (result["samples"] >= 0).all() and (result["samples"] < 200).all()
    assert result["grad bias"].isnan().any()


def test_a_target_of_probability_zero_or_outside_the_vocabulary_makes_the_loss_not_finite():
    case = make(8, 16, 200, 190)
    impossible = {**case, "bias": case["bias"].clone(), "targets": case["targets"].clone()}
    impossible["bias"][7], impossible["targets"][2] = -torch.inf, 7
    assert interpret("vocabulary_head", **impossible)["loss"] == torch.inf
    for target in (-100, 195, 10_000):
        targets = case["targets"].clone().index_fill(0, torch.tensor([2]), target)
        assert not interpret("vocabulary_head", **{**case, "targets": targets})["loss"].isfinite()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.ones(4, 16).double()}, "hidden: dtype torch.float64"),
        ({"hidden": torch.ones(2, 2, 16)}, r"hidden: shape \(2, 2, 16\), weight"),
        ({"weight": torch.ones(100, 8)}, r"weight: shape \(100, 8\); expected \(100, 16\)"),
        ({"weight": torch.ones(100, 16).half()}, "weight: dtype torch.float16; expected that of hidden"),
        ({"bias": torch.ones(99)}, "bias: shape"),
        ({"targets": torch.ones(4, dtype=torch.int32)}, "targets: dtype torch.int32"),
        ({"weights": torch.ones(5)}, "weights: shape"),
        ({"uniforms": torch.ones(4).double()}, "uniforms: dtype torch.float64"),
        ({"vocab_size": 101}, "vocab_size: 101; expected 1 to the 100 rows of weight"),
        ({"temperature": 0.0}, "temperature: 0.0"),
    ],
)
def test_unfit_inputs_are_refused_by_name(changes, message):
    with pytest.raises(Refused, match=f"ValueError: {message}"):
        interpret("vocabulary_head", **{**make(4, 16, 100), **changes})


SHARED = """
import sys, torch
from torch.nn import functional
from electra_ds.kernels.embedding import SharedMatrix
from electra_ds.kernels.vocabulary import vocabulary_head
from tests.kernels.reference import _mend_bfloat16
from tests.kernels.test_triton_vocabulary import make

_mend_bfloat16()
dtype, last = getattr(torch, sys.argv[1]), sys.argv[2] == "last"
torch.manual_seed(0)
ids, later = torch.randint(0, 91, (2, 7)), torch.randint(0, 91, (2, 7))
case = make(14, 16, 100, 91, dtype)
weight = case["weight"].requires_grad_()
rest = {name: value for name, value in case.items() if name not in ("hidden", "weight")}

def loss(first, output, second):
    return output.loss * 3 + (first * first).sum() + (0 if last else (second * second).sum())

shared, places = SharedMatrix(weight, 5), []
first = shared.look_up(ids)
for use in ("head", "look-up"):
    shared.weight.register_hook(lambda gradient: places.append(gradient.data_ptr()) if gradient is not None else None)
    if use == "head":
        output = vocabulary_head(first.flatten(0, 1), shared.weight, backend="triton", **rest)
        shared.weight = output.weight
    else:
        second = shared.look_up(later)
(together,) = torch.autograd.grad(loss(first, output, second), [weight])
places.append(together.data_ptr())
first, second = (functional.embedding(one, weight, 5) for one in (ids, later))
output = vocabulary_head(first.flatten(0, 1), weight, backend="triton", **rest)
(apart,) = torch.autograd.grad(loss(first, output, second), [weight])
error = (together.double() - apart.double()).abs().max() / apart.double().abs().max()
assert output.weight is not None and error < 4 * torch.finfo(dtype).eps, error
assert not together[91:].any()
print(len(places), len(set(places)))
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("place", ["between", "last"])
def test_a_matrix_handed_on_collects_all_gradients_in_one_buffer(dtype, place):
    """The head adds its own in place to what later uses made, or makes the buffer where it comes last."""
    done = subprocess.run(
        [sys.executable, "-c", SHARED, dtype, place],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2" if place == "last" else "3", "1"]
