"""What ``electra-ds report`` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from electra_ds.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one self-contained HTML page with plots of a run."""

    run: str
    """Run folder that ``electra-ds pretrain`` wrote (recipe.yaml, metrics.jsonl, samples.json)."""
    finetune: str | None = None
    """Folder that ``electra-ds finetune`` wrote, to show its scores (default: none)."""
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
