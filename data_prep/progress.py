"""Progress of a pass over the corpus: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from data_prep.sources.base import Source

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts bytes of text; estimates the whole from how much of the inputs has been read."""

    def __init__(self, title: str, sources: Sequence[Source] = (), total: float | None = None) -> None:
        """`sources`: what is being read; their `position` tells how far. `total`: bytes, where they are known."""
        self.bytes = 0
        self._title, self._sources, self._total = title, sources, total
        self._start = self._last = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=title, unit="B", unit_scale=True, dynamic_ncols=True)

    def done(self, count: int) -> None:
        """Tell that `count` bytes of text are done."""
        self.bytes += count
        total = self._total or self._estimate()
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(count)
        elif time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            rate = self.bytes / self.seconds
            left = f" of about {total / 1e6:,.0f} MB, {(total - self.bytes) / rate:,.0f} s left" if total else " MB"
            print(f"{self._title}: {self.bytes / 1e6:,.1f}{left} ({rate / 1e6:.1f} MB/s)", file=sys.stderr, flush=True)

    def _estimate(self) -> float | None:
        size = sum(source.size for source in self._sources)
        share = sum(source.position for source in self._sources) / size if size else 0.0
        return self.bytes / share if share > 0 else None

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return max(time.monotonic() - self._start, 1e-9)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.total = self.bytes
            self._bar.close()


def say(text: str) -> None:
    """Print a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)
