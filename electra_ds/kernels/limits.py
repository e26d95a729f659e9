"""What the Triton kernels need and take, for them and for who chooses backends: imports neither torch nor triton."""

from __future__ import annotations

import os

TRITON_CAPABILITY = (7, 0)
"""Least compute capability of a GPU that triton and torch's compiler make kernels for."""
MOST_FEATURES = {"layer_norm": 8192, "discriminator_head": 8192}
"""By operation, features of a row that fit into the registers of one program; the other operations take any number."""


def interprets() -> bool:
    """Whether Triton's interpreter runs the kernels, on any device; read as triton reads it."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
