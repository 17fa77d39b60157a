"""Charts as inline SVG, drawn by matplotlib: one look for every page, no file beside the page, no script."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, GRID = "#1d2733", "#66758a", "#dfe5ec"
COLOURS = ("#0f766e", "#b45309", "#4338ca", "#be185d", "#4d7c0f", "#0369a1")
matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "medweave",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "axes.edgecolor": GRID,
        "xtick.color": SOFT,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


@dataclass(frozen=True)
class Bar:
    """One value with its interval in [0, 1] (None: no interval), and the value that guessing would give."""

    name: str
    value: float
    low: float | None
    high: float | None
    chance: float | None
    series: str = ""


def intervals(bars: Sequence[Bar], label: str) -> str:
    """Values with their intervals, one line a name, series beside each other, chance as a tick."""
    names = list(dict.fromkeys(bar.name for bar in bars))
    series = list(dict.fromkeys(bar.series for bar in bars))
    figure, axes = _figure(7.6, 0.55 + len(names) * (0.2 + 0.14 * len(series)))
    for bar in bars:
        place = series.index(bar.series)
        y = names.index(bar.name) + (place - (len(series) - 1) / 2) * 0.28
        colour = COLOURS[place % len(COLOURS)]
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [y, y], color=colour, lw=2.4, alpha=0.45, solid_capstyle="round")
        axes.plot(bar.value, y, "o", color=colour, ms=5)
        if bar.chance is not None:
            axes.plot([bar.chance] * 2, [y - 0.16, y + 0.16], color=SOFT, lw=1.2)
    axes.set(xlim=(0, 1.01), ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)), yticklabels=names, xlabel=label)
    axes.grid(axis="x", color=GRID, lw=0.8)
    _legend(axes, series)
    return _svg(figure)


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> str:
    """Lines over a shared axis. series: name -> (x values, y values)."""
    figure, axes = _figure(4.6, 2.5)
    for (name, (xs, ys)), colour in zip(series.items(), COLOURS, strict=False):
        axes.plot(xs, ys, color=colour, lw=1.6, label=name, marker="o" if len(xs) < 25 else None, ms=3)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(color=GRID, lw=0.8)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


def reliability(points: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """Mean stated probability against the share that was right, one line a series; the diagonal is perfect."""
    figure, axes = _figure(3.4, 3.0)
    axes.plot([0, 1], [0, 1], color=SOFT, lw=1, ls="--")
    for (name, (stated, right)), colour in zip(points.items(), COLOURS, strict=False):
        axes.plot(stated, right, "o-", color=colour, lw=1.5, ms=4, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="stated probability", ylabel="share that was right", aspect="equal")
    axes.grid(color=GRID, lw=0.8)
    axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


def reliability_points(stated: np.ndarray, right: np.ndarray, bins: int = 10) -> tuple[list[float], list[float]]:
    """Bins of equal count: mean stated probability and share right of each. stated, right: [n]."""
    parts = [part for part in np.array_split(np.argsort(stated, kind="stable"), bins) if len(part)]
    return [float(stated[p].mean()) for p in parts], [float(right[p].mean()) for p in parts]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _legend(axes: Axes, series: Sequence[str]) -> None:
    if len(series) > 1:
        for place, name in enumerate(series):
            axes.plot([], [], "o", color=COLOURS[place % len(COLOURS)], label=name)
        axes.legend(
            frameon=False,
            fontsize=9,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.9 / axes.figure.get_figheight()),
            ncols=4,
        )


def _svg(figure: Figure) -> str:
    """The figure as an `<svg>` element that scales with the page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()[out.getvalue().index("<svg") :]
    return re.sub(
        r'(<svg[^>]*?) (?:height|width)="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) (?:height|width)="([^"]*)"', r'\1 style="max-width:\2"', svg, count=1),
        count=1,
    )
