"""Plots as inline SVG that follow the page's colours, in light, in dark and on paper."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "grid": "#0a0b03",
    "c1": "#0a0b04",
    "c2": "#0a0b05",
    "c3": "#0a0b06",
    "c4": "#0a0b07",
    "c5": "#0a0b08",
    "c6": "#0a0b09",
}
"""Placeholders that matplotlib draws with; each becomes the CSS variable of its name in the page."""
CYCLE = ("c1", "c2", "c3", "c4", "c5", "c6")
"""Colours of several runs or methods, in order."""
ON_WHITE = {
    "ink": "#1d2228",
    "muted": "#5f6b77",
    "grid": "#e4e8ec",
    "c1": "#1f63b0",
    "c2": "#c4561a",
    "c3": "#1f8558",
    "c4": "#7a4fb5",
    "c5": "#a83267",
    "c6": "#6b6a14",
}
"""What the variables are in a drawing outside a page."""
POINTS = 240
"""Most points of a drawn curve; more are averaged, which the eye does not see and the file size does."""
RAW_FROM = 40
"""Curves of more points get a smooth line over a faint raw one."""


@dataclass(frozen=True)
class Series:
    """One curve."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    colour: str = "c1"
    """A name in `COLOURS`."""
    dashed: bool = False
    """For baselines."""
    dots: bool = False
    """Mark each point (held-out values, which are few)."""


@dataclass(frozen=True)
class Mark:
    """Something that happened at a step."""

    step: float
    label: str


@dataclass(frozen=True)
class Interval:
    """One row of an interval plot: an estimate and its confidence interval."""

    label: str
    value: float
    low: float | None
    high: float | None
    colour: str = "c1"
    """A name in `COLOURS`."""


@dataclass(frozen=True)
class Dots:
    """Scores of one row of the strip plot."""

    label: str
    scores: Sequence[float]
    colour: str
    median: bool
    """Whether to mark the median (several seeds) or draw a diamond (one value)."""


def curves(
    name: str,
    series: Sequence[Series],
    marks: Sequence[Mark],
    log: bool = False,
    percent: bool = False,
    label: str = "step",
) -> str:
    """Draw values over steps.

    Args:
        name: unique in the page; also the accessible name.
        series: curves; those without points are skipped.
        marks: vertical lines.
        log: logarithmic values.
        percent: show shares as percent.
        label: of the axis of steps.

    Returns:
        An ``<svg>`` element.
    """
    figure, axes = _figure(4.9, 2.75)
    for one in series:
        _draw(axes, one)
    for mark in marks:
        axes.axvline(mark.step, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
        axes.annotate(
            mark.label, (mark.step, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), fontsize=7.5,
            textcoords="offset points", ha="center", va="bottom", color=COLOURS["muted"],
        )  # fmt: skip
    if log:
        axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter(_short_number)
    axes.yaxis.set_major_formatter(_percent if percent else _short_number)
    axes.margins(x=0.015)
    if len([one for one in series if one.steps]) > 1:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=COLOURS["ink"], handlelength=1.6, borderaxespad=0.2)
    return _svg(figure, name)


def strip(name: str, rows: Sequence[Dots], label: str, percent: bool = True) -> str:
    """Draw one row of dots per group, every score a dot, the median a bar.

    Args:
        name: unique in the page; also the accessible name.
        rows: from top to bottom.
        label: of the axis.
        percent: show shares as percent; else the numbers as they are.
    """
    figure, axes = _figure(9.6, 0.6 + 0.5 * len(rows))
    for position, row in enumerate(reversed(rows)):
        colour = COLOURS[row.colour]
        if not row.median:
            axes.plot(row.scores, [position], marker="D", markersize=7, color=colour, linestyle="none", zorder=3)
        else:
            offsets = [(((i * 7) % 5) - 2) * 0.07 for i in range(len(row.scores))]
            heights = [position + offset for offset in offsets]
            axes.plot(
                row.scores, heights, marker="o", markersize=7, color=colour, alpha=0.7, linestyle="none", zorder=3
            )
            middle = sorted(row.scores)
            median = (middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2
            axes.plot([median] * 2, [position - 0.34, position + 0.34], color=colour, linewidth=2.5, zorder=4)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)], fontsize=9.5, color=COLOURS["ink"])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.xaxis.set_major_formatter(_percent if percent else _short_number)
    axes.margins(x=0.06)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    return _svg(figure, name)


def intervals(
    name: str,
    rows: Sequence[Interval],
    label: str,
    percent: bool = False,
    reference: float | None = None,
    width: float = 4.9,
) -> str:
    """Draw one row per estimate: a dot, and a bar from the low to the high end of its interval.

    Args:
        name: unique in the page; also the accessible name.
        rows: from top to bottom.
        label: of the axis.
        percent: show shares as percent.
        reference: a value to mark by a dashed line.
        width: of the drawing (inches).
    """
    figure, axes = _figure(width, 0.62 + 0.27 * len(rows))
    if reference is not None:
        axes.axvline(reference, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
    for position, row in enumerate(reversed(rows)):
        colour = COLOURS[row.colour]
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [position] * 2, color=colour, linewidth=2.2, alpha=0.55, zorder=2,
                      solid_capstyle="butt")  # fmt: skip
        axes.plot([row.value], [position], marker="o", markersize=5.5, color=colour, linestyle="none", zorder=3)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)], fontsize=8.5, color=COLOURS["ink"])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.xaxis.set_major_formatter(_percent if percent else _short_number)
    axes.margins(x=0.06)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    return _svg(figure, name)


def reliability(name: str, bins: Sequence[tuple[float, Interval]]) -> str:
    """Draw observed shares over predicted probabilities, with the diagonal on which a calibrated judge lies.

    Args:
        name: unique in the page; also the accessible name.
        bins: mean probability of a bin, and the share that was observed in it.
    """
    figure, axes = _figure(4.9, 3.4)
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
    for predicted, row in bins:
        if row.low is not None and row.high is not None:
            axes.plot(
                [predicted] * 2, [row.low, row.high], color=COLOURS[row.colour], linewidth=2.2, alpha=0.55, zorder=2
            )
    axes.plot([x for x, _ in bins], [row.value for _, row in bins], color=COLOURS["c1"], linewidth=1.2, marker="o",
              markersize=4.5, zorder=3)  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_percent)
        axis.label.set_color(COLOURS["muted"])
        axis.label.set_fontsize(8.5)
    axes.set_xlabel("mean P(replaced)")
    axes.set_ylabel("share really replaced")
    return _svg(figure, name)


def standalone(svg: str) -> str:
    """Turn a drawing of a page into a file of its own, on white."""
    for name, colour in ON_WHITE.items():
        svg = svg.replace(f"var(--{name})", colour)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    size = f' width="{box[1]}" height="{box[2]}"' if box else ""
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" style="background: #fff; font-family: sans-serif"{size} '
    return svg.replace("<svg ", opening, 1).rstrip() + "\n"


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure in inches, without pyplot and its global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["muted"])
    axes.tick_params(colors=COLOURS["muted"], labelsize=8.5, length=0, which="both")
    axes.tick_params(axis="x", length=3)
    axes.xaxis.label.set_color(COLOURS["muted"])
    axes.xaxis.label.set_fontsize(8.5)
    axes.grid(color=COLOURS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _draw(axes: Any, one: Series) -> None:
    if not one.steps:
        return
    colour = COLOURS[one.colour]
    style = (0, (5, 2)) if one.dashed else "-"
    if one.dots:
        steps, values = thin(one.steps, one.values, POINTS)
        axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3.8, label=one.label, zorder=4)
    elif len(one.steps) > RAW_FROM and not one.dashed:
        axes.plot(*thin(one.steps, one.values, 2 * POINTS), color=colour, linewidth=0.8, alpha=0.28, zorder=2)
        smooth = rolling_mean(one.values, max(3, len(one.values) // 40))
        axes.plot(*thin(one.steps, smooth, POINTS), color=colour, linewidth=1.8, label=one.label, zorder=3)
    else:
        steps, values = thin(one.steps, one.values, POINTS)
        axes.plot(steps, values, color=colour, linewidth=1.4, linestyle=style, label=one.label, zorder=3)


def rolling_mean(values: Sequence[float], window: int) -> list[float]:
    """Centred mean over `window` values, fewer at the ends."""
    half = window // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    smooth = []
    for i in range(len(values)):
        low, high = max(0, i - half), min(len(values), i + half + 1)
        smooth.append((sums[high] - sums[low]) / (high - low))
    return smooth


def thin(steps: Sequence[float], values: Sequence[float], limit: int) -> tuple[list[float], list[float]]:
    """Average runs of neighbouring points until at most `limit` are left."""
    size = -(-len(steps) // limit)
    if size <= 1:
        return list(steps), list(values)
    pieces = [slice(i, i + size) for i in range(0, len(steps), size)]
    mean = [(sum(steps[piece]) / len(steps[piece]), sum(values[piece]) / len(values[piece])) for piece in pieces]
    return [step for step, _ in mean], [value for _, value in mean]


def _short_number(value: float, _: Any = None) -> str:
    for limit, ending in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / {'G': 1e9, 'M': 1e6, 'k': 1e3}[ending]:g}{ending}"
    return f"{value:g}".replace("e-0", "e-")


def _percent(value: float, _: Any = None) -> str:
    return f"{100 * value:g} %"


def _svg(figure: Any, name: str) -> str:
    """Render without pyplot, and turn placeholders into CSS variables and ids into ones unique in the page."""
    import matplotlib

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "path.simplify": True,
        "axes.unicode_minus": False,
    }
    buffer = io.StringIO()
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*;?|font: ([\d.]+px)[^;\"]*", lambda m: f"font-size: {m[1]}" if m[1] else "", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for variable, placeholder in COLOURS.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    return re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg role="img" aria-label="{name}" \1>', svg, count=1)
