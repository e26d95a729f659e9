"""What ``electra-ds doctor`` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from electra_ds.errors import UserError

SHORTEST = 5.0
"""Seconds below which not even healthy ranks would come in time."""


@dataclass(frozen=True, kw_only=True)
class DoctorData:
    """The data that training will read."""

    path: str | None = None
    """Shard set, a folder or URL, that every node must see alike (default: not checked)."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Is this machine, or this allocation, fit to train? The same command by hand, or under srun, torchrun, mpirun."""

    data: DoctorData = field(default_factory=DoctorData)
    """The data that training will read."""
    output: str | None = None
    """Run folder that every node must see as the same one; measured for space and speed (default: not checked)."""
    preflight: bool = False
    """Before training, in a batch script: one line if all is well, nodes good and bad written for the script."""
    json: str | None = None
    """File to write all facts and verdicts to, as JSON (default: none)."""
    timeout: float = 120.0
    """Seconds after which everything has ended; ranks that did not come by 40% of it are named as missing."""

    def __post_init__(self) -> None:
        if not self.timeout >= SHORTEST:
            raise UserError(f"timeout: {self.timeout:g} s, expected {SHORTEST:g} or more")
