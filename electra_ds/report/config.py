"""What ``electra-ds report`` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from electra_ds.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one self-contained HTML page with plots of a run, or of several (electra-ds report RUN RUN).

    Fine-tuning and evaluation results that lie in a run's folder are found; others are named.
    """

    run: str
    """Run folder that ``electra-ds pretrain`` wrote (recipe.yaml, metrics.jsonl, samples.json)."""
    others: list[str] = field(default_factory=list)
    """Further run folders, drawn over the first; the folders after the first on the command line."""
    finetune: list[str] = field(default_factory=list)
    """Folders that ``electra-ds finetune`` wrote, to show their scores (also spelled --finetuning)."""
    evaluation: list[str] = field(default_factory=list)
    """Folders that ``electra-ds evaluate`` wrote, to show what they found."""
    shards: str | None = None
    """Shard set, to show what the run learned from (default: the recipe's ``data.path``, where it still exists)."""
    output: str | None = None
    """HTML file to write (default: RUN/report.html)."""
    title: str | None = None
    """Title of the page (default: the run folder's name)."""
    examples: int = 6
    """How many examples of corrupted text to show, at most."""

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise UserError(f"examples: {self.examples}, expected 0 or more")
        known: dict[Path, str] = {}
        for run in (self.run, *self.others):
            if (before := known.get(folder := Path(run).resolve())) is not None:
                other = "" if before == run else f", once as {before}"
                raise UserError(f"run: {run} is named twice{other}; each run is drawn once, leave one out")
            known[folder] = run
