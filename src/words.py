"""The words of a command line: their keys checked and written in full before Hydra, which knows nobody's typos.

Hydra and YAML read 1e3, 2024_01 and no as numbers and false, whatever the key: the values of keys that are text in
src/config/schema.py are put in quotes here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from src.config import keys, kind_of, unknown_key
from src.errors import UserError, nearest
from src.verbs import VERBS, Verb

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GROUPS = ("competition", "preset", "experiment")
# sections that people name like a value, and timm's name for the channels
ALIASES = {"model": "model.name", "in_chans": "competition.channels", "model.options.in_chans": "competition.channels"}
# Keys whose relative paths count from where the command was typed, if there is such a thing there and not in the
# checkout: run.sh changes to the checkout. And the words of verbs without a configuration.
PATHS = ("competition.root", "competition.metric", "model.weights", "folds.file", "paths.input")
OWN_PATHS = ("data", "metric", "root", "submission", "solution")


def full_words(verb: Verb, words: Sequence[str]) -> list[str]:
    """The words after a verb as Hydra takes them.

    Raises UserError for a key that does not exist, with the nearest, and for one that is given twice.
    """
    given = {key_of(word) for word in words}
    full = [checked(word, verb, given) for word in words]
    refuse_twice([key_of(word) for word in full], words)
    refuse_within([key_of(word) for word in full], words)
    if has_key(full, "epochs") and not has_key(full, "least_steps"):  # the preset's minimum is not the user's
        full.insert(0, "least_steps=0")  # before flags, behind which argparse takes no words
    return full


def from_where_typed(words: Sequence[str]) -> list[str]:
    """The words with paths that only exist relative to the folder that run.sh was called in, as absolute paths."""
    typed_in = os.environ.get("KFOLD_TYPED_IN")
    return [_from_there(word, Path(typed_in)) for word in words] if typed_in else list(words)


def _from_there(word: str, there: Path) -> str:
    key, equals, value = word.partition("=")
    path, colon, function = value.strip("'\"").partition(".py:")
    path, rest = (f"{path}.py", f":{function}") if colon else (path, "")
    if not equals or key.lstrip("+") not in (*PATHS, *OWN_PATHS) or not path:
        return word
    if os.path.isabs(path) or os.path.exists(path) or not (there / path).exists():
        return word
    return f"{key}={there / path}{rest}"


def refuse_twice(found: Sequence[str], words: Sequence[str]) -> None:
    """UserError if two words have the same key: neither would be known to count. found: the key of each word."""
    first: dict[str, str] = {}
    for key, word in zip(found, words, strict=True):
        if word.startswith(("-", "~")):  # a flag, or Hydra's way to take a key out
            continue
        if key in first:
            raise UserError(f"{key}: given twice, {first[key]} and {word}; leave one of them out")
        first[key] = word


def refuse_within(found: Sequence[str], words: Sequence[str]) -> None:
    """UserError for a section that is given as a whole and by one of its keys as well. found: the key of each word."""
    for section, word in zip(found, words, strict=True):
        inside = [other for key, other in zip(found, words, strict=True) if key.startswith(f"{section}.")]
        if inside and section not in GROUPS and not word.startswith(("-", "~")):
            raise UserError(f"{section}: given twice, {word} and {inside[0]}; leave one of them out")


def key_of(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def has_key(words: Sequence[str], key: str) -> bool:
    return any(key_of(word) == key for word in words)


def checked(word: str, verb: Verb, given: set[str]) -> str:
    """One word in full; flags (`-m`, `--cfg`) and hydra.* pass through. given: the keys of all words."""
    if word.startswith("-"):
        return word
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"{word!r}: expected key=value{nearest(word, [*VERBS, *keys()])}")
    plain_key = key.lstrip("+~")
    if plain_key.startswith("hydra"):
        return word
    if plain_key in GROUPS:
        check_group(plain_key, value)
        return word
    sign, valid = key.removesuffix(plain_key), keys()
    full = ALIASES.get(plain_key, plain_key)
    own = f"{verb.section}.{plain_key}"
    if own in valid and not (plain_key in valid and own in given):  # a key as well: prune's run, beside prune.run
        full = own
    head = full.split("[")[0]
    if head not in valid and not head.startswith("model.options."):
        others: dict[str, str] = {}  # the first verb of each section
        for v in VERBS.values():
            if f"{v.section}.{head}" in valid:
                others.setdefault(f"{v.section}.{head}", v.name)
        if others:
            names, meant = " and ".join(others.values()), ", ".join(others)
            raise UserError(f"{head}: there is no such key of {verb.name}; it is one of {names}, in full {meant}")
        raise unknown_key(full, [*valid, *GROUPS])
    # model.options is a free mapping: a new entry in it needs Hydra's plus sign, which nobody should have to know
    value = text_value(full, value, several=bool(given & {"-m", "--multirun"}))
    return f"{'++' if head.startswith('model.options.') else sign}{full}={value}"


# What neither Hydra nor YAML takes for anything but text, except for these words; null is no text and stays.
TEXT = re.compile(r"(?!(?:true|false|yes|no|on|off|y|n|inf|nan)$)[A-Za-z/][\w/.@%+-]*", re.ASCII | re.IGNORECASE)
FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|str|int|float|bool|json_str|extend_list)\(")


def text_value(key: str, value: str, several: bool) -> str:
    """The value of a key that is text in quotes if need be, as it is for another key. several: of a multirun."""
    kind = kind_of(key)
    if kind == tuple[str, ...]:
        listed = re.fullmatch(r"\s*\[([^\[\]{}()'\"$\\]*)\]\s*", value)
        return f"[{','.join(quoted(item) for item in listed[1].split(','))}]" if listed else value
    if kind not in (str, str | None) and not (get_origin(kind) is Literal and isinstance(get_args(kind)[0], str)):
        return value
    if re.search(r"[\x00-\x1f\x7f-\x9f]", value):
        raise UserError(f"{key}={value}: holds control characters; type it without them")
    if "," not in value:
        return quoted(value)
    # the values of a multirun; without -m Hydra has an answer to several
    return ",".join(map(quoted, value.split(","))) if several and not re.search(r"""[('"\[{]""", value) else value


def quoted(value: str) -> str:
    """`value` in quotes, unless it is text without them, null, or something that Hydra is to work out."""
    text = value.strip()
    if not text or text.lower() in ("null", "~") or TEXT.fullmatch(text) or FUNCTION.match(text):
        return value
    if text[0] == "{" and re.match(r"\{[\w.|:-]+\}", text) and "'" not in text:
        return f"'{text}'"  # a template that begins with a column, no mapping
    if text[0] in "'[{" or any(sign in text for sign in '"$\\'):
        return value
    return f'"{text}"' if "'" in text else f"'{text}'"


def check_group(group: str, value: str) -> None:
    choices = group_choices(group)
    for choice in value.split(","):
        if choice not in choices and choice != "null":
            raise UserError(
                f"{group}={choice}: not in configs/{group} ({', '.join(choices)}){nearest(choice, choices)}"
            )


def group_choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def usage() -> str:
    """What `./run.sh help` prints."""
    lines = ["./run.sh [verb] key=value …", ""]
    lines += [f"  {verb.name:<9} {verb.help}" for verb in VERBS.values()]
    lines += ["", "keys (explained in src/config/schema.py):"]
    lines += [f"  {key}" for key in keys() if not any(other.startswith(f"{key}.") for other in keys())]
    lines += [f"{group}: {', '.join(group_choices(group))}" for group in GROUPS]
    return "\n".join(lines)
