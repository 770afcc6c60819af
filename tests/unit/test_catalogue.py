"""The table of techniques in docs/techniques.md: its keys can be typed, its functions and tests are there."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from src.config import keys
from src.verbs import VERBS
from src.words import GROUPS, full_words

ROOT = Path(__file__).resolve().parent.parent.parent
COLUMNS = ["#", "technique", "key", "source", "file", "test"]


class Row(NamedTuple):
    number: str
    technique: str
    key: str
    source: str
    file: str
    test: str


def table() -> list[Row]:
    section = (ROOT / "docs" / "techniques.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert lines[0] == COLUMNS and set("".join(lines[1])) == {"-"}
    return [Row(*line) for line in lines[2:]]


ROWS = table()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)


def quoted(cell: str) -> list[str]:
    """What a cell has in backquotes; nothing but commas may stand between."""
    assert not re.sub(r"`[^`]+`", "", cell).strip(" ,"), cell
    return re.findall(r"`([^`]+)`", cell)


@cache
def definitions(file: str) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """Functions and classes at the top level of a file of the repository."""
    nodes = ast.parse((ROOT / file).read_text()).body
    return {node.name: node for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def test_there_are_48_rows_in_order() -> None:
    assert [row.number for row in ROWS] == [str(number) for number in range(1, 49)]
    assert len({row.technique for row in ROWS}) == 48


@each_row
def test_it_is_named_and_has_a_source(row: Row) -> None:
    assert row.technique
    assert re.fullmatch(r"(practice|\d{4}\.\d{4,5})(, (practice|\d{4}\.\d{4,5}))*", row.source), row.source


@each_row
def test_its_keys_can_be_typed(row: Row) -> None:
    found = quoted(row.key)
    assert found
    for text in found:
        if text.startswith("./run.sh "):
            check_command(text)
            continue
        key, _, value = text.partition("=")
        if key in GROUPS:
            assert (ROOT / "configs" / key / f"{value}.yaml").is_file(), text
        else:
            assert key in keys() or key.startswith("model.options."), text


def check_command(text: str) -> None:
    """Its verb, and the keys of its words."""
    words = shlex.split(text.partition("#")[0].replace("…", ""))[1:]
    verb = VERBS[words.pop(0)] if words and "=" not in words[0] else VERBS["train"]
    own = [word for word in words if verb.words is None or word.partition("=")[0] in verb.words]
    full_words(verb, [word for word in words if word not in own])


OWN = ("./run.sh help", "./run.sh kaggle", "./run.sh wheels")  # whose words are no keys


def commands() -> list[str]:
    """Every ./run.sh of the README and of docs/, but not those of the lab book, which are dated."""
    pages = [ROOT / "README.md", *(page for page in (ROOT / "docs").glob("*.md") if page.name != "lab-book.md")]
    text = "\n".join(page.read_text() for page in pages)
    found = re.findall(r"`(\./run\.sh [^`\n]+)`", text) + re.findall(r"^(\./run\.sh .+)$", text, re.MULTILINE)
    return sorted({command for command in found if "[verb]" not in command and not command.startswith(OWN)})


def test_there_are_commands() -> None:
    assert len(commands()) > 20


@pytest.mark.parametrize("command", commands())
def test_a_command_can_be_typed(command: str) -> None:
    check_command(command)


@each_row
def test_its_functions_are_there_and_documented(row: Row) -> None:
    found = quoted(row.file)
    assert found and len(found) % 2 == 0
    for file, name in zip(found[::2], found[1::2], strict=True):
        assert file.startswith("src/") and name in definitions(file), f"{file} {name}"
        assert ast.get_docstring(definitions(file)[name]), f"{file} {name}: without a docstring"


@each_row
def test_its_tests_are_there(row: Row) -> None:
    found = quoted(row.test)
    assert found
    for test in found:
        file, _, name = test.partition("::")
        assert file.startswith("tests/") and name.startswith("test_") and name in definitions(file), test
