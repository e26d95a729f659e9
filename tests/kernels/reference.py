"""What the tests of the Triton kernels share: a process that runs them interpreted, float64 references, bounds.

Triton reads TRITON_INTERPRET when a kernel is defined, and torch imports triton where it pleases, so the interpreter
gets a process of its own: ``python -m tests.kernels.reference`` answers cases from its input until that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import importlib.util
import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from electra_ds.kernels.dropout import keep_mask

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = {
    "dropout_add_layer_norm": "layer_norm",
    "bias_gelu": "gelu",
    "discriminator_loss": "discriminator",
    "vocabulary_head": "vocabulary",
}
"""Function and module of each operation."""
LARGEST_UNIFORM = 1 - 2.0**-24
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and os.environ.get("CI") != "true", reason="triton is not installed"
)
"""Where CI runs them, a missing triton is a failure."""


class Refused(Exception):
    """The operation raised; the message begins with the exception's class."""


def interpret(
    operation: str,
    grads: dict[str, Tensor] | None = None,
    *,
    compiled: bool = False,
    checked: bool = False,
    programs: int | None = None,
    autocast: torch.dtype | None = None,
    **arguments: Any,
) -> dict[str, Tensor]:
    """Run an operation on the Triton backend in the interpreter's process.

    Args:
        operation: one of `OPERATIONS`.
        grads: gradient of each output to go backward with; null runs forward only.
        compiled: under torch.compile(fullgraph=True).
        checked: let torch.library.opcheck look over the custom operator: schema, fake, autograd, dynamic shapes.
        programs: of the backward kernel, at most; null leaves the module's own number.
        autocast: run forward under torch.autocast to this dtype.
        arguments: of the operation; every floating tensor except weights and uniforms gets a gradient.

    Returns:
        Outputs by name ("output" where there is one only), and "grad NAME" of each argument.
    """
    process = _start()
    assert process.stdin is not None and process.stdout is not None
    way = {"compiled": compiled, "checked": checked, "programs": programs, "autocast": autocast}
    _send(process.stdin, {"operation": operation, "grads": grads, "arguments": arguments, **way})
    reply = _receive(process.stdout)
    assert reply is not None, "the interpreter's process has ended; its own words are above"
    if "error" in reply:
        raise Refused(reply["error"])
    return reply


def on_gpu(operation: str, grads: dict[str, Tensor] | None = None, **arguments: Any) -> dict[str, Tensor]:
    """As `interpret`, compiled for the GPU of this process; results on the CPU."""

    def moved(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value.cuda() if isinstance(value, Tensor) else value for name, value in values.items()}

    reply = _answer(operation, moved(grads or {}) or None, moved(arguments), False, False, None, None)
    return {name: value.cpu() for name, value in reply.items()}


@functools.cache
def _start() -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kernels.reference"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(process.kill)
    return process


def _send(stream: Any, value: dict) -> None:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    stream.write(struct.pack("<q", buffer.tell()) + buffer.getvalue())
    stream.flush()


def _receive(stream: Any) -> dict | None:
    header = stream.read(8)
    return torch.load(io.BytesIO(stream.read(struct.unpack("<q", header)[0]))) if header else None


def _answer(
    operation: str,
    grads: dict[str, Tensor] | None,
    arguments: dict[str, Any],
    compiled: bool,
    checked: bool,
    programs: int | None,
    autocast: torch.dtype | None,
) -> dict[str, Tensor]:
    """One case, in the interpreter's process."""
    module: Any = importlib.import_module(f"electra_ds.kernels.triton.{OPERATIONS[operation]}")
    function = getattr(module, operation)
    if compiled:
        function = torch.compile(function, backend="aot_eager", fullgraph=True)
    if "_tiles" in arguments:
        arguments["_tiles"] = module.Tiles(*arguments["_tiles"])
    leaves = {
        name: value.requires_grad_()
        for name, value in arguments.items()
        if grads is not None and isinstance(value, Tensor) and value.is_floating_point()
        if name not in ("weights", "uniforms")
    }
    with contextlib.ExitStack() as stack:
        if programs:
            stack.enter_context(mock.patch.object(module, "_PROGRAMS", programs))
        if checked:
            stack.enter_context(mock.patch.object(module, "_operation", _checking(module._operation)))
        with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
            result = function(**arguments)
        outputs: dict[str, Any] = result._asdict() if hasattr(result, "_asdict") else {"output": result}
        if grads:
            kept = [outputs[name] for name in grads]
            found = torch.autograd.grad(kept, list(leaves.values()), list(grads.values()))
            outputs.update({f"grad {name}": value for name, value in zip(leaves, found, strict=True)})
    return {name: value.detach() for name, value in outputs.items() if value is not None}


def _checking(operator: Any) -> Callable[..., Any]:
    """The operator, looked over with each call's arguments first."""

    def check(*arguments: Any) -> Any:
        torch.library.opcheck(operator, arguments)
        return operator(*arguments)

    return check


def _mend_bfloat16() -> None:
    """Make the interpreter treat bfloat16 as GPUs do.

    Triton 3.9's cuts the low bits off where GPUs round to nearest (cvt.rn), and multiplies matrices of the bits, as
    integers.
    """
    from triton import language
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounded(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) != (language.float32, language.bfloat16):
            return convert(values, source, target, mode)
        bits = torch.from_numpy(values.copy()).view(torch.float32).bfloat16().view(torch.uint16)
        return bits.numpy().reshape(values.shape)

    builder = interpreter.InterpreterBuilder
    multiply = builder.create_dot

    def multiplied(self: Any, left: Any, right: Any, *rest: Any) -> Any:
        if left.dtype.scalar == language.bfloat16:
            left, right = (self.cast_impl(side, language.float32) for side in (left, right))
        return multiply(self, left, right, *rest)

    interpreter._convert_float = rounded
    builder.create_dot = multiplied


def _serve() -> None:
    """Answer cases until the input ends. What else is printed goes to the error stream."""
    torch.set_num_threads(1)
    _mend_bfloat16()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while (case := _receive(sys.stdin.buffer)) is not None:
        try:
            reply: dict[str, Any] = _answer(**case)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        _send(replies, reply)


def within(actual: Tensor, expected: Tensor, terms: int, scale: Tensor | float, operations: int = 32) -> None:
    """Assert the a-priori bound of float32 arithmetic followed by one rounding to the result's dtype.

    A sum of n terms errs by at most n u times the sum of their magnitudes (Higham 2002, 4.2), u = 2^-24. To n is added
    what the operations on one element may err by: a rounding each, two to four units in the last place a function.

    Args:
        actual: from the kernel.
        expected: float64.
        terms: summed one after the other.
        scale: the magnitude that rounding errors are relative to, a bound of the sum of the terms' magnitudes.
        operations: on one element, in units of u.
    """
    kind = torch.finfo(actual.dtype)
    bound = (terms + operations) * 2.0**-24 * scale + kind.eps / 2 * expected.abs() + kind.smallest_normal * kind.eps
    error = (actual.double() - expected).abs()
    assert (error <= bound).all(), f"off by {error.max():.3g}, {(error / bound).max():.3g} times the bound"


def layer_norm_reference(
    hidden: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    shift: Tensor,
    eps: float,
    keys: Tensor | None,
    probability: float,
) -> Tensor:
    """`dropout_add_layer_norm` in the dtype of its inputs, step by step."""
    value = hidden if bias is None else hidden + bias
    if keys is not None:
        value = torch.where(keep_mask(keys, value.shape, probability), value / (1 - probability), 0.0)
    total = residual + value
    centred = total - total.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + shift


def gelu_reference(hidden: Tensor, bias: Tensor | None) -> Tensor:
    """`bias_gelu` likewise."""
    value = hidden if bias is None else hidden + bias
    return value * (1 + torch.erf(value / 2**0.5)) / 2


def gradients(output: Tensor, grad: Tensor, leaves: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Gradient by name, for those there are."""
    there = {name: value for name, value in leaves.items() if value is not None}
    found = torch.autograd.grad(output, list(there.values()), grad)
    return dict(zip(there, found, strict=True))


def doubled(values: dict[str, Any]) -> dict[str, Any]:
    """The same in float64, ready for a gradient where floating."""
    return {
        name: value.double().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in values.items()
    }


if __name__ == "__main__":
    _serve()
