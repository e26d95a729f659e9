"""What a benchmark ran on: processor, cores, memory, how busy it was, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from electra_ds import __version__

_LIBRARIES = ("OMP", "MKL", "OPENBLAS", "ARROW", "RAYON")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in _LIBRARIES}
"""Environment that keeps numerical libraries to the core they were given; set before they are imported."""


def describe(packages: tuple[str, ...]) -> dict[str, str]:
    """Describe this machine and the releases in use.

    Args:
        packages: names on the package registry whose versions matter here; those not installed are left out.

    Returns:
        Texts by what they describe, in the order in which a report shows them.
    """
    described = {
        "processor": processor(),
        "cores": f"{len(usable_cores())} usable of {os.cpu_count()}",
        "memory": f"{memory_bytes() / 2**30:.0f} GiB",
        "busy before": f"{os.getloadavg()[0]:.1f} processes on average in the minute before",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "electra_ds": f"{__version__}, commit {commit() or 'unknown'}",
    }
    return described | {name: found for name in packages if (found := release(name))}


def release(package: str) -> str | None:
    """Version of an installed package, None if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> list[int]:
    """Numbers of the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def memory_bytes() -> int:
    """Physical memory (bytes)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def commit() -> str | None:
    """Commit of the checkout that this package runs from, with a plus sign where it was changed; None without one."""
    folder = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # A wheel may lie inside somebody else's repository.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
