"""Where and how networks are run here, and how far they are."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from electra_ds.errors import UserError
from electra_ds.evaluate.config import EvaluationConfig

Advance = Callable[[int], None]
"""Called with the number of items that were done."""


def silent(_: int) -> None:
    """An `Advance` that nobody watches."""


class Machine:
    """A device, the arithmetic on it, and the size of a batch."""

    def __init__(self, config: EvaluationConfig) -> None:
        """Choose the device.

        Raises:
            UserError: a GPU or bf16 is asked for and not there.
        """
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device: cuda, but no GPU is found; choose cpu or auto")
        name = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
        self.device = torch.device(name)
        if config.precision == "bf16" and name == "cuda" and not torch.cuda.is_bf16_supported(False):
            raise UserError(f"precision: {torch.cuda.get_device_name()} has no bf16; choose float32")
        self.precision, self.batch_tokens = config.precision, config.batch_tokens
        if config.threads is not None:
            torch.set_num_threads(config.threads)

    def place(self, network: Any) -> Any:
        """Move a network here, for evaluation."""
        return network.to(self.device).eval()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """No gradients; matrix products in the chosen precision."""
        lowered: AbstractContextManager[Any] = contextlib.nullcontext()
        if self.precision == "bf16":
            lowered = torch.autocast(self.device.type, dtype=torch.bfloat16)
        with torch.inference_mode(), lowered:
            yield

    def describe(self) -> dict[str, str]:
        """For results."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return {"device": name, "precision": self.precision}


@contextmanager
def progress(total: int | None, what: str, unit: str = "text") -> Iterator[Advance]:
    """A bar on a terminal, else nothing; without a total it counts."""
    if not sys.stderr.isatty():
        yield silent
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True, leave=False) as bar:
        yield lambda count: bar.update(count) and None
