"""Runs to convert, by ZeRO stage: each is trained once for all of these tests."""

import pytest

from tests.conftest import pretrain_options, run_ranks


@pytest.fixture(scope="session")
def runs(tiny_shards, tmp_path_factory):
    """Ten steps, checkpoints at 5 and 10 and a moving average; stages 1 and 3 on two ranks, 0 and 2 on one."""
    made = {}

    def get(stage, **changes):
        key = (stage, *sorted(changes.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("convert") / "run"
            common = {"training__steps": 10, "checkpoint__every": 5, "validation__every": 5}
            options = {**common, "training__ema_decay": 0.9, "deepspeed": stage, **changes}
            ranks = 2 if stage in ("zero1", "zero3") else 1
            run_ranks(ranks, ["pretrain", *pretrain_options(tiny_shards, made[key], **options)])
        return made[key]

    return get
