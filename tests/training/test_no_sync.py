"""The host does not wait for the device inside a step.

Whatever makes it wait on a GPU reads a device's number into Python, or makes a tensor whose shape depends on one. On a
CPU the same operations can be seen, and here they are, in the real step: model, DeepSpeed and the loop's own records.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from electra_ds.data.loader import RowSource, open_shards
from electra_ds.model.masking import SpecialIds
from electra_ds.recipe import parse_recipe
from electra_ds.training.batches import micro_batches, prepare
from electra_ds.training.loop import Trainer
from electra_ds.training.watchdog import Watchdog
from tests.conftest import pretrain_options

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten.is_nonzero,
    aten.bincount,
    aten._unique2,
    aten.unique_consecutive,
}
"""Operations whose result, or whose result's shape, the host must know before it goes on."""


class Listener(TorchDispatchMode):
    """Notes where such operations are called: file and function."""

    def __init__(self):
        super().__init__()
        self.heard: list[tuple[str, str]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        by_mask = packet is aten.index and any(one is not None and one.dtype is torch.bool for one in args[1])
        repeats = packet is aten.repeat_interleave and not (kwargs or {}).get("output_size")
        if packet in READS or by_mask or repeats:
            frame = next(
                one
                for one in reversed(traceback.extract_stack())
                if "/torch/" not in one.filename and one.filename != __file__
            )
            self.heard.append((Path(frame.filename).name, frame.name))
        return function(*args, **(kwargs or {}))


def trainer(shards, output, peers, **changes):
    common = {"training__micro_batch_size": 4, "model__dropout": 0.1, "kernels__compile": "false"}
    arguments = pretrain_options(shards, output, **common, **changes)[2:]
    recipe = parse_recipe(["--config", "small", *arguments], "test")
    Path(recipe.output).mkdir(parents=True)
    return Trainer(recipe, peers, torch.device("cpu"), None, "life", Watchdog(0, None))


def a_step(trainer, step):
    """Everything that the loop does for one step after the ranks have agreed."""
    plan = trainer.plans[0]
    prepared = trainer.supply.preparer(trainer.supply.rows_of_step(plan, step - 1), trainer.device)(step - 1)
    listener = Listener()
    with listener:
        trainer._step(plan, step, prepared, prepared.counts)
    trainer.nonfinite.look()
    return listener.heard


NEVER = {("zero0", "float32"), ("zero1", "bf16"), ("zero2", "bf16")}
INSIDE_DEEPSPEED = {
    ("zero0", "bf16"): {
        ("utils.py", "has_overflow_serial"),  # once a parameter
        ("utils.py", "has_overflow"),
        ("utils.py", "get_weight_norm"),
    },
    ("zero1", "float32"): {("utils.py", "is_invalid_grad_norm")},
    ("zero3", "bf16"): {("utils.py", "is_invalid_grad_norm")},
}
"""Where this DeepSpeed asks whether the gradient's norm is finite, whatever it is told."""


@pytest.mark.parametrize(("stage", "precision"), [*sorted(NEVER), *INSIDE_DEEPSPEED])
def test_a_whole_step_reads_nothing_back(tiny_shards, tmp_path, alone, stage, precision):
    made = trainer(tiny_shards, tmp_path / "run", alone, deepspeed=stage, training__precision=precision)
    a_step(made, 1)  # the first line of a life is written at once
    assert set(a_step(made, 2)) == INSIDE_DEEPSPEED.get((stage, precision), set())


def test_the_listener_hears_what_would_wait():
    value = torch.arange(4.0)
    with Listener() as listener:
        float(value[0])
        bool(value[1])
        value[value > 1]
        torch.nonzero(value)
    assert len(listener.heard) == 4


def test_micro_batches_are_the_rows_in_order(tiny_shards):
    recipe = parse_recipe([*pretrain_options(tiny_shards, "nowhere")], "test")
    shards = open_shards(recipe.data)
    source = RowSource(shards, recipe.data, 32, 0)
    info = shards.manifest.tokenizer
    special = SpecialIds(pad=info.pad_id, unk=info.unk_id, cls=info.cls_id, sep=info.sep_id, mask=info.mask_id)
    prepared = prepare(source.unshuffled(np.arange(6)), recipe.objective, special, 0)
    counts = torch.tensor([7.0, 100.0, 0.0], dtype=torch.float64)
    batches = list(micro_batches(prepared, 2, counts, 3, torch.device("cpu")))
    for name, whole in prepared.tensors.items():
        assert torch.equal(torch.cat([getattr(batch, name) for batch in batches]), whole)
    for batch in batches:
        assert torch.equal(batch.generator_scale, torch.tensor(3 / 7))
        assert torch.equal(batch.discriminator_scale, torch.tensor(3 / 100))


@pytest.mark.parametrize("name", ["electra_15", "mlm", "replace_mlm", "all_tokens_mlm", "electric"])
def test_no_objective_reads_anything_back(tiny_shards, tmp_path, alone, name):
    made = trainer(tiny_shards, tmp_path / "run", alone, deepspeed="zero1", objective__name=name)
    a_step(made, 1)
    assert not a_step(made, 2)
