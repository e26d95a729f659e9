"""``electra-ds plan`` as it is typed."""

import json
import subprocess
import sys

import pytest

from electra_ds.cli import main
from tests.plan.conftest import SIZES


def options(**changes):
    given = {**SIZES, "model.vocab_size": 1000, "ranks": 2, "training.steps": 100, "gpu": "a100", **changes}
    return ["plan", "--config=small", *(f"--{name.replace('__', '.')}={value}" for name, value in given.items())]


def planned(tmp_path, capsys, status=0, **changes):
    file = tmp_path / "new" / "plan.json"
    assert main([*options(**changes), f"--json={file}"]) == status
    return json.loads(file.read_text("utf-8")), capsys.readouterr().out


def test_it_prints_memory_traffic_time_and_checkpoints_of_every_stage(tmp_path, capsys):
    plan, text = planned(tmp_path, capsys)
    assert list(plan["run"]) == ["zero0", "zero1", "zero2", "zero3"]
    for wanted in (
        "Memory of a rank",
        "largest that fits",
        "sent by a rank",
        "node-hours",
        "a checkpoint (GB)",
        "fits",
    ):
        assert wanted in text
    (phase,) = plan["phases"]
    assert (phase["global_batch"], phase["micro_batch"], phase["accumulation"], phase["steps"]) == (8, 4, 1, 100)
    for stage in phase["stages"].values():
        assert sum(stage["parts"].values()) == pytest.approx(stage["total"])
        assert stage["largest_micro_batch"] == 4
        assert stage["by_micro_batch"]["4"] == stage["total"]
    assert plan["tokens"] == 100 * 8 * 32
    assert "estimate" in text


def test_a_stated_rate_gives_the_time(tmp_path, capsys):
    plan, text = planned(tmp_path, capsys, tokens_per_second=1000, latency_us=0, link_gb_per_second=1e6)
    assert plan["run"]["zero1"]["gpu_hours"] == pytest.approx(plan["tokens"] / 1000 / 3600, rel=1e-3)
    assert "stated" in text


def test_the_rate_of_a_run_is_read_from_its_metrics(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"kind": "event", "event": "start", "step": 0, "world_size": 4}]
    lines += [{"kind": "train", "step": step, "tokens_per_second": 400.0 + step} for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    plan, text = planned(tmp_path, capsys, like=run)
    assert plan["phases"][0]["rate"]["tokens_per_second"] == 402 / 4
    assert len({round(stage["hours"], 9) for stage in plan["run"].values()}) == 1  # communication is in the rate
    assert "measured" in text


def test_phases_are_planned_each(tmp_path, capsys):
    phases = "[{share: 0.9, sequence_length: 32}, {share: 0.1, sequence_length: 64, micro_batch_size: 2}]"
    plan, _ = planned(tmp_path, capsys, training__phases=phases)
    assert [(part["steps"], part["sequence_length"], part["micro_batch"]) for part in plan["phases"]] == [
        (90, 32, 4),
        (10, 64, 2),
    ]


def test_the_vocabulary_comes_from_the_shards(tmp_path, capsys, tiny_shards):
    given = [argument for argument in options(data__path=tiny_shards) if "vocab_size" not in argument]
    assert main([*given, f"--json={tmp_path / 'plan.json'}"]) == 0
    found = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    manifest = json.loads((tiny_shards / "manifest.json").read_text("utf-8"))
    assert found["vocab_size"] == manifest["tokenizer"]["vocab_size"]
    capsys.readouterr()
    assert main([argument for argument in options() if "vocab_size" not in argument]) == 0
    assert "a vocabulary of 30,522 entries was taken" in capsys.readouterr().out


def test_what_does_not_fit_is_said_and_shows_in_the_status(tmp_path, capsys):
    plan, text = planned(tmp_path, capsys, status=1, memory_gb=0.001, reserved_gb=0)
    assert plan["phases"][0]["stages"]["zero1"]["largest_micro_batch"] is None
    assert "NO" in text and "none" in text


def test_a_deepspeed_file_of_ones_own_is_planned_too(tmp_path, capsys):
    file = tmp_path / "own.json"
    file.write_text('{"zero_optimization": {"stage": 2, "reduce_bucket_size": 5000}}', "utf-8")
    plan, _ = planned(tmp_path, capsys, deepspeed=file)
    assert set(plan["run"]) == {"zero0", "zero1", "zero2", "zero3", str(file)}
    own, shipped = (plan["phases"][0]["stages"][name] for name in (str(file), "zero2"))
    assert own["total"] < shipped["total"]
    offloaded, _ = planned(tmp_path, capsys, deepspeed="zero3_offload")
    stages = offloaded["phases"][0]["stages"]
    assert stages["zero3_offload"]["host_bytes"] > 0
    assert stages["zero3_offload"]["total"] < stages["zero3"]["total"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ranks": 3}, "these counts of ranks divide it: 1, 2, 4, 8"),
        ({"nodes": 2, "ranks": 5}, "leave one of them out"),
        ({"gpu": "h10"}, "did you mean 'h100'"),
        ({"mfu": 1.5}, "must lie in (0, 1]"),
        ({"link_gb_per_second": 0}, "must be above 0"),
        ({"like": "nowhere"}, "name a run folder of pretrain"),
        ({"like": "run", "tokens_per_second": 5}, "give one of them"),
        ({"deepspeed": "zero9"}, "zero1"),
        ({"rank": 3}, "did you mean 'ranks'"),
    ],
)
def test_mistakes_are_named_with_what_to_do(changes, said, capsys):
    assert main(options(**changes)) == 2
    assert said in capsys.readouterr().err


def test_a_vocabulary_that_contradicts_the_shards_is_refused(tiny_shards, capsys):
    assert main(options(data__path=tiny_shards, model__vocab_size=77)) == 2
    assert "leave model.vocab_size null" in capsys.readouterr().err


def test_help_needs_no_torch():
    check = (
        "import sys, contextlib, io\nfrom electra_ds.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['plan', '--help'])\n"
        "print([name for name in ('torch', 'deepspeed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
