"""Pictures: what the model is shown in each stage, what it confuses, and how alike the members of an ensemble err."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.competition.metrics import area_under_curve
from src.data.augment import Augment
from src.data.cache import ImageStore
from src.data.loader import Order, training_batch
from src.data.preprocess import Preprocess
from src.data.spec import ImageSpec, Normalisation
from src.files import replacing
from src.reporting.guarded import picture
from src.seeds import Stream

MOST = 40  # classes or columns of a picture, which can still be read


@picture
def augmentation_grid(
    path: Path, store: ImageStore, rows: np.ndarray, size: int, augment: Augment, seed: int = 0, copies: int = 8
) -> Path:
    """A PNG with one row per image of `rows` (R,): the whole image, then `copies` augmented versions of it."""
    import cv2

    from src.data.loader import evaluation_batch

    spec, whole_range = store.spec, Normalisation((0.0,) * store.spec.channels, (1.0,) * store.spec.channels)
    order = Order(np.repeat(rows, copies), size, augment, (seed, Stream.EXAMPLES))
    batch = training_batch(store, order)
    shares = Preprocess(whole_range, spec=spec)(batch.images[0], batch.colour).clamp(0, 1).permute(0, 2, 3, 1)
    pixels = ImageSpec(spec.channels).visible(shares.mul(255).byte().numpy())
    whole = spec.visible(evaluation_batch(store, Order(rows, size)).images[0].numpy())
    grid = np.concatenate([whole[:, None], pixels.reshape(len(rows), copies, size, size, 3)], axis=1)
    grid = np.pad(grid, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    picture = np.ascontiguousarray(grid.transpose(0, 2, 1, 3, 4)).reshape(len(rows) * (size + 2), -1, 3)
    enlarge = max(1, 96 // size)  # digits of 28 px would be too small to look at
    picture = picture.repeat(enlarge, 0).repeat(enlarge, 1)
    with replacing(path) as temporary:  # imencode, because imwrite fails silently
        temporary.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
    return path


@picture
def confusion_matrix(path: Path, target: np.ndarray, pred: np.ndarray, classes: Sequence[str], title: str) -> Path:
    """A PNG: share of each true class (rows) that was predicted as each class (columns), with counts.

    target (N,) int64, pred (N, C) probabilities. Of more than MOST classes those with the most errors.
    """
    guess, support = pred.argmax(1), np.bincount(target, minlength=len(classes))
    if len(classes) > MOST:
        wrong = np.bincount(target[guess != target], minlength=len(classes))
        shown = np.sort(np.argsort(-wrong, kind="stable")[:MOST])
        place = np.full(len(classes), -1)
        place[shown] = np.arange(MOST)
        kept = (place[target] >= 0) & (place[guess] >= 0)
        title = f"{title}\n{MOST} of {len(classes)} classes, those with the most errors"
        target, guess, support = place[target[kept]], place[guess[kept]], support[shown]
        classes = [classes[at] for at in shown.tolist()]
    count = len(classes)
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (target, guess), 1)
    share = table / np.maximum(1, support[:, None])
    side = min(24.0, 3.5 + 0.55 * count)
    figure, axes = _plot(side + 1, side)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), classes, rotation=45, ha="right")
    axes.set_yticks(range(count), [f"{name} ({total})" for name, total in zip(classes, support, strict=True)])
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = "white" if share[row, column] > 0.6 else "black"
        axes.text(column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=9)
    axes.set(xlabel="predicted", ylabel="true (rows)", title=title)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return _save(path, figure)


@picture
def column_bars(path: Path, target: np.ndarray, pred: np.ndarray, names: Sequence[str], title: str) -> Path:
    """A PNG: for each column the area under its ROC curve and its F1 at 0.5, the column with the most true rows first.

    target (N, C) bool, pred (N, C) probabilities. Of more than MOST columns the least areas; one that is all true or
    all false has none.
    """
    true, guess = target.sum(0), pred >= 0.5
    curves = [
        area_under_curve(target[:, c], pred[:, c]) if 0 < true[c] < len(target) else np.nan for c in range(len(true))
    ]
    f1 = 2 * (guess & target).sum(0) / np.maximum(1, guess.sum(0) + true)
    shown = np.argsort(np.nan_to_num(curves, nan=2.0), kind="stable")[:MOST]
    shown = shown[np.argsort(-true[shown], kind="stable")]
    figure, axes = _plot(8.0, 1.6 + 0.32 * len(shown))
    at = np.arange(len(shown))
    axes.barh(at - 0.2, np.array(curves)[shown], 0.38, label="AUC")
    axes.barh(at + 0.2, f1[shown], 0.38, label="F1 at 0.5")
    axes.set_yticks(at, [f"{names[c]} ({true[c]})" for c in shown.tolist()])
    axes.invert_yaxis()
    axes.axvline(0.5, color="grey", linewidth=1, linestyle=":")
    axes.set(xlim=(0, 1), title=title if len(shown) == len(names) else f"{title}\n{MOST} of {len(names)} columns")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)
    return _save(path, figure)


@picture
def scatter(path: Path, target: np.ndarray, pred: np.ndarray, names: Sequence[str], title: str) -> Path:
    """A PNG: of each number a panel with the predictions (upwards) against what is true, and the diagonal.

    target, pred (N, C). At most 12 panels, of 20,000 rows.
    """
    shown, rows = list(names)[:12], np.linspace(0, len(target) - 1, min(len(target), 20_000)).astype(int)
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure, grid = _plot(4.2 * across + 0.6, 4.4 * down, down, across)
    for c, axes in enumerate(np.ravel(grid)):
        if c >= len(shown):
            axes.set_axis_off()
            continue
        true, guess = target[rows, c], pred[rows, c]
        ends = [min(true.min(), guess.min()), max(true.max(), guess.max())]
        axes.plot(ends, ends, color="grey", linewidth=1)
        axes.scatter(true, guess, s=8 if len(rows) < 2000 else 2, alpha=0.5, linewidths=0)
        axes.set(xlabel="true", ylabel="predicted", title=shown[c], aspect="equal")
    figure.suptitle(title)
    return _save(path, figure)


@picture
def correlation_matrix(path: Path, table: np.ndarray, names: Sequence[str], title: str) -> Path:
    """A PNG of correlations (R, R) between R named members, with the numbers in the cells."""
    side = min(24.0, 3.0 + 0.7 * len(names))
    figure, axes = _plot(side + 1, side)
    image = axes.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for row, column in np.ndindex(*table.shape):
        colour = "white" if abs(table[row, column]) > 0.6 else "black"
        axes.text(column, row, f"{table[row, column]:.2f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set(title=title)
    figure.colorbar(image, ax=axes, label="correlation of the errors", shrink=0.8)
    return _save(path, figure)


@picture
def image_pairs(
    path: Path,
    pairs: Sequence[tuple[str, tuple[np.ndarray, np.ndarray], tuple[str, str]]],
    title: str,
    columns: int = 3,
) -> Path:
    """A PNG of pairs of images side by side: of each pair its title, two (H, W, 3) uint8 images, two captions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(pairs))
    lines = -(-len(pairs) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.0 * lines + 0.5), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    cells = np.atleast_1d(figure.subfigures(lines, columns, squeeze=False)).reshape(-1)
    for cell, (heading, images, captions) in zip(cells, pairs, strict=False):
        cell.suptitle(heading, fontsize=10, color="black")
        for axes, image, caption in zip(cell.subplots(1, 2), images, captions, strict=True):
            axes.imshow(image, interpolation="nearest" if min(image.shape[:2]) < 64 else None)
            axes.set_xlabel(caption, fontsize=9, parse_math=False)
            axes.set_xticks([])
            axes.set_yticks([])
    figure.suptitle(title, fontsize=12)
    return _save(path, figure)


@picture
def range_picture(
    path: Path, rates: np.ndarray, losses: np.ndarray, smooth: np.ndarray, marks: Mapping[str, float], title: str
) -> Path:
    """A PNG of a range test: losses (n,), raw and smoothed, over rates (n,); `marks` are suggested rates by name."""
    figure, axes = _plot(7.0, 4.5)
    axes.plot(rates, losses, color="lightgrey", label="loss")
    axes.plot(rates, smooth, label="smoothed")
    for number, (name, rate) in enumerate(marks.items()):
        axes.axvline(rate, color=f"C{number + 1}", linestyle="--", label=f"{name} {rate:.2g}")
    finite = smooth[np.isfinite(smooth)]
    axes.set(xscale="log", xlabel="optimizer.lr (per 256 examples)", ylabel="loss", title=title)
    axes.xaxis.set_major_formatter("{x:g}")  # matplotlib's own are formulas
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(0.9 * finite.min(), 1.1 * min(finite.max(), 2 * finite[0]))
    axes.legend()
    return _save(path, figure)


@picture
def schedule_picture(
    path: Path, steps: Sequence[int], columns: Mapping[str, Sequence[float]], starts: Sequence[int], title: str
) -> Path:
    """A PNG of a plan: each of `columns` (learning rate, size, …) over `steps`; stages begin at `starts`."""
    figure, lines = _over_steps(9.0, 1.8, len(columns))
    for axes, (name, values) in zip(lines, columns.items(), strict=True):
        for start in starts:
            axes.axvline(start, color="lightgrey", linewidth=1)
        axes.step(steps, values, where="post")
        axes.set_ylabel(name)
        axes.set_ylim(0, 1.1 * max(max(values), 1e-12))
    lines[0].set_title(title)
    lines[-1].set_xlabel("optimiser step")
    return _save(path, figure)


@picture
def history_picture(path: Path, history: Sequence[Mapping[str, float]], metric: str, title: str) -> Path:
    """A PNG of the lines of history.csv over the steps: the training loss, and below it the held-out `metric`.

    The loss is that of training, on augmented and mixed images, and may jump where a stage begins (grey lines).
    """
    steps = [row["step"] for row in history]
    figure, lines = _over_steps(8.0, 3.0, 2)
    for axes, (name, label) in zip(lines, (("loss", "training loss"), (metric, f"held-out {metric}")), strict=True):
        for before, after in pairwise(history):
            if after["stage"] != before["stage"]:
                axes.axvline(before["step"], color="lightgrey", linewidth=1)
        axes.plot(steps, [row[name] for row in history], marker="o", markersize=3)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    lines[0].set_title(title)
    lines[-1].set_xlabel("optimiser step")
    return _save(path, figure)


@picture
def sizes_picture(path: Path, curves: Mapping[str, Mapping[int, float]], metric: str, title: str) -> Path:
    """A PNG of scores against the test size: one line per entry of `curves` (score by size), the last one thick."""
    figure, axes = _plot(7.0, 4.5)
    for name, scores in curves.items():
        thick = 3 if name == list(curves)[-1] else 1
        axes.plot(list(scores), list(scores.values()), marker="o", linewidth=thick, label=name)
    axes.set(xlabel="test size (px)", ylabel=metric, title=title)
    axes.set_xticks(sorted({size for scores in curves.values() for size in scores}))
    axes.legend()
    return _save(path, figure)


def _over_steps(width: float, height: float, lines: int) -> tuple[Any, Any]:
    """A figure and its axes of so many inches each, one above the other. Its margins are fixed: to find them, a layout
    draws everything twice, which takes longer than the rest of a small fold's pictures."""
    figure, axes = _plot(width, height * lines, lines, layout=None)
    whole = height * lines
    figure.subplots_adjust(
        left=1.1 / width, right=1 - 0.2 / width, bottom=0.55 / whole, top=1 - 0.4 / whole, hspace=0.1
    )
    return figure, axes


def _plot(
    width: float, height: float, lines: int = 1, columns: int = 1, layout: Literal["constrained"] | None = "constrained"
) -> tuple[Any, Any]:
    """An empty figure of so many inches and its axes, without pyplot, which would keep every figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout=layout)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, sharex=columns == 1)


def _save(path: Path, figure: Any) -> Path:
    """The one way a picture gets to the disk: whole, or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
