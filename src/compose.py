"""From the words in full to configurations: what configs/ and a folder say, and a job for each of them. With cli.py the
only module that knows Hydra."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from src.attached import find, find_competition, inputs_folder
from src.config import Config, build, defaults, plain, refuse_secrets
from src.errors import UserError
from src.log import say_once
from src.runs.made_by import COMMAND
from src.search.tricks import merged
from src.words import CONFIGS, has_key, key_of, quoted

# A recipe's start in one process: its configuration, time.time() when it began, and the exit code.
Task = Callable[[Config, float], int]
# The packages that bring Hydra's launchers, by the first part of their names.
LAUNCHERS = {
    "joblib": "hydra-joblib-launcher",
    "submitit": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
}
# What a job needs of the environment of the command, wherever it is started.
HANDED_ON = (COMMAND, "NO_ALBUMENTATIONS_UPDATE")
# Seconds from SLURM's SIGTERM to its SIGKILL: KillWait, or the GraceTime of a partition.
PATIENCE = 600


def compose(words: Sequence[str], task: Task, began: float) -> int:
    """Call `task` with the configuration of the words in full, or once per job of a multirun (`-m`), in this process
    or where a launcher starts them. The worst exit code; of jobs elsewhere the first that is not 0."""
    codes: list[int] = []
    full = with_guesses(with_root(words))
    refuse_missing(full)
    try:
        with_hydra(full, Job(task, began, codes))
    except FailedElsewhere as failure:
        code, said = failure.args
        if said:
            complain(said)
        return code
    except Exception as error:
        engine = type(error).__module__.partition(".")[0]
        if engine not in LAUNCHERS:  # a bug keeps its whole traceback
            raise
        goes_on = "finished folds stay, and the same command goes on from the last checkpoints"
        complain(f"hydra/launcher: a job of {engine} was lost ({reason_of(error)}); {goes_on}")
        return 137
    return max(codes, default=0)


def complain(error: UserError | str) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


# ---- jobs -----------------------------------------------------------------------------------------------------------


def here() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


class FailedElsewhere(Exception):
    """Brings a job's exit code and complaint from another process, in which it has been shown already."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(code, said)


@dataclass(frozen=True)
class Job:
    """What Hydra calls with a composed configuration: in the process of the command, whose `codes` it adds to, or, as a
    copy of this object, in one that a launcher has started on this machine or another one with the same folders."""

    task: Task
    began: float
    codes: list[int]
    home: tuple[str, int] = field(default_factory=here)
    folder: str = field(default_factory=os.getcwd)
    environment: Mapping[str, str] = field(
        default_factory=lambda: {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    )

    def __call__(self, composed: Any) -> None:
        away, began, said = self.home != here(), self.began, ""
        if away:
            os.chdir(self.folder)
            os.environ.update(self.environment)
            began = time.time()  # it may have waited for hours
        try:
            code = self.task(configured(composed), began)
        except UserError as error:  # caught here, because Hydra adds lines of its own to what leaves a job
            complain(error)
            code, said = 2, str(error)
        if away and code == 128 + signal.SIGTERM and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            leave_to_slurm(code)
        if away and code:
            raise FailedElsewhere(code, said or f"hydra/launcher: a job was stopped ({code}); the same command goes on")
        if code > 128:  # told to stop: no further job of a multirun
            sys.exit(code)
        self.codes.append(code)


def leave_to_slurm(code: int) -> NoReturn:
    """Wait for SIGKILL after the checkpoint of a SIGTERM. SLURM alone knows whether it cancels the job or, where it is
    preempted or requeued, starts it again: then it would take an end within the time of grace for that of the job, and
    the command a result, any result, for the last one. Without SIGKILL end with `code` and no result."""
    time.sleep(PATIENCE)
    sys.exit(code)


def reason_of(error: Exception) -> str:
    """Why a launcher says that a job was lost: the state that SLURM has it in, its time limit, or the error's name."""
    found = re.search(r"\(state: (\w+)|requeued because: ([^.\n]+)", str(error))
    known = [text for text in found.groups() if text] if found else []
    return known[0] if known and known[0] != "UNKNOWN" else type(error).__name__


def configured(composed: Any) -> Config:
    """The configuration of a job, with the preset that preset=auto comes to."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    settings, values = HydraConfig.get(), to_plain(OmegaConf, composed)
    if settings.runtime.choices["preset"] == "auto":
        chosen, why = choose_preset(values)
        print(f"{chosen[0]}: {why}", flush=True)
        given = without_preset(settings.overrides.task)
        values = to_plain(OmegaConf, hydra.compose("config", [*chosen, *given]))
    return build(mounted_here(values))


def refuse_missing(words: Sequence[str]) -> None:
    """UserError if the launcher of a multirun cannot work here."""
    name = next((word.partition("=")[2] for word in words if key_of(word) == "hydra/launcher"), "")
    engine = name.partition("_")[0]
    if engine in LAUNCHERS and importlib.util.find_spec(f"hydra_plugins.hydra_{engine}_launcher") is None:
        package = LAUNCHERS[engine]
        raise UserError(
            f"hydra/launcher={name}: needs the package {package}; {sys.executable} -m pip install {package}"
        )
    if name == "submitit_slurm" and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm: there is no srun here; start it on a machine of the cluster, or say "
            "hydra/launcher=submitit_local"
        )
    if name and not any(word in ("-m", "--multirun") for word in words):
        raise UserError(f"hydra/launcher={name}: starts the jobs of a multirun; add -m")


def with_hydra(words: Sequence[str], job: Callable[[Any], None]) -> None:
    """Call `job` with what Hydra composes of configs/ and the words in full, once per job of a multirun."""
    import hydra
    import yaml
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="base", node=defaults())
    flags = [word for word in words if word.startswith("-")]  # behind which argparse takes no words
    sys.argv = [sys.argv[0], *(word for word in words if word not in flags), *flags]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # a bug keeps its whole traceback
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(" ".join(str(error).split())) from None


# ---- words and values ----


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


def composed_beside(base: Config, words: Sequence[str]) -> Config:
    """Another configuration in a task of `compose`. preset=auto is what it is for `base`, so that a trick that brings
    another model does not bring another preset as well."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    preset = HydraConfig.get().runtime.choices["preset"]
    chosen = choose_preset(plain(base))[0] if preset == "auto" else [f"preset={preset}"]
    return build(mounted_here(to_plain(OmegaConf, hydra.compose("config", merged(chosen, words)))))


def from_words(omegaconf: Any, words: Sequence[str]) -> Any:
    try:
        return omegaconf.from_dotlist([word.lstrip("+") for word in words])
    except Exception as error:  # OmegaConf lets the YAML parser's own errors through
        raise UserError(f"{' '.join(words)}: {' '.join(str(error).split())}") from None


def laid_over(omegaconf: Any, base: Mapping[str, Any], given: Any) -> dict[str, Any]:
    """The plain values of `base` with those of `given`, what `from_words` has made, in their places."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        merged_values = omegaconf.merge(omegaconf.create(base), given)
    except OmegaConfBaseException as error:  # it does not name the key: a list in the place of a section
        own = [key for key in given if omegaconf.is_list(given[key]) and isinstance(base.get(key), Mapping)]
        raise UserError(f"{', '.join(map(str, own))}: {str(error).splitlines()[0]}") from None
    return to_plain(omegaconf, merged_values)


def to_plain(omegaconf: Any, composed: Any) -> dict[str, Any]:
    from omegaconf.errors import OmegaConfBaseException

    try:
        values = omegaconf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:  # an interpolation of nothing
        raise UserError(" ".join(str(error).split())) from None
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
