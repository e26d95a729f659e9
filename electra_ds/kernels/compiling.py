"""Compiling for static shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

SHAPES = 1024
"""How many shapes of one function the compiler takes, over all modules that share it, before it gives up. Its own limit
of 8 is for functions that compile again and again by mistake; here each row length and micro-batch is a shape that
comes back, with a number of slots for segments that never shrinks (`training.room`)."""


def compile_static(function: Callable[..., Any]) -> Callable[..., Any]:
    """One graph for each combination of shapes, without a way out into the interpreter."""
    import torch._dynamo.config as settings

    for name in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(settings, name, max(getattr(settings, name), SHAPES))
    compiled: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False)
    return compiled
