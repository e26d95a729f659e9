"""What an interrupted run keeps, and stopping early."""

import json
import re
import shutil
import subprocess
import sys
import time

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


LONG = {"epochs": 40, "dropout": 0.1, "evaluations_per_epoch": 1, "patience": 39, "threads": 1, "save_steps": 5}


def killed_after(folder, options, update):
    """Run the command in a process of its own and kill it once a checkpoint of this update or a later one is whole."""
    given = {**QUICK, "output": folder, **options}
    words = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()]
    with subprocess.Popen([sys.executable, "-m", "electra_ds", "finetune", *words], stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            # Not rglob, which fails on a folder that is deleted under it.
            found = (folder / "seed-0" / "checkpoints").glob("checkpoint-*/progress.pt")
            whole = [int(path.parent.name.rpartition("-")[2]) for path in found]
            if max(whole, default=0) >= update:
                process.kill()
                break
            time.sleep(0.002)
    assert process.returncode == -9, "it was to be killed in the middle"
    assert not list(folder.rglob("run.json"))
    return max(whole)


def everything(folder):
    """Predictions and weights, byte for byte."""
    files = ["seed-0/predictions.tsv", "model/model.safetensors"]
    return [(folder / name).read_bytes() for name in files]


def test_a_seed_that_was_killed_goes_on_and_gives_what_an_undisturbed_one_gives(discriminator, files, tmp_path, capsys):
    options = {"model": discriminator, **files, **LONG}
    killed = killed_after(tmp_path / "cut", options, 13)
    capsys.readouterr()
    again = finetune(discriminator, tmp_path / "cut", **files, **LONG)
    said = capsys.readouterr().out
    after = int(re.search(r"went on after update (\d+)", said)[1])
    assert after >= killed >= 13 and after % 5 == 0
    whole = finetune(discriminator, tmp_path / "whole", **files, **{**LONG, "save_steps": 1000})
    assert "went on" not in capsys.readouterr().out
    ours, theirs = again["runs"][0], whole["runs"][0]
    for name in ("scores", "loss", "updates", "evaluations", "best_update"):
        assert ours[name] == theirs[name], name
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "cut" / "seed-0").iterdir()) == ["predictions.tsv", "run.json"]


@pytest.fixture
def cut(discriminator, files, tmp_path):
    """The folder of a run that was killed after update 5 or a little later."""
    killed_after(tmp_path / "cut", {"model": discriminator, **files, **LONG}, 5)
    return tmp_path / "cut"


def test_a_checkpoint_that_is_not_whole_is_passed_over(discriminator, files, cut, tmp_path, capsys):
    places = sorted(cut.glob("seed-0/checkpoints/*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [place for place in places if (place / "progress.pt").is_file()]
    shutil.copytree(whole[0], whole[0].with_name("checkpoint-9995"))
    content = (whole[0] / "progress.pt").read_bytes()
    (whole[0].with_name("checkpoint-9995") / "progress.pt").write_bytes(content[: len(content) // 2])
    shutil.copytree(whole[0], whole[0].with_name("checkpoint-9990"))
    (whole[0].with_name("checkpoint-9990") / "progress.pt").unlink()
    options = {"model": discriminator, "output": cut, **QUICK, **files, **LONG, "clip": 0.5}
    assert main(["finetune", *(f"--{name}={value}" for name, value in options.items())]) == 2
    assert whole[0].with_name("checkpoint-9995").is_dir(), "a run that is refused deletes nothing"
    capsys.readouterr()
    found = finetune(discriminator, cut, **files, **LONG)
    assert f"went on after update {whole[-1].name.split('-')[1]}" in capsys.readouterr().out
    assert found["runs"][0]["updates"] == 240


def test_a_checkpoint_of_other_settings_is_refused_and_one_of_another_distance_serves(
    discriminator, files, cut, capsys
):
    given = {"model": discriminator, "output": cut, **QUICK, **files, **LONG, "clip": 0.5}
    assert main(["finetune", *(f"--{name}={value}" for name, value in given.items())]) == 2
    error = capsys.readouterr().err
    assert "is a checkpoint of an interrupted run with other settings; give those" in error and error.count("\n") == 1
    finetune(discriminator, cut, **files, **{**LONG, "save_steps": 7})
    assert "went on after update" in capsys.readouterr().out
    assert not list(cut.rglob("checkpoint*"))


def test_no_checkpoint_is_made_where_none_is_asked_for(discriminator, files, tmp_path):
    finetune(discriminator, tmp_path / "ft", **files, epochs=1)
    assert sorted(path.name for path in (tmp_path / "ft" / "seed-0").iterdir()) == ["predictions.tsv", "run.json"]
