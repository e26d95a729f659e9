"""Objectives at equal FLOPs: pretrain each with several seeds, fine-tune every model on the same tasks, tabulate.

Every step is a command of `electra-ds`, run in a process of one thread, several at a time. What is finished is kept:
after an interruption the same command goes on, with a run from its last checkpoint.

    python experiments/objectives/run.py --corpus 'corpus/*-en.jsonl.zst' --tasks tasks --work runs/objectives

copies the small files that the results stand on into --keep, and writes tables and drawings of them there (results.py).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import results

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "recipe.yaml"
OBJECTIVES = ("electra", "mlm", "replace_mlm", "all_tokens_mlm", "electra_15")
FINETUNING = ("--layer_decay=1.0", "--dropout=0.1", "--both_orders=false")
"""A network this small needs no layer-wise decay. The usual epochs, each pair in one order."""
NETWORK = {"electra": "discriminator", "electra_15": "discriminator"}


def main() -> None:
    """Do what is not done yet, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="files of `electra-ds prep --inputs`")
    parser.add_argument("--tasks", required=True, type=Path, help="folder with a folder for each task")
    parser.add_argument("--work", required=True, type=Path, help="folder for shards, runs and results")
    parser.add_argument("--keep", type=Path, default=None, help="folder for recipes, metrics and scores (WORK/results)")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="what all runs have in common (recipe.yaml)")
    parser.add_argument("--steps", type=int, default=3000, help="of electra; the others get as many FLOPs")
    parser.add_argument("--seeds", type=int, default=3, help="of pretraining")
    parser.add_argument("--finetuning-seeds", type=int, default=3, help="of fine-tuning, for each model")
    parser.add_argument("--finetuning-rates", default="1e-3", help="each model has all of them; the best counts")
    parser.add_argument("--only-keep", action="store_true", help="train nothing: keep and tabulate what is finished")
    parser.add_argument("--objectives", default=",".join(OBJECTIVES), help="with commas between")
    parser.add_argument("--vocabulary", type=int, default=8192, help="entries")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="commands at a time")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    shards = options.work / "shards"
    if not (shards / "manifest.json").is_file():
        run(
            options.work / "prep.log",
            *("prep", f"--inputs={options.corpus}", f"--output={shards}", "--validation_fraction=0.02"),
            *("--tokenizer.type=wordpiece", f"--tokenizer.vocab_size={options.vocabulary}"),
        )
    names = options.objectives.split(",")
    steps = equal_flops(options.recipe, names, options.steps, options.vocabulary)
    models = [(name, seed) for seed in range(options.seeds) for name in names]
    if options.only_keep:
        models = [(name, seed) for name, seed in models if (options.work / f"{name}-{seed}" / "hf").is_dir()]
        whole = sum(bool(whole_rates(options.work / f"{name}-{seed}", options)) for name, seed in models)
        print(f"finished: {len(models)} pretrained, {whole} of them fine-tuned on every task")
    else:
        train(options, models, steps)
    folder = options.keep or options.work / "results"
    keep(options, models, folder)
    results.write(folder)
    print(folder / "results.md")


def train(options: argparse.Namespace, models: list[tuple[str, int]], steps: dict[str, int]) -> None:
    """Pretrain what is not pretrained, fine-tune what is not fine-tuned."""
    with ThreadPoolExecutor(options.processes) as pool:
        for done in pool.map(lambda model: pretrained(options, model[0], model[1], steps[model[0]]), models):
            print(done, flush=True)
        finetuning = [*models, (results.FLOOR, 0)]
        rates = options.finetuning_rates.split(",")
        jobs = [(task, rate, *model) for rate in rates for model in finetuning for task in results.TASKS]
        for done in pool.map(lambda job: finetuned(options, *job), jobs):
            print(done, flush=True)


def whole_rates(folder: Path, options: argparse.Namespace) -> list[str]:
    """The rates at which a model is fine-tuned on every task."""
    rates = options.finetuning_rates.split(",")
    return [rate for rate in rates if all((folder / f"{task}-{rate}/results.json").is_file() for task in results.TASKS)]


def run(log: Path, *arguments: str) -> None:
    """Run a command of `electra-ds` on one thread.

    Raises:
        RuntimeError: it failed; says where its output lies.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, "-m", "electra_ds", *arguments],
            stdout=file, stderr=subprocess.STDOUT, env=environment, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"electra-ds {arguments[0]} ended with {done.returncode}: see {log}")


def equal_flops(common: Path, names: list[str], steps: int, vocabulary: int) -> dict[str, int]:
    """Steps of each objective that take the FLOPs of `steps` of electra (docs/flops.md; one segment a row)."""
    from electra_ds.model.config import ModelConfig
    from electra_ds.model.flops import step_flops_per_token
    from electra_ds.recipe import parse_recipe

    recipe = parse_recipe(
        [f"--config={common}", "--data.path=.", "--output=.", f"--model.vocab_size={vocabulary}"], "run"
    )
    assert isinstance(recipe.model, ModelConfig)
    share, length = recipe.objective.mask_fraction, recipe.data.sequence_length
    cost = {name: step_flops_per_token(recipe.model, share, length, name) for name in {*names, "electra"}}
    return {name: round(steps * cost["electra"] / cost[name]) for name in names}


def pretrained(options: argparse.Namespace, name: str, seed: int, steps: int) -> str:
    """A model folder, made if it is not there."""
    folder = options.work / f"{name}-{seed}"
    if not (folder / "hf").is_dir():
        folder.mkdir(exist_ok=True)
        recipe = (f"--config={options.recipe}", f"--objective.name={name}", f"--training.seed={seed}")
        places = (f"--data.path={options.work / 'shards'}", f"--output={folder / 'run'}")
        run(folder / "log", "pretrain", *recipe, *places, f"--training.steps={steps}")
        run(folder / "log", "convert", str(folder / "run"), f"--output={folder / 'hf'}", "--verify")
        shutil.rmtree(folder / "run" / "checkpoints")
    return f"pretrained {name}, seed {seed}: {steps} steps"


def finetuned(options: argparse.Namespace, task: str, rate: str, name: str, seed: int) -> str:
    """Results of a task, made if they are not there."""
    scratch = name == results.FLOOR
    folder = options.work / f"{'scratch' if scratch else f'{name}-{seed}'}"
    folder.mkdir(exist_ok=True)
    output = folder / f"{task}-{rate}"
    if not (output / "results.json").is_file():
        network = NETWORK.get(name, "encoder")
        model = options.work / f"electra-{seed}/hf/discriminator" if scratch else folder / "hf" / network
        # One seed of pretraining each; from scratch there is none, so as many seeds as all runs together have.
        seeds = options.finetuning_seeds * (options.seeds if scratch else 1)
        run(
            folder / f"{task}-{rate}.log",
            *("finetune", f"--model={model}", f"--task={task}", f"--data={options.tasks / task}"),
            *(f"--output={output}", f"--seeds={seeds}", f"--from_scratch={str(scratch).lower()}", "--threads=1"),
            *(f"--metric={results.TASKS[task]}", "--baseline=true", f"--learning_rate={rate}", *FINETUNING),
        )
        shutil.rmtree(output / "model", ignore_errors=True)
    return f"fine-tuned {name}, seed {seed}, on {task} at {rate}"


def keep(options: argparse.Namespace, models: list[tuple[str, int]], folder: Path) -> None:
    """Copy recipe and metrics of each run, and results of each fine-tuning, without the paths of this machine."""
    paths = {str(options.work.resolve()): "work", str(options.work): "work", str(options.tasks): "tasks"}

    def copy(source: Path, target: Path) -> None:
        text = source.read_text("utf-8")
        for path, name in paths.items():
            text = text.replace(path, name)
        target.write_text(text, "utf-8")

    for name in [*(f"{name}-{seed}" for name, seed in models), "scratch"]:
        source, target = options.work / name, folder / name
        target.mkdir(parents=True, exist_ok=True)
        if name != "scratch":
            for file in ("recipe.yaml", "metrics.jsonl"):
                copy(source / "run" / file, target / file)
        for rate in whole_rates(source, options):
            for task in results.TASKS:
                copy(source / f"{task}-{rate}/results.json", target / f"{task}-{rate}.json")


if __name__ == "__main__":
    main()
