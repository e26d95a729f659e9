"""``electra-ds bench launches``: kernels that each operation launches and bytes that they touch, counted, not timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from electra_ds.bench.kernels_cases import CASES, PLAIN, Case, shape_of
from electra_ds.bench.machine import describe
from electra_ds.bench.report import Report, Section, command_line
from electra_ds.command_line import bare_flag, parse, plain
from electra_ds.errors import UserError
from electra_ds.kernels import backends

TRITON = "triton"
OPERATIONS = [name for name, has in backends.OPERATIONS.items() if TRITON in has]
"""Those with kernels of our own. The kernels of attention are a library's, and the compiler makes those of dropout."""

LEAD = """\
What each operation of `electra_ds/kernels` that has Triton kernels launches, and the bytes of memory that these
launches touch, beside the plain composition of torch that it replaces. Counted on tensors of a CPU, where Triton's
launches are noted and not made; no GPU is needed, and no time is measured. A torch operation that computes
something counts as one launch; views and allocations count as none. A launch's bytes are those of the tensors that
it reads and writes, each once; of a tensor from which it picks elements, what it picks. What a kernel reads again,
tile by tile, should come from a cache and is not counted. The backward pass of the vocabulary head adds its
products as on a CPU, with a launch more for each chunk of the vocabulary than on a GPU. What the compiler makes of
either way for a GPU cannot be seen without one."""


@dataclass(frozen=True, kw_only=True)
class LaunchesBenchConfig:
    """Count kernel launches and the bytes they touch, by backend, at the shapes of the shipped recipes."""

    output: Path = Path("benchmarks")
    """Folder for launches.md and launches.json."""
    recipes: list[str] = field(default_factory=lambda: ["small", "base"])
    """Sizes: names of shipped recipes, or files."""
    operations: list[str] = field(default_factory=lambda: list(OPERATIONS))
    """Which to count."""
    tokens: int = 16_384
    """Tokens of a micro-batch."""
    short: bool = False
    """A tiny model: for tests."""

    def __post_init__(self) -> None:
        if not self.operations or not set(self.operations) <= set(OPERATIONS):
            raise ValueError(f"operations={self.operations}: must hold some of {', '.join(OPERATIONS)}")
        if self.tokens < 1:
            raise ValueError(f"tokens={self.tokens}: must be at least 1")


def main(arguments: list[str], program: str) -> int:
    """Run the benchmark; return 0."""
    config = parse(LaunchesBenchConfig, bare_flag(arguments, "--short"), program)
    run(config, command_line(program, arguments)).publish(config.output)
    return 0


def run(config: LaunchesBenchConfig, command: str) -> Report:
    """Count everything, and describe it; `command`: how the reader repeats it.

    Raises:
        UserError: a recipe is wrong, or triton is not installed.
    """
    try:
        import electra_ds.kernels.triton  # noqa: F401
    except ImportError as error:
        raise UserError(str(error)) from error

    if config.short:
        config = replace(config, tokens=64, recipes=["small"])
    report = Report("launches", "Launches and bytes", LEAD, command, describe(("torch", "triton")), plain(config))
    for name in config.recipes:
        shape = shape_of(name, "bench launches", config.tokens, torch.bfloat16, torch.device("cpu"), tiny=config.short)
        results = {operation: count_case(CASES[operation](shape, [TRITON])) for operation in config.operations}
        report.results[name] = results
        report.sections.append(_section(name, results))
    return report


def count_case(case: Case) -> dict[str, Any]:
    """``launches`` and ``bytes`` of the ``forward`` and the ``backward`` pass of each way of an operation."""
    found = {}
    for name in (PLAIN, TRITON):
        with Counter() as forward:
            output = case.ways[name]()
        gradient = torch.ones_like(output)
        with Counter() as backward:
            torch.autograd.grad(output, case.inputs, gradient)
        found[name] = {
            passing: {"launches": counter.launches, "bytes": counter.bytes, "names": counter.names}
            for passing, counter in {"forward": forward, "backward": backward}.items()
        }
    return {"shape": case.shape, "ways": found}


class Counter(TorchDispatchMode):
    """Counts what is launched within it, on tensors of a CPU; Triton's kernels are noted and not run.

    So their results are whatever lay in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0
        self.bytes = 0
        self.names: list[str] = []
        """In the order of the launches."""
        self._patches: Any = None

    def __enter__(self) -> Counter:
        self._patches = _noting(self._note_kernel)
        self._patches.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "electra_ds":  # what it does inside counts
            with torch.no_grad(), self:
                return _python_of(func)(*args, **kwargs)
        output = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        given, made = list(_tensors((args, kwargs))), list(_tensors(output))
        if not func.is_view and name not in _FREE and made:
            written, read = sum(map(_bytes, made)), sum(map(_bytes, given))
            if name in _WRITING or name in _PICKING:
                read = sum(map(_bytes, given[1:])) + (written if name in _PICKING else 0)
            self._note(name, written + read)
        return output

    def _note(self, name: str, touched: int) -> None:
        self.launches += 1
        self.bytes += touched
        self.names.append(name)

    def _note_kernel(self, name: str, arguments: Iterable[Any]) -> None:
        different = {value.data_ptr(): value for value in arguments if isinstance(value, Tensor)}
        self._note(name, sum(map(_bytes, different.values())))


_FREE = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "set_", "resize_"}
"""Allocate or rename."""
_WRITING = {
    *("new_full", "new_zeros", "new_ones", "full_like", "zeros_like", "ones_like"),
    *("fill_", "zero_", "copy_", "bernoulli_", "exponential_"),
}
"""Do not read their first tensor."""
_PICKING = {"gather", "index", "index_select", "embedding", "nll_loss_forward"}
"""Read as many elements of their first tensor as they write."""


def _python_of(operation: Any) -> Callable[..., Any]:
    """The function that `torch.library.custom_op` made an operation of; to call the operation would not count it."""
    from torch._library.custom_ops import OPDEFS

    return OPDEFS[operation.name().partition(".")[0]]._init_fn


def _tensors(tree: Any) -> Iterator[Tensor]:
    leaves, _ = torch.utils._pytree.tree_flatten(tree)
    return (leaf for leaf in leaves if isinstance(leaf, Tensor))


def _bytes(tensor: Tensor) -> int:
    """Of the elements that lie in memory: an expanded dimension counts once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= 1 if stride == 0 and size else size
    return elements * tensor.element_size()


@contextmanager
def _noting(note: Callable[[str, Sequence[Any]], None]) -> Iterator[None]:
    """Within it a Triton kernel's launch calls `note` with its name and arguments, and nothing else happens."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    from electra_ds.kernels.triton import checks

    def noted(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        note(self.fn.__name__, [*arguments, *options.values()])

    kept = [(kind, kind.run) for kind in (InterpretedFunction, JITFunction)]
    interpreted = checks.INTERPRETED
    try:
        checks.INTERPRETED = True  # let tensors of a CPU pass
        for kind, _ in kept:
            kind.run = noted
        yield
    finally:
        checks.INTERPRETED = interpreted
        for kind, run_ in kept:
            kind.run = run_


def _section(recipe: str, results: dict[str, Any]) -> Section:
    header = ("operation", "way", "launches, forward", "backward", "MB, forward", "backward", "of plain's bytes")
    section = Section(f"Shapes of {recipe}, bfloat16", "", header)
    for operation, result in results.items():
        label = f"{operation} {result['shape']}"
        plain_bytes = _sum(result["ways"][PLAIN], "bytes")
        for name, way in result["ways"].items():
            section.rows.append(
                [
                    label,
                    name,
                    *(f"{way[passing]['launches']:,}" for passing in ("forward", "backward")),
                    *(f"{way[passing]['bytes'] / 1e6:,.1f}" for passing in ("forward", "backward")),
                    f"{_sum(way, 'bytes') / plain_bytes:.0%}",
                ]
            )
            label = ""
    return section


def _sum(way: dict[str, Any], what: str) -> int:
    return int(way["forward"][what] + way["backward"][what])
