"""Bytes that tensors hold: each storage once, for as long as something holds it."""

import torch
from torch import nn

from electra_ds.plan.ledger import Ledger, storage_bytes


def test_a_storage_counts_once_until_its_last_holder_lets_go():
    with Ledger() as ledger:
        first = torch.zeros(1000)
        view = first[10:]
        second = first + 1
        assert ledger.held == 8000
        del first
        assert ledger.held == 8000
        del view
        assert ledger.held == 4000
        del second
        assert ledger.held == 0
    assert ledger.high == 8000


def test_what_autograd_saves_is_held_until_the_backward_pass_has_used_it():
    """Two linear layers and a GELU: by hand, the hidden states before and after the GELU are saved, nothing else."""
    rows, width, inner = 4, 8, 16
    model = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width)).to("meta")
    given = torch.empty(rows, width, device="meta")
    with Ledger(known=[given, *model.parameters()]) as ledger:
        result = model(given)
        assert ledger.held == 4 * (2 * rows * inner + rows * width)
        loss = result.sum()
        del result
        assert ledger.held == 4 * (2 * rows * inner + 1)
        loss.backward()
        del loss
        assert ledger.held == 4 * sum(parameter.numel() for parameter in model.parameters())


def test_only_tensors_of_the_wanted_device_count():
    with Ledger(only="cpu") as ledger:
        kept = [torch.zeros(10), torch.zeros(10, device="meta")]
        assert ledger.held == 40
    assert storage_bytes([kept[0], kept[0][2:]]) == 40


def test_bytes_are_put_down_to_the_part_that_made_them():
    with Ledger() as ledger:
        ledger.part = "first"
        kept = [torch.zeros(1)]
        ledger.part = "second"
        kept.append(torch.zeros(2))
        assert ledger.by_part() == {"first": 4, "second": 8}
        assert ledger.largest() == [(8, "zeros"), (4, "zeros")]
