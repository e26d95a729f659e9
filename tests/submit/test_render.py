"""Scripts that submit renders from the shipped ones: what they say, and that they are sound shell."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from electra_ds import resources
from electra_ds.model.config import ObjectiveConfig
from electra_ds.submit.cluster import ClusterConfig, ContainerConfig, NetworkConfig, read_cluster
from electra_ds.submit.command import _request
from electra_ds.submit.config import STAGES, SubmitConfig
from electra_ds.submit.options import sort_words
from electra_ds.submit.render import render
from electra_ds.submit.stages import Request, render_stage

SLURM = resources.folder("slurm")
CHAIN = "prep,preflight,pretrain,convert,finetune"
WORDS = [
    *("--config", "small", "--prep.inputs", "/texts/it's & $x*.jsonl", "--convert.verify", "true"),
    *("--finetune.train", "a b.tsv", "--finetune.validation", "v.tsv"),
]
CONTAINERS = {
    "none": ContainerConfig(),
    "apptainer": ContainerConfig(
        kind="apptainer", image="/images/e d.sif", mounts=["/data:/d"], options=["--cleanenv"]
    ),
    "pyxis": ContainerConfig(kind="pyxis", image="/images/e.sqsh", mounts=["/data"], options=["--container-writable"]),
}


def request_of(output: Path, config: SubmitConfig | None = None, **changes: object) -> Request:
    config = config or SubmitConfig(stages=CHAIN, nodes=4, gpus_per_node=4)
    shards = [] if "prep" in config.stages else ["--data.path", "/shards"]
    request, _ = _request(config, sort_words([*WORDS, "--output", str(output), *shards]))
    return Request(**{**vars(request), **changes})


def check_shell(script: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here")
    done = subprocess.run(["shellcheck", "-"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def sbatch_options(script: str) -> dict[str, str]:
    """Name to value; an option that stands there twice fails."""
    pairs = [line[len("#SBATCH --") :].partition("=") for line in script.splitlines() if line.startswith("#SBATCH")]
    names = [name for name, _, _ in pairs]
    assert len(set(names)) == len(names)
    return {name: value.partition("  #")[0].strip() for name, _, value in pairs}


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_script_is_sound_shell_in_every_container(stage, kind, tmp_path):
    cluster = ClusterConfig(
        container=CONTAINERS[kind], modules=["a/1", "b"], setup=["ulimit -n 65536"], scratch="/scratch/$USER",
        network=NetworkConfig(interface="ib0", environment={"NCCL_DEBUG": "WARN now"}), sbatch=["--exclusive"],
    )  # fmt: skip
    script = render_stage(request_of(tmp_path / "a run", cluster=cluster), stage)
    check_shell(script)
    assert ("apptainer exec" in script) == (kind == "apptainer")
    assert ("--container-image=/images/e.sqsh" in script) == (kind == "pyxis")


@pytest.mark.parametrize("example", ["cluster-gpu", "cluster-cpu"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_shipped_examples_are_read_and_give_sound_shell(stage, example, tmp_path):
    cluster, file = read_cluster(str(SLURM / f"{example}.yaml"))
    config = SubmitConfig(stages=CHAIN, nodes=2, gpus_per_node=4 if example == "cluster-gpu" else 0)
    script = render_stage(request_of(tmp_path / "run", config, cluster=cluster, cluster_file=file), stage)
    check_shell(script)
    options = sbatch_options(script)
    assert options["account"] == "myproject"
    assert ("gpus-per-node" in options) == (example == "cluster-gpu" and stage in ("preflight", "pretrain", "finetune"))


def test_numbers_of_a_gpu_job(tmp_path):
    config = SubmitConfig(stages=CHAIN, nodes=8, gpus_per_node=4, spares=1, time="2:00:00", max_restarts=7)
    script = render_stage(request_of(tmp_path / "run", config, lead=210), "pretrain")
    options = sbatch_options(script)
    assert options["nodes"] == "9"
    assert options["ntasks-per-node"] == options["gpus-per-node"] == "4"
    assert options["cpus-per-task"] == "8"
    assert options["signal"] == "USR2@210"
    assert options["open-mode"] == "append"
    assert "requeue" in options
    assert options["output"] == f"{tmp_path}/run/logs/pretrain-%j.log"
    for line in ("signal_seconds=210", "max_restarts=7", "spares=1", "preflight=yes"):
        assert f"\n{line}\n" in script


def test_a_cpu_job_has_a_task_a_node_unless_told_otherwise(tmp_path):
    config = SubmitConfig(nodes=2, preflight=False)
    options = sbatch_options(render_stage(request_of(tmp_path / "run", config), "pretrain"))
    assert (options["ntasks-per-node"], options["cpus-per-task"]) == ("1", "1")
    assert "gpus-per-node" not in options
    config = SubmitConfig(nodes=2, tasks_per_node=2, cpus_per_task=16, mem="64G")
    options = sbatch_options(render_stage(request_of(tmp_path / "run", config), "pretrain"))
    assert (options["ntasks-per-node"], options["cpus-per-task"], options["mem"]) == ("2", "16", "64G")


def test_a_gres_request_replaces_the_templates_own(tmp_path):
    cluster = ClusterConfig(gpu_request="--gres=gpu:a100:{count}")
    options = sbatch_options(render_stage(request_of(tmp_path / "run", cluster=cluster), "pretrain"))
    assert options["gres"] == "gpu:a100:4"
    assert "gpus-per-node" not in options


def test_stages_hand_on_what_they_make(tmp_path):
    run = tmp_path / "run"
    request = request_of(run)
    lines = {
        stage: next(line for line in render_stage(request, stage).splitlines() if line.startswith("set -- "))
        for stage in STAGES
    }
    assert lines["prep"].endswith(f'--output={run}/shards "$@"')
    assert "'/texts/it'\"'\"'s & $x*.jsonl'" in lines["prep"]
    assert re.fullmatch(rf'set -- --config {run}/slurm/recipe-[0-9a-f]{{12}}\.yaml "\$@"', lines["pretrain"])
    assert f"set -- {run} --verify true --output={run}/hf" in lines["convert"]
    assert f"--model={run}/hf/discriminator --output={run}/finetune" in lines["finetune"]
    restores = dataclasses.replace(request.recipe, objective=ObjectiveConfig(name="mlm"))
    script = render_stage(dataclasses.replace(request, recipe=restores), "finetune")
    assert f"--model={run}/hf/encoder --output={run}/finetune" in script


def test_the_baked_arguments_reach_the_command_as_they_were(tmp_path):
    words = ["--a", "it's", "b c", "$HOME", "*", 'quote"d', ""]
    template = "#!/bin/bash\n#SBATCH --nodes=1\n# site\nx=1\n# end of site\nprintf '<%s>' \"$@\"\n"
    script = render(template, {}, [], {}, words)
    done = subprocess.run(["bash", "-c", script, "script", "more"], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"<{word}>" for word in [*words, "more"])


def test_a_shared_copy_of_the_code_comes_before_all_others(tmp_path):
    script = render_stage(request_of(tmp_path / "run"), "pretrain")
    assert f"export PYTHONPATH={tmp_path}/run/code/" in script
    assert "PYTHONSAFEPATH=1" in script


def test_every_template_has_its_site_block_and_no_second_copy():
    assert {path.stem for path in SLURM.glob("*.sbatch")} == set(STAGES)
    for path in SLURM.glob("*.sbatch"):
        text = path.read_text("utf-8")
        assert text.count("\n# site") == 1
        assert text.count("\n# end of site\n") == 1
