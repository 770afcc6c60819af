"""docs/keys.md: every key with its default, choices and meaning. Made by `python -m src.help.page > docs/keys.md`."""

from __future__ import annotations

import dataclasses

from src.config import keys, kind_of
from src.help.known import choices, default_of, describe, meanings, shown

HEAD = """\
# Every key

`./run.sh [verb] key=value …`; `./run.sh help KEY` prints an example too. A preset or experiment in `configs/` may set
another default. This page is made of the comments in [schema.py](../src/config/schema.py).
"""


def page() -> str:
    """Markdown, a table per section of the configuration."""
    every = keys()
    sections = [key for key in every if dataclasses.is_dataclass(kind_of(key))]
    leaves = [key for key in every if key not in sections]
    top = [key for key in leaves if "." not in key]
    lines = [HEAD, "## Of the run", "", *_table(top)]
    for section in sections:
        own = [key for key in leaves if key.rpartition(".")[0] == section]
        if own:
            lines += ["", f"## {section}", "", *_table(own)]
    return "\n".join(lines)


def _table(names: list[str]) -> list[str]:
    lines = ["| key | default | value | meaning |", "|---|---|---|---|"]
    for key in names:
        found = choices(key)
        cells = (f"`{key}`", f"`{shown(default_of(key))}`", ", ".join(found) or describe(kind_of(key)), meanings()[key])
        lines.append("| " + " | ".join(cell.replace("|", "&#124;").replace("<", "&lt;") for cell in cells) + " |")
    return lines


if __name__ == "__main__":
    print(page())
