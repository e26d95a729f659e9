"""``electra-ds bench kernels``: time of each fused operation, by backend, beside the plain composition of torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from electra_ds.bench.machine import describe, usable_cores
from electra_ds.bench.report import Report, Section, command_line
from electra_ds.bench.statistics import Spread, in_turn, ratios
from electra_ds.command_line import bare_flag, parse, plain
from electra_ds.kernels.backends import OPERATIONS, survey

if TYPE_CHECKING:
    import torch

    from electra_ds.bench.kernels_cases import Case

PACKAGES = ("torch", "triton", "flash-attn", "apex")
_TOKENS = {"cpu": 2048, "cuda": 32_768}

LEAD = """\
Each operation of `electra_ds/kernels` at the shapes of the discriminator (the vocabulary head: of the generator),
forward and backward, with every backend that this device has, beside the plain composition of torch that it replaces;
*compiled*: through torch.compile. The ways of one operation take turns; figures are medians over rounds, with the
lowest and the highest in brackets; ratios are taken round by round. Rates count the bytes that must be moved, or the
FLOPs of the matrix products, forward and backward, over the time of both."""


@dataclass(frozen=True, kw_only=True)
class KernelsBenchConfig:
    """Measure each fused operation by backend, beside the plain composition, at the shapes of the shipped recipes."""

    output: Path = Path("benchmarks")
    """Folder for kernels.md and kernels.json."""
    recipes: list[str] = field(default_factory=lambda: ["small", "base", "large"])
    """Sizes: names of shipped recipes, or files."""
    operations: list[str] = field(
        default_factory=lambda: [*(name for name in OPERATIONS if name != "optimizer"), "dropout"]
    )
    """Which to measure."""
    tokens: int | None = None
    """Tokens of a micro-batch; null takes 2,048 on a CPU and 32,768 on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where torch finds one."""
    precision: Literal["bf16", "float32", "fp16"] = "bf16"
    """Of the tensors."""
    rounds: int = 5
    """Visits to each way, in turn."""
    calls: int = 5
    """Calls of a visit."""
    compiled: bool = True
    """Measure torch's ways through torch.compile too."""
    short: bool = False
    """A tiny model and two calls, nothing compiled: for tests; its figures mean nothing."""

    def __post_init__(self) -> None:
        known = [*(name for name in OPERATIONS if name != "optimizer"), "dropout"]
        if not self.operations or not set(self.operations) <= set(known):
            raise ValueError(f"operations={self.operations}: must hold some of {', '.join(known)}")
        for name in ("rounds", "calls"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark; return 0."""
    config = parse(KernelsBenchConfig, bare_flag(arguments, "--short"), program)
    run(config, command_line(program, arguments)).publish(config.output)
    return 0


def run(config: KernelsBenchConfig, command: str) -> Report:
    """Measure everything, and describe it; `command`: how the reader repeats it."""
    import torch

    threads = torch.get_num_threads()
    try:
        return _run(config, command)
    finally:
        torch.set_num_threads(threads)


def _run(config: KernelsBenchConfig, command: str) -> Report:
    """Measure everything, on a CPU by all cores."""
    import torch

    if config.short:
        config = replace(config, rounds=2, calls=1, compiled=False, tokens=config.tokens or 128, recipes=["small"])
    machine = describe(PACKAGES)
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    if cuda:
        machine["GPU"] = torch.cuda.get_device_name(0)
    else:
        torch.set_num_threads(len(usable_cores()))
    backends, missing = _backends(device)
    name = "kernels-cuda" if cuda else "kernels"
    report = Report(name, "The fused operations", LEAD, command, machine, plain(config))
    for recipe in config.recipes:
        results = _measure_recipe(config, recipe, device, backends)
        report.results[recipe] = results
        report.sections.append(_section(recipe, results))
    report.results["not_measured"] = missing
    rows = [[operation, backend, reason] for operation, backend, reason in missing]
    if rows:
        report.sections.append(Section("Not measured", "", ("operation", "backend", "why"), rows))
    return report


def _backends(device: torch.device) -> tuple[dict[str, list[str]], list[tuple[str, str, str]]]:
    """Backends that can be measured here, by operation; and those that cannot, and why."""
    able: dict[str, list[str]] = {"dropout": ["torch"]}
    missing = []
    for operation, found in survey(device).items():
        if operation == "optimizer":
            continue
        able[operation] = []
        for backend in found:
            # Triton's interpreter runs on a CPU, for tests: its times say nothing.
            interpreted = backend.name == "triton" and device.type == "cpu"
            if backend.available and not interpreted:
                able[operation].append(backend.name)
            else:
                missing.append((operation, backend.name, backend.reason or "needs a GPU"))
    return able, missing


def _measure_recipe(
    config: KernelsBenchConfig, name: str, device: torch.device, backends: dict[str, list[str]]
) -> dict[str, Any]:
    import torch

    from electra_ds.bench.kernels_cases import CASES, shape_of

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}[config.precision]
    torch.manual_seed(0)
    tokens = config.tokens or _TOKENS[device.type]
    shape = shape_of(name, "bench kernels", tokens, dtype, device, tiny=config.short)
    return {
        operation: measure(CASES[operation](shape, backends[operation]), config, device)
        for operation in config.operations
    }


def measure(case: Case, config: KernelsBenchConfig, device: torch.device) -> dict[str, Any]:
    """Seconds of one call, ``forward`` and ``both`` (with the backward pass), of each way and round."""
    _say(f"{case.operation} {case.shape}")
    ways = _runnable(case, config.compiled)
    found: dict[str, Any] = {}
    for name in list(ways):
        try:
            _seconds(ways[name], case.inputs, 1, device)
            found[name] = {"forward": [], "both": []}
        except Exception as error:
            found[name] = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
            del ways[name]
    for _, name in in_turn(list(ways), config.rounds):
        forward, both = _seconds(ways[name], case.inputs, config.calls, device)
        found[name]["forward"].append(forward)
        found[name]["both"].append(both)
    return {"shape": case.shape, "unit": case.unit, "work": case.work, "ways": found}


def _runnable(case: Case, compiled: bool) -> dict[str, Callable[[], torch.Tensor]]:
    """The ways, torch's with and without torch.compile."""
    import torch

    from electra_ds.bench.kernels_cases import COMPILED, PLAIN, TORCH

    ways = {name: way for name, way in case.ways.items() if compiled or not name.endswith(COMPILED)}
    if compiled:
        for name in (PLAIN, TORCH) if case.compiles else (PLAIN,):
            torch._dynamo.reset()
            ways[name + COMPILED] = torch.compile(case.ways[name], dynamic=False)
    return ways


def _seconds(
    way: Callable[[], torch.Tensor], inputs: Sequence[torch.Tensor], calls: int, device: torch.device
) -> tuple[float, float]:
    """Seconds of one call: the forward pass, and both passes, each over several calls in a row."""
    import torch

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    gradient = torch.ones_like(way())
    settle()
    begun = time.perf_counter()
    for _ in range(calls):
        way()
    settle()
    forward = (time.perf_counter() - begun) / calls
    begun = time.perf_counter()
    for _ in range(calls):
        torch.autograd.grad(way(), inputs, gradient)
    settle()
    return forward, (time.perf_counter() - begun) / calls


def _section(recipe: str, results: dict[str, Any]) -> Section:
    header = ("operation", "way", "forward, ms", "both, ms", "plain / this", "rate")
    section = Section(f"Shapes of {recipe}", "", header)
    for operation, result in results.items():
        reference = result["ways"]["plain"].get("both")
        label = f"{operation} {result['shape']}"
        for name, way in result["ways"].items():
            if "failed" in way:
                section.rows.append([label, name, way["failed"], "", "", ""])
                continue
            both = Spread(tuple(way["both"]))
            rate = f"{result['work'] / both.median / 1e9:,.1f} {result['unit']}"
            speed = ratios(reference, way["both"]).show(".2f") if reference and name != "plain" else ""
            forward = Spread(tuple(1e3 * seconds for seconds in way["forward"]))
            milliseconds = Spread(tuple(1e3 * seconds for seconds in way["both"]))
            section.rows.append([label, name, forward.show(",.2f"), milliseconds.show(",.2f"), speed, rate])
            label = ""
    return section


def _say(message: str) -> None:
    if sys.stderr.isatty():
        print(message, file=sys.stderr, flush=True)
