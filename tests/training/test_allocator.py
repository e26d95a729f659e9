"""Memory that a step frees is there for the next one."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from electra_ds.training.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
faults = []
for _ in range(30):  # pieces that small objects hold on to are in the way at first, of five or ten
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(24_000_000).sum()  # 96 MB, more than glibc keeps by itself
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, max(faults[-5:]) if kept else min(faults[-5:]))
"""


def faults_of(how, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_used_again_without_the_kernel():
    kept, faults = faults_of("keep")
    if not kept:
        pytest.skip("another C library")
    assert faults < 100 < faults_of("leave")[1]


def test_a_users_own_settings_are_left_alone():
    assert faults_of("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] is False
