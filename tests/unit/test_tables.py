"""Reading a Kaggle folder: what is understood, and one line for everything that is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.competition.csv_file import read_columns
from src.competition.kinds.single import sort_classes
from src.competition.tables import Competition, load_competition
from src.config import CompetitionConfig
from src.errors import UserError

TRAIN = "id,label\na1,cat\na2,dog\na3,cat\n"
TEST = "id\nt1\nt2\n"
SAMPLE = "id,label\nt2,cat\nt1,cat\n"
IMAGES = ("train/a1.jpg", "train/a2.png", "train/a3.JPEG", "test/t1.jpg", "test/t2.jpg")


def build(root: Path, images: tuple[str, ...] = IMAGES, **files: str | bytes | None) -> Path:
    """A competition folder; train=, test= and sample= replace the csv files, None leaves one out."""
    names = {"train": "train.csv", "test": "test.csv", "sample": "sample_submission.csv"}
    content: dict[str, str | bytes | None] = {"train": TRAIN, "test": TEST, "sample": SAMPLE, **files}
    root.mkdir(parents=True, exist_ok=True)
    for key, text in content.items():
        if text is not None:
            (root / names[key]).write_bytes(text.encode() if isinstance(text, str) else text)
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).touch()
    return root


def load(root: Path, **options: Any) -> Competition:
    return load_competition(CompetitionConfig(name="toy", root=str(root), **options))


def test_a_plain_folder(tmp_path: Path) -> None:
    competition = load(build(tmp_path))
    assert competition.task.names.tolist() == ["cat", "dog"]
    assert competition.train.ids.tolist() == ["a1", "a2", "a3"]
    assert (len(competition.train), len(competition.test)) == (3, 2)
    assert competition.y.tolist() == [0, 1, 0] and competition.y.dtype == np.int64
    assert competition.train.images.tolist() == [b"train/a1.jpg", b"train/a2.png", b"train/a3.JPEG"]
    assert competition.train.images.dtype.kind == "S" and competition.train.groups is None
    assert competition.test.ids.tolist() == ["t1", "t2"], "the order of test.csv"
    assert competition.sample.ids.tolist() == ["t2", "t1"], "the order of the sample"
    assert (competition.id_column, competition.target_column) == ("id", "label")
    assert competition.sample.kind == "labels" and competition.sample.columns == ("id", "label")


def test_without_test_csv_the_sample_names_the_rows(tmp_path: Path) -> None:
    assert load(build(tmp_path, test=None)).test.ids.tolist() == ["t2", "t1"]


@pytest.mark.parametrize(
    "train",
    [
        b"\xef\xbb\xbf" + TRAIN.encode(),
        TRAIN.replace("\n", "\r\n"),
        TRAIN.replace("\n", "\n\n") + "   \n\n",
        "id , label\n a1 , cat \n\ta2, dog\na3 ,cat",
        'id,label\n"a1","cat"\na2, "dog"\na3,cat\n',
        "id,label\na1,cat,\na2,dog,\na3,cat,\n",
    ],
    ids=["bom", "crlf", "blank lines", "spaces", "quotes", "trailing commas"],
)
def test_dialects_of_csv(tmp_path: Path, train: str | bytes) -> None:
    competition = load(build(tmp_path, train=train))
    assert competition.train.ids.tolist() == ["a1", "a2", "a3"]
    assert competition.task.cells(competition.y).tolist() == ["cat", "dog", "cat"]


def test_strings_stay_strings(tmp_path: Path) -> None:
    root = build(
        tmp_path,
        images=("train/007.png", "train/NA.png", "train/1e5.png", "test/0001.png"),
        train="id,label\n007,10\nNA,2\n1e5,9\n",
        test="id\n0001\n",
        sample="id,label\n0001,2\n",
    )
    competition = load(root)
    assert competition.train.ids.tolist() == ["007", "NA", "1e5"]
    assert competition.task.names.tolist() == ["2", "9", "10"], "integers sort as numbers"
    assert competition.y.tolist() == [2, 0, 1]


def test_order_of_classes() -> None:
    assert sort_classes(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert sort_classes(["10", "9", "b"]) == ["10", "9", "b"]
    assert sort_classes(["1", "01", "0"]) == ["0", "01", "1"]


class TestColumns:
    def test_target_is_the_only_column_left(self, tmp_path: Path) -> None:
        sample = "id,cat,dog\nt1,0.5,0.5\nt2,0.5,0.5\n"
        competition = load(build(tmp_path, sample=sample))
        assert competition.target_column == "label" and competition.sample.kind == "probabilities"

    def test_group_column(self, tmp_path: Path) -> None:
        train = "id,label,patient\na1,cat,p\na2,dog,q\na3,cat,p\n"
        sample = "id,cat,dog\nt1,0.5,0.5\nt2,0.5,0.5\n"
        competition = load(build(tmp_path, train=train, sample=sample), group_column="patient")
        assert competition.train.groups is not None and competition.train.groups.tolist() == ["p", "q", "p"]
        assert competition.target_column == "label", "a group is no candidate"

    def test_train_and_sample_may_name_the_ids_differently(self, tmp_path: Path) -> None:
        competition = load(build(tmp_path, train=TRAIN.replace("id,", "image,")), id_column="image")
        assert competition.id_column == "image" and competition.sample.id_column == "id"
        assert competition.test.ids.tolist() == ["t1", "t2"]

    def test_ids_need_not_come_first(self, tmp_path: Path) -> None:
        competition = load(build(tmp_path, sample="label,id\ncat,t1\ncat,t2\n"), id_column="id")
        assert competition.sample.id_column == "id" and competition.sample.value_columns == ("label",)
        assert competition.target_column == "label"


class TestImages:
    def test_ids_with_extension_and_subfolder(self, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            images=("train/x/a1.jpg", "train/x/y/a1.jpg", "train/cat.1.jpg", "test/t1.jpg", "test/t2.jpg"),
            train="id,label\nx/a1.jpg,cat\nx/y/a1,dog\ncat.1,cat\n",
        )
        assert load(root).train.images.tolist() == [b"train/x/a1.jpg", b"train/x/y/a1.jpg", b"train/cat.1.jpg"]

    def test_template(self, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            images=("img/cat/a1.png", "img/dog/a2.png", "img/cat/a3.png", "t1.jpg", "t2.jpg"),
        )
        competition = load(root, train_images="img/{label}/{id}.png", test_images="{id}.jpg")
        assert competition.train.images.tolist() == [b"img/cat/a1.png", b"img/dog/a2.png", b"img/cat/a3.png"]
        assert competition.test.images.tolist() == [b"t1.jpg", b"t2.jpg"]

    def test_template_without_extension_and_repeated_files(self, tmp_path: Path) -> None:
        train = "id,label,file\na1,cat,f\na2,dog,f\na3,cat,g\n"
        root = build(tmp_path, train=train, images=("all/f.png", "all/g.webp", "test/t1.jpg", "test/t2.jpg"))
        assert load(root, train_images="all/{file}").train.images.tolist() == [
            b"all/f.png",
            b"all/f.png",
            b"all/g.webp",
        ]

    def test_the_root_itself_and_a_trailing_slash(self, tmp_path: Path) -> None:
        root = build(tmp_path, images=("a1.jpg", "a2.jpg", "a3.jpg", "test/t1.jpg", "test/t2.jpg"))
        competition = load(root, train_images=".", test_images="test/")
        assert competition.train.images.tolist() == [b"a1.jpg", b"a2.jpg", b"a3.jpg"]
        assert competition.test.images.tolist() == [b"test/t1.jpg", b"test/t2.jpg"]

    def test_names_beyond_ascii(self, tmp_path: Path) -> None:
        train = "id,label\nä1,cat\na2,dog\n猫,cat\n"
        root = build(tmp_path, train=train, images=("train/ä1.jpg", "train/猫.jpg", *IMAGES))
        paths = load(root).train.images
        assert [path.decode() for path in paths] == ["train/ä1.jpg", "train/a2.png", "train/猫.jpg"]
        assert all((root / os.fsdecode(path)).exists() for path in paths)

    def test_other_files_beside_the_images(self, tmp_path: Path) -> None:
        assert (
            load(build(tmp_path, images=(*IMAGES, "train/a1.txt", "train/a1.json"))).train.images[0] == b"train/a1.jpg"
        )


def images_without(*gone: str) -> tuple[str, ...]:
    return tuple(image for image in IMAGES if image not in gone)


MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    # name: (files, options, parts of the message)
    "no train.csv": ({"train": None}, {}, ["train.csv", "No such file", "competition.train_csv="]),
    "no sample": ({"sample": None}, {}, ["sample_submission.csv", "competition.sample_csv="]),
    "empty file": ({"train": ""}, {}, ["train.csv", "empty"]),
    "only blank lines": ({"train": "\n\n"}, {}, ["train.csv", "empty"]),
    "no rows": ({"train": "id,label\n"}, {}, ["train.csv", "no rows"]),
    "not text": ({"train": b"id,label\n\xff\xfe,cat\n"}, {}, ["train.csv", "UTF-8"]),
    "stray comma": ({"train": "id,label\na1,cat\na2,dog,big\n"}, {}, ["train.csv line 3", "fields: 3", "has 2"]),
    "short row": ({"train": "id,label\n\na1,cat\na2\n"}, {}, ["train.csv line 4", "fields: 1"]),
    "open quote": ({"train": 'id,label\na1,"cat\na2,dog\n'}, {}, ["train.csv line", "quotes"]),
    "column twice": ({"train": "id,label,label\na1,cat,cat\n"}, {}, ["train.csv", "'label' occurs more than once"]),
    "id column missing": (
        {"train": TRAIN.replace("id,", "image_id,")},
        {},
        ["train.csv", "no column 'id'", "columns: image_id, label", "competition.id_column="],
    ),
    "target mistyped": (
        {},
        {"target_column": "lable"},
        ["no column 'lable'", "did you mean 'label'?", "competition.target_column="],
    ),
    "group mistyped": ({}, {"group_column": "patient"}, ["no column 'patient'", "competition.group_column="]),
    "target unclear": (
        {"train": "id,breed,colour\na1,cat,red\na2,dog,red\na3,cat,red\n"},
        {},
        ["competition.target_column=", "breed, colour"],
    ),
    "no target": ({"train": "id\na1\n"}, {}, ["competition.target_column=", "none besides"]),
    "repeated ids": (
        {"train": "id,label\na1,cat\na2,dog\na2,dog\na1,cat\na1,cat\n"},
        {},
        ["train.csv", "2 ids occur more than once (a1, a2)"],
    ),
    "empty id": ({"train": "id,label\na1,cat\n ,dog\n"}, {}, ["train.csv line 3", "empty 'id'"]),
    "empty label": ({"train": "id,label\n\na1,cat\na2,\n"}, {}, ["train.csv line 4", "empty 'label'"]),
    "one class": ({"train": "id,label\na1,cat\na2,cat\n"}, {}, ["only 'cat'", "two classes"]),
    "repeated test ids": ({"test": "id\nt1\nt2\nt1\n"}, {}, ["test.csv", "1 id occurs more than once (t1)"]),
    "repeated sample ids": ({"sample": SAMPLE + "t1,cat\n"}, {}, ["sample_submission.csv", "(t1)"]),
    "other test ids": (
        {"sample": "id,label\nt1,cat\nt3,cat\nt4,cat\n"},
        {},
        ["sample_submission.csv", "test.csv", "2 only in the sample (t3, t4)", "1 only in the test rows (t2)"],
    ),
    "sample of ids only": ({"sample": "id\nt1\nt2\n"}, {}, ["sample_submission.csv", "at least one more column"]),
    "unknown kind": ({}, {"submission": "probability"}, ["competition.submission='probability'", "did you mean"]),
    "classes differ": (
        {"sample": "id,cat,bird\nt1,1,0\nt2,1,0\n"},
        {},
        ["1 column is no class (bird)", "1 class has no column (dog)"],
    ),
    "positive of three": (
        {"train": "id,label\na1,cat\na2,dog\na3,cow\n"},
        {"submission": "positive"},
        ["positive needs two classes", "there are 3"],
    ),
    "one probability in many columns": (
        {"sample": "id,cat,dog\nt1,1,0\nt2,1,0\n"},
        {"submission": "positive"},
        ["has 3", "competition.submission=probabilities"],
    ),
    "missing images": (
        {"images": images_without("train/a1.jpg", "train/a3.JPEG")},
        {},
        ["train.csv", "2 of 3 ids have no image (a1, a3)", "looked in folder", "competition.train_images="],
    ),
    "no test image": (
        {"images": (*IMAGES[:3], "test/other.jpg")},
        {},
        ["test.csv", "2 of 2 ids have no image (t1, t2)", "competition.test_images="],
    ),
    "missing by template": ({}, {"train_images": "train/{id}_x.gif"}, ["3 of 3", "train/{id}_x.gif"]),
    "two images": ({"images": (*IMAGES, "train/a1.png")}, {}, ["'a1' fits 2 images (a1.jpg and a1.png)"]),
    "no folder": (
        {},
        {"train_images": "trian"},
        ["competition.train_images='trian'", "'train'?", "folders: test, train"],
    ),
    "no test folder": ({"images": IMAGES[:3]}, {}, ["competition.test_images='test'", "no such folder"]),
    "template column": ({}, {"train_images": "train/{lable}"}, ["no column 'lable'", "'label'?", "train_images="]),
    "label in test template": ({}, {"test_images": "test/{label}/{id}"}, ["test.csv: no column 'label'"]),
    "column without test.csv": ({"test": None}, {"test_images": "{file}"}, ["no column 'file'", "test_images"]),
    "broken template": ({}, {"train_images": "train/{id"}, ["competition.train_images='train/{id'"]),
    "formatting template": ({}, {"train_images": "train/{id:05d}"}, ["nothing else"]),
    "dots in an id": ({"train": "id,label\n../x.jpg,cat\na2,dog\n"}, {}, ["outside competition.root", "../x.jpg"]),
    "dots inside an id": ({"train": "id,label\na/../../x.jpg,cat\na2,dog\n"}, {}, ["outside competition.root"]),
    "absolute id": ({"train": "id,label\n/etc/x.jpg,cat\na2,dog\n"}, {}, ["outside competition.root", "/etc/x.jpg"]),
    "folder outside": ({}, {"train_images": "../train"}, ["competition.train_images='../train'", "leaves"]),
    "absolute folder": ({}, {"train_images": "/tmp"}, ["competition.train_images='/tmp'", "leaves"]),
    "absolute template": ({}, {"train_images": "/tmp/{id}.jpg"}, ["outside competition.root"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_helpful_line(tmp_path: Path, name: str) -> None:
    files, options, parts = MISTAKES[name]
    with pytest.raises(UserError) as error:
        load(build(tmp_path / "data", **files), **options)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_no_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"competition\.root=.*nowhere: no such folder"):
        load(tmp_path / "nowhere")


def test_two_dots_in_a_name_are_fine(tmp_path: Path) -> None:
    root = build(tmp_path, images=("train/a..1.jpg", *IMAGES), train="id,label\na..1.jpg,cat\na2,dog\n")
    assert load(root).train.images[0] == b"train/a..1.jpg"


def test_many_rows_list_each_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 rows over three folders: three listings, not 20,000 looks at the disk."""
    rows = "".join(f"r{number:06d},{number % 7},f{number % 20}.jpg\n" for number in range(20_000))
    images = tuple(f"train/f{number}.jpg" for number in range(20))
    root = build(tmp_path, images=(*images, *IMAGES[3:]), train="id,label,file\n" + rows)
    calls: list[Any] = []
    scandir = os.scandir

    def count(path: Any) -> Any:
        calls.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", count)
    competition = load(root, train_images="train/{file}")
    assert len(competition.train.ids) == 20_000 and competition.train.images[21] == b"train/f1.jpg"
    assert len(calls) <= 3


def test_read_columns_reports_the_physical_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('id,note,label\na,"two\nlines",cat\nb,,\n')
    with pytest.raises(UserError, match="line 4: empty 'label'"):
        read_columns(path, ["id", "label"], "key", required=["label"])
    assert read_columns(path, ["note"], "key")["note"].tolist() == ["two\nlines", ""]


CLOTHING = Path(os.environ.get("CLOTHING_ROOT", "../shared/data/clothing"))


@pytest.mark.skipif(not CLOTHING.is_dir(), reason="needs the clothing photographs (CLOTHING_ROOT)")
def test_real_photographs() -> None:
    competition = load(CLOTHING)
    assert len(competition.task.names) == 10 and len(competition.train.ids) > 3000
    assert all((CLOTHING / os.fsdecode(path)).is_file() for path in competition.train.images[:50])
    assert set(competition.sample.ids.tolist()) == set(competition.test.ids.tolist())


@pytest.mark.parametrize("indexed", [False, True])
def test_columns_of_a_parquet_file(tmp_path: Path, indexed: bool) -> None:
    """As pandas writes numbers, nothing for what is not there; an index is no column."""
    pytest.importorskip("pyarrow")
    import pandas as pd

    from src.competition.table_file import read_columns, read_header

    columns = {
        "id": ["a", "b", "c"], "whole": [1, 2, 3], "share": [0.5, None, 2.0], "short": np.float32([0.1, 0.2, 7]),
        "text": ["u", None, "w"], "kind": pd.Categorical(["k", "l", None]),
    }  # fmt: skip
    frame = pd.DataFrame(columns)
    path = tmp_path / "t.parquet"
    (frame.set_index("whole") if indexed else frame).to_parquet(path)
    expected = {
        "id": ["a", "b", "c"], "whole": ["1", "2", "3"], "share": ["0.5", "", "2.0"], "short": ["0.1", "0.2", "7.0"],
        "text": ["u", "", "w"], "kind": ["k", "l", ""],
    }  # fmt: skip
    names = [name for name in expected if not (indexed and name == "whole")]
    assert read_header(path, "k") == tuple(names)
    assert {name: cells.tolist() for name, cells in read_columns(path, names[::-1], "k").items()} == {
        name: expected[name] for name in names
    }
    with pytest.raises(UserError, match="empty 'text' in record 2"):
        read_columns(path, ["text"], "k", ["text"])
