"""Tests of a real Slurm need one; where it is absent one line says so, and CI refuses to go without."""

from __future__ import annotations

import os

from tests.slurm.cluster import missing

LACKING = missing()
if LACKING and os.environ.get("CI"):
    raise RuntimeError(f"CI must run the tests of a real Slurm, but {LACKING} is not installed (slurm-wlm munge)")

collect_ignore = (
    ["test_finetune.py", "test_prep.py", "test_preflight.py", "test_submit.py", "test_survival.py"] if LACKING else []
)


def pytest_terminal_summary(terminalreporter):
    if LACKING:
        left_out = ", ".join(collect_ignore)
        terminalreporter.write_line(
            f"SKIPPED tests/slurm ({left_out}): no Slurm here, {LACKING} not found (Debian: slurm-wlm munge)"
        )
