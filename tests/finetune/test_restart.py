"""What an interrupted run keeps, and stopping early."""

import json
import shutil

import pytest

from electra_ds.cli import main
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.training import evaluation_updates
from tests.finetune.conftest import write_tsv
from tests.finetune.test_kinds import QUICK, finetune


@pytest.fixture
def files(train_file, validation_file):
    return {"train": train_file, "validation": validation_file}


def interrupt(folder):
    """Leave a finished run as a kill before its last step leaves it."""
    found = json.loads((folder / "results.json").read_text())
    best = {
        "seed": found["best"]["seed"],
        "metric": "accuracy",
        "score": found["best"]["scores"]["validation"]["accuracy"],
    }
    (folder / "results.json").unlink()
    (folder / "best.json").write_text(json.dumps(best))
    return found


def scores(found):
    return [(run["seed"], run["scores"], run["loss"]) for run in found["runs"]]


def test_finished_seeds_are_kept_and_the_result_is_that_of_one_run(discriminator, files, tmp_path, capsys):
    options = {**files, "seeds": 3, "epochs": 2}
    whole = finetune(discriminator, tmp_path / "whole", **options)
    finetune(discriminator, tmp_path / "cut", **options)
    interrupt(tmp_path / "cut")
    last = max(run["seed"] for run in whole["runs"] if run["seed"] != whole["best"]["seed"])
    (tmp_path / "cut" / f"seed-{last}" / "run.json").unlink()
    before = {seed: (tmp_path / "cut" / f"seed-{seed}" / "run.json").stat().st_mtime_ns for seed in {0, 1, 2} - {last}}
    capsys.readouterr()
    again = finetune(discriminator, tmp_path / "cut", **options)
    assert capsys.readouterr().out.count("kept from the interrupted run") == 2
    assert scores(again) == scores(whole) and again["best"]["seed"] == whole["best"]["seed"]
    for seed, changed in before.items():
        assert (tmp_path / "cut" / f"seed-{seed}" / "run.json").stat().st_mtime_ns == changed, "not run again"
    ours, theirs = (tmp_path / name / "model" / "model.safetensors" for name in ("cut", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_best_seed_runs_again_where_its_model_was_not_saved(discriminator, files, tmp_path, capsys):
    options = {**files, "seeds": 2, "epochs": 2}
    finetune(discriminator, tmp_path / "cut", **options)
    whole = interrupt(tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "model")
    capsys.readouterr()
    again = finetune(discriminator, tmp_path / "cut", **options)
    assert "kept" not in capsys.readouterr().out
    assert scores(again) == scores(whole) and (tmp_path / "cut" / "model" / "config.json").is_file()


def test_seeds_of_other_settings_or_texts_are_not_mixed_in(discriminator, files, tmp_path, capsys):
    options = {**files, "seeds": 1, "epochs": 1}
    finetune(discriminator, tmp_path / "cut", **options)
    interrupt(tmp_path / "cut")

    def refused(**changes):
        given = {"model": discriminator, "output": tmp_path / "cut", **QUICK, **options, **changes}
        assert main(["finetune", *(f"--{name}={value}" for name, value in given.items())]) == 2
        return capsys.readouterr().err

    assert "other settings (epochs was 1.0, is 2.0)" in refused(epochs=2)
    write_tsv(files["train"], [("the cat", "animal"), ("the soup", "food")])
    assert "with other data; choose another --output" in refused()


def test_seeds_can_be_added_to_an_interrupted_run_but_not_forgotten(discriminator, files, tmp_path, capsys):
    finetune(discriminator, tmp_path / "cut", **files, seeds=1, epochs=1)
    interrupt(tmp_path / "cut")
    found = finetune(discriminator, tmp_path / "cut", **files, seeds=2, epochs=1)
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    interrupt(tmp_path / "cut")
    words = {"model": discriminator, "output": tmp_path / "cut", **QUICK, **files, "seeds": 1, "epochs": 1}
    assert main(["finetune", *(f"--{name}={value}" for name, value in words.items())]) == 2
    assert "finished runs that these settings leave out (seed 1)" in capsys.readouterr().err


def test_early_stop_keeps_the_weights_of_the_best_evaluation(discriminator, files, tmp_path):
    options = {**files, "epochs": 20, "evaluations_per_epoch": 1, "patience": 2, "learning_rate": 0.02}
    run = finetune(discriminator, tmp_path / "ft", **options)["runs"][0]
    seen = {entry["update"]: entry["accuracy"] for entry in run["evaluations"]}
    assert list(seen) == [6 * epoch for epoch in range(1, len(seen) + 1)], "96 texts, batches of 16"
    best = max(seen.values())
    assert run["best_update"] == next(update for update, score in seen.items() if score == best)
    assert run["scores"]["validation"]["accuracy"] == best
    assert run["updates"] == max(seen) < 120, "stopped"
    assert list(seen.values())[-2:] != [best, best] or len(seen) == 20
    assert run["updates"] == run["best_update"] + 2 * 6


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "expected"),
    [(2, 1, {4, 8}), (2, 2, {2, 4, 6, 8}), (1, 3, {1, 3, 4}), (0.5, 1, {2}), (1.25, 1, {4, 5}), (1, 0, set())],
)
def test_evaluations_are_spread_over_each_epoch_and_end_with_the_last_update(epochs, per_epoch, expected):
    config = FinetuneConfig(
        model="m", train="t", validation="v", output="o", epochs=epochs, batch_size=16, evaluations_per_epoch=per_epoch
    )
    assert evaluation_updates(64, config) == expected
