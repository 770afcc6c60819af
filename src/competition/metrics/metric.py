"""What a metric is, and the metrics of a kind of target: found by whatever people call them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from src.errors import UserError, nearest
from src.log import say_once

Choice = TypeVar("Choice")
Function = Callable[[np.ndarray, np.ndarray], float]  # target as the task encodes it, pred (N, C)
# What a metric looks at. labels: what the task's plain rule makes of a prediction (the most probable class, columns
# of at least 0.5); ranks: the order of the predictions, of a column or of a row; probabilities and numbers: values.
Of = Literal["labels", "ranks", "probabilities", "numbers"]

# Sayings, in this order, and what they become; a name is then the set of its words.
SAYINGS = (
    (r"area under (the )?(receiver operating characteristic |roc |precision recall )?curve", "auc"),
    (r"roc auc( score)?|auc roc|auroc|rocauc|aucroc|receiver operating characteristic", "auc"),
    (r"column ?(wise|averaged)|columnwise|columns|classwise|class wise", "column"),
    (r"mean average precision", "map"),
    (r"(global|micro) average precision|gap score", "gap"),
    (r"average precision", "ap"),
    (r"quadratic(ally)? (weighted )?(cohen s? ?)?kappa|(cohen s? ?)?kappa quadratic( weights)?|weighted kappa", "qwk"),
    (r"cohen s? ?kappa|cohen kappa", "kappa"),
    (r"cross ?entropy( loss)?|log ?loss|logarithmic loss", "logloss"),
    (r"root mean squared? (logarithmic|log) error", "rmsle"),
    (r"mean column root mean squared? error", "mcrmse"),
    (r"root mean squared? error", "rmse"),
    (r"mean squared? error", "mse"),
    (r"symmetric mean absolute percentage error|symmetric mape", "smape"),
    (r"mean absolute percentage error", "mape"),
    (r"median absolute error", "medae"),
    (r"mean absolute error", "mae"),
    (r"coefficient of determination|r squared|r2 score", "r 2"),
    (r"matthews? correlation( coefficient)?|phi coefficient", "mcc"),
    (r"spearman ?s?( rank)?( order)?( correlation)?( coefficient)?|spearmanr", "spearman"),
    (r"pearson ?s?( correlation)?( coefficient)?|pearsonr", "pearson"),
    (r"exact match( ratio)?|subset accuracy", "exact"),
    (r"probabilistic f ?1?( score)?|\bpf ?1", "pf1"),
    (r"\bf ?beta|\bf score|\bf measure", "f"),
    (r"\bbrier( score)?( loss)?", "brier"),
    (r"categori[sz]ation accuracy|classification accuracy", "accuracy"),
    (r"macro ?averaged|macro average", "macro"),
    (r"micro ?averaged|micro average", "micro"),
    (r"sample ?wise|row ?wise|samples|rows|per (sample|row|image)|example based", "row"),
    (r"words?|cells?", "micro"),
    (r"classes", "class"),
)
FILLERS = {
    "beta",
    "of",
    "the",
    "a",
    "over",
    "at",
    "each",
    "one",
    "label",
    "labels",
    "score",
    "metric",
    "with",
    "for",
    "k",
    "by",
}


def words_of(name: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """What is left of a metric's name where case, marks, fillers and order do not count: its words and its numbers.
    An explanation behind a comma is no part of the name."""
    text = re.sub(r"[^a-z0-9.%]+", " ", name.casefold().split(",")[0]).strip()
    text = re.sub(r"([0-9.]+) ?%", lambda found: f"{float(found[1]) / 100:g}", text) if "%" in text else text
    for saying, short in SAYINGS:
        text = re.sub(rf"\b(?:{saying})(?![a-z])", short, text)
    tokens = re.findall(r"pf1|[a-z]+|[0-9]+(?:\.[0-9]+)?", text)
    words = {token for token in tokens if not token[0].isdigit()} - FILLERS
    return tuple(sorted(words)), tuple(float(token) for token in tokens if token[0].isdigit())


class Undefined(UserError):
    """These rows have no such score; others may."""


@dataclass(frozen=True)
class Metric:
    name: str
    greater_is_better: bool
    function: Function
    # The same from (C, C) counts of `confusion`, for metrics of one label that only look at the most probable class.
    of_counts: Callable[[np.ndarray], float] | None = None
    of: Of = "labels"
    top: int | None = None  # how many classes of a row, the best ones, it looks at; None: one, or all
    classes: int | None = None  # that it takes exactly; None: any number
    # (weights of the classes, columns or targets) -> function; where weights are given or `needs_weights`
    weigh: Callable[[np.ndarray], Function] | None = None
    needs_weights: bool = False
    aliases: tuple[str, ...] = ()

    def score(self, target: np.ndarray, pred: np.ndarray) -> float:
        """The function's, or NaN with one line where these rows have none: all of one class, for an area under a
        curve."""
        try:
            return self.function(target, pred)
        except Undefined as error:
            say_once(f"no score of {len(target)} rows by {error}")
            return float("nan")

    @property
    def sign(self) -> int:
        """What a score is multiplied with to make greater better."""
        return 1 if self.greater_is_better else -1

    def best(self, scores: Mapping[Choice, float]) -> Choice:
        """The key with the best score; of equals, the first. NaN is the worst."""
        return max(scores, key=lambda key: -math.inf if math.isnan(scores[key]) else self.sign * scores[key])

    def check_classes(self, count: int) -> None:
        """UserError if it is for another number of classes."""
        if self.classes is not None and count != self.classes:
            instead = f"{self.name.partition('_')[0]}_macro" if self.name.endswith("_binary") else "another metric"
            raise UserError(f"metric {self.name} is for {self.classes} classes, but there are {count}; use {instead}")

    def weighted(self, weights: np.ndarray) -> Metric:
        """The metric with weights (C,) of classes or columns, or (T,) of targets. Raises UserError if it has none."""
        if self.weigh is None:
            raise UserError(f"competition.metric_weights: {self.name} takes no weights; leave them out")
        name = self.name if "weighted" in self.name else f"weighted_{self.name}"
        return dataclasses.replace(self, name=name, function=self.weigh(weights), of_counts=None, needs_weights=False)


@dataclass(frozen=True)
class Family:
    """Metrics that differ in one number: `like` names them (map5: "map"), make(number) builds one. shown: in lists."""

    like: tuple[str, ...]
    make: Callable[[float], Metric]
    shown: str


class Metrics(Mapping[str, Metric]):
    """The metrics of a kind of target by name, and `find` by whatever people call them, with any k or beta."""

    def __init__(self, metrics: Sequence[Metric], families: Sequence[Family] = ()) -> None:
        self._by_name = {metric.name: metric for metric in metrics}
        self._families = {words_of(like)[0]: family for family in families for like in family.like}
        self._shown = [family.shown for family in families]
        self._by_words: dict[tuple[tuple[str, ...], tuple[float, ...]], Metric] = {}
        for metric in metrics:
            for name in (metric.name, *metric.aliases):
                other = self._by_words.setdefault(words_of(name), metric)
                assert other is metric, f"{name} is {other.name} and {metric.name}"

    def __getitem__(self, name: str) -> Metric:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def find(self, name: str) -> Metric:
        """Raises UserError with the nearest name and the list."""
        if name in self._by_name:
            return self._by_name[name]
        words, numbers = words_of(name)
        if (words, numbers) in self._by_words:
            return self._by_words[words, numbers]
        if words in self._families and len(numbers) == 1:
            made = self._families[words].make(numbers[0])
            return self._by_name.get(made.name, made)
        choices = ", ".join([*self, *self._shown])
        spoken = [*self, *(alias for metric in self.values() for alias in metric.aliases)]
        raise UserError(f"no metric {name!r}{nearest(name.casefold(), spoken)} (choices: {choices})")


def count(name: str, number: float, least: int = 1) -> int:
    """The whole number in a metric's name. Raises UserError if it is none."""
    if number != int(number) or number < least:
        raise UserError(f"no metric {name}@{number:g}: k is a whole number from {least}")
    return int(number)
