"""What ``electra-ds submit`` can be told. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from electra_ds.errors import UserError, did_you_mean

STAGES = ("prep", "preflight", "pretrain", "convert", "finetune")
"""What can be submitted, in the order in which a chain runs."""


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """Render the batch scripts of a run, and submit them as one job or as a chain.

    --config and every --section.field that is not below go to the recipe, as 'electra-ds pretrain' takes them.
    --prep.FIELD, --convert.FIELD and --finetune.FIELD go to those commands (--prep.config prep.yaml gives a file).
    Scripts, recipe and a snapshot of the code are put into the run folder; edited code is used by a new submit only.
    """

    nodes: int = 1
    """Nodes to train on."""
    gpus_per_node: int = 0
    """GPUs of a node, each with a rank; 0 trains on CPUs."""
    tasks_per_node: int | None = None
    """Ranks of a node; null takes one for each GPU, or one on CPUs."""
    cpus_per_task: int | None = None
    """CPU cores of a rank, in every stage; null takes the cluster file's, else 8 with GPUs and 1 without."""
    mem: str | None = None
    """Memory of a node, as sbatch takes it (64G; 0 for all of it); null takes the cluster file's, else the site's."""
    time: str = "24:00:00"
    """Time limit of one life of the job, as sbatch takes it: minutes, H:MM:SS or D-HH:MM:SS."""
    cluster: str | None = None
    """YAML file about the site (see slurm/cluster-gpu.yaml); null takes $ELECTRA_DS_CLUSTER, else Slurm's defaults."""
    stages: str = "pretrain"
    """What to submit, with commas: prep, preflight, pretrain, convert, finetune; each waits for the one before."""
    spares: int = 0
    """Nodes beyond `nodes` that are asked for, to replace those that the preflight finds bad."""
    max_restarts: int = 100
    """Times a job may be started again, by a signal, a failure or a lost node."""
    preflight: bool = True
    """Look at every node before each life trains."""
    job_name: str | None = None
    """Name that squeue shows; null takes electra- and the run folder's name. A chain adds the stage."""
    signal_seconds: int | None = None
    """Seconds before the time limit when all ranks save and leave; null: from the run's own step and save times."""
    prep_nodes: int | None = None
    """Nodes of the prep stage; null takes `nodes`."""
    prep_tasks_per_node: int = 2
    """MPI ranks of a node in the prep stage."""
    prep_cpus_per_task: int | None = None
    """Cores, and so worker processes, of a rank in the prep stage; null takes those of `cpus_per_task`."""
    stage_time: str | None = None
    """Time limit of the stages before and after pretrain; null takes `time`."""
    dry_run: bool = False
    """Show the scripts; write nothing and submit nothing."""

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("tasks_per_node", 1), ("cpus_per_task", 1), ("signal_seconds", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} {value}: must be at least {least}")
        for name in ("gpus_per_node", "spares", "max_restarts"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 0")
        for name in ("prep_nodes", "prep_tasks_per_node", "prep_cpus_per_task"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 1")
        for stage in self.stage_list:
            if stage not in STAGES:
                hint = did_you_mean(stage, STAGES)
                raise UserError(
                    f"--stages {self.stages}: no stage '{stage}'{hint}; expected some of {', '.join(STAGES)}"
                )
        if len(set(self.stage_list)) < len(self.stage_list):
            raise UserError(f"--stages {self.stages}: a stage stands there twice")
        if self.job_name is not None and not re.fullmatch(r"[\w.:-]+", self.job_name):
            raise UserError(f"--job_name {self.job_name!r}: expected letters, digits and . : _ - only")
        time_limit(self.time, "time")
        if self.stage_time is not None:
            time_limit(self.stage_time, "stage_time")

    @property
    def stage_list(self) -> list[str]:
        """Stages to submit, in the order in which they run."""
        asked = [stage.strip() for stage in self.stages.split(",") if stage.strip()]
        return sorted(asked, key=lambda stage: STAGES.index(stage) if stage in STAGES else -1)

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a node in training."""
        return self.tasks_per_node or self.gpus_per_node or 1


def time_limit(text: str, name: str) -> int | None:
    """Seconds of a time limit as sbatch takes it; None for no limit.

    Raises:
        UserError: it has none of sbatch's forms.
    """
    if text.strip().lower() in ("unlimited", "infinite"):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        raise UserError(f"--{name} {text}: expected a time limit such as 90 (minutes), 24:00:00 or 2-12:00:00")
    days, *rest = match.groups()
    numbers = [int(number) for number in rest if number is not None]
    if days is not None:  # D-H, D-H:M, D-H:M:S
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:  # M, M:S
        hours, (minutes, seconds) = 0, (*numbers, 0)[:2]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
