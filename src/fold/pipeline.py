"""What predicts a fold of any run: its network, or a blend or a second model of what other runs predict, down to
networks. Only small files are read here; no network is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.config import Config, build, migrate
from src.ensembling.learners import Tree, load_tree
from src.ensembling.stack import COLUMNS, MEMBERS, Choice
from src.errors import UserError
from src.files import read_config, read_json
from src.fold.backbone import FILE as BACKBONE
from src.fold.backbone import WEIGHTS as BACKBONE_WEIGHTS
from src.inference.tta import View, parse_views
from src.predictions import FEATURES, MADE_FROM
from src.runs.combined import SECOND_LEVEL
from src.runs.folder import finished, finished_folds, fold_folder, open_runs, run_folder
from src.training.stages import pixels

OVERRIDES = ("tta", "size", "eval", "precision", "batch_size")  # keys that count for all networks where they are given
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Network:
    """A pass over all test rows. place: the folder of its weights; run, fold: of a trained run, fold -1 for a backbone
    as it comes; features: pooled ones instead of predictions. config: of its run, as it is to predict now; short_side:
    what images are decoded to; size, crop, views: what it is shown."""

    place: Path
    run: str
    fold: int
    features: bool
    config: Config
    short_side: int
    size: int
    crop: float
    views: tuple[View, ...]

    @property
    def key(self) -> tuple[str, bool]:
        return str(self.place), self.features


@dataclass(frozen=True)
class Mixed:
    """An ensemble's fold: members that have weight, and their weights (R,)."""

    method: str
    members: tuple[Part, ...]
    weights: np.ndarray


@dataclass(frozen=True)
class Given:
    """A file of features that nobody here can make again."""

    file: Path
    name: str


@dataclass(frozen=True)
class Columns:
    """Columns beside the pictures, and how they become numbers."""

    names: tuple[str, ...]
    encoding: list[Tree]


@dataclass(frozen=True)
class Stacked:
    """A stack's fold: members, its other blocks in their order by name (None: the members), and its model."""

    run: str
    members: tuple[Part, ...]
    blocks: Mapping[str, Network | Given | Columns | None]
    choice: Choice


Part = Network | Mixed | Stacked


@dataclass(frozen=True)
class Asked:
    """config: of the command line; stored: of its run. Where they differ, it was asked for, and counts for all
    networks; else each predicts as it did."""

    config: Config
    stored: Config

    def differs(self, key: str) -> bool:
        return getattr(self.config, key) != getattr(self.stored, key)

    def of(self, member: Config) -> Config:
        """The member's configuration, to predict with here and now."""
        here = self.config
        root = dataclasses.replace(member.competition, root=here.competition.root)
        changed = {key: getattr(here, key) for key in OVERRIDES if self.differs(key)}
        return dataclasses.replace(
            member, competition=root, paths=here.paths, workers=here.workers, device=here.device, **changed
        )


def parts_of(asked: Asked, run: str) -> dict[int, Part]:
    """What predicts each finished fold of `run`. Raises UserError with a cure for what is missing."""
    runs = open_runs(asked.config.paths)
    folds = finished_folds(runs, run)
    if not folds:
        raise UserError(f"run={run}: no fold is finished; train it first")
    return {k: part_of(asked, run, k) for k in folds}


def part_of(asked: Asked, run: str, k: int, above: Sequence[str] = ()) -> Part:
    """Of fold k of `run`, which is a member of the runs `above`."""
    runs = open_runs(asked.config.paths)
    folder, file = fold_folder(runs, run, k), run_folder(runs, run) / "config.yaml"
    said = f"run={above[0]}: its member {run!r}" if above else f"run={run}"
    if run in above:
        raise UserError(f"{said} is made of itself ({' of '.join([run, *reversed(above)])}); make it again")
    if not file.is_file() or not finished(folder):
        raise UserError(
            f"{said}: {folder} is not there or not finished; predict needs it: restore it beside the others"
        )
    values = migrate(read_config(file))
    if (folder / WEIGHTS).is_file():
        return network_of(asked, values, folder, run, k)
    if values.get("combined") not in ("ensemble", "stack"):
        raise UserError(f"{said}: {folder / WEIGHTS} is missing; restore it, or train the fold again")
    below = [*above, run]
    if values["combined"] == "stack":
        return stack_of(asked, values, folder, below, k)
    manifest = read_json(folder / "manifest.json")
    try:
        weights = {name: float(weight) for name, weight in manifest["weights"].items() if weight}
        method = str(manifest.get("model") or values["ensemble"]["method"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{folder / 'manifest.json'}: holds no weights of members; make {run} again") from None
    members = tuple(part_of(asked, name, k, below) for name in weights)
    return Mixed(method, members, np.array(list(weights.values())))


def network_of(asked: Asked, values: Mapping[str, Any], folder: Path, run: str, k: int) -> Network:
    manifest, config = read_json(folder / "manifest.json"), asked.of(build(values))
    if config.batch_size == "auto" and "batch_size" in manifest:
        config = dataclasses.replace(config, batch_size=int(manifest["batch_size"]))
    resized = asked.differs("size") or asked.differs("eval")
    size = config.size if asked.differs("size") else int(manifest["size"])
    if resized:
        short_side = round(size / config.eval.crop)
    elif "short_side" in manifest:
        short_side = int(manifest["short_side"])
    else:  # of a run that was made before this was noted
        largest = max(pixels(stage.size, config.size) for stage in config.stages)
        short_side = round((size if config.combined == "soup" else largest) / config.eval.crop)
    views = parse_views(config.tta)
    if not asked.differs("tta"):  # a time budget may have left some out
        views = views[: int(manifest.get("views", len(views)))]
    return Network(folder, run, k, False, config, short_side, size, config.eval.crop, tuple(views))


def stack_of(asked: Asked, values: Mapping[str, Any], folder: Path, above: Sequence[str], k: int) -> Stacked:
    run, file = above[-1], folder / SECOND_LEVEL
    if not file.is_file():
        words = [f"runs=[{','.join(values.get('runs') or ())}]"] if values.get("runs") else []
        words += [f"features=[{','.join(values['stack']['features'])}]"] if values["stack"]["features"] else []
        raise UserError(
            f"run={run}: {file} is missing, as it was made by a version that did not keep a stack's model; make it "
            f"again: ./run.sh stack {' '.join(words)} learner={values['stack']['learner']} run={run}"
        )
    tree = load_tree(file)
    try:
        choice = Choice.of(tree["fitted"])
        members, names, encoding = tree["members"], tree["blocks"], tree["encoding"]
        columns = Columns(tuple(column["name"] for column in encoding), encoding)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: is no model of a stack ({error!r}); make {run} again") from None
    blocks: dict[str, Network | Given | Columns | None] = {}
    for name in names:
        if name == MEMBERS:
            blocks[name] = None
        else:
            blocks[name] = columns if name.startswith(COLUMNS) else features_of(asked, values, name, run, k)
    return Stacked(run, tuple(part_of(asked, name, k, above) for name in members), blocks, choice)


def features_of(asked: Asked, values: Mapping[str, Any], name: str, run: str, k: int) -> Network | Given:
    """What makes the features `name` of the rows for fold k: the fold's network of a run, or a kept backbone; a file
    that was made elsewhere is all that there is."""
    runs = open_runs(asked.config.paths)
    for place in (Path(name), run_folder(runs, name)):
        if place.is_file() and not (place.parent / MADE_FROM).is_file():
            return Given(place, name)
        top = place.parent if place.is_file() else place
        folder = next((each for each in (top / f"fold{k}", top) if (each / MADE_FROM).is_file()), None)
        if folder is None:
            given = next((f for f in (top / FEATURES, top / f"fold{k}" / FEATURES) if f.is_file()), None)
            if given is not None:
                return Given(given, name)
            continue
        made = read_json(folder / MADE_FROM)
        if (folder / WEIGHTS).is_file():
            own = asked.of(build(migrate(read_config(folder.parent / "config.yaml"))))
            short_side = round(made["size"] / made["crop"])
            views = tuple(parse_views(made["views"]))
            return Network(folder, folder.parent.name, k, True, own, short_side, made["size"], made["crop"], views)
        if not (folder / BACKBONE).is_file() or not (folder / BACKBONE_WEIGHTS).is_file():
            raise UserError(
                f"run={run}: its features {name!r} are of a version that did not keep their network; delete "
                f"{folder / FEATURES}, make them again (./run.sh features, or frozen) and then {run}"
            )
        kept = read_json(folder / BACKBONE)
        own = asked.of(build({**values, "model": kept["model"], "competition": kept["competition"]}))
        views = tuple(parse_views(kept["views"]))
        if not asked.differs("precision"):
            own = dataclasses.replace(own, precision=kept["precision"])
        own = dataclasses.replace(own, eval=dataclasses.replace(own.eval, crop=kept["crop"]))
        return Network(folder, name, -1, True, own, kept["short_side"], kept["size"], kept["crop"], views)
    raise UserError(
        f"run={run}: its features {name!r} are no file and no folder here or in {runs}; restore them, or make {run} "
        "again without them"
    )


def networks_of(part: Part) -> list[Network]:
    """All that it takes, each once, in the order of the members."""
    if isinstance(part, Network):
        found = [part]
    else:
        own = part.blocks.values() if isinstance(part, Stacked) else ()
        found = [network for member in part.members for network in networks_of(member)]
        found += [block for block in own if isinstance(block, Network)]
    return list({network.key: network for network in found}.values())


def columns_of(part: Part) -> list[str]:
    """The names of all columns beside the pictures that it takes."""
    if isinstance(part, Network):
        return []
    own = part.blocks.values() if isinstance(part, Stacked) else ()
    found = [name for block in own if isinstance(block, Columns) for name in block.names]
    return [*found, *(name for member in part.members for name in columns_of(member))]
