"""What is known of a key: its meaning (the comment of src/config/schema.py), default, choices, kind of value."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import tokenize
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from src.config import Config, defaults, kind_of
from src.config import schema as schema_of_keys
from src.words import GROUPS, group_choices


def choices(key: str) -> list[str]:
    """The values that a key can have, if they can be listed: for true and false too, and for groups."""
    if key in GROUPS:
        return group_choices(key)
    hint = kind_of(key)
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    found: list[str] = []
    for option in options:
        if typing.get_origin(option) is Literal:
            found += map(str, typing.get_args(option))
        elif option is bool:
            found += ["true", "false"]
        elif option is type(None):
            found.append("null")
        else:
            return []
    return found


def describe(hint: Any) -> str:
    """A type in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe(option) for option in args)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is tuple:
        return f"a list of {describe(args[0])}" if ... in args else f"a list of {len(args)}: {describe(args[0])}"
    if origin in (list, dict):
        return "a list" if origin is list else "names and values, {NAME: VALUE}"
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "anything",
    }
    return words.get(hint) or f"sections with {', '.join(field.name for field in dataclasses.fields(hint))}"


def shown(value: Any) -> str:
    """As it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, dict)):
        return json.dumps(value).replace('"', "") if value else "[]" if isinstance(value, list) else "{}"
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else "empty"


def default_of(key: str) -> Any:
    found: Any = defaults()
    for part in key.split("."):
        found = found[part]
    return found


@cache
def meanings() -> Mapping[str, str]:
    """By dotted key: the comment behind it in the schema, or the lines above it."""
    of_class = {name: _comments(cls) for name, cls in vars(schema_of_keys).items() if dataclasses.is_dataclass(cls)}
    found: dict[str, str] = {}

    def collect(cls: Any, prefix: str) -> None:
        for name, hint in typing.get_type_hints(cls).items():
            found[prefix + name] = of_class[cls.__name__].get(name, "")
            if dataclasses.is_dataclass(hint):
                collect(hint, f"{prefix}{name}.")

    collect(Config, "")
    return found


def _comments(cls: Any) -> dict[str, str]:
    """By field of a dataclass."""
    source = inspect.getsource(cls)
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ").strip()
    lines, found = source.splitlines(), dict[str, str]()
    names = {field.name for field in dataclasses.fields(cls)}
    above: list[str] = []
    last, depth = "", 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        name = text.partition(":")[0]
        if text.startswith("#"):
            above.append(comments.get(number, ""))
            continue
        if depth == 0 and name in names:
            last = name
            found[name] = " ".join([*above, comments[number]] if number in comments else above)
            above = []
        elif last and number in comments:  # within brackets
            found[last] = f"{found[last]} {comments[number]}".strip()
        bare = line.split("  #")[0]
        depth += sum(bare.count(sign) for sign in "([{") - sum(bare.count(sign) for sign in ")]}")
    return found
