"""`bench step` runs, its report has every figure, and the peer's step is what it says; no test knows how fast it is."""

import dataclasses
import json
import math
import time

import pytest
import torch

from electra_ds.bench.step import StepBenchConfig, _sides, hugging_face, report_name
from electra_ds.bench.step_parts import clocked, time_calls
from electra_ds.bench.step_peers import JointStep, ModernBertStep, gumbel_samples
from electra_ds.bench.step_sides import RECORDED, Setting
from electra_ds.bench.step_worker import count_rows
from electra_ds.cli import main
from electra_ds.export.mapping import discriminator_to_huggingface, generator_to_huggingface
from electra_ds.model import noise
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.electra import Batch, Electra
from electra_ds.model.masking import SpecialIds, select
from electra_ds.model.statistics import STATISTICS
from electra_ds.training.batches import PreparedRows

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
CONFIG = ModelConfig(
    layers=1,
    hidden_size=64,
    heads=1,
    intermediate_size=128,
    embedding_size=32,
    generator_width=1.0,
    vocab_size=200,
    dropout=0.0,
)
OBJECTIVE = ObjectiveConfig()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The folder of one short run on two ranks."""
    folder = tmp_path_factory.mktemp("step")
    options = [
        "--ranks=2",
        "--stages=[0,1]",
        "--peer=hf,electra_pytorch",
        "--variants=[kernels.activation_checkpointing=true,kernels.cuda_graphs=true]",
        "--profile",
        f"--json={folder / 'figures.json'}",
    ]
    assert main(["bench", "step", "--short", f"--output={folder}", *options]) == 0
    return folder


@pytest.mark.ranks
def test_the_short_mode_measures_everything_there_is(page):
    found = json.loads((page / "step-small-64-2-ranks.json").read_text("utf-8"))["results"]
    assert found == json.loads((page / "figures.json").read_text("utf-8"))
    assert set(found["sides"]) >= {
        "electra_ds",
        "electra_ds_bare",
        "electra_ds_zero0",
        "electra_ds_zero1",
        "transformers",
        "transformers_masked_head",
    }
    assert set(found["failed"]) == {"electra_ds_with_kernels.cuda_graphs-true"}  # there is no GPU, and the rest goes on
    assert set(found["variants"]) == {"kernels.activation_checkpointing=true"}
    [variant] = found["variants"].values()
    for key in ("tokens_per_second", "ratio", "ratio_masked_head", "mfu"):
        assert variant[key] > 0
    assert variant["peak_bytes"] is None  # the short mode measures the memory of two sides only
    for side in found["sides"].values():
        assert len(side["tokens_per_second"]) == 2
        assert all(math.isfinite(rate) and rate > 0 for rate in side["tokens_per_second"])
        assert side["mfu"] > 0 and 0 <= side["data_wait"] < 1
    positive = ("ratio", "ratio_masked_head", "tokens_per_second", "mfu", "peak_bytes", "memory_ratio", "peak_flops")
    for key in (*positive, "memory_ratio_pages", "flops_per_token", "head_share", "overhead"):
        assert found[key] > 0, key
    assert found["ratio_compiled"] is None and found["peak_is_measured"]
    assert set(found["zero"]) == {"0", "1"}
    assert found["zero"]["0"] == [1.0, 1.0]
    # Both sides saw rows of the same text, and each row is full but for the end of a block.
    assert found["rows"]["tokens"] <= found["rows"]["slots"]
    assert 3 <= found["rows"]["attended"] <= 64
    assert found["missing"] == ["electra_pytorch"] or "electra_pytorch" in found["sides"]


@pytest.mark.ranks
def test_the_parts_of_a_step_are_told_apart(page):
    sides = json.loads((page / "step-small-64-2-ranks.json").read_text("utf-8"))["results"]["sides"]
    for name in ("electra_ds", "transformers", "transformers_masked_head"):
        parts = sides[name]["parts"]
        for part in ("embeddings", "generator", "vocabulary head", "discriminator", "discriminator head"):
            assert parts[part]["forward"] > 0 and parts[part]["backward"] > 0, (name, part)
        assert parts["optimizer"]["forward"] > 0
        assert sum(parts["communication"].values()) > 0
    assert sides["electra_ds_bare"]["parts"] is None


@pytest.mark.ranks
def test_the_page_shows_it_all(page):
    text = (page / "step-small-64-2-ranks.md").read_text("utf-8")
    for wanted in (
        "# A training step: small, rows of 64 tokens",
        "## Speed",
        "## Where the time goes",
        "## What training adds",
        "## ZeRO stages",
        "## Profile",
        "## What is compared",
        "## On what",
        "| transformers, head where masked |",
        "step-small-64-2-ranks.svg",
    ):
        assert wanted in text, wanted
    assert (page / "step-small-64-2-ranks.svg").read_text("utf-8").startswith("<?xml")
    assert (page / "step-small-64-2-ranks.trace.json.gz").stat().st_size > 1000


def test_impossible_settings_are_refused(capsys):
    assert main(["bench", "step", "--peer=hf,lightning"]) == 2
    assert "lightning unknown; must be some of hf, modernbert, electra_pytorch" in capsys.readouterr().err
    assert main(["bench", "step", "--stages=[5]"]) == 2
    assert "some of 0, 1, 2, 3" in capsys.readouterr().err


def test_each_way_to_measure_has_its_own_name():
    ways = [hugging_face("sdpa", masked, compiled) for masked in (False, True) for compiled in (False, True)]
    assert len({way.name for way in ways}) == len({way.title for way in ways}) == 4
    setting = Setting("", "", "small", 128, 16, "bf16", "cpu", "zero1")
    names = {
        report_name(dataclasses.replace(StepBenchConfig(), ranks=ranks), setting, device)
        for ranks in (1, 2)
        for device in ("cpu", "cuda")
    }
    assert names == {"step-small-128", "step-small-128-2-ranks", "step-small-128-cuda", "step-small-128-2-ranks-cuda"}


def full_rows(rows=4, length=32):
    """Rows of one segment each: what the peer, who knows no segments, computes just as ours does."""
    torch.manual_seed(0)
    ids = torch.randint(5, 200, (rows, length))
    ids[:, 0], ids[:, -1] = SPECIAL.cls, SPECIAL.sep
    segments = torch.ones_like(ids)
    keys = noise.row_keys(0, torch.zeros(rows, dtype=torch.long), torch.arange(rows))
    chosen = select(ids, segments, keys, SPECIAL, OBJECTIVE.mask_fraction, OBJECTIVE.mask_token_probability)
    positions = torch.arange(length).expand_as(ids)
    return Batch(
        ids,
        segments,
        positions,
        torch.zeros_like(ids),
        keys,
        chosen.positions,
        chosen.valid,
        chosen.generator_ids,
        1.0 / chosen.valid.sum(),
        1.0 / segments.sum(),
    )


def arguments(batch):
    return batch.input_ids, batch.generator_ids, batch.token_types, batch.selected, batch.selected_valid


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("masked_head", [False, True])
def test_the_peers_step_agrees_with_ours_on_the_same_weights(attention, masked_head, monkeypatch):
    batch = full_rows()
    torch.manual_seed(1)
    ours = Electra(CONFIG, OBJECTIVE, SPECIAL)
    output = ours(batch)
    weights = {name: value.detach() for name, value in ours.named_parameters()}
    step = JointStep(CONFIG, SPECIAL, OBJECTIVE, attention, masked_head)
    generator = step.generator.generator if masked_head else step.generator
    generator.load_state_dict(generator_to_huggingface(weights, CONFIG), strict=False)
    step.discriminator.load_state_dict(discriminator_to_huggingface(weights, CONFIG))
    assert generator.electra.embeddings is step.discriminator.electra.embeddings
    assert generator.generator_lm_head.weight is step.discriminator.electra.embeddings.word_embeddings.weight
    assert sum(p.numel() for p in step.parameters()) == sum(p.numel() for p in ours.parameters()) - padding(ours)

    loss, logits = step.generator_loss(*arguments(batch))
    expected = float(output["statistics"][STATISTICS.index("generator_sum")] / batch.selected_valid.sum())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert logits.shape == (*batch.selected.shape, CONFIG.vocab_size)
    # The rest of the loss depends on the samples drawn: given ours, it is ours.
    monkeypatch.setattr("electra_ds.bench.step_peers.gumbel_samples", lambda _: output["samples"])
    assert float(step(*arguments(batch)).detach()) == pytest.approx(float(output["loss"].detach()), rel=1e-4)


def padding(model):
    """Numbers that ours has for the padded vocabulary alone: rows of the matrix, entries of the bias."""
    return (CONFIG.padded_vocab_size - CONFIG.vocab_size) * (CONFIG.embedding_size + 1)


def test_the_peers_networks_are_compiled_where_that_is_asked_for():
    batch = full_rows(rows=2, length=16)
    for masked_head in (False, True):
        step = JointStep(CONFIG, SPECIAL, OBJECTIVE, "sdpa", masked_head, compiled=True)
        assert step.generator._compiled_call_impl and step.discriminator._compiled_call_impl
        with torch.compiler.set_stance("force_eager"):  # compiling takes longer than a test may
            loss = step(*arguments(batch))
        loss.backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in step.parameters())


def test_modernbert_computes_a_loss_where_something_was_masked():
    batch = full_rows()
    step = ModernBertStep(CONFIG, SPECIAL)
    loss = step(*arguments(batch))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(200), rel=0.2)


def test_gumbel_samples_follow_the_softmax():
    torch.manual_seed(0)
    probabilities = torch.tensor([0.1, 0.2, 0.7])
    drawn = torch.bincount(gumbel_samples(probabilities.log().expand(20_000, 3)), minlength=3) / 20_000
    torch.testing.assert_close(drawn, probabilities, atol=0.02, rtol=0)


def test_rows_are_counted_by_the_lengths_of_their_segments():
    segments = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    counts = torch.tensor([2.0, 11.0, 0.0], dtype=torch.float64)
    ids = torch.zeros(2).numpy()
    counted = count_rows(PreparedRows({"segments": segments}, counts, ids, ids))
    assert counted == {"tokens": 11, "selected": 2, "slots": 12, "squares": 9 + 4 + 36}


class Queue:
    """A device that computes on its own: work is queued at once, and takes its time when somebody waits for it."""

    def __init__(self):
        self.seconds = 0.0

    def settle(self):
        time.sleep(self.seconds)
        self.seconds = 0.0

    def network(self):
        self.seconds += 0.2

    def record(self):
        self.seconds += 0.02
        return "recorded"


def test_clocked_calls_count_their_own_work_on_the_device_and_no_earlier_one():
    queue, results = Queue(), []

    def run():
        for _ in range(2):
            queue.network()
            results.append(queue.record())

    assert 0.04 <= time_calls([(queue, "record"), (queue, "missing")], run, queue.settle) < 0.15
    assert results == ["recorded"] * 2
    queue.network()
    assert clocked(run, queue.settle) >= 0.44
    assert queue.seconds == 0


def test_a_variant_is_ours_with_one_more_setting_and_may_fail(capsys):
    config = StepBenchConfig(variants=["kernels.cuda_graphs=true"], options=["--model.dropout=0"])
    [side] = [side for side in _sides(config, [], {}) if side.may_fail]
    assert (side.title, side.kind) == ("electra_ds, kernels.cuda_graphs=true", "electra_ds")
    assert side.options == (*RECORDED, "--model.dropout=0", "--kernels.cuda_graphs=true")
    assert main(["bench", "step", "--variants=[cuda_graphs]"]) == 2
    assert "'cuda_graphs' is no setting; expected SECTION.NAME=VALUE" in capsys.readouterr().err
