"""Unknown folders: what is found in them, by which keys, and that a competition opens with these."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from src.cli import main
from src.competition.tables import Competition, load_competition
from src.config import build
from src.errors import UserError
from src.guess.guess import guess
from src.guess.words import lines, words, yaml_text

N, M = 24, 8  # training and test pictures
PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
TRAIN, TEST = [f"a{row:02d}" for row in range(N)], [f"b{row:02d}" for row in range(M)]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((8, 8, 3), len(path.name) * 5 % 256, np.uint8))


def make_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def pictures(root: Path, names: Sequence[str], extension: str = ".jpg") -> None:
    for name in names:
        picture(root / f"{name}{extension}")


def table(path: Path, columns: dict[str, Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(rows) + "\n")


def usual(root: Path, target: Sequence[Any], sample: Any, name: str = "label", **train: Sequence[Any]) -> None:
    """train.csv, train/, test/ and a sample with one column."""
    pictures(root / "train", TRAIN)
    pictures(root / "test", TEST)
    table(root / "train.csv", {"id": TRAIN, **train, name: target})
    table(root / "sample_submission.csv", {"id": TEST, name: [sample] * M})


def cycle(values: Sequence[Any], count: int = N) -> list[Any]:
    return [values[row % len(values)] for row in range(count)]


def found(root: Path, metric: str | None = None, **given: Any) -> dict[str, Any]:
    return {finding.key: finding.value for finding in guess(root, metric, given) if finding.key}


def opened(root: Path, keys: dict[str, Any], cache: Path) -> Competition:
    own = {key: value for key, value in keys.items() if key not in ("size", "epochs", "batch_size")}
    return load_competition(
        build({"competition": {"root": str(root), **own}}).competition, cache, say=lambda line: None
    )


# ---- layouts --------------------------------------------------------------------------------------------------------


def plain_layout(root: Path) -> None:
    usual(root, cycle(["ant", "bee", "cow"]), "ant")


def other_names(root: Path) -> None:
    pictures(root / "images_training_rev1", TRAIN)
    pictures(root / "images_test_rev1", TEST)
    table(
        root / "training_solutions_rev1.csv",
        {"GalaxyID": TRAIN, "Class1.1": cycle([0.25, 0.5, 0.125]), "Class1.2": cycle([0.3, 0.1])},
    )
    table(root / "all_zeros_benchmark.csv", {"GalaxyID": TEST, "Class1.1": [0.0] * M, "Class1.2": [0.0] * M})


def zipped(root: Path) -> None:
    root.mkdir(parents=True)
    for part, names in (("train", TRAIN), ("test", TEST)):
        with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
            for name in names:
                ok, data = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))
                assert ok
                archive.writestr(f"{part}/{name}.png", data.tobytes())
    labels = "".join(f"{name},{row % 2}\n" for row, name in enumerate(TRAIN))
    with zipfile.ZipFile(root / "trainLabels.csv.zip", "w") as archive:
        archive.writestr("trainLabels.csv", "image,level\n" + labels)
    table(root / "sampleSubmission.csv", {"image": TEST, "level": [0] * M})


def pictures_by_another_column(root: Path) -> None:
    """Ids of their own, the pictures' names beside them."""
    pictures(root / "train", TRAIN)
    make_tar(root / "test.tar", {f"{name}.png": PNG for name in TEST})
    ids, test_ids = [f"r{row}" for row in range(N)], [f"t{row}" for row in range(M)]
    table(root / "train.csv", {"id": ids, "image": [f"{name}.jpg" for name in TRAIN], "label": cycle("xy")})
    table(root / "test.csv", {"id": test_ids, "image": [f"{name}.png" for name in TEST]})
    table(root / "sample_submission.csv", {"id": test_ids, "label": ["x"] * M})


def tar_shards(root: Path) -> None:
    """Of training and test rows under the same names, as WebDataset writes them, with a file of facts beside each."""
    root.mkdir(parents=True)
    for part, names in (("train", TRAIN), ("test", TRAIN[:M])):
        for shard in range(3):
            members = {f"./{name}.png": PNG for name in names[shard::3]}
            members |= {f"./{name}.json": b'{"width": 8}' for name in names[shard::3]}
            make_tar(root / f"{part}_images-{shard:04}.tar", members)
    table(root / "train.csv", {"id": TRAIN, "label": cycle("xy")})
    table(root / "sample_submission.csv", {"id": TRAIN[:M], "label": ["x"] * M})


def tar_folder_per_class(root: Path) -> None:
    root.mkdir(parents=True)
    for shard in range(2):
        members = {f"{label}/{row}{shard}.png": PNG for label in ("cat", "dog") for row in range(4)}
        make_tar(root / f"train-{shard}.tar", members)
    make_tar(root / "test.tar", {f"{name}.png": PNG for name in TEST})
    table(root / "sample_submission.csv", {"id": TEST, "label": ["cat"] * M})


def folder_per_class(root: Path) -> None:
    for label in ("Sugar beet", "Maize"):
        pictures(root / "train" / label, [str(row) for row in range(5)])  # the same names in each
    pictures(root / "test", TEST)
    table(root / "sample_submission.csv", {"file": [f"{name}.jpg" for name in TEST], "species": ["Maize"] * M})


def label_in_the_name(root: Path) -> None:
    pictures(root / "train", [f"{label}.{row}" for label in ("cat", "dog") for row in range(6)])
    pictures(root / "test", [str(row + 1) for row in range(M)])
    table(root / "sample_submission.csv", {"id": range(1, M + 1), "label": [0.5] * M})


def folder_by_a_column(root: Path) -> None:
    labels, subjects = cycle(["c0", "c1", "c2"]), cycle(["p1", "p2", "p3", "p4", "p5", "p6"])
    for name, label in zip(TRAIN, labels, strict=True):
        picture(root / "imgs" / "train" / label / f"{name}.jpg")
    pictures(root / "imgs" / "test", TEST)
    table(root / "driver_imgs_list.csv", {"subject": subjects, "classname": labels, "img": [f"{n}.jpg" for n in TRAIN]})
    table(
        root / "sample_submission.csv",
        {"img": [f"{n}.jpg" for n in TEST], **{c: [0.3] * M for c in ("c0", "c1", "c2")}},
    )


def nested_folders(root: Path) -> None:
    codes = [f"{row % 7:x}{row:03d}" for row in range(N + M)]
    for name in codes[:N]:
        picture(root / "train" / name[0] / f"{name}.png")
    for name in codes[N:]:
        picture(root / "test" / name[0] / f"{name}.png")
    table(root / "train_labels.csv", {"id": codes[:N], "target": cycle([0, 1, 1])})
    table(root / "sample_submission.csv", {"id": codes[N:], "target": [0.5] * M})


def channels_in_files(root: Path) -> None:
    for part, names in (("train", TRAIN), ("test", TEST)):
        pictures(root / part, [f"{name}_{colour}" for name in names for colour in ("blue", "green", "red")], ".png")
    table(root / "train.csv", {"Id": TRAIN, "Target": cycle(["0", "3 5", "0 5", "3", "0 3 5"])})
    table(root / "sample_submission.csv", {"Id": TEST, "Predicted": ["0"] * M})


def zeros_before_numbers(root: Path) -> None:
    pictures(root / "train", [f"{row:05d}" for row in range(N)])
    pictures(root / "test", [f"{row:05d}" for row in range(N, N + M)])
    table(root / "train.csv", {"id": range(N), "label": cycle(["x", "y"])})
    table(root / "sample_submission.csv", {"id": range(N, N + M), "label": ["x"] * M})


def coco(root: Path) -> None:
    pictures(root / "train", TRAIN)
    pictures(root / "test", TEST)
    images = [{"id": n, "file_name": f"{n}.jpg", "location": row % 6} for row, n in enumerate(TRAIN)]
    labels = [{"id": row, "image_id": n, "category_id": (3, 24, 71)[row % 3]} for row, n in enumerate(TRAIN)]
    categories = [{"id": n, "name": f"animal {n}"} for n in (3, 24, 71)]
    (root / "train_annotations.json").write_text(
        json.dumps({"images": images, "annotations": labels, "categories": categories})
    )
    others = [{"id": n, "file_name": f"{n}.jpg", "location": 90 + row % 3} for row, n in enumerate(TEST)]
    (root / "test_information.json").write_text(json.dumps({"images": others, "categories": categories}))
    table(root / "sample_submission.csv", {"Id": TEST, "Category": [0] * M})


def arrays_in_json(root: Path) -> None:
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    records = [
        {"id": n, "band_1": rng.normal(-20, 3, 64).tolist(), "band_2": rng.normal(-25, 3, 64).tolist()}
        for n in [*TRAIN, *TEST]
    ]
    (root / "train.json").write_text(json.dumps([{**r, "is_iceberg": row % 2} for row, r in enumerate(records[:N])]))
    (root / "test.json").write_text(json.dumps(records[N:]))
    table(root / "sample_submission.csv", {"id": TEST, "is_iceberg": [0.5] * M})


def pixel_columns(root: Path) -> None:
    root.mkdir(parents=True)
    pixels = {f"pixel{at}": cycle([0, 128, 255]) for at in range(64)}
    table(root / "train.csv", {"label": cycle(range(3)), **pixels})
    table(root / "test.csv", {name: cells[:M] for name, cells in pixels.items()})
    table(root / "sample_submission.csv", {"ImageId": range(1, M + 1), "Label": [0] * M})


def pixels_in_a_cell(root: Path) -> None:
    root.mkdir(parents=True)
    cells = [" ".join(str((row + at) % 256) for at in range(100)) for row in range(N)]
    table(
        root / "training.csv",
        {"eye_x": np.linspace(1, 9, N).round(2), "eye_y": np.linspace(9, 1, N).round(3), "Image": cells},
    )
    table(root / "test.csv", {"ImageId": range(1, M + 1), "Image": cells[:M]})
    table(root / "sample_submission.csv", {"ImageId": range(1, M + 1), "eye_x": [0.0] * M, "eye_y": [0.0] * M})


def several_pictures_a_row(root: Path) -> None:
    train = {"patient_id": [100 + row // 4 for row in range(N)], "image_id": TRAIN, "side": cycle(["L", "L", "R", "R"])}
    for patient, name in zip(train["patient_id"], TRAIN, strict=True):
        picture(root / "train_images" / str(patient) / f"{name}.png")
    test = {
        "patient_id": [200 + row // 4 for row in range(M)],
        "image_id": TEST,
        "side": cycle(["L", "L", "R", "R"], M),
    }
    for patient, name in zip(test["patient_id"], TEST, strict=True):
        picture(root / "test_images" / str(patient) / f"{name}.png")
    made = [f"{patient}_{side}" for patient, side in zip(test["patient_id"], test["side"], strict=True)]
    table(root / "train.csv", {**train, "cancer": cycle([0, 0, 1, 1])})
    table(root / "test.csv", {**test, "prediction_id": made})
    rows = list(dict.fromkeys(made))
    table(root / "sample_submission.csv", {"prediction_id": rows, "cancer": [0.02] * len(rows)})


def long_tables(root: Path) -> None:
    kinds = ("any", "Dry_Clover_g")
    pictures(root / "stage_2_train", [f"ID_{n}" for n in TRAIN], ".png")
    pictures(root / "stage_2_test", [f"ID_{n}" for n in TEST], ".png")
    train = [(f"ID_{n}_{kind}", row % (2 + at) % 2) for row, n in enumerate(TRAIN) for at, kind in enumerate(kinds)]
    table(root / "stage_2_train.csv", {"ID": [row[0] for row in train], "Label": [row[1] for row in train]})
    test = [f"ID_{n}_{kind}" for n in TEST for kind in kinds]
    table(root / "stage_2_sample_submission.csv", {"ID": test, "Label": [0.5] * len(test)})


def no_sample(root: Path) -> None:
    for label in ("ant", "bee"):
        pictures(root / "train" / label, [f"{label}{row}" for row in range(5)])
    pictures(root / "test", TEST)


def hidden_answers(root: Path) -> None:
    usual(
        root,
        cycle([0, 1, 0]),
        0,
        "target",
        patient_id=cycle([f"p{n}" for n in range(6)]),
        diagnosis=cycle(["no", "yes", "no"]),
    )
    table(root / "test.csv", {"id": TEST, "patient_id": cycle(["q1", "q2"], M)})


def labelled_in_two_folders(root: Path) -> None:
    for part in ("train", "valid"):
        for label in ("cat", "dog"):
            pictures(root / part / label, [f"{part}{row}" for row in range(5)])
    pictures(root / "test" / "unknown", TEST)
    table(root / "sample.csv", {"Id": TEST, "Category": ["cat"] * M})


def groups_in_another_table(root: Path) -> None:
    pictures(root / "train_images", TRAIN)
    pictures(root / "test_images", TEST)
    table(root / "train_features.csv", {"id": reversed(TRAIN), "camera": cycle([f"s{n}" for n in range(6)])})
    table(root / "test_features.csv", {"id": TEST, "camera": cycle(["t1", "t2"], M)})
    table(root / "train_labels.csv", {"id": TRAIN, "species": cycle(["x", "y", "z"])})
    table(root / "submission_format.csv", {"id": TEST, **{name: [0.3] * M for name in "xyz"}})


def paths_of_another_machine(root: Path) -> None:
    pictures(root / "data" / "train", TRAIN)
    pictures(root / "data" / "test", TEST)
    table(root / "train.csv", {"path": [f"/home/me/train/{n}.jpg" for n in TRAIN], "label": cycle(["x", "y"])})
    table(root / "sample_submission.csv", {"path": [f"/home/me/test/{n}.jpg" for n in TEST], "label": ["x"] * M})


def no_sample_but_a_test_table(root: Path) -> None:
    usual(root, cycle(["ant", "bee", "cow"]), "ant")
    (root / "sample_submission.csv").unlink()
    table(root / "test.csv", {"id": TEST})


def a_row_per_label(root: Path) -> None:
    pictures(root / "train", TRAIN)
    pictures(root / "test", TEST)
    rows = [(n, tag) for at, n in enumerate(TRAIN) for tag in (["sun"], ["sun", "sea"], ["sky"])[at % 3]]
    table(root / "train.csv", {"image": [n for n, _ in rows], "tag": [tag for _, tag in rows]})
    table(root / "sample_submission.csv", {"image": TEST, "tags": ["sun sea"] * M})


def ids_without_extension_in_the_sample(root: Path) -> None:
    usual(root, cycle([0, 1]), 0.5, "y")
    table(root / "train.csv", {"file": [f"{n}.jpg" for n in TRAIN], "y": cycle([0, 1])})
    table(root / "test.csv", {"file": [f"{n}.jpg" for n in TEST]})


def bands_in_a_folder_of_the_picture(root: Path) -> None:
    for part, names in (("train", TRAIN), ("test", TEST)):
        for name in names:
            pictures(root / part / name, ["B02", "B03", "B04"], ".tif")
    table(root / "train.csv", {"tile": TRAIN, "label": cycle(["x", "y"])})
    table(root / "sample_submission.csv", {"tile": TEST, "label": ["x"] * M})


Expected = dict[str, Any]
LAYOUTS: dict[str, tuple[Callable[[Path], None], str | None, Expected]] = {
    "plain": (plain_layout, None, {"train_csv": "train.csv", "train_images": "train", "submission": "labels"}),
    "other names": (
        other_names,
        "rmse",
        {"train_csv": "training_solutions_rev1.csv", "kind": "number", "target_columns": ["Class1.1", "Class1.2"]},
    ),
    "zipped": (zipped, "qwk", {"train_csv": "trainLabels.csv.zip/trainLabels.csv", "train_images": "train.zip/train"}),
    "pictures by another column": (
        pictures_by_another_column,
        None,
        {"id_column": "id", "train_images": "train/{image}", "test_images": "test.tar/{image}"},
    ),
    "tar shards": (
        tar_shards,
        None,
        {"train_csv": "train.csv", "train_images": "train_images-*.tar/{id}", "test_images": "test_images-*.tar/{id}"},
    ),
    "tar shards with a folder per class": (
        tar_folder_per_class,
        None,
        {"train_images": "{train-0.tar|train-1.tar}/{label}/{name}", "test_images": "test.tar"},
    ),
    "a folder per class": (
        folder_per_class,
        "accuracy",
        {"train_csv": None, "train_images": "train/{label}/{name}", "target_column": "label"},
    ),
    "label in the name": (
        label_in_the_name,
        "log_loss",
        {"train_images": "train/{label}.{number}", "positive": "dog", "submission": "positive"},
    ),
    "folder by a column": (
        folder_by_a_column,
        "log_loss",
        {"train_images": "imgs/train/{classname}/{img}", "group_column": "subject"},
    ),
    "nested folders": (
        nested_folders,
        "auc",
        {"train_images": "train/**/{id}", "test_images": "test/**/{id}", "submission": "positive"},
    ),
    "channels in files": (
        channels_in_files,
        "f1_macro",
        {"train_images": "train/{Id}_{red|green|blue}", "kind": "multi", "target_column": "Target"},
    ),
    "zeros before numbers": (
        zeros_before_numbers,
        None,
        {"train_images": "train/{id:05}", "test_images": "test/{id:05}"},
    ),
    "COCO": (
        coco,
        "accuracy",
        {"train_csv": "train_annotations.json", "target_column": "category_id", "group_column": "location"},
    ),
    "arrays in JSON": (arrays_in_json, "log_loss", {"pixels": ["band_1", "band_2"], "target_column": "is_iceberg"}),
    "pixel columns": (
        pixel_columns,
        "accuracy",
        {"pixels": ["pixel*"], "id_column": "", "test_id_column": "", "target_column": "label"},
    ),
    "pixels in a cell": (pixels_in_a_cell, "rmse", {"pixels": ["Image"], "id_column": "", "kind": "number"}),
    "several pictures a row": (
        several_pictures_a_row,
        "auc",
        {
            "rows": "{patient_id}_{side}",
            "pool": "mean",
            "group_column": "patient_id",
            "train_images": "train_images/{patient_id}/{image_id}",
        },
    ),
    "long tables": (
        long_tables,
        "log_loss",
        {"rows": "{id}_{target}", "long": "{id}_{target}", "kind": "multi", "train_images": "stage_2_train"},
    ),
    "labelled in two folders": (labelled_in_two_folders, None, {"train_images": "{train|valid}/{label}/{name}"}),
    "groups in another table": (
        groups_in_another_table,
        "log_loss",
        {"train_csv": "train_labels.csv", "group_csv": "train_features.csv", "group_column": "camera"},
    ),
    "paths of another machine": (paths_of_another_machine, "accuracy", {"train_images": "data/train/{path.name}"}),
    "no sample but a test table": (
        no_sample_but_a_test_table,
        "accuracy",
        {"sample_csv": None, "test_csv": "test.csv", "test_id_column": "id"},
    ),
    "a row per label": (a_row_per_label, "f1_micro", {"kind": "multi", "target_column": "tag", "id_column": "image"}),
    "ids without extension in the sample": (
        ids_without_extension_in_the_sample,
        "auc",
        {"id_column": "file", "test_csv": None, "submission": "positive"},
    ),
    "bands in a folder of the picture": (
        bands_in_a_folder_of_the_picture,
        "accuracy",
        {"train_images": "train/{tile}/B0{2|3|4}.tif"},
    ),
    "no sample": (no_sample, None, {"sample_csv": None, "train_csv": None, "test_images": "test"}),
    "columns that give it away": (
        hidden_answers,
        "auc",
        {"target_column": "target", "group_column": "patient_id", "submission": "positive"},
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path: Path, name: str) -> None:
    make, metric, expected = LAYOUTS[name]
    root = tmp_path / "data"
    make(root)
    before = sorted(root.rglob("*"))
    keys = found(root, metric)
    assert {key: keys.get(key, "not found") for key in expected} == expected
    competition = opened(root, keys, tmp_path / "cache")
    assert len(competition.train) >= 10 and len(competition.test) == M
    assert sorted(root.rglob("*")) == before  # never a write into the user's data
    assert len(lines(guess(root, metric))) >= len(keys)


# ---- what a target is -----------------------------------------------------------------------------------------------

TARGETS: dict[str, tuple[Sequence[Any], Any, str | None, Expected]] = {
    "names with spaces are no words": (
        cycle(["old terrier", "old spaniel", "irish terrier", "irish spaniel"]), "old terrier", None,
        {"kind": "single", "submission": "labels"},
    ),
    "names of one word and of two": (
        cycle(["new york", "paris", "new delhi"]), "new york", None, {"kind": "single", "submission": "labels"}
    ),
    "names of words that no other has": (
        cycle(["hot dog", "pizza"]), "hot dog", None, {"kind": "single", "submission": "labels"}
    ),
    "names that end with a number": (
        cycle(["grade 0", "grade 1"]), "grade 1", None, {"kind": "single", "submission": "labels"}
    ),
    "names and a placeholder": (
        cycle(["hot dog", "ice cream"]), "name of the class", None, {"kind": "single", "submission": "labels"}
    ),
    "words of a sample that no row has": (cycle(["rust", "scab", "rust mould"]), "rust scab", None, {"kind": "multi"}),
    "few words, some together": (cycle(["rust", "scab rust", "scab"]), "scab rust", None, {"kind": "multi"}),
    "words": (cycle(["rust", "scab rust", "scab", "healthy"]), "healthy", "f1_micro", {"kind": "multi"}),
    "class numbers": (cycle([0, 1, 2, 3]), 3, "accuracy", {"kind": "single", "submission": "labels"}),
    "grades": (cycle([0, 1, 2, 3]), 0, "qwk", {"kind": "single", "submission": "labels"}),
    "the metric says numbers": (cycle([0, 1, 2, 3]), 0, "rmse", {"kind": "number"}),
    "decimals": ([round(1.1 * row, 1) for row in range(N)], 0, None, {"kind": "number"}),
    "a probability": (cycle([0, 1]), 0.5, None, {"submission": "positive", "positive": "1"}),
    "whole zeros under a metric that ranks": (cycle([0, 1]), 0, "auc", {"submission": "positive"}),
    "labels under a metric that counts": (cycle([0, 1]), 0, "f1_macro", {"submission": "labels"}),
    "yes and no": (cycle(["benign", "malignant"]), 0.5, "auc", {"positive": "malignant"}),
    "the best few": (
        cycle(["w_1", "w_2", "w_3", "new_whale"]), "new_whale w_1 w_2", "map@3",
        {"kind": "single", "submission": "ranked", "guesses": 3, "new": "new_whale"},
    ),
    "a label and how sure": (cycle([17, 200, 3000]), "17 0.1", None, {"submission": "confident"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_targets(tmp_path: Path, name: str) -> None:
    target, sample, metric, expected = TARGETS[name]
    usual(tmp_path / "data", target, sample)
    keys = found(tmp_path / "data", metric)
    assert {key: keys.get(key, "not found") for key in expected} == expected


def test_several_targets_with_classes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    pictures(root / "train", TRAIN)
    pictures(root / "test", TEST)
    table(
        root / "train.csv", {"id": TRAIN, "root": cycle(range(6)), "vowel": cycle(range(4)), "shape": cycle(["x", "y"])}
    )
    table(root / "sample_submission.csv", {"id": TEST, "root": [0] * M, "vowel": [0] * M})
    keys = found(root, "recall_macro")
    assert keys["kind"] == "targets" and keys["target_columns"] == ["root", "vowel"]


def test_one_hot_columns_are_one_label(tmp_path: Path) -> None:
    root = tmp_path / "data"
    pictures(root / "train", TRAIN)
    pictures(root / "test", TEST)
    hot = {name: [int(row % 3 == at) for row in range(N)] for at, name in enumerate(("ant", "bee", "cow"))}
    table(root / "train.csv", {"id": TRAIN, **hot})
    table(root / "sample_submission.csv", {"id": TEST, **{name: [0.3] * M for name in hot}})
    keys = found(root, "log_loss")
    assert keys["kind"] == "single"
    competition = opened(root, keys, tmp_path)
    assert competition.task.names.tolist() == ["ant", "bee", "cow"]
    assert competition.y.tolist() == cycle([0, 1, 2])
    hot["bee"][0] = 1  # two of them: several labels
    table(root / "train.csv", {"id": TRAIN, **hot})
    assert found(root, "log_loss")["kind"] == "multi"
    with pytest.raises(UserError, match="2 of the 3 class columns are 1 in row 1"):
        opened(root, keys, tmp_path)


def test_a_group_that_test_rows_share_is_none(tmp_path: Path) -> None:
    root = tmp_path / "data"
    usual(root, cycle([0, 1, 0]), 0, "target", site_id=cycle(range(6)))
    table(root / "test.csv", {"id": TEST, "site_id": cycle(range(6), M)})
    assert "group_column" not in found(root, "auc")


# ---- words and files ------------------------------------------------------------------------------------------------


def test_what_is_given_decides(tmp_path: Path) -> None:
    plain_layout(tmp_path / "data")
    keys = found(tmp_path / "data", None, name="mine", submission="probabilities")
    assert keys["name"] == "mine" and keys["submission"] == "probabilities"


def test_sets_of_words_that_are_all_different_are_a_target(tmp_path: Path) -> None:
    sets = [f"t{row % 6} u{row % 5} v{row // 6}" for row in range(N)]  # 24 of 15 words
    usual(tmp_path / "data", sets, "t1 t2", "tags")
    assert found(tmp_path / "data", "f1_micro")["kind"] == "multi"


def test_a_target_that_is_given(tmp_path: Path) -> None:
    usual(tmp_path / "data", cycle(["x", "y"]), "x", "label", other=cycle([0.5, 1.25, 2.75, 3.5]))
    keys = found(tmp_path / "data", None, target_column="other")
    assert keys["target_column"] == "other" and keys["kind"] == "number"


def test_an_empty_folder_and_one_without_labels(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image below it"):
        guess(tmp_path / "empty")
    pictures(tmp_path / "flat" / "train", TRAIN)
    with pytest.raises(UserError, match=r"give competition\.train_csv="):
        guess(tmp_path / "flat")


def test_words_arrive_as_they_were_found(tmp_path: Path) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    channels_in_files(tmp_path / "data")
    findings = guess(tmp_path / "data", "f1_macro")
    parsed = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(words(findings))}
    assert {key.removeprefix("competition."): value for key, value in parsed.items()} == {
        finding.key: finding.value for finding in findings if finding.key
    }
    text = OmegaConf.create(yaml_text(tmp_path / "data", findings, "init data=x"))
    assert all(text.competition[finding.key] == finding.value for finding in findings if finding.key)


def test_init_writes_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from src.recipes import init

    monkeypatch.setattr(init, "CONFIGS", tmp_path / "configs")
    (tmp_path / "configs").mkdir()
    plain_layout(tmp_path / "some-competition")
    assert main(["init", f"data={tmp_path / 'some-competition'}"]) == 0
    file = tmp_path / "configs" / "some-competition.yaml"
    assert (
        "target_column: label" in file.read_text()
        and "next: ./run.sh fold=0 competition=some-competition" in capsys.readouterr().out
    )
    assert main(["init", f"data={tmp_path / 'some-competition'}"]) == 0  # its own file is made anew
    file.write_text("competition: {}\n")
    assert main(["init", f"data={tmp_path / 'some-competition'}"]) == 2
    assert "was not written by init" in capsys.readouterr().err
    assert main(["init"]) == 2


def test_shards_are_no_classes(tmp_path: Path) -> None:
    for shard in range(5):
        make_tar(tmp_path / f"train-{shard}.tar", {f"{shard}{row}.png": PNG for row in range(4)})
    with pytest.raises(UserError, match="no table has a row per training picture"):
        guess(tmp_path)


def test_labels_beside_pictures_in_shards_have_a_cure(tmp_path: Path) -> None:
    """As WebDataset writes them: a picture and its class under one key."""
    labels = {f"{shard}{row:04}": "cat" if row % 2 else "dog" for shard in range(3) for row in range(6)}
    for shard in range(3):
        own = {key: label for key, label in labels.items() if key.startswith(str(shard))}
        members = {f"{key}.png": PNG for key in own} | {f"{key}.cls": label.encode() for key, label in own.items()}
        make_tar(tmp_path / f"train-{shard}.tar", members)
    make_tar(tmp_path / "test.tar", {f"{name}.png": PNG for name in TEST})
    says = r"labels in a file beside each picture, as train-0\.tar/00000\.cls, are not read; write a train\.csv"
    with pytest.raises(UserError, match=says):
        guess(tmp_path)
    (tmp_path / "train.csv").write_text("id,label\n" + "".join(f"{key},{own}\n" for key, own in labels.items()))
    found = {finding.key: finding.value for finding in guess(tmp_path)}
    assert found["train_images"] == "train-*.tar/{id}" and found["target_column"] == "label"


@pytest.mark.parametrize("beside", [(), ("test",)])
def test_a_compressed_archive_has_a_cure(tmp_path: Path, beside: Sequence[str]) -> None:
    for folder in beside:
        pictures(tmp_path / folder, TEST)
    (tmp_path / "train.tar.gz").touch()
    path = tmp_path / "train.tar.gz"
    with pytest.raises(UserError, match=f"{path} cannot be read in place; gunzip {path}$"):
        guess(tmp_path)
