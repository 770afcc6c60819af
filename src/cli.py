"""`./run.sh [verb] key=value …`: verbs to recipes. The only module that knows Hydra.

Keys are checked before Hydra composes them, so that a typo is answered in one line with the nearest valid key.
Recipes, and with them torch, are imported once the command line is known to be right.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src.artefacts import read_config
from src.config import Config, build, defaults, keys, plain, refuse_secrets, unknown_key
from src.errors import UserError, nearest
from src.search.tricks import merged, named_tricks, pairing_of, words_of

ROOT = Path(__file__).resolve().parent.parent
GROUPS = ("competition", "preset", "experiment")
ALIASES = {"model": "model.name"}  # sections that people name like a value
# Verbs that take plain key=value pairs of their own instead of the configuration.
PLAIN_VERBS = {"score": ("submission", "solution", "metric")}
# Verbs about a run that exists: its own configuration, changed by the keys that are given.
RUN_VERBS = ("predict", "sizes")
# Verbs about finished runs: the competition, folds and places of the first of them, and the keys that are given.
MEMBER_VERBS = ("ensemble", "stack", "soup")
# Verbs that compare configurations: words of their own, and a baseline that is composed like any run.
COMPARING_VERBS = ("ablate", "ladder")
# Verb: module and function of its recipe, imported (and torch with it) once the command line is known to be right.
RECIPES = {
    "train": ("train", "train"),
    "distill": ("train", "distill"),
    "prune": ("train", "prune"),
    "predict": ("predict", "predict_run"),
    "features": ("features", "extract_features"),
    "ensemble": ("ensemble", "ensemble"),
    "stack": ("stack", "stack_runs"),
    "soup": ("soup", "soup"),
    "prepare": ("prepare", "prepare"),
    "lr_find": ("lr_find", "lr_find"),
    "sizes": ("sizes", "score_sizes"),
    "smoke": ("smoke", "smoke"),
    "ablate": ("ablate", "ablate"),
    "ladder": ("ablate", "ladder"),
    "runs": ("runs", "list_runs"),
}
# What Hydra composes for verbs that train nothing; any key that is given comes after these.
PREFERRED = {
    "stack": ("fold=all", "preset=scratch"),
    "features": ("preset=finetune", "tta=none"),
    "runs": ("preset=scratch",),
    "prepare": ("preset=scratch",),
}
BENCHMARKS = ("loader", "training", "accuracy", "inference", "scale", "profile_loader")
SEVERAL_PROCESSES = ("train", "distill", "prune", "predict")  # one per device; the other verbs are one process
VERBS = {
    "train": "train a fold, or all of them with fold=all (the default verb)",
    "predict": "predict the test rows again with a finished run: predict run=NAME",
    "distill": "train a student of a run or an ensemble: distill teacher=NAME fold=all",
    "prune": "take channels out of a finished run and train on: prune run=NAME prune.ratio=0.5 epochs=5",
    "features": "pooled features of a backbone: features model=resnet50, or of a run's networks: features run=NAME",
    "ensemble": "combine runs: ensemble runs=[a,b,c] method=climb run=NAME",
    "stack": "a second model on runs and features: stack runs=[a,b] features=[F] learner=logistic run=NAME",
    "prepare": "look at the data: rows, unreadable images, duplicates across folds and test, with pictures",
    "lr_find": "learning-rate range test on the first stage: a picture and a suggestion",
    "sizes": "score against test size with a finished run: sizes run=NAME sizes=[96,112,128]",
    "soup": "average the weights of runs of one network: soup runs=[a,b,c] method=greedy run=NAME",
    "ablate": "what is each technique worth: ablate tricks=[mixup,ema,loss.gamma=1] seeds=3 folds=[0,1,2]",
    "ladder": "ablate on growing shares of the rows, the better half going on: ladder tricks=[…] rungs=[0.25,0.5,1]",
    "score": "grade a file: score submission=FILE solution=FILE [metric=NAME]",
    "smoke": "the whole path on a few images, under a minute",
    "runs": "a table of all runs",
    "bench": "measure against other libraries: bench loader|training|accuracy|inference|scale root=DIR",
    "test": "the test suite (arguments go to pytest)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 the user's mistake (one line), 130/143 interrupted; a bug keeps its traceback."""
    began = time.time()  # a time budget counts from here
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and words[0] in ("-h", "--help", "help"):
            print(usage())
            return 0
        verb = words.pop(0) if words and "=" not in words[0] and not words[0].startswith("-") else "train"
        if verb not in VERBS:
            raise UserError(f"{verb}: no such verb (choices: {', '.join(VERBS)}){nearest(verb, VERBS)}")
        if verb == "bench":
            return run_benchmark(words)
        if verb in PLAIN_VERBS:
            return run_plain(verb, words)
        if verb in COMPARING_VERBS:
            return run_comparison(verb, words, began)
        found = configuration(verb, [checked(word) for word in words])
        if found is not None:
            return run(verb, found, began)
        preferred = [word for word in PREFERRED.get(verb, ()) if not has_key(words, word.split("=")[0])]
        return compose([*preferred, *words], lambda config: run(verb, config, began))
    except UserError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        return 130


def has_key(words: Sequence[str], key: str) -> bool:
    return any(word.startswith(f"{key}=") for word in words)


def run(verb: str, config: Config, began: float) -> int:
    """One composed configuration, on as many processes as the machine has devices for."""
    if verb not in SEVERAL_PROCESSES:
        return start(verb, config, began)
    from src.launch import launch, processes_wanted

    return launch(start, (verb, config, began), processes_wanted(config.processes, config.device))


def start(verb: str, config: Config, began: float, *more: Any) -> int:
    """Run a recipe in this process; its exit code. Also what launched processes call. Raises UserError.

    began: time.time() at the start of the command. more: what the recipe takes beside the configuration.
    """
    module, function = RECIPES[verb]
    recipe = getattr(importlib.import_module(f"src.recipes.{module}"), function)
    from src.training.interrupt import Interrupted

    try:
        recipe(config, began) if module == "train" else recipe(config, *more)
    except Interrupted as stop:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"\n{stop}; the same command goes on from there", file=sys.stderr, flush=True)
        return stop.exit_code
    return 0


def complain(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


def run_plain(verb: str, words: Sequence[str]) -> int:
    """Verbs without a configuration: `score submission=F solution=F`."""
    values = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in PLAIN_VERBS[verb]:
            raise UserError(
                f"{verb}: {word!r} is not one of {', '.join(f'{name}=' for name in PLAIN_VERBS[verb])}"
                f"{nearest(key, PLAIN_VERBS[verb])}"
            )
        values[key] = value
    from src.recipes.score import score_submission

    score_submission(**values)
    return 0


def run_benchmark(words: Sequence[str]) -> int:
    """`bench NAME key=value …`: benchmarks/NAME.py in a process of its own, whose threads are set before torch is
    loaded there. Its exit code."""
    name = words[0] if words else ""
    if name not in BENCHMARKS:
        raise UserError(f"bench {name}: choose one of {', '.join(BENCHMARKS)}{nearest(name, BENCHMARKS)}")
    cores = "1" if name in ("loader", "profile_loader") else str(os.cpu_count())
    threads = {key: os.environ.get(key, cores) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-m", f"benchmarks.{name}", *words[1:]]
    return subprocess.call(command, cwd=ROOT, env={**os.environ, **threads})


def run_comparison(verb: str, words: Sequence[str], began: float) -> int:
    """`ablate` and `ladder`: the baseline, and a configuration with (mode=remove: without) each trick."""
    pairing, others = pairing_of(verb, words)
    named = named_tricks(ROOT / "configs" / "tricks.yaml")
    tricks = {name: [checked(word) for word in words_of(name, named)] for name in pairing.tricks}
    base = [checked(word) for word in others]
    if any(word.startswith("-") for word in base):
        raise UserError(f"{verb}: takes key=value words only, no flags")
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
    return build(to_plain(OmegaConf, hydra.compose("config", merged(chosen, words))))


def compose(words: Sequence[str], task: Callable[[Config], int]) -> int:
    """Call `task` with the configuration of the command line, or once per job of a multirun (`-m`)."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [checked(word) for word in words]
    ConfigStore.instance().store(name="base", node=defaults())
    codes: list[int] = []

    def job(composed: Any) -> None:
        settings = HydraConfig.get()
        try:
            values = to_plain(OmegaConf, composed)
            if settings.runtime.choices["preset"] == "auto":
                chosen, why = choose_preset(values)
                print(f"{chosen[0]}: {why}", flush=True)
                given = without_preset(settings.overrides.task)
                values = to_plain(OmegaConf, hydra.compose("config", [*chosen, *given]))
            code = task(build(values))
            if code > 128:  # told to stop: no further job of a multirun
                sys.exit(code)
            codes.append(code)
        except UserError as error:  # caught here, because Hydra adds lines of its own to what leaves a job
            complain(error)
            codes.append(2)

    sys.argv = [sys.argv[0], *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # a bug keeps its whole traceback
    try:
        hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(str(error).split())) from None
    return max(codes, default=0)


def configuration(verb: str, overrides: Sequence[str]) -> Config | None:
    """What a verb about existing runs works with, or None for verbs that Hydra composes from configs/.

    predict, sizes, features of a run: that run's configuration. ensemble, stack: the defaults, with the competition,
    folds and places of the first of `runs`. soup: the configuration of the first of `runs`. distill: that of the
    teacher, or of its first member down to a trained run. prune: that of the run, for a third of its epochs. The keys
    that are given change it; for all but distill, all finished folds count unless `fold` is given.
    """
    from omegaconf import OmegaConf

    given = (
        from_words(OmegaConf, overrides) if verb in (*RUN_VERBS, *MEMBER_VERBS, "distill", "prune", "features") else {}
    )
    base: dict[str, Any]
    if verb in RUN_VERBS:
        base = {**config_file(OmegaConf, given, given.get("run"), f"{verb}: run"), "fold": "all"}
        if verb == "sizes":  # what a soup was made of is not what it is compared with
            base["runs"] = []
    elif verb == "features" and (folder_of_runs(OmegaConf, given) / str(given.get("run")) / "config.yaml").is_file():
        base = {**config_file(OmegaConf, given, given["run"], f"{verb}: run"), "tta": "none"}
    elif verb in MEMBER_VERBS and "runs" in given:
        names = given["runs"]
        first = (list(names) or [None])[0] if OmegaConf.is_list(names) else names
        made_with = config_file(OmegaConf, given, first, f"{verb}: runs")
        kept = made_with if verb == "soup" else {name: made_with[name] for name in ("competition", "folds", "paths")}
        base = {**defaults(), **kept, "fold": "all", "run": None, "teacher": None}
    elif verb == "distill":
        base = config_file(OmegaConf, given, given.get("teacher"), "distill: teacher")
        while base.get("runs"):
            base = config_file(OmegaConf, given, base["runs"][0], "distill: teacher: runs")
        base = {**base, "run": f"{given['teacher']}-student", "fold": 0, "resume": "auto", "time_budget": "auto"}
        base["prune"] = defaults()["prune"]
    elif verb == "prune":
        source = OmegaConf.select(given, "prune.run")
        if source is None:  # `run` is what is pruned; with prune.run it is what comes of it
            source = given.pop("run", None)
        base = config_file(OmegaConf, given, source, "prune: run")
        base |= {"run": f"{source}-pruned", "fold": "all", "resume": "auto", "time_budget": "auto"}
        base |= {
            "runs": [],
            "method": None,
            "epochs": base["epochs"] / 3,
            "prune": {**defaults()["prune"], "run": source},
        }
        base["model"] = {**base["model"], "acnet": False}
    else:
        return None
    return build(to_plain(OmegaConf, OmegaConf.merge(OmegaConf.create(base), given)))


def from_words(omegaconf: Any, overrides: Sequence[str]) -> Any:
    try:
        return omegaconf.from_dotlist([word.lstrip("+") for word in overrides])
    except Exception as error:  # OmegaConf lets the YAML parser's own errors through
        raise UserError(f"{' '.join(overrides)}: {' '.join(str(error).split())}") from None


def folder_of_runs(omegaconf: Any, given: Any) -> Path:
    return Path(omegaconf.select(given, "paths.runs") or defaults()["paths"]["runs"])


def config_file(omegaconf: Any, given: Any, name: object, key: str) -> dict[str, Any]:
    """What is in the config.yaml of the run of that name; `key` is for the message that there is none."""
    runs = folder_of_runs(omegaconf, given)
    file = runs / str(name) / "config.yaml"
    if name is None or not file.is_file():
        there = sorted(path.parent.name for path in runs.glob("*/config.yaml"))
        raise UserError(f"{key}={name}: no such run in {runs} ({', '.join(there) or 'none yet'})")
    return read_config(file)


def to_plain(omegaconf: Any, composed: Any) -> dict[str, Any]:
    values = omegaconf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    refuse_secrets(values, os.environ)
    return values


def choose_preset(values: dict[str, Any]) -> tuple[list[str], str]:
    """Words for `finetune` if pretrained weights are at hand for the model, else for `scratch`: they want different
    rates; and why. `model.pretrained` stays as it was, so that a fold's log gives its reason too."""
    from src.model.weights import check_model_name, find_weights

    model = build(values).model
    check_model_name(model.name)
    found = find_weights(model.name, model.pretrained, model.weights, Path(values["paths"]["input"]))
    scratch = ["preset=scratch", f"model.pretrained={model.pretrained}"]
    return (["preset=finetune"] if found.pretrained else scratch), found.why


def without_preset(overrides: Sequence[str]) -> list[str]:
    return [word for word in overrides if not word.startswith("preset=")]


def checked(word: str) -> str:
    """An override with its key checked and aliases replaced; flags (`-m`, `--cfg`) and hydra.* pass through."""
    if word.startswith("-"):
        return word
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"{word!r}: expected key=value{nearest(word, [*VERBS, *keys()])}")
    plain_key = key.lstrip("+~")
    if plain_key.startswith("hydra"):
        return word
    if plain_key in GROUPS:
        choices = sorted(path.stem for path in (ROOT / "configs" / plain_key).glob("*.yaml"))
        for choice in value.split(","):
            if choice not in choices and choice != "null":
                raise UserError(
                    f"{plain_key}={choice}: not in configs/{plain_key} ({', '.join(choices)}){nearest(choice, choices)}"
                )
        return word
    if plain_key in ALIASES:
        return f"{ALIASES[plain_key]}={value}"
    valid = keys()
    head = plain_key.split("[")[0]
    if head not in valid and not any(head.startswith(f"{free}.") for free in ("model.options",)):
        raise unknown_key(plain_key, [*valid, *GROUPS])
    # model.options is a free mapping: a new entry in it needs Hydra's plus sign, which nobody should have to know
    return f"++{plain_key}={value}" if head.startswith("model.options.") else word


def usage() -> str:
    lines = ["./run.sh [verb] key=value …", ""]
    lines += [f"  {verb:<9} {text}" for verb, text in VERBS.items()]
    lines += ["", "keys (explained in src/config/schema.py):"]
    lines += [f"  {key}" for key in keys() if not any(other.startswith(f"{key}.") for other in keys())]
    for group in GROUPS:
        lines.append(f"{group}: " + ", ".join(sorted(p.stem for p in (ROOT / "configs" / group).glob("*.yaml"))))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
