"""Each mistake gets one clear error, status 2, and loses nothing."""

import json
import shutil
import sys

import pytest

from electra_ds.checkpoint import list_checkpoints
from tests.conftest import metrics, pretrain_options, run_ranks

pytestmark = pytest.mark.ranks


@pytest.fixture
def shards(tiny_shards, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny_shards, tmp_path / "shards")


def refused(arguments, *fragments, ranks=1, **extra):
    done = run_ranks(ranks, arguments, check=False, launcher="mpirun", **extra)
    assert done.returncode == 2, done.stdout
    assert done.stdout.count("electra-ds: error:") == 1, done.stdout
    assert "Traceback" not in done.stdout
    for fragment in fragments:
        assert fragment in done.stdout, done.stdout
    return done.stdout


def test_a_folder_without_shards(tmp_path):
    refused(["pretrain", *pretrain_options(tmp_path / "nothing", tmp_path / "run")], "nothing", "electra-ds prep")


def test_an_output_folder_that_holds_something_else(shards, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    refused(["pretrain", *pretrain_options(shards, tmp_path / "run")], "holds something else (thesis.tex)")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def damage(path, position=-100):
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "action", "fragments"),
    [
        ("train-000000.tar", "delete", ("train-000000.tar: missing", "rerun prep")),
        ("train-000000.tar", "cut", ("train-000000.tar", "bytes, the manifest says")),
        ("train-000000.idx", "delete", ("train-000000.idx", "rerun prep")),
        ("train-000000.idx", "flip", ("train-000000.idx", "checksum does not match")),
        ("manifest.json", "cut", ("manifest.json", "cannot be read")),
        ("tokenizer/tokenizer.json", "flip", ("tokenizer", "not those the shards were made with")),
    ],
)
def test_missing_and_altered_files_of_a_shard_set(shards, tmp_path, name, action, fragments):
    path = shards / name
    if action == "delete":
        path.unlink()
    elif action == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        damage(path)
    refused(["pretrain", *pretrain_options(shards, tmp_path / "run")], *fragments)


def test_a_byte_flipped_inside_a_block_names_shard_block_and_offset(shards, tmp_path):
    for path in shards.glob("train-*.tar"):
        for position in range(700, path.stat().st_size, 3000):
            damage(path, position)
    refused(["pretrain", *pretrain_options(shards, tmp_path / "run")], ".tar block ", "at offset", "CRC-32")


def test_an_edited_manifest_is_noticed(shards, tmp_path):
    path = shards / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["tokenizer"]["vocab_size"] += 1
    path.write_text(json.dumps(manifest))
    refused(["pretrain", *pretrain_options(shards, tmp_path / "run")], "altered after it was written")


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"model__vocab_size": 500}, ("model.vocab_size=500", "has 1000 entries")),
        ({"training__global_batch_size": 100000}, ("fewer than one global batch of 100000",)),
        ({"training__precision": "fp16"}, ("fp16 needs a GPU", "bf16 or float32")),
        ({"training__device": "cuda"}, ("training.device=cuda", "no GPU")),
        ({"deepspeed": "zero9"}, ("'zero9' is neither a file nor one of the shipped ds_configs", "zero1")),
        ({"logging__wandb_project": "x"}, ("wandb is not installed", "pip install '.[wandb]'")),
    ],
)
def test_settings_that_do_not_fit(shards, tmp_path, change, fragments):
    refused(["pretrain", *pretrain_options(shards, tmp_path / "run", **change)], *fragments)


def test_a_run_that_failed_before_its_first_step_may_be_mended_under_the_same_output(shards, tmp_path):
    run = tmp_path / "run"
    refused(["pretrain", *pretrain_options(shards, run, training__global_batch_size=100000)], "fewer than one global")
    run_ranks(1, ["pretrain", *pretrain_options(shards, run, training__steps=2)])
    assert [line["step"] for line in metrics(run)] == [1, 2]


def test_debug_shows_the_traceback(tmp_path):
    done = run_ranks(1, ["pretrain", *pretrain_options(tmp_path / "none", tmp_path / "run"), "--debug"], check=False)
    assert done.returncode == 2
    assert "Traceback" in done.stdout
    assert "electra-ds: error:" in done.stdout


def test_two_ranks_tell_one_error(shards, tmp_path):
    options = pretrain_options(shards, tmp_path / "run", training__global_batch_size=9)
    refused(["pretrain", *options], "global_batch_size=9 cannot be divided among 2 ranks", "1, 3, 9", ranks=2)


def test_half_set_variables(shards, tmp_path):
    options = pretrain_options(shards, tmp_path / "run")
    refused(["pretrain", *options], "RANK, WORLD_SIZE set but", RANK="0", WORLD_SIZE="2")


@pytest.fixture(scope="module")
def trained(tiny_shards, tmp_path_factory):
    """A run with checkpoints at steps 4 and 8."""
    run = tmp_path_factory.mktemp("trained") / "run"
    options = pretrain_options(tiny_shards, run, training__steps=12, training__stop_after=8, checkpoint__every=4)
    run_ranks(1, ["pretrain", *options])
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-00000004", "step-00000008"]
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run."""
    return shutil.copytree(trained, tmp_path / "run")


def resume(shards, run, **changes):
    return ["pretrain", *pretrain_options(shards, run, **{"training__steps": 12, "checkpoint__every": 4, **changes})]


@pytest.mark.parametrize("action", ["cut", "flip", "delete"])
def test_a_damaged_checkpoint_is_skipped_and_said_and_the_one_before_taken(tiny_shards, run, action):
    path = run / "checkpoints" / "step-00000008" / "mp_rank_00_model_states.pt"
    if action == "delete":
        path.unlink()
    elif action == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    else:
        damage(path, 2000)
    done = run_ranks(1, resume(tiny_shards, run))
    assert "skipped: checkpoint" in done.stdout
    assert "mp_rank_00_model_states.pt" in done.stdout
    assert "at step 4" in done.stdout
    assert [line["step"] for line in metrics(run)] == list(range(1, 13))


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(tiny_shards, run):
    for path in run.glob("checkpoints/*/checkpoint.json"):
        path.write_text("{")
    refused(resume(tiny_shards, run), "none of its 2 checkpoints is whole")


def test_other_settings_under_the_same_output(tiny_shards, run):
    refused(resume(tiny_shards, run, model__layers=3), "model.layers: 2 then, 3 now", "another --output")


def test_a_checkpoint_of_another_model(tiny_shards, run):
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("intermediate_size: 128", "intermediate_size: 256"))
    text = refused(resume(tiny_shards, run, model__intermediate_size=256), "is of another model")
    assert "intermediate_size: 128 there, 256 here" in text


def test_a_checkpoint_of_other_shards(tiny_shards, run, tmp_path, corpus):
    from electra_ds.cli import main

    other = tmp_path / "other"
    options = ["--tokenizer.vocab_size=1000", "--block_tokens=8192", "--validation_fraction=0.1"]
    assert main(["prep", f"--inputs={corpus}", f"--output={other}", *options]) == 0
    refused(resume(other, run), "trained on another shard set", "fingerprint")


def test_a_full_disk_while_saving_leaves_the_earlier_checkpoint_and_goes_on_later(tiny_shards, run):
    """RLIMIT_FSIZE makes the kernel refuse the write, as a full disk does."""
    arguments = resume(tiny_shards, run)
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
    limited += "from electra_ds.cli import main; sys.exit(main(sys.argv[1:]))"
    import subprocess

    from tests.conftest import environment

    done = subprocess.run(
        [sys.executable, "-c", limited, *arguments], env=environment(), text=True, capture_output=True, check=False
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "checkpoint not saved: cannot write" in done.stderr
    assert "MB free" in done.stderr
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["latest", "step-00000004", "step-00000008"]
    run_ranks(1, arguments)
    assert (run / "checkpoints" / "latest").read_text() == "step-00000012\n"


def test_a_checkpoint_that_brings_code_is_refused_without_running_it(tiny_shards, run, tmp_path):
    import hashlib
    import pickle

    import torch

    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = run / "checkpoints" / "step-00000008" / "mp_rank_00_model_states.pt"
    torch.save({"module": Payload()}, path, pickle_module=pickle)
    state = path.parent / "checkpoint.json"
    value = json.loads(state.read_text())
    data = path.read_bytes()
    value["files"][path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    state.write_text(json.dumps(value))
    refused(resume(tiny_shards, run), "refused or damaged", "mp_rank_00_model_states.pt")
    assert not (tmp_path / "ran").exists()
