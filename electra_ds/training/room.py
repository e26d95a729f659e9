"""Room for segments in the layouts of kernels for packed rows: one number of slots for all micro-batches of a shape."""

from __future__ import annotations

import math
from collections.abc import Callable

from electra_ds.kernels.attention import segment_slots


class SegmentRoom:
    """How many slots for segments the micro-batches of a run get.

    Another number is another shape: compiled blocks are compiled once more for it, and what a CUDA graph recorded does
    not fit. So the number begins with what rows hold on average, grows where a micro-batch needs more, and never
    shrinks. Counts that vary around a border between two numbers get the greater one, and stay there.
    """

    def __init__(
        self, expected: Callable[[int], float] | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        """Args: expected: of a row length (tokens), segments that a row holds on average, its padding counted as one
        more; None begins with the first micro-batch. say: is told when a number grows.
        """
        self._expected, self._say = expected, say
        self._slots: dict[tuple[int, int], int] = {}

    def slots(self, rows: int, length: int, count: int) -> int:
        """Slots for a micro-batch.

        Args:
            rows: of the micro-batch.
            length: tokens of a row.
            count: segments that it holds, the padding of each row counted as one more.
        """
        before = self._slots.get((rows, length))
        if before is not None and count <= before:
            return before
        expected = math.ceil(rows * self._expected(length)) if self._expected and before is None else 0
        slots = self._slots[rows, length] = segment_slots(max(count, expected))
        if before is not None and self._say:
            self._say(
                f"a micro-batch of {rows} rows of {length} tokens holds {count:,} segments: room for them grows from "
                f"{before:,} to {slots:,} slots; compiled blocks are compiled once more, recorded CUDA graphs go unused"
            )
        return slots
