"""How far this rank's clock is from the first rank's."""

from __future__ import annotations

import time

from electra_ds.doctor.channel import Channel, Lost, Silence

_TRIES = 3


def answer_clocks(channel: Channel, seconds: float) -> None:
    """Tell the first rank's time to whoever asks, until the time is over; runs in a thread of the first rank."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            asked = channel.pop("clock", max(0.1, end - time.monotonic()))
            channel.put(f"clock/{asked}", time.time())
    except (Silence, Lost):
        return


def measure_clock(channel: Channel, rank: int, seconds: float) -> tuple[float, float]:
    """Ask the first rank for its time.

    Returns:
        How far this clock is ahead (seconds), half of the round trip taken off, and the round trip (seconds): the
        difference is known to half of it. Of three tries the shortest.

    Raises:
        Silence: no answer in time.
    """
    measured = []
    for number in range(_TRIES):
        before = time.time()
        channel.push("clock", f"{rank}.{number}")
        theirs = float(channel.take(f"clock/{rank}.{number}", seconds))
        after = time.time()
        measured.append((after - before, (before + after) / 2 - theirs))
    round_trip, ahead = min(measured)
    return ahead, round_trip
