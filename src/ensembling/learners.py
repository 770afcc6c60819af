"""Models of the second level: fitted by scikit-learn or LightGBM, then kept and applied as plain arrays.

What is fitted is a tree of mappings, lists, numbers, texts and arrays, so it can be written to a file that runs no code
when it is read, and applied where neither the version of scikit-learn nor the data that it was fitted on are known.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.files import DAMAGED, replacing

HIDDEN = 64  # units of the small network

Options = Mapping[str, float]
Tree = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """tree: kind, and what that kind is made of. Called with (m, D) it returns (m, C) float32."""

    tree: Tree

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return APPLIED[self.tree["kind"]](self.tree, x).astype(np.float32)


def train(
    learner: str,
    options: Options,
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    seed: int,
    groups: Sequence[int] = (),
    start: Model | None = None,
) -> Model:
    """Fit on x (n, D) float32, y (n,) int64; returns a function from (m, D) to (m, C) float32 probabilities.

    Classes that do not occur in `y` get probability 0; rows sum to 1. Where several columns may be true of a row, y
    (n, C) bool, each has a model of its own; so has each of several targets, y (n, T) int64, which have `groups`
    columns each, and each number, y (n, C) float. start: of the same learner and `y` at other options or other scales
    of x; logistic regression begins there, and ends where it would have but for its tolerance.
    """
    if y.ndim == 2 and np.issubdtype(y.dtype, np.floating):
        values = [_regression(learner, options, x, column, seed) for column in y.T.astype(np.float64)]
        return Model({"kind": "numbers", "parts": values})
    if y.ndim == 2 and y.dtype != bool:
        targets = zip(y.T, groups, _parts(start, y), strict=True)
        models = [train(learner, options, x, labels, count, seed, start=own).tree for labels, count, own in targets]
        return Model({"kind": "targets", "parts": models})
    if y.ndim == 2:
        columns = zip(y.T.astype(np.int64), _parts(start, y), strict=True)
        each = [train(learner, options, x, column, 2, seed, start=own).tree for column, own in columns]
        return Model({"kind": "columns", "parts": each})
    there = np.unique(y)
    if learner == "ridge":
        from sklearn.linear_model import Ridge

        ridge = Ridge(**options).fit(x, np.eye(classes, dtype=np.float32)[y])
        return Model({"kind": "shares", "layers": [_layer(ridge.coef_.T, ridge.intercept_)], "there": there})
    if len(there) == 1:  # nothing to tell apart: a column that no row, or every row, of these has
        return Model({"kind": "constant", "values": np.eye(classes, dtype=np.float32)[there[0]]})
    model = _classifier(learner, options, seed)
    if learner == "logistic" and start is not None:
        (layer,) = start.tree["layers"]
        model.set_params(warm_start=True)
        model.classes_, model.coef_, model.intercept_ = there, layer["weight"].T, layer["bias"]
    _fit(model, x, y)
    tree: Tree = {"classes": classes, "there": np.asarray(model.classes_, np.int64)}
    if learner == "lightgbm":
        return Model({"kind": "trees", **tree, "text": model.booster_.model_to_string()})
    return Model({"kind": "network", **tree, "layers": _layers(model)})


def _parts(start: Model | None, y: np.ndarray) -> list[Model | None]:
    """The start of each column of y (n, T)."""
    return [None] * y.shape[1] if start is None else [Model(tree) for tree in start.tree["parts"]]


def _regression(learner: str, options: Options, x: np.ndarray, y: np.ndarray, seed: int) -> Tree:
    """Fit on x (n, D), y (n,) float64, for (m, D) to (m, 1)."""
    shift, scale = y.mean(), y.std()  # a network learns little at another scale
    if scale == 0:
        return {"kind": "constant", "values": np.array([shift])}
    model: Any
    tree: Tree = {"kind": "regression", "shift": float(shift), "scale": float(scale)}
    if learner == "lightgbm":
        lightgbm = import_lightgbm()
        model = lightgbm.LGBMRegressor(**options, learning_rate=0.05, random_state=seed, verbose=-1, deterministic=True)
        _fit(model, x, (y - shift) / scale)
        return {**tree, "text": model.booster_.model_to_string()}
    if learner == "ridge":
        from sklearn.linear_model import Ridge

        model = Ridge(**options)
    else:
        from sklearn.neural_network import MLPRegressor

        assert learner == "mlp", learner
        model = MLPRegressor(hidden_layer_sizes=(HIDDEN,), **options, max_iter=60, random_state=seed)
    _fit(model, x, (y - shift) / scale)
    return {**tree, "layers": _layers(model)}


def _classifier(learner: str, options: Options, seed: int) -> Any:
    if learner == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(**options, max_iter=300)
    if learner == "mlp":
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier((HIDDEN,), **options, max_iter=60, random_state=seed)
    assert learner == "lightgbm", learner
    lightgbm = import_lightgbm()
    return lightgbm.LGBMClassifier(**options, learning_rate=0.05, random_state=seed, verbose=-1, deterministic=True)


def _fit(model: Any, x: np.ndarray, y: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(did not converge|failed to converge|Maximum iterations).*")
        model.fit(x, y)


def import_lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError:
        raise UserError("learner=lightgbm: the package is not installed; pip install lightgbm") from None
    return lightgbm


# ---- what was fitted, as arrays -------------------------------------------------------------------------------------


def _layer(weight: np.ndarray, bias: np.ndarray) -> Tree:
    """weight (D, C), bias (C,)."""
    return {"weight": np.asarray(weight, np.float64), "bias": np.atleast_1d(np.asarray(bias, np.float64))}


def _layers(model: Any) -> list[Tree]:
    """Of scikit-learn's linear models, with one target (D,) or a row of each class (C, D), and its networks."""
    if hasattr(model, "coefs_"):
        return [_layer(weight, bias) for weight, bias in zip(model.coefs_, model.intercepts_, strict=True)]
    return [_layer(np.atleast_2d(model.coef_).T, model.intercept_)]


# ---- applying -------------------------------------------------------------------------------------------------------


def _forward(layers: Sequence[Tree], x: np.ndarray) -> np.ndarray:
    """(m, D) -> (m, C) float64, with ReLU between the layers."""
    for number, layer in enumerate(layers):
        x = x.astype(np.float64) if number == 0 else np.maximum(x, 0)
        x = x @ layer["weight"] + layer["bias"]
    return x


def _network(tree: Tree, x: np.ndarray) -> np.ndarray:
    odds = _forward(tree["layers"], x)
    if odds.shape[1] == 1:  # of the second of two classes
        odds = np.concatenate([np.zeros_like(odds), odds], axis=1)
    shares = np.exp(odds - odds.max(axis=1, keepdims=True))
    return _spread(tree, shares / shares.sum(axis=1, keepdims=True))


def _trees(tree: Tree, x: np.ndarray) -> np.ndarray:
    found = _boosted(tree["text"], x)
    return _spread(tree, np.stack([1 - found, found], axis=1) if found.ndim == 1 else found)


def _spread(tree: Tree, found: np.ndarray) -> np.ndarray:
    """(m, C): the probabilities of the classes that were `there`, 0 for the others."""
    pred = np.zeros((len(found), tree["classes"]))
    pred[:, tree["there"]] = found
    return pred


def _boosted(text: str, x: np.ndarray) -> np.ndarray:
    lightgbm = import_lightgbm()
    return np.asarray(lightgbm.Booster(model_str=text).predict(x))


def _shares(tree: Tree, x: np.ndarray) -> np.ndarray:
    # a regression on 0 and 1 estimates probabilities, but does not know that they end there
    pred = np.clip(_forward(tree["layers"], x), 1e-3, 1.0)
    pred[:, np.setdiff1d(np.arange(pred.shape[1]), tree["there"])] = 0
    return pred / pred.sum(axis=1, keepdims=True)


def _regressed(tree: Tree, x: np.ndarray) -> np.ndarray:
    found = _boosted(tree["text"], x)[:, None] if "text" in tree else _forward(tree["layers"], x)
    return tree["shift"] + tree["scale"] * found


def _joined(tree: Tree, x: np.ndarray) -> np.ndarray:
    return np.concatenate([APPLIED[part["kind"]](part, x) for part in tree["parts"]], axis=1)


def _columns(tree: Tree, x: np.ndarray) -> np.ndarray:
    return np.stack([APPLIED[part["kind"]](part, x)[:, 1] for part in tree["parts"]], axis=1)


APPLIED: dict[str, Callable[[Tree, np.ndarray], np.ndarray]] = {
    "network": _network,
    "trees": _trees,
    "shares": _shares,
    "regression": _regressed,
    "numbers": _joined,
    "targets": _joined,
    "columns": _columns,
    "constant": lambda tree, x: np.repeat(np.asarray(tree["values"], np.float64)[None], len(x), axis=0),
}


# ---- files ----------------------------------------------------------------------------------------------------------


def save_tree(path: Path, tree: Tree) -> None:
    """Mappings with texts as keys, lists, numbers, texts, None, and arrays of numbers."""
    arrays: dict[str, Any] = {}

    def form(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: form(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [form(each) for each in value]
        if isinstance(value, np.ndarray):
            arrays[name := f"array{len(arrays)}"] = value
            return {"array": name}
        return value.item() if isinstance(value, np.generic) else value

    text = np.array(json.dumps(form(tree)))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **{"form": text, **arrays})


def load_tree(path: Path) -> Tree:
    """Raises UserError for a file that is missing or damaged; nothing in it can run code."""
    try:
        archive: Any = np.load(path, allow_pickle=False)
        with archive:
            arrays = {name: archive[name] for name in archive.files}
        text = str(arrays.pop("form"))

        def value(found: Any) -> Any:
            if isinstance(found, list):
                return [value(each) for each in found]
            if isinstance(found, dict):
                whole = found.keys() == {"array"}
                return arrays[found["array"]] if whole else {key: value(each) for key, each in found.items()}
            return found

        return value(json.loads(text))
    except (*DAMAGED, RecursionError) as error:
        raise UserError(f"{path}: not a model of the second level ({error}); make the run again") from None
