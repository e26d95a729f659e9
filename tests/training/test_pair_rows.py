"""Batches from sets with translation pairs: which rows are of pairs, and masks in both languages."""

import json
import math

import numpy as np
import pytest
import torch

from electra_ds.cli import main
from electra_ds.data.config import DataConfig
from electra_ds.data.loader import RowSource
from electra_ds.data.shards import ShardSet
from electra_ds.model.config import ObjectiveConfig
from electra_ds.model.masking import SpecialIds
from electra_ds.training.batches import micro_batches, prepare
from tests.conftest import metrics, pretrain_options, real_documents, run_ranks
from tests.data.sets import make_corpora, make_set

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
OBJECTIVE = ObjectiveConfig()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = make_corpora(tmp_path_factory.mktemp("pairs") / "set", {"en": 4, "both": 8}, paired=("both",))
    return RowSource(ShardSet(folder), DataConfig(path=str(folder)), 64, seed=1)


def test_micro_batches_say_which_rows_are_pairs(source):
    rows = source.at(np.arange(60))
    prepared = prepare(rows, OBJECTIVE, SPECIAL, 0)
    batches = list(micro_batches(prepared, 16, prepared.counts, 1, torch.device("cpu")))
    found = torch.cat([batch.pair_rows for batch in batches])
    assert found.dtype == torch.bool
    assert [len(batch.pair_rows) for batch in batches] == [16, 16, 16, 12]
    assert found.tolist() == rows.pair_rows.tolist()
    assert 0 < found.sum() < 60


def test_sets_without_pairs_know_nothing_of_them(tmp_path):
    source = RowSource(ShardSet(make_set(tmp_path / "set")), DataConfig(path="x"), 64, seed=1)
    prepared = prepare(source.at(np.arange(8)), OBJECTIVE, SPECIAL, 0)
    assert "pair_rows" not in prepared.tensors
    [batch] = micro_batches(prepared, 8, prepared.counts, 1, torch.device("cpu"))
    assert batch.pair_rows is None


def test_both_texts_of_pairs_get_masks_in_proportion(source):
    rows = source.at(np.arange(source.total))
    prepared = prepare(rows, OBJECTIVE, SPECIAL, 0)
    fields = prepared.tensors
    chosen = torch.zeros_like(fields["input_ids"], dtype=torch.bool)
    chosen.scatter_(1, fields["selected"], fields["selected_valid"])
    chosen[:, 0] = False
    text = fields["input_ids"] > 4
    pairs = fields["pair_rows"][:, None]
    both_rows = 0
    for kind in (0, 1):
        here = pairs & text & (fields["token_types"] == kind)
        share = float((chosen & here).sum() / here.sum())
        assert share == pytest.approx(0.16, abs=0.02), "15% of the tokens, [CLS] and [SEP] counted"
    for side in (0, 1):
        both_rows += (chosen & pairs & (fields["token_types"] == side)).any(1).to(torch.int64)
    assert float((both_rows[fields["pair_rows"]] == 2).float().mean()) > 0.95
    assert not (chosen & ~text).any()


def test_a_run_trains_on_texts_and_pairs(tmp_path):
    """From the command's preparation to the metrics, with the rows made by a process of its own."""
    texts = real_documents()[:60]
    single = "".join(json.dumps({"text": text, "lang": "en"}) + "\n" for text in texts)
    pairs = "".join(
        json.dumps({"text": text[:400], "text_pair": text[:400][::-1], "lang": "en", "lang_pair": "ne"}) + "\n"
        for text in texts
    )
    (tmp_path / "single.jsonl").write_text(single, "utf-8")
    (tmp_path / "pairs.jsonl").write_text(pairs, "utf-8")
    corpora = {
        "text": {"inputs": str(tmp_path / "single.jsonl")},
        "parallel": {"inputs": str(tmp_path / "pairs.jsonl"), "parallel": {"text_field": "text_pair"}},
    }
    config = {"output": str(tmp_path / "set"), "corpora": corpora, "tokenizer": {"vocab_size": 400}, "workers": 1}
    (tmp_path / "prep.yaml").write_text(
        json.dumps({**config, "block_tokens": 2000, "validation_fraction": 0.2}), "utf-8"
    )
    assert main(["prep", "--config", str(tmp_path / "prep.yaml")]) == 0
    changes = {"data__mixing": "temperature", "data__temperature": 10 / 7, "data__prefetch_process": "true"}
    options = pretrain_options(tmp_path / "set", tmp_path / "run", training__steps=6, **changes)
    run_ranks(1, ["pretrain", *options])
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert all(passes > 0 for passes in lines[-1]["epochs"].values())
    assert set(lines[-1]["epochs"]) == {"text", "parallel"}
    assert metrics(tmp_path / "run", "validation")
