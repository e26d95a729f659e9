"""What a person sees of a conversion: a bar on a terminal, a line per written file elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """Counts bytes of one stage of the work; a context."""

    def __init__(self, title: str, total: int) -> None:
        """Args: title: of the stage. total: bytes to come."""
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=title, unit="B", unit_scale=True, dynamic_ncols=True)

    def __enter__(self) -> Progress:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, size: int) -> None:
        """So many bytes are done."""
        if self._bar is not None:
            self._bar.update(size)

    def tell(self, line: str) -> None:
        """Show a line where there is no bar."""
        if self._bar is None:
            print(line, flush=True)
