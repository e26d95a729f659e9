"""Real ranks over gloo: exact resume, every stage alike, rows once each, whatever the world size."""

import json

import pytest
import torch

from electra_ds.checkpoint import list_checkpoints, read_state
from electra_ds.zero_pieces import read_weights
from tests.conftest import consumed, metrics, pretrain_options, run_ranks

pytestmark = pytest.mark.ranks
STAGES = ("zero0", "zero1", "zero2", "zero3")


def losses(run):
    keys = (
        "step",
        "loss",
        "generator_loss",
        "discriminator_loss",
        "gradient_norm",
        "discriminator_auc",
        "rows_consumed",
    )
    return [tuple(line[key] for key in keys) for line in metrics(run)]


@pytest.fixture(scope="module")
def undisturbed(tiny_shards, tmp_path_factory):
    """One run of 40 steps on 2 ranks per (stage, precision), made when first asked for."""
    made = {}

    def get(stage, precision):
        if (stage, precision) not in made:
            run = tmp_path_factory.mktemp("runs") / f"{stage}-{precision}"
            options = pretrain_options(
                tiny_shards,
                run,
                deepspeed=stage,
                training__precision=precision,
                training__steps=40,
                training__micro_batch_size=2,
                data__audit="true",
            )
            run_ranks(2, ["pretrain", *options])
            made[stage, precision] = (run, options)
        return made[stage, precision]

    return get


@pytest.mark.parametrize(
    ("stage", "precision"), [*((stage, "bf16") for stage in STAGES), ("zero0", "float32"), ("zero3", "float32")]
)
def test_stopped_and_resumed_logs_the_same_losses_bit_for_bit(undisturbed, tmp_path, stage, precision):
    whole, options = undisturbed(stage, precision)
    options = [option for option in options if not option.startswith("--output")] + [f"--output={tmp_path / 'run'}"]
    run_ranks(2, ["pretrain", *options, "--training.stop_after=33"])
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 34))
    done = run_ranks(2, ["pretrain", *options])
    assert "resumed from" in done.stdout
    assert losses(tmp_path / "run") == losses(whole)
    assert [line["event"] for line in metrics(tmp_path / "run", "event")] == [
        "start",
        "save",
        "stop",
        "resume",
        "save",
        "end",
    ]


def test_all_stages_start_alike_in_float32(undisturbed):
    """Same loss and same gradient norm, with accumulation on; later steps drift apart in the last bits."""
    curves = [losses(undisturbed(stage, "float32")[0])[:5] for stage in ("zero0", "zero1", "zero3")]
    for other in curves[1:]:
        for ours, theirs in zip(curves[0], other, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_world_size_changes_no_row_and_hardly_a_loss(undisturbed, tiny_shards, tmp_path, ranks):
    whole, _ = undisturbed("zero1", "float32")
    micro = {1: 8, 2: 4, 4: 1}[ranks]
    options = pretrain_options(
        tiny_shards,
        tmp_path / "run",
        training__precision="float32",
        training__steps=40,
        training__stop_after=15,
        training__micro_batch_size=micro,
        data__audit="true",
    )
    run_ranks(ranks, ["pretrain", *options])

    ours, theirs = consumed(tmp_path / "run"), consumed(whole)
    assert ours == {step: theirs[step] for step in range(1, 16)}
    for mine, other in zip(losses(tmp_path / "run"), losses(whole), strict=False):
        assert mine == pytest.approx(other, rel=1e-4)


def test_every_row_is_consumed_once_per_epoch(undisturbed):
    run, _ = undisturbed("zero1", "float32")
    rows = []
    for path in sorted((run / "audit").glob("rank-*.jsonl")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            rows += list(zip(line["epochs"], line["rows"], strict=True))
    assert len(rows) == 40 * 8
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("stage", STAGES)
def test_weights_read_from_any_stage_are_the_ones_that_were_trained(undisturbed, stage):
    """float32 weights of a checkpoint, read without ranks, round to what the networks computed with."""
    run, _ = undisturbed(stage, "bf16")
    path = list_checkpoints(run / "checkpoints")[-1]
    state, _ = read_state(path)
    weights = read_weights(path, state)
    assert sum(value.numel() for value in weights.values()) == metrics(run, "event")[0]["parameters"]
    if stage != "zero3":
        module = torch.load(path / "mp_rank_00_model_states.pt", weights_only=False)["module"]
        for name, value in weights.items():
            assert torch.equal(value.to(torch.bfloat16), module[name]), name


def test_metrics_are_complete_and_learning_happens(undisturbed):
    run, _ = undisturbed("zero1", "bf16")
    lines = metrics(run)
    wanted = {
        "step",
        "loss",
        "generator_loss",
        "discriminator_loss",
        "learning_rate",
        "tokens_per_second",
        "data_wait",
        "rows_consumed",
        "tokens_consumed",
        "gradient_norm",
        "discriminator_auc",
        "discriminator_precision",
        "discriminator_recall",
        "generator_accuracy",
    }
    assert wanted <= set(lines[-1])
    assert lines[0]["learning_rate"] == 0
    assert lines[-1]["rows_consumed"] == 320
    assert lines[-1]["generator_loss"] < lines[0]["generator_loss"] - 0.3
    assert all(0 <= line["data_wait"] <= 1 for line in lines)
    held_out = metrics(run, "validation")
    assert held_out[-1]["step"] == 40
    assert 0 < held_out[-1]["discriminator_auc"] < 1
    samples = json.loads((run / "samples.json").read_text())["examples"]
    assert all(len(set(map(len, example.values()))) == 1 for example in samples)
    assert any((run / "tensorboard").iterdir())
    assert "<html" in (run / "report.html").read_text("utf-8")
    assert (run / "checkpoints" / "latest").read_text() == "step-00000040\n"


def test_phases_of_two_lengths_in_one_run_resume_across_the_border(tiny_shards, tmp_path):
    phases = '[{"share": 0.5, "sequence_length": 32}, {"share": 0.5, "sequence_length": 64, "micro_batch_size": 2}]'
    common = {"training__steps": 12, "training__phases": phases}
    run_ranks(1, ["pretrain", *pretrain_options(tiny_shards, tmp_path / "whole", **common)])
    for stop in (4, 8, 12):
        options = pretrain_options(tiny_shards, tmp_path / "cut", **common, training__stop_after=stop)
        run_ranks(1, ["pretrain", *options])
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    tokens = [line["tokens_consumed"] for line in metrics(tmp_path / "whole")]
    assert tokens[5] <= 6 * 8 * 32
    assert tokens[11] - tokens[5] > 6 * 8 * 60


def test_dropout_resumes_exactly_too(tiny_shards, tmp_path):
    common = {"model__dropout": 0.1, "training__steps": 10}
    run_ranks(2, ["pretrain", *pretrain_options(tiny_shards, tmp_path / "whole", **common)])
    run_ranks(2, ["pretrain", *pretrain_options(tiny_shards, tmp_path / "cut", **common, training__stop_after=6)])
    run_ranks(2, ["pretrain", *pretrain_options(tiny_shards, tmp_path / "cut", **common)])
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_mpirun_starts_the_same_command(tiny_shards, tmp_path):
    options = pretrain_options(tiny_shards, tmp_path / "run", training__steps=4)
    run_ranks(2, ["pretrain", *options], launcher="mpirun")
    start = metrics(tmp_path / "run", "event")[0]
    assert (start["world_size"], start["launcher"]) == (2, "mpirun")
    assert metrics(tmp_path / "run")[-1]["rows_consumed"] == 32


def test_lines_of_a_lost_life_are_kept_aside(tiny_shards, tmp_path):
    options = pretrain_options(tiny_shards, tmp_path / "run", training__steps=8)
    run_ranks(1, ["pretrain", *options, "--training.stop_after=4"])
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 5, "loss": 1.0}\n{"kind": "tr')  # what a killed life leaves
    run_ranks(1, ["pretrain", *options])
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 9))
    assert (tmp_path / "run" / "metrics.discarded.jsonl").read_text().count("\n") == 2
