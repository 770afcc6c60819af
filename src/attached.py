"""What a notebook has attached, in either way of mounting: `<slug>`, or `competitions/<slug>`,
`datasets/<owner>/<slug>`, `notebooks/<owner>/<slug>` and `models/<owner>/<model>/…`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath

from src.errors import UserError, first_few

INPUTS = "/kaggle/input"  # where it is mounted on Kaggle
KINDS = {"competitions": 0, "datasets": 1, "notebooks": 1, "models": 1}  # folders between the kind and the slug
LOOK_AT = 2000  # entries of one folder: an image folder may list a million, over a network
SUBFOLDERS = 200  # of one folder: more are classes or patients, in which nothing of ours lies
RUNS_DEPTH = 4  # runs/ below a source: a checkout in an output, a data set of outputs
TABLE = re.compile(r"(train|training|test|testing|sample)(?![a-z])", re.IGNORECASE)
SAMPLE = re.compile(r"sample.*sub.*\.(csv|tsv|json|parquet)(\.zip)?$", re.IGNORECASE)


def inputs_folder() -> Path:
    """Where to look unless `paths.input` says otherwise: KAGGLE_INPUT_DIR, as in src/bootstrap.py."""
    return Path(os.environ.get("KAGGLE_INPUT_DIR") or INPUTS)


def sources(inputs: Path) -> list[Path]:
    """Every attached folder, once: competitions first."""
    found = []
    for kind, owners in KINDS.items():
        if not _is_source(inputs / kind):
            found += [path for path in _glob(inputs / kind, "*/" * owners + "*") if path.is_dir()]
    return found + [path for path in _glob(inputs, "*") if path.name not in KINDS or _is_source(path)]


def find(path: str, inputs: Path) -> Path | None:
    """The file or folder that `path` means; None if there is none.

    path: one that exists, `<slug>`, `<owner>/<slug>`, what is below one of these, or where it was mounted in another
    session. Raises UserError if it may be several.
    """
    if Path(path).exists():
        return Path(path)
    parts = PurePosixPath(path).parts
    for root in (inputs, Path(INPUTS)):
        if Path(path).is_absolute() and Path(path).is_relative_to(root):
            parts = Path(path).relative_to(root).parts
    if not parts or parts[0] == "/" or ".." in parts:
        return None
    below: list[Path] = []
    if parts[0] in KINDS and len(parts) > 1 + KINDS[parts[0]]:
        kind, owners = parts[0], KINDS[parts[0]]
        below += [inputs / path for path in (Path(*parts), Path(*parts[1 + owners :]))]
        if not below[0].exists():  # of another kind now, or of an owner that the old way of mounting did not say
            parts = parts[1 + owners :]
    if parts[0] not in KINDS:
        below.append(inputs.joinpath(*parts))
        for kind, owners in KINDS.items():
            below += [place.joinpath(*parts[1:]) for place in _glob(inputs / kind, "*/" * owners + parts[0])]
            if owners and len(parts) > 1:  # owner/slug
                below.append(inputs / kind / Path(*parts))
        if len(parts) > 1:
            below.append(inputs.joinpath(*parts[1:]))  # owner/slug, mounted as slug
    there = list({os.path.realpath(place): place for place in below if place.exists()}.values())
    if len(there) > 1:
        raise UserError(f"{path}: is attached more than once ({first_few(there)}); give one of these")
    return there[0] if there else None


def find_competition(inputs: Path) -> Path:
    """The one competition that is attached. Raises UserError if there is none, or more than one."""
    there = sources(inputs)
    mounted = [path for path in there if path.parent == inputs / "competitions"]
    likely = mounted or [path for path in there if _has(path, SAMPLE)] or [path for path in there if _has(path, TABLE)]
    if len(likely) == 1:
        return likely[0]
    what = f"{len(likely)} folders may be it" if likely else "there is no competition among what is attached"
    names = first_few(likely or there, 9) or "nothing"
    raise UserError(f"competition.root=auto: {what} ({inputs}: {names}); attach it, or give competition.root=SLUG")


def runs_folders(inputs: Path) -> tuple[Path, ...]:
    """The attached folders with runs in them, sources in order."""
    return _runs_folders(tuple(sources(inputs)))


@lru_cache
def _runs_folders(places: tuple[Path, ...]) -> tuple[Path, ...]:
    found: dict[str, Path] = {}
    for source in places:
        for folder, below, _ in walk(source, RUNS_DEPTH):
            if any(is_run(child) for child in below):
                found.setdefault(os.path.realpath(folder), folder)
    return tuple(found.values())


def is_run(folder: Path) -> bool:
    """A folder that our training wrote: its configuration, and what has begun beside it."""
    begun = ("started_from.json", "cv.json", "fold*")
    return (folder / "config.yaml").is_file() and any(path for name in begun for path in _glob(folder, name))


def walk(root: Path, depth: int, most: int = SUBFOLDERS) -> Iterator[tuple[Path, list[Path], list[Path]]]:
    """Each folder at most `depth` below `root`, near ones first, the folders in it, of which `most` are gone into, and
    the files; loops are gone into once. src/bootstrap.py has a walk of its own, as it comes before this package."""
    level, seen = [root], set()
    for _ in range(depth + 1):
        deeper: list[Path] = []
        for folder in level:
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            below: list[Path] = []
            files: list[Path] = []
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in islice(entries, LOOK_AT):
                    (below if entry.is_dir() else files).append(Path(entry.path))
            below.sort()
            yield folder, below, files
            deeper += below[:most]
        level = deeper


def _is_source(folder: Path) -> bool:
    """Whether a folder with the name of a kind is a source itself: it holds files."""
    return folder.is_dir() and any(path.is_file() for path in _glob(folder, "*"))


def _glob(folder: Path, pattern: str) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in islice(folder.glob(pattern), LOOK_AT) if not path.name.startswith("."))
    return []


def _has(folder: Path, names: re.Pattern[str]) -> bool:
    """A name in the folder, or in a folder of it."""
    return any(names.match(path.name) for pattern in ("*", "*/*") for path in _glob(folder, pattern))
