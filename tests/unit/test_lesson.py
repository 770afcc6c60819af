"""What a student is taught: the targets, and the leak probe (random labels) for teachers that saw the held-out rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from src.competition.kinds.single import Single
from src.competition.sample import Sample
from src.competition.tables import Competition, Rows
from src.config import Config, DistillConfig, LossConfig, ModelConfig
from src.data.cache import ImageStore
from src.fold.lesson import Lesson, from_labels, from_teacher
from src.model.outputs import outputs_of
from src.training.losses import cross_entropy, matching, softened
from src.training.objective import with_margin

CPU = torch.device("cpu")
ROWS, TEST, CLASSES, FOLDS = 600, 200, 4, 3
RNG = np.random.default_rng(0)
POINTS = RNG.random((ROWS + TEST, 2))  # what an image looks like: near points look alike
LABELS = RNG.integers(0, CLASSES, ROWS)  # … and this has nothing to do with it
FOLD_OF = RNG.permutation(np.arange(ROWS) % FOLDS)


def competition() -> Competition:
    def names(kind: str, count: int) -> np.ndarray:
        return np.array([f"{kind}{row}" for row in range(count)])

    ids, test_ids = names("a", ROWS), names("t", TEST)
    return Competition(
        "probe", Path("."), Single(names("c", CLASSES)), Rows(ids, ids.astype("S"), LABELS),
        Rows(test_ids, test_ids.astype("S")), "id", "label", Sample(("id", "label"), test_ids, "labels"),
    )  # fmt: skip


def own_labels(rows: np.ndarray, store: ImageStore | None = None, **keys: object) -> Lesson:
    """Of the probe's rows, with the keys `loss` or `seed`."""
    task = competition()
    store = store or store_of(task.train)
    outputs = outputs_of("single", "cross_entropy", CLASSES)
    return from_labels(task.task, task.y, rows, store, outputs, Config(**keys), CPU)  # type: ignore[arg-type]


def store_of(rows: Rows) -> ImageStore:
    return ImageStore(Path("."), rows.images, 32)


def other_images(paths: np.ndarray, unreadable: str) -> ImageStore:
    return ImageStore(Path("."), paths, 32, unreadable=unreadable)  # type: ignore[arg-type]


def nearest(known: np.ndarray, targets: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """1-nearest-neighbour, the model that remembers everything: (n, C) targets of the known point nearest to each."""
    distance = ((POINTS[asked, None] - POINTS[None, known]) ** 2).sum(2)
    return targets[distance.argmin(1)]


HOT = np.eye(CLASSES, dtype=np.float32)[LABELS]


def fold_teacher(k: int, rows: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(k != FOLD_OF)
    return nearest(known, HOT[known], rows)


def pooled_oof(rows: np.ndarray) -> np.ndarray:
    """The leaky teacher: each training row's out-of-fold prediction, by models that saw the other folds' labels."""
    table = np.zeros((ROWS, CLASSES), np.float32)
    for k in range(FOLDS):
        held_out = np.flatnonzero(k == FOLD_OF)
        table[held_out] = fold_teacher(k, held_out)
    return table[rows]


def lesson_of(k: int, teacher: str, **changes: object) -> Lesson:
    task = competition()
    store, test_store = store_of(task.train), store_of(task.test)

    def predict(network: nn.Module, asked: ImageStore, rows: np.ndarray, views: object) -> np.ndarray:
        points = rows + (ROWS if asked is test_store else 0)
        return pooled_oof(rows) if teacher == "pooled" and asked is store else fold_teacher(k, points)

    return from_teacher(
        own_labels(np.flatnonzero(k != FOLD_OF), store),
        nn.Identity(),
        DistillConfig(**{"targets": "precomputed", **changes}),  # type: ignore[arg-type]
        task,
        test_store=test_store,
        open_images=other_images,
        predict=predict,
        device=CPU,
    )


def student_score(teacher: str, **changes: object) -> float:
    """Accuracy out-of-fold of nearest-neighbour students that trust what the teacher says about their rows."""
    right = np.zeros(ROWS, bool)
    for k in range(FOLDS):
        lesson = lesson_of(k, teacher, **changes)
        taught = lesson.objective.targets(torch.from_numpy(lesson.rows)).numpy()[:, CLASSES:]
        held_out = np.flatnonzero(k == FOLD_OF)
        right[held_out] = nearest(lesson.rows, taught, held_out).argmax(1) == LABELS[held_out]
    return float(right.mean())


CHANCE, ERROR = 1 / CLASSES, np.sqrt(0.25 * 0.75 / ROWS)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_a_student_of_its_folds_teachers_is_at_chance_on_random_labels(unlabelled: bool) -> None:
    assert abs(student_score("of the fold", unlabelled=unlabelled, confidence=0.5) - CHANCE) < 3 * ERROR


def test_the_probe_finds_the_pooled_table_leaky() -> None:
    assert student_score("pooled") > CHANCE + 6 * ERROR


def test_targets_of_labelled_and_unlabelled_rows() -> None:
    lesson = lesson_of(0, "of the fold", unlabelled=True, confidence=0.5, targets="patient")
    assert (np.sort(lesson.rows)[-TEST:] == ROWS + np.arange(TEST)).all()
    rows = torch.tensor([int(lesson.rows[0]), ROWS + 3])
    expected = np.stack([HOT[rows[0]], fold_teacher(0, np.array([ROWS + 3]))[0]])
    np.testing.assert_allclose(lesson.objective.targets(rows).numpy(), expected)
    assert lesson.strata[ROWS + 3] == expected[1].argmax()
    assert lesson.store.paths[ROWS + 3] == b"t3"


def test_the_patient_teacher_looks_at_what_the_student_sees() -> None:
    class Teacher(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) @ torch.ones(3, CLASSES) * torch.arange(CLASSES)

    plain = own_labels(np.arange(400))
    config = DistillConfig(temperature=3.0, weight=0.7)
    lesson = from_teacher(
        plain, Teacher(), config, competition(), test_store=plain.store, open_images=other_images,
        predict=lambda: None, device=CPU,  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    x, logits = torch.randn(5, 3, 8, 8), torch.randn(5, CLASSES)
    y = lesson.objective.targets(torch.arange(5))
    expected = cross_entropy(logits, y) + 0.7 * matching(logits, softened(Teacher()(x), 3.0), 3.0)
    torch.testing.assert_close(lesson.objective.loss(logits, y, x), expected)
    assert plain.objective.loss(logits, y, x) == cross_entropy(logits, y)


@pytest.mark.parametrize("targets", ["patient", "precomputed"])
def test_the_margin_is_for_the_labels_and_not_for_the_teacher(targets: str) -> None:
    teacher = torch.log_softmax(torch.randn(5, CLASSES, generator=torch.manual_seed(0)), 1)
    plain = own_labels(np.arange(400))
    assert with_margin(plain.objective, ModelConfig()) is plain.objective
    model = ModelConfig(head="cosface", margin=0.2, scale=10.0)
    harder = with_margin(plain.objective, model)
    logits, x = 10 * torch.rand(5, CLASSES) - 5, torch.zeros(5, 3, 8, 8)
    y = plain.objective.targets(torch.arange(5))
    expected = cross_entropy(logits - 2.0 * y, y)
    torch.testing.assert_close(harder.loss(logits, y, x), expected)
    lesson = own_labels(np.arange(400), model=model)
    torch.testing.assert_close(lesson.objective.loss(logits, y, x), expected)

    class Teacher(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return teacher

    config = DistillConfig(temperature=3.0, weight=0.7, targets=targets)  # type: ignore[arg-type]
    both = from_teacher(
        lesson, Teacher(), config, competition(), test_store=plain.store, open_images=other_images, device=CPU,
        predict=lambda *_, **__: np.tile(teacher.exp().numpy(), (80, 1)),
    ).objective  # fmt: skip
    found = both.loss(logits, both.targets(torch.arange(5)), x)
    torch.testing.assert_close(found, expected + 0.7 * matching(logits, softened(teacher, 3.0), 3.0))


def test_flipped_labels_are_a_share_of_the_training_rows_and_no_others() -> None:
    train, val = np.arange(0, ROWS, 2), np.arange(1, ROWS, 2)
    before = LABELS.copy()

    def taught(share: float, seed: int) -> np.ndarray:
        lesson = own_labels(train, loss=LossConfig(flip_labels=share), seed=seed)
        assert (lesson.strata == before).all(), "the plan's rows stay"
        return lesson.objective.targets(torch.arange(ROWS)).numpy().argmax(1)

    wrong = taught(0.1, 3) != before
    assert wrong[train].sum() == 30 and not wrong[val].any()
    assert (before == LABELS).all(), "what scores are counted with"
    assert (taught(0.1, 3) == taught(0.1, 3)).all() and (taught(0.1, 3) != taught(0.1, 4)).any()
    everything = taught(1.0, 0)[train]
    assert (everything != before[train]).all()
    turns = np.bincount((everything - before[train]) % CLASSES, minlength=CLASSES)
    assert turns[0] == 0 and turns[1:].min() > 70, "each other class alike"
    assert (taught(0.0, 3) == before).all()


LOGITS = torch.randn(9, CLASSES, generator=torch.Generator().manual_seed(0))
OTHERS = {"gamma": 0.7, "class_weights": "balanced", "smoothing": 0.2, "smoothing_kind": "all", "flip_labels": 1.0}


def test_every_key_of_the_loss_reaches_it() -> None:
    """A key that is added to the section changes targets or loss, or this test says that it does not."""

    def loss_with(**keys: object) -> float:
        lesson = own_labels(np.arange(400), loss=LossConfig(**{"name": "focal", **keys}))  # type: ignore[arg-type]
        return float(lesson.objective.loss(LOGITS, lesson.objective.targets(torch.arange(9)), torch.empty(0)))

    assert {field.name for field in dataclasses.fields(LossConfig)} == {"name", *OTHERS}
    smooth = {"smoothing": 0.1}  # without which its kind says nothing
    for key, value in OTHERS.items():
        assert loss_with(**(smooth | {key: value})) != loss_with(**smooth), key
    assert loss_with() != loss_with(name="cross_entropy")


def test_focal_loss_with_balanced_classes_against_a_loop() -> None:
    config = LossConfig(name="focal", gamma=0.7, class_weights="balanced")
    objective, rows = own_labels(np.arange(400), loss=config).objective, torch.arange(9)
    counts = np.bincount(LABELS[:400], minlength=CLASSES)
    expected = 0.0
    for row, z in zip(rows.tolist(), LOGITS, strict=True):
        p = z.softmax(0)[LABELS[row]]
        expected += 400 / (CLASSES * counts[LABELS[row]]) * -((1 - p) ** 0.7) * p.log() / 9
    torch.testing.assert_close(objective.loss(LOGITS, objective.targets(rows), torch.empty(0)), expected)
