"""Which backends of the fused operations are there, why the others are not, and which is taken.

A backend on disk may still not load, be of a release that does not fit, or need another device: each is tried for real,
and what is missing is told with its remedy. Imports torch when asked, and DeepSpeed never.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from electra_ds.errors import UserError
from electra_ds.kernels.config import Backends, KernelsConfig
from electra_ds.kernels.limits import MOST_FEATURES, TRITON_CAPABILITY, interprets

if TYPE_CHECKING:
    import torch

OPERATIONS = {
    "attention": ("torch", "varlen", "flash_attn"),
    "layer_norm": ("torch", "triton", "apex"),
    "gelu": ("torch", "triton"),
    "vocabulary_head": ("torch", "triton"),
    "discriminator_head": ("torch", "triton"),
    "optimizer": ("torch", "deepspeed", "apex"),
}
"""Backends that each operation has; torch's runs everywhere."""

_CAPABILITY = {"varlen": (8, 0), "flash_attn": (8, 0), "triton": TRITON_CAPABILITY}
"""Least compute capability of a GPU, by backend; the others leave it to their package."""
_FLASH_HEAD = 256
"""Most features of a head that the flash kernels take; they must be a multiple of 8."""
_TORCH_FOR_VARLEN = (2, 11)
_TRITON = (3, 2)
_FLASH_ATTN = (2, 7)
"""Since then its functions are operators that a compiler takes into a graph."""
_APEX_REMEDY = (
    "build NVIDIA's from https://github.com/NVIDIA/apex with its CUDA extensions (APEX_CPP_EXT=1 APEX_CUDA_EXT=1); the "
    "package of that name on the registry is another thing"
)


@dataclass(frozen=True)
class Backend:
    """One way to run an operation, as this device has it."""

    name: str
    available: bool
    release: str
    """Of the package behind it; empty where it does not load."""
    reason: str = ""
    """Why it is not available, and what to do about it."""


class Chosen(NamedTuple):
    """What `choose` returns."""

    backends: Backends
    notes: tuple[str, ...]
    """What a user should know: a slower way was taken, and why."""


class _Found(NamedTuple):
    release: str
    problem: str


def survey(device: torch.device) -> dict[str, list[Backend]]:
    """Look at every backend of every operation.

    Args:
        device: where the model will lie.

    Returns:
        Operation to its backends, torch's first.
    """
    return {name: [look(name, backend, device) for backend in backends] for name, backends in OPERATIONS.items()}


def look(operation: str, backend: str, device: torch.device) -> Backend:
    """Look at one backend of an operation."""
    import torch

    if backend == "torch":
        return Backend(backend, True, torch.__version__)
    checks: dict[str, Callable[[], _Found]] = {
        "varlen": _varlen,
        "flash_attn": _flash_attn,
        "triton": _triton,
        "apex": lambda: _apex(operation),
        "deepspeed": lambda: _deepspeed(device),
    }
    found = checks[backend]()
    problems = [problem for problem in (_device_problem(backend, device), found.problem) if problem]
    return Backend(backend, not problems, found.release, "; ".join(problems))


def choose(
    config: KernelsConfig,
    device: torch.device,
    *,
    precision: str = "bf16",
    head_sizes: Sequence[int] = (),
    hidden_sizes: Sequence[int] = (),
    compiled: bool = False,
) -> Chosen:
    """Take a backend for each operation: the one asked for, or the best that is there.

    Args:
        config: the recipe's section.
        device: where the model lies.
        precision: of the run; the flash kernels know no float32.
        head_sizes: features of an attention head, of each network.
        hidden_sizes: features of the hidden states, of each network.
        compiled: whether blocks go through torch.compile, which fuses the small operations by itself.

    Raises:
        UserError: a backend that was asked for is not there, or does not take this model; says why, and what to do.
    """

    def problem(operation: str, backend: str) -> str:
        found = look(operation, backend, device)
        return found.reason or _unfit(operation, backend, precision, head_sizes, hidden_sizes)

    chosen: dict[str, str] = {}
    slower: dict[str, list[str]] = {}
    for operation in OPERATIONS:
        asked = getattr(config, operation)
        if asked == "auto":
            chosen[operation], reason = "torch", ""
            for backend in _wanted(operation, device, compiled):
                if not (reason := problem(operation, backend)):
                    chosen[operation] = backend
                    break
            if reason:  # of the last one, which needs least
                slower.setdefault(reason, []).append(operation)
            continue
        if reason := problem(operation, asked):
            raise UserError(
                f"kernels.{operation}={asked} cannot run here: {reason}; or take kernels.{operation} auto, which takes "
                "what is there ('electra-ds doctor' lists it)"
            )
        chosen[operation] = asked
    return Chosen(Backends(**chosen, compiled=compiled), tuple(_note(*one) for one in slower.items()))


def _wanted(operation: str, device: torch.device, compiled: bool) -> tuple[str, ...]:
    """What `auto` would rather have than torch's, the best first."""
    if device.type != "cuda" or operation == "optimizer" or (operation in ("layer_norm", "gelu") and compiled):
        return ()
    return ("flash_attn", "varlen") if operation == "attention" else ("triton",)


def _note(reason: str, operations: list[str]) -> str:
    """One word on the operations that `auto` has torch run for the same reason."""
    if operations == ["attention"]:
        return f"attention computes masked segments too, which is slower: {reason}"
    return f"torch runs {', '.join(operations)} (kernels.*), which is slower: {reason}"


def _unfit(operation: str, backend: str, precision: str, head_sizes: Sequence[int], hidden_sizes: Sequence[int]) -> str:
    """Why a backend does not take a run's tensors; empty if it does."""
    if backend in ("varlen", "flash_attn"):
        return flash_problem(precision, head_sizes)
    most = MOST_FEATURES.get(operation, max(hidden_sizes, default=0))
    if backend == "triton" and max(hidden_sizes, default=0) > most:
        return (
            f"the triton kernel keeps a row of up to {most:,} features in registers, and the model has hidden states "
            f"of {max(hidden_sizes):,} (model.hidden_size)"
        )
    return ""


def flash_problem(precision: str, head_sizes: Sequence[int]) -> str:
    """Why the flash kernels do not take a run's tensors; empty if they do."""
    if precision == "float32":
        return "the flash kernels know bf16 and fp16 only, and training.precision is float32"
    odd = sorted({size for size in head_sizes if size % 8 or size > _FLASH_HEAD})
    if odd:
        return (
            f"the flash kernels take heads of a multiple of 8 features up to {_FLASH_HEAD}, and the model has heads of "
            f"{', '.join(map(str, odd))}; choose model.heads and model.generator_width accordingly"
        )
    return ""


def _device_problem(backend: str, device: torch.device) -> str:
    if backend == "deepspeed" or (backend == "triton" and interprets()):
        return ""
    if device.type != "cuda":
        return "needs a GPU"
    import torch

    capability, least = torch.cuda.get_device_capability(device), _CAPABILITY.get(backend, (0, 0))
    if capability < least:
        need, has = (".".join(map(str, pair)) for pair in (least, capability))
        return f"needs a GPU of compute capability {need} or later, this is {has}"
    return ""


def _varlen() -> _Found:
    """The flash kernel of torch itself, for rows of several segments."""
    import torch

    release = torch.__version__
    if _numbers(release) < _TORCH_FOR_VARLEN:
        need = ".".join(map(str, _TORCH_FOR_VARLEN))
        return _Found(release, f"torch {release} does not fit: {need} or later expected: pip install 'torch>={need}'")
    if not hasattr(torch.ops.aten, "_flash_attention_forward"):
        return _Found(release, "this build of torch has no flash attention; install one built for CUDA")
    if torch.cuda.is_available() and not torch.backends.cuda.is_flash_attention_available():
        return _Found(release, "this build of torch has no flash attention; install one built for CUDA")
    return _Found(release, "")


def _flash_attn() -> _Found:
    found = _imported("flash_attn", "pip install flash-attn --no-build-isolation, where nvcc is")
    if not found.problem and not _FLASH_ATTN <= _numbers(found.release) < (3,):
        need = ".".join(map(str, _FLASH_ATTN))
        return _Found(
            found.release,
            f"flash_attn {found.release} does not fit: {need} or later, below 3, expected: "
            f"pip install 'flash-attn>={need},<3'",
        )
    return found


def _triton() -> _Found:
    found = _imported("triton", "pip install triton")
    if not found.problem and _numbers(found.release) < _TRITON:
        need = ".".join(map(str, _TRITON))
        return _Found(
            found.release,
            f"triton {found.release} does not fit: {need} or later expected: pip install --upgrade triton",
        )
    return found


def _apex(operation: str) -> _Found:
    extension, module, name, called = (
        (
            "fused_layer_norm_cuda",
            "apex.normalization.fused_layer_norm",
            "fused_layer_norm_affine",
            _call("total", "weight", "shift", (1,), 1e-12),
        )
        if operation == "layer_norm"
        else ("amp_C", "apex.optimizers", "FusedAdam", _call([], adam_w_mode=True, lr=0.0, bias_correction=False))
    )
    if not _on_disk("apex"):
        return _Found("", f"apex is not installed: {_APEX_REMEDY}")
    if not _on_disk("apex.normalization"):
        return _Found("", f"the installed apex is not NVIDIA's: {_APEX_REMEDY}")
    if not _on_disk(extension):
        return _Found(installed_release("apex"), f"apex is built without {extension}: {_APEX_REMEDY}")
    found = _imported(extension, _APEX_REMEDY)
    found = found if found.problem else _imported(module, _APEX_REMEDY)
    problem = found.problem
    if not problem and not called(getattr(sys.modules[module], name, None)):
        problem = f"apex does not fit: {module}.{name} is missing or takes other arguments: {_APEX_REMEDY}"
    return _Found(installed_release("apex") or found.release, problem)


def _call(*arguments: Any, **keywords: Any) -> Callable[[Any], bool]:
    """Whether something can be called like this, as far as its signature tells."""

    def fits(function: Any) -> bool:
        if not callable(function):
            return False
        try:
            inspect.signature(function).bind(*arguments, **keywords)
        except TypeError:
            return False
        except ValueError:  # compiled code need not have a signature
            return True
        return True

    return fits


def _deepspeed(device: torch.device) -> _Found:
    """DeepSpeed compiles its Adam at the first use, unless it was installed with it."""
    release = installed_release("deepspeed")
    if not release:
        return _Found("", "deepspeed is not installed: pip install deepspeed")
    op = "fused_adam_op" if device.type == "cuda" else "cpu_adam_op"
    spec = importlib.util.find_spec("deepspeed")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    if any(list((folder / "ops" / "adam").glob(f"{op}*.so")) for folder in folders):
        return _Found(release, "")
    tools = {"ninja": "pip install ninja", os.environ.get("CXX", "c++"): "install a C++ compiler"}
    if device.type == "cuda":
        tools["nvcc"] = "install the CUDA toolkit and put its bin folder on PATH"
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    missing = [f"{tool} ({remedy})" for tool, remedy in tools.items() if shutil.which(tool, path=path) is None]
    return _Found(release, f"compiles its op at the first use, without {', '.join(missing)}" if missing else "")


def _imported(module: str, remedy: str) -> _Found:
    """Import a module: a package on disk may still not load."""
    package = module.partition(".")[0]
    if not _on_disk(package):
        return _Found("", f"{package} is not installed: {remedy}")
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # a library built for another CUDA raises whatever it likes
        said = " ".join(str(error).split())[:120]
        return _Found("", f"{package} does not load ({type(error).__name__}: {said}): {remedy}")
    return _Found(str(getattr(loaded, "__version__", "") or installed_release(package)), "")


def _on_disk(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def installed_release(package: str) -> str:
    """Version of an installed package, empty if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(release: str) -> tuple[int, int]:
    """First two numbers of a release; (0, 0) where there are none."""
    found = re.match(r"(\d+)(?:\.(\d+))?", release)
    return (int(found.group(1)), int(found.group(2) or 0)) if found else (0, 0)
