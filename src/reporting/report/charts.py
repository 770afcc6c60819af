"""Drawings of a report as SVG, their text as text: small, sharp at any size, and without a network."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# told apart on white, and by the colour-blind (Okabe and Ito)
COLOURS = ("#0060a8", "#b34a00", "#00734d", "#8c3b7a", "#6b5b00", "#3f3f3f", "#0a7d8c", "#a3243b")


def drawn(width: float, height: float, draw: Callable[[Any], object], lines: int = 1, columns: int = 1) -> bytes:
    """The SVG of a figure of so many inches; draw: gets its axes, one or an array of them."""
    import matplotlib
    from cycler import cycler
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.prop_cycle": cycler(color=list(COLOURS)),
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots(lines, columns, sharex=columns == 1 and lines > 1))
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    *,
    marks: Mapping[str, float] | None = None,
    diagonal: bool = False,
    width: float = 7.0,
    height: float = 3.6,
    logarithmic: bool = False,
) -> bytes:
    """Curves by name; marks: x of dashed lines, by what they say; logarithmic: x within 1/8 and 8."""

    xs_of = [xs for xs, _ in curves.values()]

    def draw(axes: Any) -> None:
        for name, (xs, ys) in curves.items():
            axes.plot(xs, ys, marker="o" if len(xs) < 40 else None, markersize=3, linewidth=1.5, label=name)
        if diagonal:
            axes.plot([0, 1], [0, 1], color="#777777", linestyle=":", linewidth=1)
        for name, at in (marks or {}).items():
            axes.axvline(at, color="#3f3f3f", linestyle="--", linewidth=1, label=name)
        if logarithmic:
            axes.set_xscale("log", base=2)
            ticks = [2.0**power for power in range(-3, 4) if min(map(min, xs_of)) <= 2.0**power <= max(map(max, xs_of))]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set(xlabel=x, ylabel=y)
        if len(curves) + len(marks or {}) > 1:
            axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return drawn(width, height, draw)


def bars(names: Sequence[str], values: Mapping[str, Sequence[float]], x: str, stacked: bool = True) -> bytes:
    """A horizontal bar per name, of stacked parts."""

    def draw(axes: Any) -> None:
        left = np.zeros(len(names))
        for label, part in values.items():
            axes.barh(range(len(names)), part, left=left if stacked else None, label=label, height=0.65)
            left = left + np.asarray(part)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlabel(x)
        if len(values) > 1:
            axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return drawn(7.0, 1.2 + 0.3 * len(names), draw)


def heat(
    table: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    y: str,
    x: str,
    texts: np.ndarray | None = None,
    least: float = 0.0,
) -> bytes:
    """A coloured table (R, C) of values from `least` to 1, with `texts` in its cells where there is room."""

    def draw(axes: Any) -> None:
        axes.grid(False)
        axes.imshow(table, cmap="Blues", vmin=least, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(rows)), [_short(name) for name in rows], fontsize=8)
        axes.set(xlabel=x, ylabel=y)
        if texts is not None and len(rows) <= 20:
            for (i, j), value in np.ndenumerate(table):
                colour = "white" if value > least + 0.6 * (1 - least) else "#1b1b1b"
                axes.text(j, i, str(texts[i, j]), ha="center", va="center", fontsize=7.5, color=colour)

    side = min(11.0, 2.2 + 0.38 * max(len(columns), 4))
    return drawn(side, min(10.0, 1.6 + 0.34 * max(len(rows), 4)), draw)


def dots(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> bytes:
    """Points and the line on which both are equal; at most 1,500 of them, evenly chosen."""
    shown = np.unique(np.linspace(0, len(x) - 1, min(len(x), 1500)).astype(int))

    def draw(axes: Any) -> None:
        axes.scatter(x[shown], y[shown], s=6, alpha=0.5, linewidths=0)
        ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
        axes.plot(ends, ends, color="#777777", linestyle=":")
        axes.set(xlabel=x_name, ylabel=y_name)

    return drawn(4.6, 4.2, draw)


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
