"""Plain csv files are read by column; whatever the file, with the outcome of the csv module's reader."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.competition import csv_file, plain_csv
from src.competition.csv_file import LONGEST, read_columns, read_header
from src.competition.plain_csv import read_plain
from src.errors import UserError


def outcome(path: Path, required: list[str]) -> list[object]:
    """All columns, or the words of the error."""
    try:
        columns = read_columns(path, read_header(path, "k"), "k", required)
    except UserError as error:
        return [str(error)]
    return [(name, cells.dtype, cells.tolist()) for name, cells in columns.items()]


def both(path: Path, required: list[str]) -> tuple[list[object], list[object]]:
    """As files are read, and by the csv module alone."""
    found = outcome(path, required)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_file, "read_plain", lambda *_: None)
        return found, outcome(path, required)


CELLS = st.text(st.sampled_from('ab7. ,;|\t"é\x00\x1f\x7f'), max_size=4)
LINES = st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=6)


@settings(max_examples=400, deadline=None)
@given(LINES, st.sampled_from(",;|\t "), st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n \n"]), st.integers(2, 50))
def test_any_file_reads_as_the_csv_module_reads_it(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]], mark: str, ending: str, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    text = ending.join(mark.join(cells) for cells in lines) + (ending if block % 2 else "")
    path.write_bytes((b"\xef\xbb\xbf" if block % 3 else b"") + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_csv, "BLOCK", block)  # lines lie across blocks
        patch.setattr(csv_file, "AT_A_TIME", 2)
        for required in ([], [cell for cell in lines[0] if cell]):
            found, wanted = both(path, required)
            assert found == wanted


WORDS = st.text(st.sampled_from("ab7._-/' "), max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(WORDS, min_size=n, max_size=n), max_size=9)), st.data())
def test_plain_files_are_read_by_column(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.csv"
    header = ["id", "image", "label", "more"][: len(rows[0]) if rows else 2]
    path.write_text("\n".join(",".join(cells) for cells in [header, *rows]) + "\n")
    required = [name for name in header if data.draw(st.booleans())]
    found, wanted = both(path, required)
    assert found == wanted
    if len(header) > 1 and rows:
        with path.open("rb") as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr(plain_csv, "BLOCK", data.draw(st.integers(1, 60)))
            columns = read_plain(file, header, range(len(header)), [False] * len(header), ",", LONGEST)
        blank = any(not any(cell.strip() for cell in row) for row in rows)  # a line of commas alone
        assert (columns is None) is blank
        if columns is None:
            return
        assert [list(row) for row in zip(*(c.tolist() for c in columns), strict=True)] == [
            [cell.strip() for cell in row] for row in rows
        ]


@pytest.mark.parametrize(
    "text",
    [
        b'id,label\n"a",b\n',
        "id,label\nä,b\n".encode(),
        b"id,label\na,b,c\nd\n",
        b"id,label\na\nb,c,d\n",
        b"id,label\na,b\n\nc,d\n",
        b"id,label\na,b\nid , label\n",
        b"id,label\na,\n",
        b"id,label\na," + b"x" * (LONGEST + 1) + b"\n",
        b"id,label\na,b\rc,d\n",
        b"id,label\na,b\x00\n",
        b"id,label\na,\tb\n",
        b"id,label,,\na,b,,\n",
        b"id,label\na,b\n , \n",
        b"id,label\n,\na,b\n",
        b"\nid,label\na,b\n",
        b"id,label\n",
        b"id,label\n" + b" " * 20 + b"a,b\n",
    ],
)
def test_what_is_not_plain(text: bytes) -> None:
    assert read_plain(BytesIO(text), ["id", "label"], [0, 1], [True, True], ",", LONGEST) is None


def test_no_object_is_made_per_row(tmp_path: Path) -> None:
    """The column of 20,000 rows without the strings of Python that a list of them would hold."""
    import tracemalloc

    count = 20_000
    path = tmp_path / "many.csv"
    path.write_text("id,beside,label\n" + "".join(f"r{i:06},{'x' * 40},c{i % 9}\n" for i in range(count)))
    peaks = []
    for reader in (plain_csv.read_plain, lambda *_: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plain_csv, "BLOCK", 1 << 16)
            patch.setattr(csv_file, "read_plain", reader)
            tracemalloc.start()
            columns = read_columns(path, ["id", "label"], "k", ["id"])
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert columns["id"][-1] == f"r{count - 1:06}" and columns["label"].dtype == np.dtype("<U2")
    arrays = sum(cells.nbytes for cells in columns.values())
    assert peaks[0] < 2.5 * arrays < peaks[1]
