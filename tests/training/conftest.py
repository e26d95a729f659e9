"""A process group of one rank for whatever trains in the tests' own process."""

from __future__ import annotations

import os

import pytest
import torch

from electra_ds.distributed import Place, _free_port
from electra_ds.training.peers import Peers, start_process_group


@pytest.fixture(scope="package")
def alone():
    """The ranks of a run of one. One group for all tests here: DeepSpeed keeps groups, and a second one breaks it."""
    before = dict(os.environ)
    place = Place(0, 1, 0, "127.0.0.1", _free_port(), "single")
    start_process_group(place, torch.device("cpu"), 60.0)
    yield Peers(place, first_of_node=True)
    torch.distributed.destroy_process_group()
    for name in os.environ.keys() - before.keys():  # who the ranks are and where they meet, for those who read it next
        del os.environ[name]
