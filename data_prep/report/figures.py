"""Drawings of the page, in its own colours."""

from __future__ import annotations

import html
from collections.abc import Sequence
from difflib import SequenceMatcher

WIDTH, HEIGHT = 460, 190
_LEFT, _BOTTOM, _TOP, _RIGHT = 52, 34, 8, 8
_MOST_LABELS = 11


def length_histogram(name: str, counts: Sequence[int]) -> str:
    """Draw how many documents have how many tokens.

    Args:
        name: accessible name.
        counts: entry b counts documents of 2^(b-1) to 2^b - 1 tokens; at least one is not 0.

    Returns:
        An ``<svg>`` element.
    """
    first = max(1, next(b for b, count in enumerate(counts) if count))
    shown = list(counts[first:])
    wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    column = wide / len(shown)
    ticks = nice_ticks(max(shown))
    top, base = max(ticks[-1], *shown), HEIGHT - _BOTTOM
    parts = [f'<svg role="img" aria-label="{html.escape(name)}" viewBox="0 0 {WIDTH} {HEIGHT}">']
    for tick in ticks:
        y = base - high * tick / top
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="var(--grid)"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{tick:,}", "end"))
    total = sum(shown)
    for place, count in enumerate(shown):
        low, height = 1 << (first + place - 1), high * count / top
        if count:
            height = max(height, 1.0)
            parts.append(
                f'<rect x="{_LEFT + place * column + column * 0.06:.1f}" y="{base - height:.1f}" '
                f'width="{column * 0.88:.1f}" height="{height:.1f}" rx="1.5" fill="var(--c1)">'
                f"<title>{span(low)} tokens: {count:,} documents ({count / total:.1%})</title></rect>"
            )
    parts.append(f'<path d="M{_LEFT} {base}H{WIDTH - _RIGHT}" stroke="var(--muted)"/>')
    every = -(-(len(shown) + 1) // _MOST_LABELS)
    for place in range(0, len(shown) + 1, every):
        parts.append(_text(_LEFT + place * column, base + 15, short_power(first + place - 1), "middle"))
    parts.append(_text(_LEFT + wide / 2, HEIGHT - 4, "tokens", "middle"))
    return "".join([*parts, "</svg>"])


def span(low: int) -> str:
    """The lengths in the bin that begins at `low`."""
    return "1" if low == 1 else f"{low:,} to {2 * low - 1:,}"


def short_power(exponent: int) -> str:
    """2^exponent, short: 512, then 1k for 1,024 and 1M for 1,048,576."""
    unit = exponent // 10
    return f"{1 << exponent % 10}{('', 'k', 'M', 'G')[unit]}"


def nice_ticks(highest: int) -> list[int]:
    """Whole numbers 0, s, 2s, ... up to at most `highest`, two to six of them, s a 1, 2 or 5 with zeros."""
    step = 1
    while highest // step > 4:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return list(range(0, highest + 1, step))


def differences(before: str, after: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Cut two texts into runs, and tell of each whether the other text lacks it.

    Both texts were cut at some length, so that a run which ends one of them is no difference.
    """
    sides: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    codes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for number, (kind, a, b, c, d) in enumerate(codes):
        cut_off = number == len(codes) - 1 and number > 0 and kind in ("insert", "delete")
        for side, run in zip(sides, (before[a:b], after[c:d]), strict=True):
            if run:
                side.append((run, kind != "equal" and not cut_off))
    return sides


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11" fill="var(--muted)">{text}</text>'
