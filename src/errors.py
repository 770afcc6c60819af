"""The exception that means "the user can fix this": shown as a single line, exit code 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake of the user's. The message is one line: the file, row or key, what is wrong, and the cure.

    Line breaks and control characters, which ids and file names may bring along, become spaces.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(message)))


class MissingPackage(UserError):
    """A package has to be installed first. Nothing is wrong with the file that needs it: it is never left out, replaced
    or remembered as unreadable."""


class NoMemory(UserError):
    """A step does not fit the memory of its device."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the choice closest to `word`, or an empty string when none is close."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def first_few(items: Sequence[object], limit: int = 3) -> str:
    """`a, b, c …` for messages about many rows; the count belongs to the caller's sentence."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown + (" …" if len(items) > limit else "")


def counted(count: int, noun: str, several: str | None = None) -> str:
    """`1 row`, `2 rows`, `0 rows`; several: where the plural is not the noun with an s."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"
