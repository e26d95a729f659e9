"""Which software a rank runs: releases, the package's own source, fused kernels, optional packages."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import electra_ds
from electra_ds.kernels.backends import installed_release, survey
from electra_ds.source import source_hash

_OPTIONAL = ("mpi4py", "s3fs", "wandb")
_DRIVER = Path("/proc/driver/nvidia/version")


def versions() -> dict[str, str]:
    """Releases in use, by name; what is not installed is left out."""
    import torch

    found = {"python": platform.python_version(), "torch": torch.__version__}
    found |= {name: installed for name in ("deepspeed", "transformers") if (installed := installed_release(name))}
    found |= {"electra_ds": electra_ds.__version__, "source": source_hash()}
    if torch.version.cuda:
        found["CUDA"] = torch.version.cuda
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    if driver := driver_version():
        found["driver"] = driver
    return found


def driver_version() -> str:
    """NVIDIA's kernel driver, empty without one."""
    try:
        found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", _DRIVER.read_text("utf-8"))
    except OSError:
        return ""
    return found.group(1) if found else ""


def kernels() -> dict[str, str]:
    """Backends of the fused operations, "attention varlen" and so on: its release, or in brackets why it is absent."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        f"{operation} {backend.name}": backend.release if backend.available else f"({backend.reason})"
        for operation, backends in survey(device).items()
        for backend in backends
    }


def optional_packages() -> dict[str, str]:
    """Packages that some commands use, by name; empty where one is not installed."""
    return {name: installed_release(name) for name in _OPTIONAL}
