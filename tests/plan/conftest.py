"""A small recipe, and the pieces of a plan of it."""

from dataclasses import replace

import pytest

from electra_ds.plan.trace import TracedModel
from electra_ds.plan.zero import Zero
from electra_ds.recipe import parse_recipe
from tests.conftest import TINY_MODEL

SIZES = {**TINY_MODEL, "model.dropout": 0.1}
"""The suite's tiny sizes, dropout on, as masks are held too."""


@pytest.fixture(scope="session")
def traced() -> TracedModel:
    """The tiny model as a CPU runs it in bf16."""
    recipe = parse_recipe(
        [
            "--config=small",
            "--data.path=none",
            "--output=none",
            *(f"--{name}={value}" for name, value in SIZES.items()),
        ],
        "test",
    )
    return TracedModel(replace(recipe.model, vocab_size=1000), recipe.objective, "bf16", "cpu")


@pytest.fixture
def zero(traced):
    """Function of stage, ranks and changes: a rank's share of the tiny model's state."""

    def make(stage: int, ranks: int = 1, **changes) -> Zero:
        sizes = traced.named_sizes()
        every = sum(size for _, size in sizes)
        return Zero(sizes=sizes, stage=stage, ranks=ranks, **{"bucket": every, "prefetch": every, **changes})

    return make
