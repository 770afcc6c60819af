"""From plain mappings to a checked `Config` and back, and how two of them differ.

Unknown keys and bad values are refused with the valid choices, so a typo never trains for nine hours.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from src.config.limits import CONTRADICTIONS, LIMITS, LOSSES, loss_for
from src.config.schema import Config
from src.errors import UserError, nearest

# Keys that say where and how fast a run goes, not what it computes: they may differ between two starts of one run.
# precision, device, processes, parallel, augment_on, compile, fused: the same computation, rounded otherwise; the
# manifest has what was used. eval.batch_size: the memory of a prediction. eval.every: how often the curves have a
# point. competition.root: the data are known by their contents (src/runs/start.py), and so are folds.file and
# model.weights. cache, cache_gb: where decoded images are kept.
RUNTIME_KEYS = (
    "fold", "run", "device", "processes", "parallel", "start", "workers", "augment_on", "resume", "report", "cache",
    "cache_gb", "time_budget", "precision", "model.compile", "optimizer.fused", "eval.batch_size", "eval.every",
    "eval.rows", "competition.root", "competition.solution", "checkpoint", "session", "wandb", "trackers", "paths",
)  # fmt: skip


# The annotated types of a section, which typing works out again each time.
_hints: Callable[[Any], dict[str, Any]] = cache(typing.get_type_hints)


def defaults() -> dict[str, Any]:
    """The default of every key as a plain nested mapping, the base that presets and the command line override."""
    return plain(Config())


def plain(config: Config) -> dict[str, Any]:
    """A configuration as nested mappings and lists, as it is read back from config.yaml."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def build(values: Mapping[str, Any]) -> Config:
    """A checked `Config` from a nested mapping. Raises `UserError` that names the key and the valid choices."""
    config: Config = _build(Config, migrate(values), "")
    if not config.competition.name and config.competition.root:
        named = dataclasses.replace(config.competition, name=Path(config.competition.root).resolve().name)
        config = dataclasses.replace(config, competition=named)
    model = re.sub(r"^(hf[-_]hub:)?timm/", "", config.model.name)  # the hub's name for what timm calls the rest
    if model != config.model.name:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, name=model))
    for key, name in (("competition.name", config.competition.name), ("run", config.run)):
        if name:
            check_name(key, name)
    if not config.stages:
        raise UserError("stages: the list is empty; give at least one stage, e.g. stages=[{}]")
    for key, (valid, text) in LIMITS.items():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None and not valid(value):
            raise UserError(f"{key}={value}: {text}")
    if config.competition.kind in LOSSES:
        loss_for(config.competition.kind, config.loss.name)
    for contradicts, text in CONTRADICTIONS:
        if contradicts(config):
            raise UserError(text)
    if isinstance(config.fold, str) and config.fold != "all":
        raise UserError(f"fold={config.fold}: give a fold number or all")
    return config


def migrate(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the keys of older versions under their present names.

    `method`, `learner` and `features` stood at the top; `method` was an ensemble's or a soup's, and a run that was made
    of others had one of the first two and no `combined`.
    """
    found = {key: value for key, value in values.items() if key not in ("method", "learner", "features")}

    def put(section: str, key: str, value: object) -> None:
        there = found.get(section, {})
        found[section] = {**there, key: value} if isinstance(there, Mapping) else there
        of_others = values.get("runs") or values.get("features")
        if key != "features" and of_others and found.get("combined") is None:
            found["combined"] = section

    if (method := values.get("method")) is not None:
        put("soup" if method in ("greedy", "uniform") else "ensemble", "method", method)
    if (learner := values.get("learner")) is not None:
        put("stack", "learner", learner)
    if features := values.get("features"):
        put("stack", "features", features)
    return found


def check_name(key: str, name: str) -> None:
    """UserError if files and folders should not be called `name`, the value of `key`."""
    faults = (
        ("/" in name, "holds a slash"),
        ("$" in name, "holds $"),
        (re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", name), "holds control characters"),
        (name[:1] in (".", "-"), f"begins with {name[:1]!r}"),
        # with what is added to it while a file is written, the name of a file has room for so many
        (len(name.encode(errors="surrogatepass")) > 200, "is longer than 200 bytes"),
    )
    for fault, text in faults:
        if fault:
            shown = name if len(name) <= 60 else f"{name[:60]}…"
            raise UserError(f"{key}={shown}: {text}; choose a plain name of letters, digits, - and _, {key}=NAME")


def refuse_secrets(values: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """UserError if a value holds a key or token of the environment (a configuration from a stranger may ask for one by
    `${oc.env:…}`): the configuration is written to runs/, to the log and to W&B."""
    words = ("KEY", "TOKEN", "SECRET", "PASSWORD")
    secrets = {
        name: text for name, text in environment.items() if len(text) >= 8 and any(w in name.upper() for w in words)
    }
    for key, value in _flat(values).items():
        for name, text in secrets.items():
            if text in str(value):
                raise UserError(
                    f"{key}: holds the value of ${name}, which would be written to runs/ and W&B; remove it"
                )


def keys(of: Any = None, prefix: str = "") -> list[str]:
    """Every valid dotted key, sections included: `["fold", …, "model", "model.name", …]`."""
    found = []
    for name, hint in _hints(of or Config).items():
        found.append(prefix + name)
        if dataclasses.is_dataclass(hint):
            found += keys(hint, f"{prefix}{name}.")
    return found


def kind_of(key: str) -> Any:
    """The annotated type of a dotted key; Any below a free mapping or a list."""
    found: Any = Config
    for name in key.split("."):
        found = _hints(found).get(name, Any) if dataclasses.is_dataclass(found) else Any
    return found


def unknown_key(key: str, valid: list[str]) -> UserError:
    """The one-line complaint about a misspelt key; a bare leaf (`lr`) is answered with its full name."""
    leaves = [other for other in valid if other.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    hint = f"; did you mean {leaves[0]!r}?" if leaves else nearest(key, valid)
    return UserError(f"{key}: there is no such key{hint or ' (src/config/schema.py lists them all)'}")


def difference(old: Mapping[str, Any], new: Mapping[str, Any], ignore: tuple[str, ...] = RUNTIME_KEYS) -> list[str]:
    """`key: old -> new` for every key whose value differs, without those in `ignore` (whole sections by name).

    A key that one side lacks has its default there: a run made before the key existed is not another run.
    """
    base = _flat(defaults())
    before, after = (_usual_loss({**base, **_flat(migrate(values))}) for values in (old, new))
    changed = []
    for key in sorted(before.keys() | after.keys()):
        if any(key == skip or key.startswith(skip + ".") for skip in ignore):
            continue
        if before.get(key) != after.get(key):
            changed.append(f"{key}: {before.get(key)} -> {after.get(key)}")
    return changed


def _usual_loss(flat: dict[str, Any]) -> dict[str, Any]:
    """With loss.name=auto where the loss is what that means: runs of before it name it."""
    kind, name = flat.get("competition.kind"), flat.get("loss.name")
    same = {"multi": ("bce", "cross_entropy")}.get(str(kind), LOSSES.get(str(kind), ())[:1])
    return {**flat, "loss.name": "auto"} if name in same else flat


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _build(cls: Any, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{path.rstrip('.')}={values!r}: expected a section with {', '.join(keys(cls))}")
    hints = _hints(cls)
    for key in values:
        if key not in hints:
            raise unknown_key(f"{path}{key}", keys(cls, path))
    return cls(**{key: _convert(values[key], hints[key], f"{path}{key}") for key in values})


def _convert(value: Any, hint: Any, key: str) -> Any:
    """`value` as the annotated type, or a `UserError` that says what is valid."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        for option in args:
            if option is not type(None):
                try:
                    return _convert(value, option, key)
                except UserError as error:
                    complaint = error
        raise complaint
    if origin is Literal:
        if value not in args:
            choices = ", ".join(map(str, args))
            raise UserError(f"{key}={value}: choose one of {choices}{nearest(str(value), map(str, args))}")
        return value
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, key + ".")
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (len(args) == 2 and args[1] is not ... and len(value) != len(args)):
            example = f", as in {key}=[{value}]" if isinstance(value, str) else ""
            many = example if ... in args else f" of {len(args)} values"
            raise UserError(f"{key}={value!r}: expected a list{many}")
        each = [args[0]] * len(value) if ... in args else args
        return tuple(
            _convert(item, kind, f"{key}[{i}]") for i, (item, kind) in enumerate(zip(value, each, strict=True))
        )
    if hint is Any:
        return value
    if origin in (list, dict):
        if not isinstance(value, origin):
            raise UserError(f"{key}={value!r}: expected a {'list' if origin is list else 'mapping'}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{key}={str(value)[:20]}…: too large a number") from None
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UserError(f"{key}={value!r}: expected {'true or false' if hint is bool else hint.__name__}")
    return value
