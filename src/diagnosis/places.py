"""What is attached, and what of it would be found: the competition, weights, wheels, secrets, the internet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.config import CompetitionConfig
from src.diagnosis.finding import Finding, ok, problem, warning
from src.errors import first_few, nearest

if TYPE_CHECKING:  # which loads torch, and a doctor has to come without
    from src.model.weights import WeightsSource

SCHEMES = {"competitions": 1, "datasets": 2, "notebooks": 2, "models": 5}  # folders below that name one attachment


def attached(inputs: Path) -> list[Path]:
    """What is mounted there, in both of Kaggle's schemes: <slug>, and competitions/<slug>, datasets/<owner>/<slug> …"""
    found: list[Path] = []
    for folder in sorted(inputs.iterdir()) if inputs.is_dir() else ():
        below = SCHEMES.get(folder.name)
        if below is None:
            found.append(folder)
        else:
            found += sorted(path for path in folder.glob("/".join("*" * below)) if path.is_dir())
    return [path for path in found if path.is_dir()]


def check_mounts(inputs: Path, mounts: Sequence[Path], on_kaggle: bool) -> Finding:
    names = first_few([str(path.relative_to(inputs)) for path in mounts], 8)
    if mounts:
        return ok("attached", f"{inputs}: {names}")
    if on_kaggle:
        return warning("attached", f"nothing under {inputs}", "attach the competition (Add input)")
    return ok("attached", f"nothing under {inputs}")


def check_competition(config: CompetitionConfig, mounts: Sequence[Path]) -> Finding:
    """Whether the folder and the tables that the keys name are there; the digits are made when they are first asked."""
    root = Path(config.root)
    if not config.root:
        where = f", e.g. {first_few([str(path) for path in mounts])}" if mounts else ""
        return warning("competition", "no folder given", f"give competition.root=DIR{where}")
    if config.name == "digits" and not root.exists():
        return ok("competition", "the embedded digits")
    if not root.is_dir():
        close = nearest(root.name, [path.name for path in mounts])
        near = next((path for path in mounts if close and f"'{path.name}'" in close), None)
        instead = first_few([str(path) for path in mounts]) or "nothing"
        cure = f"did you mean competition.root={near}?" if near else f"attached is {instead}"
        return problem("competition", f"competition.root={root}: no such folder", cure)
    absent = [
        f"{key}={name}"
        for key, name in (("train_csv", config.train_csv), ("sample_csv", config.sample_csv))
        if name and not (root / name).exists()
    ]
    if absent:
        there = first_few(sorted(path.name for path in root.iterdir())[:8], 8)
        cure = f"./run.sh init data={root} looks what is what"
        return warning("competition", f"{root}: holds no {' and no '.join(absent)}, but {there or 'nothing'}", cure)
    return ok("competition", f"{config.name}: {root}")


def check_weights(found: WeightsSource | str, pretrained: str) -> Finding:
    """found: what a run would start from, or the complaint with its cure. pretrained: the key."""
    if isinstance(found, str):
        return problem("weights", found, "")
    if found.pretrained or pretrained == "never":
        return ok("weights", found.why)
    return warning("weights", found.why, "attach a file of them, or turn the internet on")


def check_internet(reached: bool, mode: str) -> Finding:
    """mode: wandb.mode."""
    if not reached and mode == "online":
        return warning("internet", "off, and wandb.mode=online", "runs are tracked offline; upload them by wandb sync")
    return ok("internet", "on" if reached else "off: nothing is downloaded or uploaded")


def check_wheels(folders: Sequence[Path], absent: Sequence[str], lacking: Sequence[str], reached: bool) -> Finding:
    """folders: with wheels, attached. absent: requirement lines that are not installed; lacking: those of them that no
    attached wheel is of."""
    shown = first_few([str(folder) for folder in folders]) or "none attached"
    if absent and lacking and not reached:
        return problem("wheels", f"{shown}; no wheel of {', '.join(lacking)}", "add it to the dataset of wheels")
    return ok("wheels", shown + ("" if absent else ", none needed"))


def check_secrets(has_key: bool, mode: str, on_kaggle: bool, reached: bool) -> Finding:
    """The key of W&B. mode: wandb.mode."""
    if mode == "disabled":
        return ok("secrets", "none needed, wandb.mode=disabled")
    if has_key:
        return ok("secrets", "WANDB_API_KEY is there")
    where = "add the secret WANDB_API_KEY (Add-ons) and attach it" if on_kaggle else "set WANDB_API_KEY"
    if mode == "online":
        return problem("secrets", "wandb.mode=online, but there is no WANDB_API_KEY", f"{where}, or wandb.mode=auto")
    return ok("secrets", f"no WANDB_API_KEY{'' if reached else ' (and no internet)'}: tracked offline")
