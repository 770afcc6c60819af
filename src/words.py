"""The words of a command line: their keys checked and written in full before Hydra, which knows nobody's typos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.config import keys, unknown_key
from src.errors import UserError, nearest
from src.verbs import VERBS, Verb

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GROUPS = ("competition", "preset", "experiment")
ALIASES = {"model": "model.name"}  # sections that people name like a value


def full_words(verb: Verb, words: Sequence[str]) -> list[str]:
    """The words after a verb as Hydra takes them. Raises UserError for a key that does not exist, with the nearest."""
    given = {key_of(word) for word in words}
    return [checked(word, verb, given) for word in words]


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
        others = {v.name: f"{v.section}.{head}" for v in VERBS.values() if f"{v.section}.{head}" in valid}
        if others:
            names, meant = " and ".join(others), ", ".join(others.values())
            raise UserError(f"{head}: there is no such key of {verb.name}; it is one of {names}, in full {meant}")
        raise unknown_key(full, [*valid, *GROUPS])
    # model.options is a free mapping: a new entry in it needs Hydra's plus sign, which nobody should have to know
    return f"{'++' if head.startswith('model.options.') else sign}{full}={value}"


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
