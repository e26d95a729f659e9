"""Rows that hold translation pairs: counted and scaled apart, whatever the ranks and micro-batches."""

import dataclasses

import numpy as np
import pytest
import torch

from electra_ds.data.config import DataConfig
from electra_ds.data.loader import RowSource
from electra_ds.data.shards import ShardSet
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.masking import SpecialIds, selectable
from electra_ds.model.objectives import OBJECTIVES, build
from electra_ds.training.batches import micro_batches, prepare

CPU = torch.device("cpu")
SIZES = {"layers": 1, "hidden_size": 64, "heads": 2, "embedding_size": 32, "intermediate_size": 64}


@pytest.fixture(scope="module")
def rows_of(tiny_shards):
    """Function of row numbers: the rows, every third of them said to hold a pair."""
    shards = ShardSet(tiny_shards)
    info = shards.manifest.tokenizer
    special = SpecialIds(info.pad_id, info.unk_id, info.cls_id, info.sep_id, info.mask_id)
    source = RowSource(shards, DataConfig(path=str(tiny_shards)), 64, 0)

    def get(numbers, objective, paired=True):
        rows = source.at(np.array(numbers))
        if paired:
            rows = dataclasses.replace(rows, pair_rows=rows.row_ids % 3 == 0)
        return prepare(rows, objective, special, 0, vocab_size=info.vocab_size)

    get.special, get.vocab_size = special, info.vocab_size
    return get


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_and_any_micro_batch_make_the_loss_of_one(rows_of, name):
    objective = ObjectiveConfig(name=name)
    torch.manual_seed(0)
    config = ModelConfig(**SIZES, generator_width=0.5, vocab_size=rows_of.vocab_size)
    model = build(config, objective, rows_of.special).train()
    whole = rows_of(range(12), objective)
    [batch] = micro_batches(whole, 12, whole.counts, 1, CPU)
    expected = model(batch)

    ranks = [rows_of(part, objective) for part in (range(7), range(7, 12))]
    counts = sum(rank.counts for rank in ranks)
    assert torch.equal(counts, whole.counts)
    outputs = [model(part) for rank in ranks for part in micro_batches(rank, 3, counts, 2, CPU)]
    # The engine averages over two ranks.
    torch.testing.assert_close(sum(one["loss"] for one in outputs) / 2, expected["loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(sum(one["statistics"] for one in outputs), expected["statistics"], rtol=1e-5, atol=0)


def test_counts_and_scales_are_of_each_kind(rows_of):
    for name in ("electra", "electric"):
        objective = ObjectiveConfig(name=name)
        prepared = rows_of(range(12), objective)
        fields, pairs = prepared.tensors, prepared.tensors["pair_rows"]
        assert 0 < pairs.sum() < 12
        real = fields["segments"] > 0
        predicted = fields["selected_valid"]
        if name == "electric":
            predicted = selectable(fields["input_ids"], fields["segments"], rows_of.special)
        apart = [predicted[pairs].sum(), real[pairs].sum()]
        assert prepared.counts.tolist() == [int(n) for n in (predicted.sum(), real.sum(), 0, *apart)]
        batch = next(micro_batches(prepared, 4, prepared.counts, 3, CPU))
        found = [batch.generator_scale, batch.discriminator_scale, batch.pair_generator_scale]
        wanted = [predicted[~pairs].sum(), real[~pairs].sum(), predicted[pairs].sum(), real[pairs].sum()]
        for scale, count in zip([*found, batch.pair_discriminator_scale], wanted, strict=True):
            assert float(scale) == pytest.approx(3 / int(count), rel=1e-6)


def test_a_set_without_pairs_has_neither(rows_of):
    prepared = rows_of(range(4), ObjectiveConfig(), paired=False)
    assert prepared.counts[3:].tolist() == [0, 0]
    batch = next(micro_batches(prepared, 4, prepared.counts, 1, CPU))
    assert batch.pair_rows is None and batch.pair_generator_scale is None
