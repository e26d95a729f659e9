"""Attention stays inside its segment; the borders handed to kernels for packed segments are right."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_ds.kernels.attention import attention, attention_layout, count_segments, segment_borders, segment_slots
from electra_ds.kernels.dropout import keep_mask


@st.composite
def layouts(draw):
    """Rows of segments of any length from one token on, some with padding at the end."""
    length = draw(st.integers(1, 24))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        row, number = [], 0
        end = length - draw(st.integers(0, length - 1))
        while len(row) < end:
            number += 1
            row += [number] * min(draw(st.integers(1, length)), end - len(row))
        rows.append(row + [0] * (length - len(row)))
    return torch.tensor(rows)


def segment_by_segment(projected, segments, keys=None, probability=0.0):
    """Each segment on its own, in float64."""
    rows, length, _, heads, features = projected.shape
    output = torch.zeros(rows, length, heads, features, dtype=torch.float64)
    query, key, value = projected.double().unbind(2)
    kept = torch.ones(rows, heads, length, length, dtype=torch.bool)
    if keys is not None:
        kept = keep_mask(keys, kept.shape, probability)
    for row in range(rows):
        for number in segments[row].unique():
            here = (segments[row] == number).nonzero()[:, 0]
            for head in range(heads):
                scores = query[row, here, head] @ key[row, here, head].t() / math.sqrt(features)
                share = scores.softmax(-1) * kept[row, head][here][:, here] / (1 - probability)
                output[row, here, head] = share @ value[row, here, head]
    return output.flatten(2)


@settings(max_examples=25, deadline=None)
@given(segments=layouts(), probability=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 1000))
def test_the_written_out_form_equals_each_segment_on_its_own(segments, probability, seed):
    torch.manual_seed(seed)
    rows, length = segments.shape
    projected = torch.randn(rows, length, 3, 2, 8).requires_grad_()
    exact = projected.detach().double().requires_grad_()
    keys = torch.randint(-(2**31), 2**31, (rows, 2)).int() if probability else None
    ours = attention(projected, attention_layout(segments, torch.float32), probability, keys)
    theirs = segment_by_segment(exact, segments, keys, probability)
    gradient = torch.randn(theirs.shape)
    # A probability is a softmax of up to 24 scores of 8 products each, the output a sum of up to 24: errors of 64 units
    # in the last place of numbers that inputs of this size (|x| < 5) keep below 100.
    close = {"rtol": 0, "atol": 64 * 2.0**-24 * 100}
    torch.testing.assert_close(ours.double(), theirs, **close)
    (found,) = torch.autograd.grad(ours, projected, gradient)
    (expected,) = torch.autograd.grad(theirs, exact, gradient.double())
    torch.testing.assert_close(found.double(), expected, **close)


@settings(max_examples=100, deadline=None)
@given(segments=layouts())
def test_borders_are_where_segments_begin_and_unused_slots_are_empty(segments):
    expected = []
    for row, tokens in enumerate(segments.tolist()):
        expected += [
            row * len(tokens) + place
            for place in range(len(tokens))
            if place == 0 or tokens[place] != tokens[place - 1]
        ]
    count = int(count_segments(segments).sum())
    assert count == len(expected)
    for slots in (None, count, segment_slots(count)):
        borders = segment_borders(segments, slots)
        assert borders.dtype == torch.int32
        assert borders[:count].tolist() == expected
        assert (borders[count:] == segments.numel()).all()
        assert len(borders) == (segments.numel() if slots is None else slots) + 1
        assert len(borders) > count


@pytest.mark.parametrize(("count", "slots"), [(1, 1), (2, 2), (3, 4), (128, 256), (102, 128), (103, 128), (104, 256)])
def test_slots_are_a_power_of_two_with_a_quarter_to_spare(count, slots):
    assert segment_slots(count) == slots


def test_too_few_slots_are_refused():
    """They would move the last border, or be written past it."""
    segments = torch.tensor([[1, 1, 2, 3], [1, 2, 2, 0]])
    assert segment_borders(segments, 6).tolist() == [0, 2, 3, 4, 5, 7, 8]
    for slots in (5, 3):
        with pytest.raises(ValueError, match=f"slots: {slots}; the batch holds 6 segments, the padding of each row"):
            segment_borders(segments, slots)
