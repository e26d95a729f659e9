"""Whole words and n-grams on real text, and in a run."""

import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from electra_ds.data.config import DataConfig
from electra_ds.data.loader import RowSource
from electra_ds.data.shards import ShardSet
from electra_ds.data.vocabulary import continuation_table
from electra_ds.model.config import ObjectiveConfig
from electra_ds.model.masking import SpecialIds
from electra_ds.recipe import read_recipe
from electra_ds.training.batches import prepare
from tests.conftest import metrics, pretrain_options, run_ranks


@pytest.mark.parametrize("masking", ["whole_word", "ngram"])
def test_words_of_real_text_are_selected_whole(tiny_shards, masking):
    shards = ShardSet(tiny_shards)
    info = shards.manifest.tokenizer
    special = SpecialIds(info.pad_id, info.unk_id, info.cls_id, info.sep_id, info.mask_id)
    source = RowSource(shards, DataConfig(path=str(tiny_shards)), 128, 0)
    continues = torch.from_numpy(continuation_table(tiny_shards / "tokenizer", info.vocab_size))
    prepared = prepare(source.at(np.arange(32)), ObjectiveConfig(masking=masking), special, 0, continues)
    tokenizer = Tokenizer.from_file(str(tiny_shards / "tokenizer" / "tokenizer.json"))
    fields = prepared.tensors
    selected = torch.zeros_like(fields["input_ids"], dtype=torch.bool)
    selected.scatter_(1, fields["selected"], fields["selected_valid"])
    pieces = 0
    for ids, chosen in zip(fields["input_ids"].tolist(), selected.tolist(), strict=True):
        for position, id_ in enumerate(ids[1:], 1):
            # A row may begin in the middle of a word: its first piece then follows [CLS].
            if tokenizer.id_to_token(id_).startswith("##") and ids[position - 1] not in (info.cls_id, info.sep_id):
                assert chosen[position] == chosen[position - 1]
                pieces += chosen[position]
    assert pieces > 20
    share = float(fields["selected_valid"].sum() / (fields["segments"] > 0).sum())
    assert 0.13 < share <= 0.16


@pytest.mark.ranks
def test_a_run_with_n_grams_learns_and_goes_on(tiny_shards, tmp_path):
    options = pretrain_options(
        tiny_shards, tmp_path / "run", objective__masking="ngram", training__steps=10, data__sequence_length=64
    )
    run_ranks(2, ["pretrain", *options, "--training.stop_after=6"])
    run_ranks(2, ["pretrain", *options])
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert metrics(tmp_path / "run", "validation")
    assert read_recipe(tmp_path / "run" / "recipe.yaml").objective.masking == "ngram"
    changed = run_ranks(1, ["pretrain", *options, "--objective.masking=token"], check=False)
    assert changed.returncode == 2
    assert "objective.masking: 'ngram' then, 'token' now" in changed.stdout
