"""Averages of checkpoints, moving averages, and universal checkpoints become the same folders."""

import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from electra_ds.checkpoint import list_checkpoints, read_state
from electra_ds.cli import main
from electra_ds.errors import UserError
from electra_ds.export.weights import AverageWeights, TensorWeights
from electra_ds.zero_pieces import ZeroPieces, read_weights
from tests.conftest import environment

pytestmark = pytest.mark.ranks


def both(run):
    """Float32 weights at steps 5 and 10."""
    return [read_weights(path, read_state(path)[0]) for path in list_checkpoints(run / "checkpoints")]


def converted(run, output, *options):
    assert main(["convert", str(run), "--output", str(output), "--verify", *options]) == 0
    return load_file(output / "discriminator" / "model.safetensors"), (
        output / "discriminator" / "README.md"
    ).read_text()


WORD, HEAD = "electra.embeddings.word_embeddings.weight", "discriminator_predictions.dense.weight"


@pytest.mark.parametrize("choice", ["2", "5,10"])
def test_the_mean_of_several(choice, runs, tmp_path, capsys):
    run = runs("zero3")
    tensors, card = converted(run, tmp_path / "hf", "--average", choice)
    assert "mean of 2 checkpoints up to step 10" in capsys.readouterr().out
    five, ten = both(run)
    for theirs, ours in ((WORD, "embeddings.word.weight"), (HEAD, "discriminator_head.dense.weight")):
        mean = ((five[ours].double() + ten[ours].double()) / 2).float()
        assert torch.equal(tensors[theirs], mean[: len(tensors[theirs])])
        assert not torch.equal(tensors[theirs], ten[ours][: len(tensors[theirs])])
    assert "the mean of 2 checkpoints: step-00000005, step-00000010" in card


def test_it_is_added_up_in_float64():
    """In float32 the small ones would be lost."""
    values = [1.0, *[2.0**-25] * 8]
    members = [TensorWeights({"one": torch.tensor([value])}) for value in values]
    mean = AverageWeights(members, [str(number) for number in range(9)]).read("one")
    assert mean.item() == torch.tensor((1 + 8 * 2.0**-25) / 9, dtype=torch.float64).float().item()
    assert mean.item() != torch.tensor(1 / 9, dtype=torch.float64).float().item()


def test_checkpoints_of_other_shapes_are_refused():
    members = [TensorWeights({"one": torch.zeros(size)}) for size in (2, 3)]
    with pytest.raises(UserError, match=r"step-b has other parameters than step-a \(one\)"):
        AverageWeights(members, ["step-a", "step-b"])


@pytest.mark.parametrize("stage", ["zero0", "zero1", "zero2", "zero3"])
def test_the_moving_average(stage, runs, tmp_path, capsys):
    run = runs(stage)
    tensors, card = converted(run, tmp_path / "hf", "--weights", "ema")
    assert "(moving average, step 10)" in capsys.readouterr().out
    assert "an exponential moving average of the weights, decay 0.9" in card
    path = list_checkpoints(run / "checkpoints")[-1]
    pieces = ZeroPieces(path, read_state(path)[0])
    assert pieces.ema_updates == 10
    average = pieces.read("discriminator_head.dense.weight", "ema").view(64, 64)
    assert torch.equal(tensors[HEAD], average)
    assert not torch.equal(average, both(run)[1]["discriminator_head.dense.weight"])


def test_a_run_that_kept_no_average_says_so(runs, tmp_path, capsys):
    copy = shutil.copytree(runs("zero1"), tmp_path / "run")
    path = list_checkpoints(copy / "checkpoints")[-1]
    for file in path.glob("ema_*"):
        file.unlink()
    assert main(["convert", str(copy), "--output", str(tmp_path / "hf"), "--weights", "ema", "--step", "10"]) == 2
    assert "ema_rank_00000.pt is missing" in capsys.readouterr().err
    import json

    described = json.loads((path / "checkpoint.json").read_text())
    described["files"] = {name: entry for name, entry in described["files"].items() if not name.startswith("ema_")}
    (path / "checkpoint.json").write_text(json.dumps(described))
    assert main(["convert", str(copy), "--output", str(tmp_path / "hf"), "--weights", "ema", "--step", "10"]) == 2
    assert "holds no moving average; the recipe keeps one with training.ema_decay" in capsys.readouterr().err


@pytest.fixture(scope="module", params=["zero1", "zero3"])
def universal(request, runs, tmp_path_factory):
    """A run, and a universal checkpoint that DeepSpeed's own script made of its last one."""
    run = shutil.copytree(runs(request.param), tmp_path_factory.mktemp("universal") / "run")
    path = list_checkpoints(run / "checkpoints")[-1]
    output = path.with_name(f"{path.name}_universal")
    script = "from electra_ds.backend import import_deepspeed; import_deepspeed(); import sys;"
    script += "from deepspeed.checkpoint.ds_to_universal import main, parse_arguments; main(parse_arguments())"
    options = ["--num_extract_workers=1", "--num_merge_workers=1", "--inject_missing_state"]
    folders = [f"--input_folder={path}", f"--output_folder={output}"]
    done = subprocess.run(
        [sys.executable, "-c", script, *folders, *options],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return run, output


def test_a_universal_checkpoint_gives_the_same_folders(universal, tmp_path):
    run, folder = universal
    theirs, _ = converted(folder, tmp_path / "universal")
    ours, _ = converted(run, tmp_path / "zero")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)


def test_a_universal_checkpoint_elsewhere_needs_its_run(universal, tmp_path, capsys):
    run, folder = universal
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert main(["convert", str(moved), "--output", str(tmp_path / "hf")]) == 2
    assert "without checkpoint.json, which DeepSpeed does not copy" in capsys.readouterr().err
    converted(moved, tmp_path / "hf", "--run", str(run))
    (moved / "zero" / "generator_head.bias" / "fp32.pt").unlink()
    assert main(["convert", str(moved), "--output", str(tmp_path / "again"), "--run", str(run)]) == 2
    assert "zero/generator_head.bias/fp32.pt is missing" in capsys.readouterr().err
    assert main(["convert", str(folder), "--output", str(tmp_path / "again"), "--average", "2"]) == 2
    assert "a universal checkpoint holds one set of weights" in capsys.readouterr().err
