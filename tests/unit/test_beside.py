"""Columns beside the pictures: which may be used, in which order, and as which numbers."""

from __future__ import annotations

import dataclasses
import json
import warnings
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from src.competition.beside import columns_beside
from src.competition.tables import Competition, load_competition
from src.config import CompetitionConfig
from src.ensembling.columns import apply_encoding, encode, fit_encoding
from src.errors import UserError
from src.recipes.stack import split_features

TRAIN = pd.DataFrame(
    {
        "id": [f"a{row}" for row in range(12)],
        "age": ["30", "", "50", "40", "20", "60"] * 2,
        "sex": ["male", "female", "male", "", "female", "male"] * 2,
        "diagnosis": ["x", "y"] * 6,
        "target": [0, 1] * 6,
    }
)
TEST = pd.DataFrame({"id": ["b2", "b0", "b1"], "age": ["70", "", "25"], "sex": ["male", "other", ""]})


def made(root: Path) -> tuple[CompetitionConfig, Competition]:
    for part, frame in (("train", TRAIN), ("test", TEST)):
        (root / part).mkdir(parents=True)
        for name in frame["id"]:
            assert cv2.imwrite(str(root / part / f"{name}.png"), np.zeros((4, 4, 3), np.uint8))
        frame.to_csv(root / f"{part}.csv", index=False)
    TEST[["id"]].sort_values("id").assign(target=0.5).to_csv(root / "sample_submission.csv", index=False)
    keys = CompetitionConfig(name="toy", root=str(root), submission="positive", target_column="target")
    return keys, load_competition(keys)


def test_columns_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    keys, competition = made(tmp_path)
    train, test = columns_beside(keys, competition, ["age", "sex"])
    for columns, ids, frame in ((train, competition.train.ids, TRAIN), (test, competition.test.ids, TEST)):
        wanted = frame.set_index("id").loc[ids]
        assert all(columns[name].tolist() == wanted[name].tolist() for name in ("age", "sex"))


def test_what_the_test_rows_lack_is_refused(tmp_path: Path) -> None:
    keys, competition = made(tmp_path)
    with pytest.raises(UserError, match=r"column 'diagnosis' is not in test\.csv"):
        columns_beside(keys, competition, ["diagnosis"])
    with pytest.raises(UserError, match=r"column 'target' is the target"):
        columns_beside(keys, competition, ["target"])
    (tmp_path / "test.csv").unlink()
    with pytest.raises(UserError, match="no table of the test rows"):
        columns_beside(keys, competition, ["age"])


def test_a_test_table_in_an_archive_has_columns_too(tmp_path: Path) -> None:
    keys, competition = made(tmp_path)
    with zipfile.ZipFile(tmp_path / "test.csv.zip", "w") as archive:
        archive.write(tmp_path / "test.csv", "test.csv")
    zipped = dataclasses.replace(keys, test_csv="test.csv.zip/test.csv")
    found, wanted = (columns_beside(each, competition, ["age"])[1] for each in (zipped, keys))
    assert found["age"].tolist() == wanted["age"].tolist()


def test_numbers_are_standardised_and_names_have_a_column_each() -> None:
    names = ("age", "sex")
    x, other = encode(
        {name: TRAIN[name].to_numpy().astype(np.str_) for name in names},
        {name: TEST[name].to_numpy().astype(np.str_) for name in names},
    )
    age = pd.to_numeric(TRAIN["age"]).fillna(pd.to_numeric(TRAIN["age"]).median())
    np.testing.assert_allclose(x[:, 0], (age - age.mean()) / age.std(ddof=0), rtol=1e-6)
    np.testing.assert_allclose(other[0, 0], (70 - age.mean()) / age.std(ddof=0), rtol=1e-6)
    gap = (TRAIN["age"] == "").to_numpy()
    assert x[gap, 1].min() > x[~gap, 1].max()  # where the gaps were
    assert x.dtype == np.float32 and x.shape[1] == other.shape[1] == 2 + 2  # male; female, other and gaps are rare
    assert x[:, 2:].sum(axis=1).tolist() == [1] * 12 and other[:, 2:].sum(axis=1).tolist() == [1] * 3
    assert other[1, 2:].tolist() == other[2, 2:].tolist() != other[0, 2:].tolist()


def test_names_behind_columns() -> None:
    assert split_features(["f.npz", "columns:age", "sex", "run/features.npz"]) == (
        ["f.npz", "run/features.npz"], ["age", "sex"],
    )  # fmt: skip
    assert split_features(["run"]) == (["run"], [])


def test_columns_are_encoded_as_scikit_learn_does() -> None:
    """Gaps, a constant, rare and unknown values; and other rows with what is no number in a column of numbers."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    random = np.random.default_rng(0)

    def rows(count: int) -> dict[str, np.ndarray]:
        gaps = random.random(count) < 0.2
        return {
            "site": random.choice(list("abcdefghijklmno"), count),
            "size": np.array([f"{value:.3f}" for value in random.normal(size=count)]),
            "age": np.where(gaps, "", random.integers(0, 90, count).astype(str)),
            "same": np.full(count, "3"),
            "two": random.choice(["x", "y"], count),
        }

    train, test = rows(60), rows(20)
    test["two"][0] = "z"
    numbers, names = ["size", "age", "same"], ["site", "two"]
    frames = [
        pd.DataFrame({name: pd.to_numeric(cells) if name in numbers else cells for name, cells in part.items()})
        for part in (train, test)
    ]
    scaled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    coded = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=5, sparse_output=False)
    wanted = ColumnTransformer([("numbers", scaled, numbers), ("names", coded, names)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = wanted.fit_transform(frames[0]), wanted.transform(frames[1])
    encoding = json.loads(json.dumps(fit_encoding(train, test)))
    places = [0, 1, 3, 2, *range(4, both[0].shape[1])]  # scikit-learn's marks of gaps come last
    for cells, expected in zip((train, test), both, strict=True):
        np.testing.assert_allclose(apply_encoding(encoding, cells), expected[:, places], atol=1e-6)
    odd = {**test, "age": np.where(test["age"] == "", "unknown", test["age"])}
    np.testing.assert_array_equal(apply_encoding(encoding, odd), apply_encoding(encoding, test))
