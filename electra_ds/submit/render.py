"""From a shipped batch script and a site's facts to the script of a job. Pure functions of texts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from electra_ds.submit.cluster import ClusterConfig

SITE_BEGIN, SITE_END = "# site", "# end of site"
"""Lines of a template between which a site's own lines stand."""

_OPTION = re.compile(r"#SBATCH --([\w-]+)")


def render(
    template: str,
    options: Mapping[str, str | None],
    site: Sequence[str],
    variables: Mapping[str, str],
    arguments: Sequence[str],
) -> str:
    """Fill in a template.

    Args:
        template: a shipped batch script.
        options: sbatch's, by name: replaced where the template has them, else added; None takes one away, "" gives it
            no value.
        site: lines in place of the template's site block.
        variables: shell variables that the template sets, by name.
        arguments: of the command. What follows the script's name on sbatch's line comes after them.
    """
    lines = _with_options(template.splitlines(), options)
    baked = "set -- " + " ".join([*map(shlex.quote, arguments), '"$@"'])
    lines = _with_site(lines, [*site, "", *_as_typed(baked, arguments)])
    return "\n".join(_with_variable(line, variables) for line in lines) + "\n"


def _with_options(lines: Sequence[str], options: Mapping[str, str | None]) -> list[str]:
    kept: list[str] = []
    last, placed = 0, set()
    for line in lines:
        match = _OPTION.match(line)
        if match and match[1] in options:
            placed.add(match[1])
            value = options[match[1]]
            if value is not None:
                kept.append(_option_line(match[1], value))
        else:
            kept.append(line)
        if match:
            last = len(kept)
    added = [_option_line(name, value) for name, value in options.items() if name not in placed and value is not None]
    return kept[:last] + added + kept[last:]


def _option_line(name: str, value: str) -> str:
    if value and not re.fullmatch(r"[\w%@:.,/+=\[\]-]+", value):
        value = '"' + value.replace('"', '\\"') + '"'
    return f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}"


def _with_site(lines: Sequence[str], block: Sequence[str]) -> list[str]:
    begin = next(number for number, line in enumerate(lines) if line.startswith(SITE_BEGIN))
    end = lines.index(SITE_END)
    return [*lines[:begin], *block, *lines[end + 1 :]]


def _with_variable(line: str, variables: Mapping[str, str]) -> str:
    name, separator, _ = line.partition("=")
    return f"{name}={variables[name]}" if separator and name in variables else line


def cluster_options(cluster: ClusterConfig, gpus: int) -> dict[str, str | None]:
    """The sbatch options that a site's file gives, and the request for GPUs."""
    names = ("partition", "account", "qos", "constraint", "reservation")
    options: dict[str, str | None] = {name: getattr(cluster, name) for name in names if getattr(cluster, name)}
    options["gpus-per-node"] = None
    further = [cluster.gpu_request.replace("{count}", str(gpus))] if gpus else []
    for option in (*further, *cluster.sbatch):
        name, _, value = option[2:].partition("=")
        options[name] = value
    return options


def site_block(
    cluster: ClusterConfig, origin: Path | None, code: Path, venv: Path | None, folder: Path, mounts: Sequence[str],
    gpus: int, mpi: bool, helper: bool,
) -> list[str]:  # fmt: skip
    """Lines that set up a job: modules, environment, network, and how commands start.

    Args:
        cluster: the site's facts.
        origin: their file, None for defaults.
        code: the run's snapshot of the code.
        venv: environment to activate where the site's file names none.
        folder: working folder of the job.
        mounts: what a container needs to see in any case.
        gpus: of a node.
        mpi: whether the tasks are MPI's.
        helper: whether the script itself calls the project's code.
    """
    lines = [f"# from {origin}" if origin else "# no cluster file: Slurm's own defaults"]
    if cluster.modules:
        lines.append("module load " + " ".join(map(shlex.quote, cluster.modules)))
    lines += cluster.setup
    chosen = cluster.venv or (str(venv) if venv and cluster.container.kind == "none" else None)
    if chosen:
        lines += ["# shellcheck source=/dev/null", f"source {shlex.quote(chosen + '/bin/activate')} || exit"]
    environment = dict(cluster.network.environment)
    if cluster.network.interface:
        environment |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), cluster.network.interface)
    for name, value in environment.items():
        lines += _as_typed(f"export {name}={shlex.quote(value)}", [value])
    if cluster.scratch:
        lines.append(f"export ELECTRA_DS_CACHE={_expanding(cluster.scratch)}")
    lines += [
        "# The code as it was when the run was submitted, whatever lies in the working folder.",
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
    ]
    inside, container = _container(cluster, folder, mounts, gpus)
    step = ["srun", *([f"--mpi={cluster.mpi}"] if mpi else []), *container]
    lines += [f"inside=({shlex.join(inside)})", f"step=({shlex.join(step)})"]
    if helper:
        one = ["srun", "--nodes=1", "--ntasks=1", "--cpus-per-task=1", *container] if container else inside
        lines.append(f"helper=({shlex.join(one)})")
    return lines


def _container(cluster: ClusterConfig, folder: Path, mounts: Sequence[str], gpus: int) -> tuple[list[str], list[str]]:
    """What stands before a command, and what is added to srun."""
    container = cluster.container
    every = [*dict.fromkeys([*mounts, *container.mounts])]
    if container.kind == "apptainer":
        bound = [word for mount in every for word in ("--bind", mount)]
        return [
            *("apptainer", "exec", *(["--nv"] if gpus else []), *bound, "--pwd", str(folder)),
            *container.options,
            str(container.image),
        ], []
    if container.kind == "pyxis":
        pairs = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in every)
        return ["env"], [
            f"--container-image={container.image}",
            f"--container-mounts={pairs}",
            f"--container-workdir={folder}",
            *container.options,
        ]
    return ["env"], []  # a command that runs commands: old shells take an empty array for an unset one


def _as_typed(line: str, words: Sequence[str]) -> list[str]:
    """A line whose words mean what they are; shellcheck is told where that looks like a variable left in quotes."""
    looks = any(sign in word for word in words for sign in "$`")
    return [*(["# shellcheck disable=SC2016"] if looks else []), line]


def _expanding(value: str) -> str:
    """In double quotes, so that the shell still fills in variables."""
    return '"' + re.sub(r'([\\"`])', r"\\\1", value) + '"'
