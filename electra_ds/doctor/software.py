"""Which software a rank runs: releases, the package's own source, fused kernels, optional packages."""

from __future__ import annotations

import importlib
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import electra_ds
from electra_ds.source import source_hash

_OPTIONAL = ("mpi4py", "s3fs", "wandb")
_DRIVER = Path("/proc/driver/nvidia/version")


def versions() -> dict[str, str]:
    """Releases in use, by name; what is not installed is left out."""
    import torch

    found = {"python": platform.python_version(), "torch": torch.__version__}
    found |= {name: installed for name in ("deepspeed", "transformers") if (installed := release(name))}
    found |= {"electra_ds": electra_ds.__version__, "source": source_hash()}
    if torch.version.cuda:
        found["CUDA"] = torch.version.cuda
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    if driver := driver_version():
        found["driver"] = driver
    return found


def release(package: str) -> str:
    """Version of an installed package, empty if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def driver_version() -> str:
    """NVIDIA's kernel driver, empty without one."""
    try:
        found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", _DRIVER.read_text("utf-8"))
    except OSError:
        return ""
    return found.group(1) if found else ""


def kernels() -> dict[str, str]:
    """Fused kernels by name: the release that can be imported here, or why it cannot (in brackets)."""
    import torch

    found = {"triton": _imported("triton"), "apex": _imported("amp_C", "apex")}
    if not torch.cuda.is_available():
        found["torch varlen attention"] = "(needs a GPU)"
    else:
        varlen = _imported("torch.nn.attention.varlen")
        found["torch varlen attention"] = varlen if varlen.startswith("(") else torch.__version__
    return found


def optional_packages() -> dict[str, str]:
    """Packages that some commands use, by name; empty where one is not installed."""
    return {name: release(name) for name in _OPTIONAL}


def _imported(module: str, package: str | None = None) -> str:
    """Release of a package whose `module` can be imported; a package on disk may still not load."""
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError:
        return "(not installed)"
    except Exception as error:  # a library built for another CUDA raises whatever it likes
        return f"(does not load: {type(error).__name__}: {str(error)[:120]})"
    return str(getattr(loaded, "__version__", "") or release(package or module) or "found")
