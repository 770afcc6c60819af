"""README and docs: short, linked, made of what the code says, and with figures that the lab book has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from src.help.page import page
from src.verbs import VERBS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readme_is_short_and_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert [name for name in VERBS if name != "train" and f"`{name}" not in text and f"run.sh {name}" not in text] == []


def test_the_page_of_keys_is_what_the_schema_says() -> None:
    assert (ROOT / "docs" / "keys.md").read_text() == page() + "\n", "python -m src.help.page > docs/keys.md"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_the_scores_of_the_readme_are_measured() -> None:
    """Each figure of its table with a decimal point stands in the lab book too."""
    section = (ROOT / "README.md").read_text().split("\n| what, ")[1].split("\n\n")[0]
    book = (ROOT / "docs" / "lab-book.md").read_text()
    figures = re.findall(r"\d+\.\d+", section)
    assert len(figures) >= 5
    assert [figure for figure in figures if figure not in book] == []
