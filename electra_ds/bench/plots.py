"""Drawings of reports, as SVG files that a Markdown page shows, on light and dark grounds alike."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = ("#2f6fb0", "#d1752b", "#4b8f4b", "#8a5bb0", "#5f5f5f")
INK, _GRID, _GROUND = "#333333", "#dddddd", "#ffffff"


@dataclass(frozen=True)
class Line:
    """Points joined by a line."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    dots: bool = False
    """Show each point."""


def lines(
    name: str,
    drawn: Sequence[Line],
    labels: tuple[str, str],
    limit: tuple[float, str] | None = None,
    logarithmic: bool = False,
    around_zero: bool = False,
) -> str:
    """Draw lines, from zero up or around it.

    Args:
        name: of the drawing; makes the file repeatable.
        drawn: the lines.
        labels: of the x and the y axis, with units.
        limit: a level to mark, and what it is.
        logarithmic: whether the x axis is.
        around_zero: zero in the middle of the y axis, for differences.

    Returns:
        An SVG document.
    """
    drawing, (axes,) = figure(6.4, 3.1)
    for line, colour in zip(drawn, COLOURS, strict=False):
        marker = "o" if line.dots else None
        axes.plot(line.xs, line.ys, color=colour, linewidth=1.6, marker=marker, markersize=4.5, label=line.label)
    if limit:
        axes.axhline(limit[0], color=INK, linewidth=1.0, linestyle=(0, (5, 3)), label=limit[1])
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.minorticks_off()
    highest = 1.12 * max([*(abs(y) for line in drawn for y in line.ys), limit[0] if limit else 0.0])
    axes.set_ylim(-highest if around_zero and highest else 0, highest or None)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(fontsize=8.5, frameon=False, labelcolor=INK)
    return svg(drawing, name)


def bars(name: str, groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], label: str) -> str:
    """Draw horizontal bars in groups, with their values.

    Args:
        name: see `lines`.
        groups: name of each, and its bars' names and values.
        label: of the values, with their unit.

    Returns:
        An SVG document.
    """
    total = sum(len(group) for _, group in groups)
    drawing, (axes,) = figure(6.4, 0.7 + 0.34 * total + 0.2 * len(groups))
    names = list(dict.fromkeys(bar for _, group in groups for bar, _ in group))
    place, ticks = 0.0, []
    for title, group in groups:
        for bar, value in group:
            axes.barh(place, value, height=0.72, color=COLOURS[names.index(bar) % len(COLOURS)])
            axes.annotate(f"{value:.1f}", (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
            ticks.append((place, f"{title}: {bar}"))
            place += 1
        place += 0.6
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    return svg(drawing, name)


def figure(width: float, height: float, panels: int = 1) -> tuple[Any, list[Any]]:
    """A figure (inches) with panels side by side, without pyplot and its global state."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained", facecolor=_GROUND)
    found = list(drawing.subplots(1, panels, squeeze=False)[0])
    for axes in found:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set_fontsize(9)
            axis.label.set_color(INK)
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    return drawing, found


def svg(drawing: Any, name: str) -> str:
    """The same bytes for the same figure: no date, no random ids."""
    import matplotlib

    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    buffer = io.StringIO()
    with matplotlib.rc_context(settings):
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", buffer.getvalue(), flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
