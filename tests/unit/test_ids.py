"""Ids of very many rows: told apart, compared and read without an object for each of them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.ids import are_unique, find_rows, in_parts, only_in

IDS = st.lists(st.text(st.sampled_from("abé0"), max_size=4), max_size=12)


@given(IDS)
def test_unique_is_what_a_set_says(ids: list[str]) -> None:
    assert are_unique(np.array(ids, dtype=np.str_)) == (len(set(ids)) == len(ids))


def test_sums_that_agree_by_chance_are_no_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ones:
        def __init__(self, _: int) -> None: ...

        def bytes(self, count: int) -> bytes:
            return np.ones(count // 8, np.uint64).tobytes()

    monkeypatch.setattr("src.ids.np.random.RandomState", Ones)
    assert are_unique(np.array(["ab", "ba"])) and not are_unique(np.array(["ab", "ba", "ab"]))


@given(IDS.map(lambda ids: sorted(set(ids))), IDS)
def test_rows_and_differences_are_those_of_a_dictionary(ids: list[str], wanted: list[str]) -> None:
    for other in (wanted, ids):
        place = {item: row for row, item in enumerate(ids)}
        arrays = np.array(ids, dtype=np.str_), np.array(other, dtype=np.str_)
        assert find_rows(*arrays).tolist() == [place.get(item, -1) for item in other]
        assert only_in(arrays[1], arrays[0]) == [item for item in other if item not in place]


@given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
def test_parts_make_the_whole(values: list[int], most: int) -> None:
    column = np.array(values, dtype=object)
    parts = list(in_parts(column, most))
    assert [item for part in parts for item in part] == values and all(0 < len(part) <= most for part in parts)


def test_ids_that_are_the_same_cost_no_objects() -> None:
    ids = np.char.add("row-", np.arange(60_000).astype("U6"))
    tracemalloc.start()
    assert are_unique(ids) and only_in(ids, ids.copy()) == []
    assert (find_rows(ids, ids.copy()) == np.arange(len(ids))).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * ids.nbytes  # the copy and some; sets of strings take 3.9 times as much
