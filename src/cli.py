"""`./run.sh [verb] key=value …`: verbs to recipes. The only module that knows Hydra.

Keys are checked before Hydra composes them, so that a typo is answered in one line with the nearest valid key.
Recipes, and with them torch, are imported once the command line is known to be right.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src.attached import find, find_competition, inputs_folder
from src.config import Config, build, defaults, plain, refuse_secrets
from src.errors import UserError, nearest
from src.help import answer
from src.log import forget_backend, say_once
from src.runs.made_by import remember_command
from src.search.tricks import merged, named_tricks, pairing_of, words_of
from src.verbs import VERBS, Verb, from_configs
from src.words import CONFIGS, GROUPS, from_where_typed, full_words, has_key, key_of, quoted, refuse_twice


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
        return compose([*preferred, *words], lambda config: run(verb, config, began))
    except UserError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        return 130


def complain(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


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
    from src.launch import launch, processes_wanted

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
    base = full_words(verb, others)
    if any(word.startswith("-") for word in base):
        raise UserError(f"{verb.name}: takes key=value words only, no flags")
    if not has_key(base, "wandb.mode"):
        base.append("wandb.mode=disabled")  # a hundred runs on W&B, only if they are asked for

    def having(names: Sequence[str]) -> list[str]:
        return [word for name in names for word in tricks[name]]

    whole = merged(base, having(list(tricks)) if pairing.mode == "remove" else [])

    def task(config: Config) -> int:
        arms: dict[str, Config | str] = {}
        for name in tricks:
            with_it = [name] if pairing.mode == "add" else [other for other in tricks if other != name]
            try:
                arms[name] = composed_beside(config, merged(base, having(with_it)))
            except UserError as error:
                arms[name] = str(error)
        return start(verb, config, began, arms, pairing)

    return compose(whole, task)


def composed_beside(base: Config, words: Sequence[str]) -> Config:
    """Another configuration in a task of `compose`. preset=auto is what it is for `base`, so that a trick that brings
    another model does not bring another preset as well."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    preset = HydraConfig.get().runtime.choices["preset"]
    chosen = choose_preset(plain(base))[0] if preset == "auto" else [f"preset={preset}"]
    return build(mounted_here(to_plain(OmegaConf, hydra.compose("config", merged(chosen, words)))))


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
            base = OmegaConf.create(defaults())
            config = build(to_plain(OmegaConf, OmegaConf.merge(base, from_words(OmegaConf, [*usable, *full]))))
            usable += full
        except (UserError, ImportError):
            continue
    return config


def compose(words: Sequence[str], task: Callable[[Config], int]) -> int:
    """Call `task` with the configuration of the words in full, or once per job of a multirun (`-m`)."""
    codes: list[int] = []

    def job(composed: Any) -> None:
        import hydra
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        settings = HydraConfig.get()
        try:
            values = to_plain(OmegaConf, composed)
            if settings.runtime.choices["preset"] == "auto":
                chosen, why = choose_preset(values)
                print(f"{chosen[0]}: {why}", flush=True)
                given = without_preset(settings.overrides.task)
                values = to_plain(OmegaConf, hydra.compose("config", [*chosen, *given]))
            code = task(build(mounted_here(values)))
            if code > 128:  # told to stop: no further job of a multirun
                sys.exit(code)
            codes.append(code)
        except UserError as error:  # caught here, because Hydra adds lines of its own to what leaves a job
            complain(error)
            codes.append(2)

    with_hydra(with_guesses(with_root(words)), job)
    return max(codes, default=0)


def with_hydra(words: Sequence[str], job: Callable[[Any], None]) -> None:
    """Call `job` with what Hydra composes of configs/ and the words in full, once per job of a multirun."""
    import hydra
    import yaml
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="base", node=defaults())
    sys.argv = [sys.argv[0], *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # a bug keeps its whole traceback
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(" ".join(str(error).split())) from None


def with_root(words: Sequence[str]) -> list[str]:
    """The words, with the folder that competition.root=auto, a slug, or a folder of another session stands for."""
    from omegaconf import OmegaConf

    if not has_key(words, "competition.root"):
        return list(words)
    wanted = ("competition.root", "paths.input")
    given: Any = OmegaConf.to_container(from_words(OmegaConf, [word for word in words if key_of(word) in wanted]))
    root = str(mounted_here(given)["competition"]["root"])
    if root == str(given["competition"]["root"]):
        return list(words)
    return [f"competition.root={quoted(root)}" if key_of(word) == "competition.root" else word for word in words]


def mounted_here(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with the attached files and folders where they are mounted now: competition.root=auto is the one
    competition there is, and a slug, or what was mounted in another way, is looked for."""
    inputs = Path((values.get("paths") or {}).get("input") or inputs_folder())
    for section, key in (("competition", "root"), ("model", "weights")):
        given = (values.get(section) or {}).get(key)
        if not given:
            continue
        auto = (key, given) == ("root", "auto")
        found = find_competition(inputs) if auto else find(str(given), inputs)
        if found is not None and str(found) != given:
            say_once(f"{section}.{key}={given}: {found}")
            values = {**values, section: {**values[section], key: str(found)}}
    return values


def with_guesses(words: Sequence[str]) -> list[str]:
    """The words, and what they leave open about a folder of which nothing but the root is known (no competition=, or
    competition=folder): found by looking at it, and printed."""
    given = {key_of(word): word.partition("=")[2] for word in words if not word.startswith("-")}
    if not given.get("competition.root") or given.get("competition", "folder") != "folder":
        return list(words)
    from src.guess.guess import guess
    from src.guess.words import lines
    from src.guess.words import words as words_for

    parsed = plain_values(words)
    root = Path(str(parsed["root"]))
    # the recipe says so, or Hydra is to work it out; only without competition= would it be taken for the digits'
    if not root.is_dir() and ("competition" in given or any(sign in str(root) for sign in "$,(")):
        return list(words)
    findings = [
        finding
        for finding in guess(root, parsed.get("metric"), parsed)
        if f"competition.{finding.key}" not in given and finding.key not in given
    ]
    command = f"./run.sh init {shlex.quote(f'data={root}')}"
    print(f"{root}: what is in it ({command} writes this down)", *lines(findings), sep="\n", flush=True)
    return [*([] if "competition" in given else ["competition=folder"]), *words_for(findings), *words]


def plain_values(words: Sequence[str]) -> dict[str, Any]:
    """The keys of the section `competition` among the words, by name."""
    from omegaconf import OmegaConf

    own = [word for word in words if key_of(word).startswith("competition.")]
    section = from_words(OmegaConf, own).get("competition")
    values: Any = OmegaConf.to_container(section) if section is not None else {}
    return values


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
    return build(mounted_here(to_plain(OmegaConf, OmegaConf.merge(OmegaConf.create(base), given))))


def from_words(omegaconf: Any, words: Sequence[str]) -> Any:
    try:
        return omegaconf.from_dotlist([word.lstrip("+") for word in words])
    except Exception as error:  # OmegaConf lets the YAML parser's own errors through
        raise UserError(f"{' '.join(words)}: {' '.join(str(error).split())}") from None


def to_plain(omegaconf: Any, composed: Any) -> dict[str, Any]:
    values = omegaconf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    refuse_secrets(values, os.environ)
    return values


def choose_preset(values: dict[str, Any]) -> tuple[list[str], str]:
    """Words for `finetune` if pretrained weights are at hand for the model (`finetune_vit` with attention), else for
    `scratch`, as they want different rates; and why. `model.pretrained` stays as it was, so that a fold's log gives its
    reason too."""
    from src.model.backbone import attends
    from src.model.weights import check_model_name, find_weights

    model = build(values).model
    check_model_name(model.name)
    found = find_weights(model.name, model.pretrained, model.weights, Path(values["paths"]["input"]))
    scratch = ["preset=scratch", f"model.pretrained={model.pretrained}"]
    if not found.pretrained:
        return scratch, found.why
    return ["preset=finetune_vit" if attends(model.name) else "preset=finetune"], found.why


def without_preset(overrides: Sequence[str]) -> list[str]:
    return [word for word in overrides if not word.startswith("preset=")]


if __name__ == "__main__":
    sys.exit(main())
