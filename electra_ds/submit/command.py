"""``electra-ds submit``: check, render, write, submit, and say how to follow, stop and resume."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from electra_ds import resources
from electra_ds.command_line import bare_flag, parse
from electra_ds.errors import UserError
from electra_ds.files import atomic_write
from electra_ds.recipe import RECIPE_NAME, Recipe, recipe_yaml
from electra_ds.submit import checks
from electra_ds.submit.cluster import read_cluster
from electra_ds.submit.config import SubmitConfig
from electra_ds.submit.lead import read_measured, signal_lead
from electra_ds.submit.options import SWITCHES, Words, sort_words
from electra_ds.submit.snapshot import code_hash, snapshot_path, take_snapshot
from electra_ds.submit.stages import (
    HUGGINGFACE,
    LOGS,
    SCORES,
    SCRIPTS,
    Request,
    convert_words,
    finetune_words,
    job_log,
    output_of,
    recipe_path,
    render_stage,
    script_path,
    stored_recipe,
)
from electra_ds.training.command import prepare_folder

SUBMITTED_NAME = "submitted.log"
"""What was submitted when, a line for each job, beside the scripts."""


def main(arguments: list[str], program: str) -> int:
    """Submit; return the exit status."""
    if any(argument in ("-h", "--help") for argument in arguments):
        parse(SubmitConfig, ["--help"], program)
    words = sort_words(arguments)
    config = parse(SubmitConfig, _switches(words.submit), program)
    request, digest = _request(config, words)
    _check(request, program)
    scripts = {stage: render_stage(request, stage) for stage in config.stage_list}
    if config.dry_run:
        for stage, script in scripts.items():
            print(f"# ---- {script_path(request.run, stage)}\n{script}")
        print(_dry(request))
        return 0
    checks.check_slurm()
    _write(request, digest, scripts)
    jobs = _submit(request)
    print(_how_to(request, jobs))
    return 0


def _request(config: SubmitConfig, words: Words) -> tuple[Request, str]:
    """Read recipe and cluster file; nothing is written."""
    if any(name.startswith("SLURM_HET_") for name in os.environ):
        raise UserError("inside a heterogeneous job (SLURM_HET_* is set): not supported; submit from outside of it")
    makes_shards = "prep" in config.stage_list
    recipe = checks.read_whole_recipe(words.recipe, output_of(words.stages["prep"]), makes_shards)
    cluster, file = read_cluster(config.cluster)
    lead = config.signal_seconds or signal_lead(read_measured(Path(recipe.output) / "metrics.jsonl"))
    digest = code_hash()
    recipe = _with_own_deepspeed(recipe)
    code = snapshot_path(Path(recipe.output), digest)
    return Request(config, cluster, file, recipe, words, code, lead, Path.cwd()), digest


def _with_own_deepspeed(recipe: Recipe) -> Recipe:
    """A DeepSpeed file of the user's is copied beside the scripts, and named there."""
    found = resources.find("ds_configs", recipe.deepspeed, ".json")
    if found.absolute() == Path(recipe.deepspeed).absolute():
        return replace(recipe, deepspeed=str(found.absolute()))
    return recipe


def _check(request: Request, program: str) -> None:
    config, recipe = request.config, request.recipe
    for stage, given in request.words.stages.items():
        if given and stage not in config.stage_list:
            raise UserError(f"{given[0].replace('--', f'--{stage}.', 1)}: there is no {stage} stage; see --stages")
    checks.check_run(recipe)
    if "pretrain" in config.stage_list:
        checks.check_training(config, recipe, request.lead, "prep" in config.stage_list)
    if "convert" in config.stage_list:
        from electra_ds.export.command import ConvertConfig, spell_options

        given = spell_options(convert_words(request))
        converted = parse(ConvertConfig, [f"--path={request.run}", *given], f"{program} (convert)")
        assert converted.output is not None  # `convert_words` names it
        checks.check_new(Path(converted.output), "convert")
    if "finetune" in config.stage_list:
        from electra_ds.finetune.config import FinetuneConfig

        tuned = parse(FinetuneConfig, finetune_words(request), f"{program} (finetune)")
        checks.check_new(Path(tuned.output), "finetune")
    if note := checks.sharing_note(request.run, config.nodes):
        print(note, file=sys.stderr)


def _write(request: Request, digest: str, scripts: dict[str, str]) -> None:
    """Put recipe, code and scripts into the run folder."""
    run, stored = request.run, stored_recipe(request)
    prepare_folder(stored)
    for name in (SCRIPTS, LOGS):
        (run / name).mkdir(exist_ok=True)
    take_snapshot(run, digest)
    if stored.deepspeed != request.recipe.deepspeed and not Path(stored.deepspeed).exists():
        shutil.copyfile(request.recipe.deepspeed, stored.deepspeed)
    with atomic_write(recipe_path(request), "w") as file:
        file.write(recipe_yaml(stored))
    for stage, script in scripts.items():
        with atomic_write(script_path(run, stage), "w") as file:
            file.write(script)


def _submit(request: Request) -> dict[str, str]:
    """Submit stage after stage, each waiting for the one before; return the jobs' ids by stage."""
    jobs: dict[str, str] = {}
    for stage in request.config.stage_list:
        command = ["sbatch", "--parsable"]
        if jobs:
            command += [f"--dependency=afterok:{list(jobs.values())[-1]}", "--kill-on-invalid-dep=yes"]
        command.append(str(script_path(request.run, stage)))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            withdrawn = f" (withdrawn again: {' '.join(jobs.values())})" if jobs else ""
            if jobs:
                subprocess.run(["scancel", *jobs.values()], check=False)
            raise UserError(f"{shlex.join(command)}: {' '.join(done.stderr.split())}; nothing is submitted{withdrawn}")
        jobs[stage] = done.stdout.strip().split(";")[0]
        with open(request.run / SCRIPTS / SUBMITTED_NAME, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {stage} {jobs[stage]} {request.code.name}\n")
    return jobs


def _how_to(request: Request, jobs: dict[str, str]) -> str:
    """What was submitted, and what to type next."""
    run, quoted = request.run, shlex.quote(str(request.run))
    lines = [f"submitted {stage}: job {job}" for stage, job in jobs.items()]
    first = next(iter(jobs))
    shown = "pretrain" if "pretrain" in jobs else first
    lines += [
        f"scripts  {run / SCRIPTS}, code {request.code}",
        f"follow   tail -F {shlex.quote(str(job_log(run, shown, jobs[shown])))}",
        f"         squeue -j {','.join(jobs.values())}",
    ]
    if "pretrain" in jobs:
        lines += [
            f"         ranks' logs: {run / LOGS / jobs['pretrain']}.0/rank-00000.log and so on",
            f"stop     touch {quoted}/STOP      (saves and ends)",
            f"         scancel {' '.join(jobs.values())}      (ends now; the newest checkpoint stays)",
            f"resume   {_again(request)}",
            f"signal   {_lead_line(request)}",
        ]
    if "convert" in jobs:
        lines.append(f"model    {output_of(request.words.stages['convert']) or run / HUGGINGFACE}")
    if "finetune" in jobs:
        lines.append(f"scores   {output_of(request.words.stages['finetune']) or run / SCORES}/results.json")
    return "\n".join(lines)


def _again(request: Request) -> str:
    """The command that goes on with a run after its job has ended."""
    config = request.config
    words = ["electra-ds", "submit", "--config", str(request.run / RECIPE_NAME), "--nodes", str(config.nodes)]
    for name in ("gpus_per_node", "tasks_per_node", "cpus_per_task", "mem", "time", "cluster", "spares"):
        if (value := getattr(config, name)) not in (None, 0):
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def _lead_line(request: Request) -> str:
    if request.config.signal_seconds:
        how = "as asked"
    elif read_measured(request.run / "metrics.jsonl").save is None:
        how = "nothing measured yet; a later submit of this run goes by its own step and save times"
    else:
        how = "from this run's own step, validation and save times"
    return f"USR2 {request.lead} s before the time limit ({how})"


def _dry(request: Request) -> str:
    stages = ", ".join(request.config.stage_list)
    return f"# dry run: {stages}; nothing written, nothing submitted. {_lead_line(request)}"


def _switches(words: Sequence[str]) -> list[str]:
    given = list(words)
    for switch in SWITCHES:
        given = bare_flag(given, switch)
    return given
