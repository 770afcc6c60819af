"""The picture of an ablation: the worth of each technique with its interval, in a forest plot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from src.files import replacing
from src.reporting.guarded import picture

OWN, CONTROL = "#1f4e8c", "#b35900"


@picture
def effects_picture(
    path: Path,
    rows: Sequence[tuple[str, float, float | None, float | None, str]],
    *,
    controls: Collection[str],
    metric: str,
    title: str,
) -> Path:
    """A PNG with a line for each row (name, mean, low, high or None, verdict), the first on top; `controls` are the
    names that have another colour. A filled point: the verdict is that it helps or harms."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(9.5, 1.8 + 0.34 * len(rows)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=1)
    for line, (name, mean, low, high, verdict) in enumerate(rows):
        colour = CONTROL if name in controls else OWN
        sure = verdict in ("helps", "harms")
        if low is not None and high is not None:
            axes.plot([low, high], [line, line], color=colour, linewidth=2.2 if sure else 1.2, solid_capstyle="butt")
        axes.plot([mean], [line], "o", color=colour, markerfacecolor=colour if sure else "white", markersize=6.5)
    names = [name if len(name) <= 30 else f"{name[:29]}…" for name, *_ in rows]
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    for label, (name, *_) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(CONTROL if name in controls else "black")
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(rows)), [verdict.split(":")[0] for *_, verdict in rows])
    right.tick_params(length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.margins(x=0.04)
    axes.set(xlabel=f"difference in {metric}, + is better (mean and 95 % interval of each by itself)")
    axes.set_title(title, loc="left", parse_math=False)
    marks = [
        Line2D([], [], color=OWN, marker="o", label="technique"),
        *([Line2D([], [], color=CONTROL, marker="o", label="planted control")] if controls else []),
        Line2D([], [], color="grey", marker="o", markerfacecolor="white", linestyle="", label="hollow: no verdict"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
