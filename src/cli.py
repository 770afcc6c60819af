"""`./run.sh [verb] key=value …`: verbs to recipes.

Keys are checked before Hydra composes them, so that a typo is answered in one line with the nearest valid key.
Recipes, and with them torch, are imported once the command line is known to be right.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from src.compose import (
    complain,
    compose,
    composed_beside,
    from_words,
    laid_over,
    mounted_here,
    to_plain,
    with_hydra,
    with_root,
)
from src.config import Config, build, defaults
from src.errors import UserError, nearest
from src.help import answer
from src.log import forget_backend
from src.runs.made_by import remember_command
from src.search.tricks import Pairing, merged, named_tricks, pairing_of, words_of
from src.verbs import VERBS, Verb, from_configs
from src.words import CONFIGS, GROUPS, from_where_typed, full_words, has_key, key_of, refuse_twice


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 the user's mistake (one line), 130/143 interrupted; a bug keeps its traceback."""
    began = time.time()  # a time budget counts from here
    forget_backend()
    words = from_where_typed(sys.argv[1:] if arguments is None else arguments)
    remember_command(words)
    try:
        if words and words[0] in ("-h", "--help", "help"):
            print(answer(words[1:]))
            return 0
        name = words.pop(0) if words and "=" not in words[0] and not words[0].startswith("-") else "train"
        if name not in VERBS:
            raise UserError(f"{name}: no such verb (choices: {', '.join(VERBS)}){nearest(name, VERBS)}")
        verb = VERBS[name]
        if verb.base is None:
            return run_plain(verb, words)
        if verb.diagnoses:
            return run_diagnosis(verb, words)
        if verb.compares:
            return run_comparison(verb, words, began)
        words = full_words(verb, words)
        config = configuration(verb, words)
        if config is not None:
            return run(verb, config, began)
        preferred = [word for word in verb.preferred if not has_key(words, word.split("=")[0])]
        return compose([*preferred, *words], partial(run, verb), began)
    except UserError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        return 130


def recipe_of(verb: Verb) -> Callable[..., Any]:
    if verb.recipe is None:
        raise UserError(f"{verb.name}: is for run.sh itself; type ./run.sh {verb.name}")
    module, function = verb.recipe
    return getattr(importlib.import_module(f"src.recipes.{module}"), function)


def run_plain(verb: Verb, words: Sequence[str]) -> int:
    """A verb without a configuration: its recipe gets its own words, `score submission=F`, or any as they are typed."""
    if verb.words is None:
        return recipe_of(verb)(*words) or 0
    refuse_twice([key_of(word) for word in words], words)
    values = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in verb.words:
            choices = ", ".join(f"{name}=" for name in verb.words)
            raise UserError(f"{verb.name}: {word!r} is not one of {choices}{nearest(key, verb.words)}")
        values[key] = value
    return recipe_of(verb)(**values) or 0


def run(verb: Verb, config: Config, began: float) -> int:
    """One composed configuration, on as many processes as the machine has devices for."""
    from src.training.device import prepare_tpu

    prepare_tpu(Path(config.paths.cache))
    if verb.processes == "one":
        return start(verb, config, began)
    from src.launch import folds_at_once, launch, processes_wanted

    if verb.processes == "one per fold" and folds_at_once(config) > 1:  # which the recipe starts
        return start(verb, config, began)
    return launch(start, (verb, config, began), processes_wanted(config.processes, config.device))


def start(verb: Verb, config: Config, began: float, *more: Any) -> int:
    """Run a recipe in this process; its exit code. Also what launched processes call. Raises UserError.

    began: time.time() at the start of the command. more: what the recipe takes beside the configuration.
    """
    recipe = recipe_of(verb)
    from src.training.interrupt import Interrupted
    from src.training.memory import in_one_line

    try:
        recipe(config, began) if verb.timed else recipe(config, *more)
    except (RuntimeError, MemoryError) as error:
        if (told := in_one_line(error)) is None:
            raise
        raise UserError(told) from None
    except Interrupted as stop:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"\n{stop}", file=sys.stderr, flush=True)
        return stop.exit_code
    return 0


def run_comparison(verb: Verb, words: Sequence[str], began: float) -> int:
    """`ablate` and `ladder`: the baseline, and a configuration with (mode=remove: without) each trick."""
    refuse_twice([key_of(word) for word in words], words)
    pairing, others = pairing_of(verb.name, words)
    named = named_tricks(CONFIGS / "tricks.yaml")
    tricks = {name: full_words(verb, words_of(name, named)) for name in pairing.tricks}
    words = full_words(verb, others)
    several = [word for word in words if word[0] == "-" or key_of(word) == "start" or key_of(word).startswith("hydra")]
    base = [word for word in words if word not in several]
    if any(word.startswith("-") and word not in ("-m", "--multirun") for word in several):
        raise UserError(
            f"{verb.name}: takes key=value words, and of flags -m alone, for several starts: start=0,1,2 -m"
        )
    if not has_key(base, "wandb.mode"):
        base.append("wandb.mode=disabled")  # a hundred runs on W&B, only if they are asked for
    all_of_them = [word for name in tricks for word in tricks[name]] if pairing.mode == "remove" else []
    return compose([*merged(base, all_of_them), *several], partial(start_arms, verb, base, tricks, pairing), began)


def start_arms(
    verb: Verb,
    base: Sequence[str],
    tricks: Mapping[str, Sequence[str]],
    pairing: Pairing,
    config: Config,
    began: float,
) -> int:
    """`start` for the configuration `config` and the arms beside it; base: the words that all have."""
    arms: dict[str, Config | str] = {}
    for name in tricks:
        with_it = [name] if pairing.mode == "add" else [other for other in tricks if other != name]
        try:
            arms[name] = composed_beside(config, merged(base, [word for other in with_it for word in tricks[other]]))
        except UserError as error:
            arms[name] = str(error)
    return start(verb, dataclasses.replace(config, start=0), began, arms, pairing)  # no arm has another one


def run_diagnosis(verb: Verb, words: Sequence[str]) -> int:
    """`doctor`: its recipe gets the configuration as far as it can be read, and what is wrong with the words."""
    found: list[Config] = []
    wrong: list[str] = []

    def read(composed: Any) -> None:
        from omegaconf import OmegaConf

        try:
            found.append(build(to_plain(OmegaConf, composed)))
        except UserError as error:  # caught here, as in `compose`
            wrong.append(str(error))

    try:
        if any(word.startswith("-") for word in words):
            raise UserError(f"{verb.name}: takes key=value words only, no flags")
        given = {key_of(word) for word in words}
        group = [] if "competition" in given or "competition.root" not in given else ["competition=folder"]
        with_hydra(with_root([*group, *full_words(verb, words)]), read)
    except UserError as error:
        wrong.append(str(error))
    except ImportError as error:  # a machine whose packages could not all be installed
        wrong.append(f"{error}: the configuration cannot be read")
    config = found[0] if found else as_far_as_it_goes(verb, words)
    return recipe_of(verb)(config, wrong)


def as_far_as_it_goes(verb: Verb, words: Sequence[str]) -> Config:
    """The defaults with each of the words that can be taken by itself."""
    config, usable = build(defaults()), list[str]()
    for word in words:
        try:
            from omegaconf import OmegaConf

            full = [] if key_of(word) in GROUPS else full_words(verb, [word])
            config = build(laid_over(OmegaConf, defaults(), from_words(OmegaConf, [*usable, *full])))
            usable += full
        except (UserError, ImportError):
            continue
    return config


def configuration(verb: Verb, words: Sequence[str]) -> Config | None:
    """What the verb starts from, changed by the words; None where Hydra composes it from configs/."""
    if verb.base is None or verb.base is from_configs:
        return None
    from omegaconf import OmegaConf

    given = from_words(OmegaConf, words)
    plain_given: Any = OmegaConf.to_container(given)
    try:
        base = verb.base(plain_given, defaults())
    except UserError as error:
        raise UserError(f"{verb.name}: {error}") from None
    if base is None:
        return None
    return build(mounted_here(laid_over(OmegaConf, base, given)))


if __name__ == "__main__":
    from src.cli import main as importable  # by this name other processes find what they are to do

    sys.exit(importable())
