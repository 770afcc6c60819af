"""What a report is made of: sections of notes, tables, pictures and cards, which the templates turn into HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

A_SCREEN = 30  # rows of a table
A_LINE = 60  # letters of a cell


@dataclass(frozen=True)
class Note:
    """A paragraph; warning: something to act on."""

    text: str
    warning: bool = False
    block: str = "note"


@dataclass(frozen=True)
class Table:
    """Cells as they are shown, the first `left` columns aligned left. marked: the row that is to be quoted. What is
    longer than a screen is shown on a click."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    marked: int | None = None
    block: str = "table"

    @property
    def folded(self) -> bool:
        return len(self.rows) > A_SCREEN

    @property
    def long(self) -> set[int]:
        """The columns, by number from 0, that hold a text and are set as one."""
        return {place for row in self.rows for place, cell in enumerate(row) if len(cell) > A_LINE}


@dataclass(frozen=True)
class Picture:
    """svg: a whole drawing. alt: what it shows, for who cannot see it."""

    svg: bytes
    alt: str
    caption: str
    block: str = "picture"

    @property
    def source(self) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


@dataclass(frozen=True)
class Listing:
    """Text that is to be copied as it is; folded: shown on a click."""

    caption: str
    text: str
    folded: bool = False
    block: str = "listing"


@dataclass(frozen=True)
class Card:
    """One row of the data. image, heat: JPEGs, None where there is none. facts: name and value, the first two shown
    beneath the picture. marks: values that the filters ask for, several of one separated by tabs."""

    id: str
    image: bytes | None
    facts: Sequence[tuple[str, str]]
    heat: bytes | None = None
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return jpeg_source(self.image)

    @property
    def heat_source(self) -> str:
        return jpeg_source(self.heat)

    @property
    def alt(self) -> str:
        return ", ".join([f"row {self.id}", *(f"{name} {value}" for name, value in self.facts[:2])])


@dataclass(frozen=True)
class Cards:
    """name: of the group, plain letters. filters: of each mark, its label and its values in order; what is chosen first
    is the first, or all of them for those in `open`."""

    name: str
    caption: str
    cards: Sequence[Card]
    filters: Mapping[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
    open: Sequence[str] = ()
    block: str = "cards"


Block = Note | Table | Picture | Listing | Cards


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    blocks: Sequence[Block]


def jpeg_source(image: bytes | None) -> str:
    return "" if image is None else f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
