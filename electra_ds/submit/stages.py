"""The jobs of a chain: what each asks of Slurm and what it runs. Pure, but for reading the templates."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from electra_ds import resources
from electra_ds.recipe import Recipe, recipe_yaml
from electra_ds.submit.cluster import ClusterConfig
from electra_ds.submit.config import SubmitConfig
from electra_ds.submit.options import Words
from electra_ds.submit.render import cluster_options, render, site_block

SCRIPTS, LOGS = "slurm", "logs"
"""Folders of a run: rendered scripts and the recipe they use; logs of jobs and lives."""
HUGGINGFACE = "hf"
"""Folder of a run where the convert stage writes."""
SCORES = "finetune"
"""Folder of a run where the finetune stage writes."""


@dataclass(frozen=True)
class Request:
    """All that the scripts of one submit are made of."""

    config: SubmitConfig
    cluster: ClusterConfig
    cluster_file: Path | None
    recipe: Recipe
    words: Words
    code: Path
    """Snapshot of the code."""
    lead: int
    """Seconds before the time limit when Slurm signals."""
    folder: Path
    """Working folder of the jobs: the one submit was typed in."""

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.recipe.output)


def stored_recipe(request: Request) -> Recipe:
    """The recipe as its jobs read it: a DeepSpeed file of the user's is a copy in the run folder, under its hash."""
    own = Path(request.recipe.deepspeed)
    if not own.is_absolute():
        return request.recipe
    digest = hashlib.sha256(own.read_bytes()).hexdigest()[:12]
    return replace(request.recipe, deepspeed=str(request.run / SCRIPTS / f"deepspeed-{digest}.json"))


def recipe_path(request: Request) -> Path:
    """Where that recipe lies, under its hash: a later submit does not change what a waiting job will read."""
    digest = hashlib.sha256(recipe_yaml(stored_recipe(request)).encode()).hexdigest()[:12]
    return request.run / SCRIPTS / f"recipe-{digest}.yaml"


def script_path(run: Path, stage: str) -> Path:
    """Where a stage's script lies."""
    return run / SCRIPTS / f"{stage}.sbatch"


def render_stage(request: Request, stage: str) -> str:
    """The script of a stage."""
    template = (resources.folder("slurm") / f"{stage}.sbatch").read_text("utf-8")
    gpus = _gpus(request.config, stage)
    mounts = [str(request.run), str(request.folder)]
    if "://" not in request.recipe.data.path:
        mounts.append(request.recipe.data.path)
    venv = Path(sys.prefix) if sys.prefix != sys.base_prefix else None
    site = site_block(
        request.cluster, request.cluster_file, request.code, venv, request.folder, mounts, gpus,
        mpi=stage == "prep", helper="${helper[@]}" in template,
    )  # fmt: skip
    return render(template, _options(request, stage, gpus), site, _variables(request), _arguments(request, stage))


def job_name(config: SubmitConfig, run: Path, stage: str) -> str:
    """Name of a stage's job."""
    name = config.job_name or "electra-" + re.sub(r"[^\w.-]", "-", run.name)
    return name if config.stage_list == ["pretrain"] else f"{name}-{stage}"


def job_log(run: Path, stage: str, job: str = "%j") -> Path:
    """Log of a stage's job; sbatch fills in %j."""
    return run / LOGS / f"{stage}-{job}.log"


def _gpus(config: SubmitConfig, stage: str) -> int:
    if stage in ("pretrain", "preflight"):
        return config.gpus_per_node
    return min(1, config.gpus_per_node) if stage == "finetune" else 0


def _options(request: Request, stage: str, gpus: int) -> dict[str, str | None]:
    config, cluster = request.config, request.cluster
    cpus = config.cpus_per_task or cluster.cpus_per_task or (8 if config.gpus_per_node else 1)
    log = job_log(Path(str(request.run).replace("%", "%%")), stage)
    options = cluster_options(cluster, gpus)
    options |= {"job-name": job_name(config, request.run, stage), "output": str(log), "chdir": str(request.folder)}
    if stage in ("pretrain", "preflight"):
        options["nodes"] = str(config.nodes + config.spares)
        options["ntasks-per-node"] = str(config.ranks_per_node)
        if stage == "pretrain":
            options["time"] = config.time
            options["signal"] = f"USR2@{request.lead}"
    else:
        options["time"] = config.stage_time or config.time
        if stage == "prep":
            options["nodes"] = str(config.prep_nodes or config.nodes)
            options["ntasks-per-node"] = str(config.prep_tasks_per_node)
            cpus = config.prep_cpus_per_task or cpus
    options["cpus-per-task"] = str(cpus)
    mem = config.mem or cluster.mem
    if mem:
        options |= {"mem": mem, "mem-per-cpu": None}
    return options


def _variables(request: Request) -> dict[str, str]:
    config = request.config
    return {
        "signal_seconds": str(request.lead),
        "max_restarts": str(config.max_restarts),
        "spares": str(config.spares),
        "preflight": "yes" if config.preflight else "no",
    }


def _arguments(request: Request, stage: str) -> list[str]:
    """What the stage's command is told; its own options last but for inputs and outputs, which the chain decides."""
    run, words = request.run, request.words.stages.get(stage, [])
    if stage == "prep":
        return [*words, f"--output={request.recipe.data.path}"]
    if stage == "preflight":
        return [f"--data.path={request.recipe.data.path}", f"--output={run}"]
    if stage == "pretrain":
        return ["--config", str(recipe_path(request))]
    if stage == "convert":
        return [str(run), *convert_words(request)]
    return finetune_words(request)


def convert_words(request: Request) -> list[str]:
    """Options of the convert stage."""
    words = request.words.stages["convert"]
    return [*words, *_default(words, "output", str(request.run / HUGGINGFACE))]


def finetune_words(request: Request) -> list[str]:
    """Options of the finetune stage: on the full-size network that convert wrote."""
    words = request.words.stages["finetune"]
    converted = _given(request.words.stages["convert"], "output") or str(request.run / HUGGINGFACE)
    network = "discriminator" if request.recipe.objective.detects else "encoder"
    return [
        *words,
        *_default(words, "model", os.path.join(converted, network)),
        *_default(words, "output", str(request.run / SCORES)),
    ]


def _given(words: list[str], name: str) -> str | None:
    """Value of the last option of that name."""
    found = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        option, equals, value = word.partition("=")
        if option == f"--{name}":
            found = value if equals else following
    return found


def _default(words: list[str], name: str, value: str) -> list[str]:
    return [] if _given(words, name) is not None else [f"--{name}={value}"]


def output_of(words: list[str]) -> str | None:
    """The --output among a stage's options."""
    return _given(words, "output")
