"""Where the time of a step goes, seen from outside: borders put around the parts of a model, forward and backward."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from electra_ds.model.electra import Electra

EMBEDDINGS, GENERATOR, HEAD = "embeddings", "generator", "vocabulary head"
DISCRIMINATOR, VERDICT = "discriminator", "discriminator head"
LOSSES, OPTIMIZER = "losses, samples, statistics", "optimizer"
COMMUNICATION, OUTSIDE, DATA_WAIT = "communication", "agreement, records", "data wait"
PARTS = (
    EMBEDDINGS, GENERATOR, HEAD, DISCRIMINATOR, VERDICT, LOSSES, OPTIMIZER, COMMUNICATION, OUTSIDE, DATA_WAIT
)  # fmt: skip
"""In the order in which a report shows them."""

_OWN = {
    "embeddings": EMBEDDINGS,
    "discriminator_embeddings": EMBEDDINGS,
    "generator": GENERATOR,
    "generator_head": HEAD,
    "discriminator": DISCRIMINATOR,
    "discriminator_head": VERDICT,
}
_HUGGING_FACE = {
    "electra.embeddings": EMBEDDINGS,
    "generator_predictions": HEAD,
    "generator_lm_head": HEAD,
    "discriminator_predictions": VERDICT,
}
_COLLECTIVES = (
    "all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter",
    "reduce_scatter_tensor", "all_reduce_coalesced", "all_gather_coalesced",
)  # fmt: skip


class Timeline:
    """Moments at which the work of a step passes from one part to another.

    On a GPU they are events of the stream that computes, and so tell when the device was there, not the host.
    """

    def __init__(self, device: torch.device) -> None:
        """Args: device: that computes."""
        self._cuda = device.type == "cuda"
        self._stack = [OUTSIDE]
        self._backward = False
        self._moments: list[tuple[str, bool, Any]] = []

    @contextlib.contextmanager
    def within(self, part: str, backward: bool = False) -> Iterator[None]:
        """Put what happens meanwhile down to a part, unless another begins within it."""
        before = self._backward
        self._stack.append(part)
        self._backward = before or backward
        self._mark()
        try:
            yield
        finally:
            self._stack.pop()
            self._backward = before
            self._mark()

    def enter(self, part: str) -> None:
        """A part begins; `leave` ends it."""
        self._stack.append(part)
        self._mark()

    def leave(self) -> None:
        """The part that began last ends."""
        self._stack.pop()
        self._mark()

    def switch(self, part: str) -> None:
        """The backward pass comes to another part."""
        self._stack[-1] = part
        self._mark()

    @property
    def part(self) -> str:
        """Where the work is."""
        return self._stack[-1]

    def seconds(self) -> dict[str, dict[str, float]]:
        """Seconds ``forward`` and ``backward`` by part, from the first moment to the last."""
        if self._cuda:
            torch.cuda.synchronize()
        found: dict[str, dict[str, float]] = {}
        for (part, backward, begin), (_, _, end) in zip(self._moments, self._moments[1:], strict=False):
            took = begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
            way = found.setdefault(part, {"forward": 0.0, "backward": 0.0})
            way["backward" if backward else "forward"] += took
        return found

    def _mark(self) -> None:
        if self._cuda:
            moment: Any = torch.cuda.Event(enable_timing=True)
            moment.record()
        else:
            moment = time.perf_counter()
        self._moments.append((self.part, self._backward, moment))


class _Border(torch.autograd.Function):
    """Passes a tensor on; the backward pass that comes back here tells the timeline what comes next."""

    @staticmethod
    def forward(context: Any, value: Tensor, line: Timeline, part: str) -> Tensor:
        context.line, context.part = line, part
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        context.line.switch(context.part)
        return gradients[0], None, None


def time_parts(step: Any, count: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Make some steps with borders around the parts of the model.

    Args:
        step: a `step_sides.Step` whose networks are called one after another; what compiled code does within one is
            not looked into.
        count: steps.
        device: that computes.

    Returns:
        Seconds of one step, ``forward`` and ``backward``, by part. What is no pass of the model has its seconds in
        ``forward``.
    """
    line = Timeline(device)
    waited = step.batches.waited_seconds
    with contextlib.ExitStack() as stack:
        ours = isinstance(step.engine.module, Electra)
        for name, module in step.engine.module.named_modules():
            part = _OWN.get(name) if ours else _part_of_hugging_face(name)
            if part:
                stack.enter_context(_bordered(module, part, line))
        stack.enter_context(_engine_parts(step.engine, line))
        stack.enter_context(_collectives(line))
        with line.within(OUTSIDE):
            for _ in range(count):
                step.step()
    found = line.seconds()
    waited = step.batches.waited_seconds - waited
    found[OUTSIDE]["forward"] = max(0.0, found[OUTSIDE]["forward"] - waited)
    found[DATA_WAIT] = {"forward": waited, "backward": 0.0}
    return {part: {way: seconds / count for way, seconds in found[part].items()} for part in PARTS if part in found}


def _part_of_hugging_face(name: str) -> str | None:
    for ending, part in _HUGGING_FACE.items():
        if name.endswith(f".{ending}"):
            return part
    if name.endswith(".electra"):
        return GENERATOR if name.startswith("generator") else DISCRIMINATOR
    return None


@contextlib.contextmanager
def _bordered(module: nn.Module, part: str, line: Timeline) -> Iterator[None]:
    """Tell the timeline of each call of a module, and of the way back through it."""

    def before(_: nn.Module, arguments: Any, keywords: Any) -> Any:
        outside = line.part
        arguments, keywords = tree_map_only(Tensor, lambda value: _border(value, line, outside), (arguments, keywords))
        line.enter(part)
        return arguments, keywords

    def after(_: nn.Module, arguments: Any, output: Any) -> Any:
        line.leave()
        return tree_map_only(Tensor, lambda value: _border(value, line, part), output)

    hooks = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _border(value: Tensor, line: Timeline, part: str) -> Tensor:
    return _Border.apply(value, line, part) if value.requires_grad and not value.is_leaf else value


@contextlib.contextmanager
def _engine_parts(engine: Any, line: Timeline) -> Iterator[None]:
    """Tell the timeline of the engine's forward pass, backward pass and update."""
    replaced = {"forward": (LOSSES, False), "backward": (LOSSES, True), "step": (OPTIMIZER, False)}
    with contextlib.ExitStack() as stack:
        for name, (part, backward) in replaced.items():
            stack.enter_context(_replaced(engine, name, _within(getattr(engine, name), line, part, backward)))
        yield


@contextlib.contextmanager
def _collectives(line: Timeline) -> Iterator[None]:
    """Tell the timeline of collectives: torch's functions, and DeepSpeed's own references to them."""
    from deepspeed.comm import comm

    with contextlib.ExitStack() as stack:
        for owner in (torch.distributed, comm.cdb):
            for name in _COLLECTIVES:
                call = getattr(owner, name, None)
                if callable(call):
                    stack.enter_context(_replaced(owner, name, _within(call, line, COMMUNICATION, False)))
        yield


def _within(call: Callable[..., Any], line: Timeline, part: str, backward: bool) -> Callable[..., Any]:
    def timed(*arguments: Any, **keywords: Any) -> Any:
        with line.within(part, backward):
            return call(*arguments, **keywords)

    return timed


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object another attribute for a while, of its own, without touching its class."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def time_calls(
    owner_and_names: list[tuple[Any, str]], run: Callable[[], Any], settle: Callable[[], Any] | None = None
) -> float:
    """Seconds spent in some functions while `run` runs; those that are not there are left out.

    Args:
        owner_and_names: objects, and names of their functions; none of them may call another.
        run: what calls them.
        settle: see `clocked`.
    """
    spent = [0.0]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            found: list[Any] = []
            spent[0] += clocked(lambda: found.append(call(*arguments, **keywords)), settle)
            return found[0]

        return timed

    with contextlib.ExitStack() as stack:
        for owner, name in owner_and_names:
            call = getattr(owner, name, None)
            if callable(call):
                stack.enter_context(_replaced(owner, name, counted(call)))
        run()
    return spent[0]


def clocked(call: Callable[[], Any], settle: Callable[[], Any] | None = None) -> float:
    """Seconds that a call takes.

    Args:
        call: what to time.
        settle: waits for a device that computes on its own: before, so that earlier work does not count, and
            afterwards, so that the call's own does. None: there is none.
    """
    if settle:
        settle()
    begun = time.perf_counter()
    call()
    if settle:
        settle()
    return time.perf_counter() - begun
