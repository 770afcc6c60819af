"""`./run.sh help WORD`: what a key or a verb means, its default and choices, and an example; and shell completion.

The meanings are the comments of src/config/schema.py, so that they cannot part from the keys.
"""

from __future__ import annotations

import dataclasses
import inspect

from src.config import RUNTIME_KEYS, keys, kind_of, unknown_key
from src.config.limits import LIMITS
from src.errors import UserError, nearest
from src.help.completion import completion
from src.help.examples import COMMANDS, EXAMPLES
from src.help.known import choices, default_of, describe, meanings, shown
from src.search.tricks import WORDS
from src.verbs import VERBS, Verb
from src.words import ALIASES, GROUPS, group_choices, usage

__all__ = ["COMMANDS", "answer", "choices", "completion", "example", "meanings"]


def answer(words: list[str]) -> str:
    """What `./run.sh help WORDS` prints. Raises UserError for a word that is neither a key nor a verb."""
    if not words:
        return (
            f'{usage()}\n\n./run.sh help KEY or VERB explains one; eval "$(./run.sh help completion)" completes in bash'
        )
    return "\n\n".join(_about(word.partition("=")[0].lstrip("+~")) for word in words)


def _about(word: str) -> str:
    if word == "completion":
        return completion()
    if word in GROUPS:
        return _of_group(word)
    if word in VERBS:  # `runs` is a key as well
        verb = of_verb(VERBS[word])
        return f"{verb}\n\n{of_key(word)}" if word in keys() else verb
    full = ALIASES.get(word, word)
    if full in keys():
        section = dataclasses.is_dataclass(kind_of(full))
        both = f"\n\n{_of_section(word)}" if full != word else ""
        return (_of_section(full) if section else of_key(full)) + both
    owned = [key for key in keys() if key.rsplit(".", 1)[-1] == word]
    if owned:  # lr, mixup: people leave the section out
        return "\n\n".join(of_key(key) for key in owned)
    every = [*VERBS, *keys(), *GROUPS, *ALIASES, "completion"]
    if close := nearest(word, every):
        raise UserError(f"help: {word!r} is neither a key nor a verb{close}")
    raise UserError(f"help: {unknown_key(word, keys())}")


def of_verb(verb: Verb) -> str:
    """Meaning, own words, what it starts from and an example."""
    lines = [f"./run.sh {verb.name}: {verb.help}"]
    words = WORDS.get(verb.name) if verb.compares else verb.words
    if words:
        lines.append(
            f"  takes     {', '.join(f'{name}=' for name in words)}" + ("" if verb.base is None else " and keys")
        )
    elif words is None:
        lines.append("  takes     its own words, as they are typed")
    else:
        lines.append("  takes     any key")
    if verb.section:
        own = [key.rpartition(".")[2] for key in keys() if key.startswith(f"{verb.section}.")]
        lines.append(f"  its keys  {', '.join(f'{name}=' for name in own)} (in full {verb.section}.{own[0]}= …)")
    if verb.preferred:
        lines.append(f"  defaults  {' '.join(verb.preferred)}")
    return "\n".join([*lines, f"  example   {COMMANDS[verb.name]}"])


def of_key(key: str) -> str:
    """Meaning, default, choices or kind of value, limits, and an example."""
    meaning, hint = meanings().get(key, ""), kind_of(key)
    lines = [f"{key}: {meaning}" if meaning else key]
    lines.append(f"  default   {shown(default_of(key))}")
    found = choices(key)
    lines.append(f"  choices   {', '.join(found)}" if found else f"  value     {describe(hint)}")
    if key in LIMITS:
        lines.append(f"  limits    {LIMITS[key][1]}")
    if any(key == each or key.startswith(f"{each}.") for each in RUNTIME_KEYS):
        lines.append("  may differ between two starts of one run")
    return "\n".join([*lines, f"  example   {example(key)}"])


def example(key: str) -> str:
    """`./run.sh …` with a value that is not the default."""
    text = EXAMPLES.get(key) or f"{key}={_other_value(key)}"
    if text.startswith("./run.sh"):
        return text
    section = key.partition(".")[0]
    verb = next((verb for verb in VERBS.values() if verb.section == section), None)
    if verb is not None and section not in ("competition",):
        return f"{COMMANDS[verb.name].partition(' run=')[0] if verb.name == 'frozen' else _start(verb)} {text}"
    return f"./run.sh fold=0 {text}" if not text.startswith("fold=") else f"./run.sh {text}"


def _start(verb: Verb) -> str:
    """The command of a verb as far as it has to go: the runs that it is about."""
    words = COMMANDS[verb.name].split()
    return " ".join(
        word for word in words if "=" not in word or word.split("=")[0] in ("run", "runs", "teacher", "fold")
    )


def _other_value(key: str) -> str:
    found, default = choices(key), default_of(key)
    if found:
        return next(value for value in found if value != shown(default))
    if isinstance(default, int):
        return str(default * 2 or 1)
    if isinstance(default, float):
        return f"{default / 2:g}" if default else "0.1"
    if isinstance(default, list) and default and all(isinstance(value, (int, float)) for value in default):
        return f"[{','.join(f'{value * 0.9:g}' for value in default)}]"
    return shown(default)


def _of_section(name: str) -> str:
    own = [key for key in keys() if key.startswith(f"{name}.")]
    about = inspect.getdoc(kind_of(name)) or ""
    head = f"{name}: a section of keys" + (f". {about}" if about and "(" not in about.split(". ")[0][:40] else "")
    width = max(map(len, own))
    return "\n".join([head, *(f"  {key:<{width}}  {meanings().get(key, '')}".rstrip() for key in own)])


def _of_group(group: str) -> str:
    also = f"\n\n{_of_section(group)}" if group in keys() else ""
    found = group_choices(group)
    lines = [
        f"{group}: a file of configs/{group}",
        f"  choices   {', '.join(found)}",
        f"  example   ./run.sh fold=0 {group}={found[0]}",
    ]
    return "\n".join(lines) + also
