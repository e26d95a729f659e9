"""Importing DeepSpeed without its surprises."""

from __future__ import annotations

import logging
import os
from typing import Any


def import_deepspeed() -> Any:
    """Import DeepSpeed, quiet, and with its shared-memory op off.

    That op compiles for half a minute on first use, fails without ninja, and a lock that a killed build leaves behind
    hangs every later start; gloo does the same work.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    return deepspeed
