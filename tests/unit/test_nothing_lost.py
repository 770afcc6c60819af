"""Nothing is lost at the end: no picture, no score that some rows lack, no overflow and no full memory ends a run."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.competition.metrics import METRICS, labels, per_class, scores
from src.competition.metrics.metric import Undefined
from src.config import AverageConfig, MixConfig, ScheduleConfig
from src.data.augment import Augment
from src.data.cache import ImageStore
from src.data.loader import Batch, batches, evaluation_orders
from src.data.preprocess import Preprocess
from src.data.spec import Normalisation
from src.errors import UserError
from src.model.backbone import build_model, check_sizes
from src.model.outputs import outputs_of
from src.model.weights import WeightsSource
from src.reporting import figures
from src.reporting.gallery import Exhibit, gallery
from src.reporting.guarded import picture
from src.search.effects_plot import effects_picture
from src.training.device import make_accelerator
from src.training.engine import fit
from src.training.learner import Learner
from src.training.losses import cross_entropy
from src.training.objective import Objective
from src.training.plan import Plan
from src.training.session import Progress
from src.training.stages import Stage
from tests.conftest import REPO
from tests.process.namespaces import in_small_memory, require_mounts
from tests.unit.silent import silent_session

# ---- pictures -------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8)
ROW = {"step": 1, "stage": 1, "loss": 1.0, "accuracy": 0.5}
# Of each picture with text in it: what it is drawn from, where every text is `text`.
DRAWN: dict[str, Callable[[Path, str], Path]] = {
    "confusion": lambda path, text: figures.confusion_matrix(
        path, np.array([0, 1, 1]), np.eye(2)[[0, 1, 0]], [text, f"{text}2"], text
    ),
    "columns": lambda path, text: figures.column_bars(
        path, np.array([[True, False], [False, True]]), np.full((2, 2), 0.5), [text, f"{text}2"], text
    ),
    "numbers": lambda path, text: figures.scatter(path, np.eye(3)[:, :1], np.eye(3)[:, :1], [text], text),
    "correlation": lambda path, text: figures.correlation_matrix(path, np.eye(2), [text, f"{text}2"], text),
    "pairs": lambda path, text: figures.image_pairs(path, [(text, (IMAGE, IMAGE), (text, text))], text),
    "schedule": lambda path, text: figures.schedule_picture(path, [0, 1], {text: [1, 2], "rate": [1, 0]}, [0], text),
    "history": lambda path, text: figures.history_picture(path, [{**ROW, text: 0.5}], text, text),
    "sizes": lambda path, text: figures.sizes_picture(path, {text: {32: 0.5, 64: 0.6}}, text, text),
    "range test": lambda path, text: figures.range_picture(
        path, np.geomspace(1e-6, 1, 9), np.arange(9.0), np.arange(1.0, 10.0), {text: 1e-3}, text
    ),
    "gallery": lambda path, text: gallery(path, [(text, [Exhibit(IMAGE, np.eye(4), text, text, 0.5)])], text),
    "effects": lambda path, text: effects_picture(
        path, [(text, 0.1, 0.0, 0.2, text)], controls=[text], metric=text, title=text
    ),
}
TEXTS = ["$\\foo$", "$x^$", "a_{b$", "$$", "\\", "%", "${x}", "{0}", "$\\frac{1}$ and $\\text{", "_hidden", "<b>&"]


@pytest.mark.parametrize("name", DRAWN)
def test_text_in_pictures_is_no_formula(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(TEXTS if name == "confusion" else TEXTS[:1]):
        path = DRAWN[name](tmp_path / f"{number}.png", text)
        assert path.is_file(), capsys.readouterr().out
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "error", [ValueError("odd\nnumbers"), MemoryError(), UserError("the disk is full"), KeyError("x"), RuntimeError()]
)
def test_a_picture_ends_nothing(tmp_path: Path, error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    @picture
    def broken(path: Path, number: int) -> Path:
        path.write_bytes(b"half")
        raise error

    assert broken(tmp_path / "x.png", 3) == tmp_path / "x.png"
    assert not (tmp_path / "x.png").exists()
    line = capsys.readouterr().out
    assert line.startswith(f"no picture {tmp_path / 'x.png'}: {type(error).__name__}") and line.count("\n") == 1


def test_a_wish_to_stop_is_no_broken_picture(tmp_path: Path) -> None:
    @picture
    def stopped(path: Path) -> Path:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path / "x.png")


# ---- ten thousand classes -------------------------------------------------------------------------------------------


def test_ten_thousand_classes_are_not_counted_in_a_square(tmp_path: Path) -> None:
    count = 10_000
    target = RNG.integers(0, count, 300)
    pred = np.full((300, count), 1e-6, np.float32)
    pred[np.arange(300), np.where(np.arange(300) % 3, target, 5)] = 0.9
    names = [f"k{number}" for number in range(count)]
    tracemalloc.start()
    found = scores(["accuracy", "balanced_accuracy", "f1_macro", "mcc", "error"], target, pred)
    table = per_class(target, pred, names)
    figures.confusion_matrix(tmp_path / "c.png", target, pred, names, "t")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6, "a square of them takes 800 MB"
    assert found["accuracy"] == pytest.approx(np.mean(pred.argmax(1) == target)) and len(table) == count
    assert (tmp_path / "c.png").is_file()


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.of_counts is not None])
def test_counts_without_their_zeros_say_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = METRICS[name].classes or 7
    target, pred = RNG.integers(0, classes - (classes > 2), 50), RNG.random((50, classes))
    plain = METRICS[name].function(target, pred)
    monkeypatch.setattr(labels, "MANY", 1)
    assert METRICS[name].function(target, pred) == pytest.approx(plain, abs=1e-12)


# ---- rows that have no score ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auc", "auc_weighted", "auc_pairs", "average_precision", "auc_above_tpr0.8"])
def test_rows_of_one_class_have_no_area(name: str) -> None:
    """Validation goes on without; whoever grades a file is told."""
    target, pred = np.ones(5, np.int64), np.tile([[0.4, 0.6]], (5, 1))
    found = scores([name, "accuracy"], target, pred, strict=False)
    assert np.isnan(found[METRICS[name].name]) and found["accuracy"] == 1.0
    with pytest.raises(Undefined, match="the rows are all of one class; use fewer folds"):
        scores([name, "accuracy"], target, pred)


def test_no_score_is_the_worst_score() -> None:
    for name in ("auc", "log_loss"):
        assert METRICS[name].best({"raw": float("nan"), "ema": 0.1}) == "ema"
        assert METRICS[name].best({"raw": float("nan"), "ema": float("nan")}) == "raw"


# ---- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "refused"), [(32, True), (64, False)])
def test_a_batch_of_one(size: int, refused: bool) -> None:
    """Where the last map is one pixel, BatchNorm has a single value; the cure is followed."""
    model, _ = build_model("resnet18", 3, WeightsSource("scratch"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if refused:
        with pytest.raises(UserError, match=r"batch_size=1: BatchNorm of resnet18 .*; set batch_size=2 or more"):
            check_sizes("resnet18", model, [size], alone=[size])
    else:
        check_sizes("resnet18", model, [size], alone=[size])
    check_sizes("resnet18", model, [size], alone=[])  # batch_size=2
    model.train()(torch.zeros(2, 3, size, size))
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if "running" not in key and "num" not in key)


def trained(folder: Path, precision: str, overflows: set[int]) -> Progress:
    """Four steps of a tiny network, of which those numbered have an infinite loss."""
    accelerator, model = make_accelerator("cpu", precision), nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01))
    calls = iter(range(100))

    def loss(logits: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, y) * (float("inf") if next(calls) in overflows else 1.0)

    def pictures() -> Iterator[Batch]:
        for _ in range(4):
            images = torch.from_numpy(RNG.integers(0, 256, (1, 2, 4, 4, 3)).astype(np.uint8))
            yield Batch(images, None, torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool))

    stages = (Stage(0, 0, 4, 4, np.arange(4), 2, 1.0, 2),)
    return fit(
        Learner(accelerator, model, optimizer, None, None, None),
        Objective(lambda rows: F.one_hot(rows, 2).float(), loss, outputs_of("single", "cross_entropy", 2)),
        Plan(stages, 4, 0, 0.01, ScheduleConfig(), AverageConfig(), MixConfig(), Augment(), validate_every=1),
        pictures(),
        Preprocess(Normalisation((0.5,) * 3, (0.2,) * 3)),
        lambda network, size: {},
        silent_session(stages, folder),
        Progress(0, [], 0.0),
    )


def test_a_loss_that_overflows_in_fp16_is_a_skipped_step(tmp_path: Path) -> None:
    done = trained(tmp_path / "some", "fp16", {0, 3})
    assert done.step == 4 and [np.isfinite(row["loss"]) for row in done.history] == [True, True]
    with pytest.raises(UserError, match=r"optimizer\.lr=0\.01: the loss became nan by step 3; try a third"):
        trained(tmp_path / "all", "fp16", {2, 3})
    with pytest.raises(UserError, match=r"the loss became (inf|nan) by step 1"):  # in fp32 the weights are lost
        trained(tmp_path / "fp32", "fp32", {0})


# ---- shared memory --------------------------------------------------------------------------------------------------

LOADING = """
import sys
import numpy as np
from pathlib import Path
from src.data.cache import ImageStore
from src.data.loader import Window, batches, evaluation_orders, kept_workers

store = ImageStore(Path(sys.argv[1]), np.array([b"0.png", b"1.png"] * 8), 64)
orders = evaluation_orders(np.arange(16), 4, 160, 1.0, (Window(),) * 3)
with kept_workers():
    twice = [[int(batch.images.sum()) for batch in batches(store, orders, 1)] for _ in range(2)]
plain = [int(batch.images.sum()) for batch in batches(store, orders, 0)]
assert twice == [plain, plain]
print("all batches arrived")
"""


def tiny_store(folder: Path) -> ImageStore:
    for row in range(2):
        cv2.imwrite(str(folder / f"{row}.png"), np.full((64, 64, 3), 50 + row, np.uint8))
    return ImageStore(folder, np.array([b"0.png", b"1.png"] * 8), 64)


@pytest.mark.process
@pytest.mark.parametrize("size", ["1m", "8m"])
def test_a_small_shared_memory(tmp_path: Path, size: str) -> None:
    """8m takes some batches of 0.9 MB and not all that are fetched ahead. Before, a worker died of it and the training
    waited for ever."""
    require_mounts()
    tiny_store(tmp_path)
    command = in_small_memory([sys.executable, "-c", LOADING, str(tmp_path)], size)
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0 and "all batches arrived" in ended.stdout, ended.stderr
    told = ended.stdout.count("/dev/shm has no room for batches of this size: they come through pipes")
    assert told == 1 or (size == "8m" and told == 0)


def test_batches_through_pipes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, orders = tiny_store(tmp_path), evaluation_orders(np.arange(5), 4, 32, 1.0)
    made: list[list[Any]] = []
    for room in (True, False):
        monkeypatch.setattr("src.data.loader.has_shared_room", lambda batch, workers, room=room: room)
        made.append(list(batches(store, orders, 1)))
    for one, other in zip(*made, strict=True):
        assert isinstance(other, Batch) and one.colour is other.colour is None
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("images", "rows", "readable"))
