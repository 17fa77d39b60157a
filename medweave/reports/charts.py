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

INK, SOFT, GRID, BAND = "#1d2733", "#66758a", "#dfe5ec", "#f6f8fa"
COLOURS = ("#0f766e", "#b45309", "#4338ca", "#be185d", "#4d7c0f", "#0369a1", "#dc2626", "#6b7280", "#111827")
LEAST_IN_BIN = 15  # images behind a point of a reliability curve
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
    """One value with its interval (None: no interval) and the value that guessing gives (None: no tick)."""

    name: str
    value: float
    low: float | None
    high: float | None
    chance: float | None
    series: str = ""

    @property
    def ends(self) -> list[float]:
        """The value and, where there is one, both ends of its interval."""
        return [end for end in (self.value, self.low, self.high) if end is not None]


def intervals(
    bars: Sequence[Bar], label: str, limits: tuple[float, float] = (0, 1.01), colours: Sequence[str] = ()
) -> str:
    """Values with their intervals, one line a name, the series of a name below each other, chance as a tick.

    limits: of the axis, in the values' unit; colours: the series in the order in which they take colours, so that
    several charts agree (none: as they come).
    """
    names = list(dict.fromkeys(bar.name for bar in bars))
    series = list(dict.fromkeys(bar.series for bar in bars))
    colour_of = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(colours or series)}
    figure, axes = _figure(10.4, 0.9 + len(names) * (0.16 + 0.13 * len(series)))
    step = min(0.28, 0.8 / len(series))
    for bar in bars:
        place = series.index(bar.series)
        y = names.index(bar.name) + (place - (len(series) - 1) / 2) * step
        _dot(axes, bar, y, step, colour_of[bar.series])
    for odd in range(1, len(names), 2):
        axes.axhspan(odd - 0.5, odd + 0.5, color=BAND, lw=0, zorder=-2)
    axes.set(xlim=limits, ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)), yticklabels=names, xlabel=label)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    if len(series) > 1:
        for name in series:
            axes.plot([], [], "o", color=colour_of[name], label=name)
        _legend(axes, columns=3)
    return _svg(figure)


def _dot(axes: Axes, bar: Bar, y: float, step: float, colour: str) -> None:
    if bar.chance is not None:
        axes.plot([bar.chance] * 2, [y - step / 2, y + step / 2], color=SOFT, lw=1.2)
    if bar.low is not None and bar.high is not None:
        axes.plot([bar.low, bar.high], [y, y], color=colour, lw=2.4, alpha=0.45, solid_capstyle="round")
    axes.plot(bar.value, y, "o", color=colour, ms=5, clip_on=False)


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> str:
    """Lines over a shared axis. series: name -> (x values, y values)."""
    figure, axes = _figure(4.6, 2.5)
    for place, (name, (xs, ys)) in enumerate(series.items()):
        dashes = ("-", "--", ":")[place // len(COLOURS) % 3]
        marker = "o" if len(xs) < 25 else None
        axes.plot(xs, ys, dashes, color=COLOURS[place % len(COLOURS)], lw=1.6, label=name, marker=marker, ms=3)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(color=GRID, lw=0.8)
    if len(series) > 1:
        _legend(axes, columns=2)
    return _svg(figure)


def reliability(points: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """Mean stated probability against the share that was right, one line a series; the diagonal is perfect."""
    figure, axes = _figure(3.6, 3.7)
    axes.plot([0, 1], [0, 1], color=SOFT, lw=1, ls="--")
    for (name, (stated, right)), colour in zip(points.items(), COLOURS, strict=False):
        axes.plot(stated, right, "o-", color=colour, lw=1.5, ms=4, label=name, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="stated probability", ylabel="share that was right", aspect="equal")
    axes.grid(color=GRID, lw=0.8)
    _legend(axes, columns=1)
    return _svg(figure)


def reliability_points(stated: np.ndarray, right: np.ndarray) -> tuple[list[float], list[float]]:
    """Up to ten bins of equal count: mean stated probability and share right of each. stated, right: [n]."""
    bins = min(10, max(1, len(stated) // LEAST_IN_BIN))
    parts = [part for part in np.array_split(np.argsort(stated, kind="stable"), bins) if len(part)]
    return [float(stated[p].mean()) for p in parts], [float(right[p].mean()) for p in parts]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _legend(axes: Axes, columns: int) -> None:
    """What the colours mean, above the axes, where it hides nothing."""
    axes.legend(
        frameon=False, fontsize=9.5, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.1, ncols=columns
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
