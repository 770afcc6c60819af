"""Sections to one HTML file that needs no network, no server and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.files import write_text
from src.reporting.report.section import Section

TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class Headline:
    """title: of the page. about: a line below it. figures: the first line of the page, value and name."""

    title: str
    about: str
    figures: Sequence[tuple[str, str]]


def render(headline: Headline, sections: Sequence[Section]) -> str:
    """The whole file; every text is escaped."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style, script = (Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("style.css", "script.js"))
    return environment.get_template("page.html").render(
        headline=headline, sections=sections, style=style, script=script
    )


def write_page(path: Path, headline: Headline, sections: Sequence[Section]) -> Path:
    write_text(path, render(headline, sections))
    return path
