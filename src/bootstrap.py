"""Are the packages of pyproject.toml in this interpreter, and if not, where can they come from? Called by run.sh.

Standard library only, and nothing of this project: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path

# A notebook image builds these for its accelerator and against each other: there, no install may change them.
KEPT = ("torch", "torchvision", "numpy")

# Distributions that bring the same module under another name.
STAND_INS = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")}

# What only some runs need, and the verbs that cannot do without. In a notebook these are no reason to install anything:
# they come along where others are installed, and are not asked for by verbs that only apply what has been trained.
OPTIONAL = {"torch-pruning": ("prune",), "mlxtend": (), "wandb": (), "pydicom": (), "h5py": ()}
OF_TRAINING = ("torch-pruning", "mlxtend", "wandb")
APPLYING = ("predict", "score", "runs", "report", "doctor", "kaggle", "wheels", "help")

# What pip says when the index cannot be reached, or (the last one) when it was told not to ask it.
UNREACHABLE = re.compile(
    "Max retries exceeded|establish a new connection|connection broken by|Network is unreachable|ProxyError"
    r"|name resolution|Name or service not known|timed out|\(from versions: none\)"
)

# Entries of one folder looked at when searching for wheels: an image folder may list a million, over a network.
LOOK_AT = 2000


def normal(name: str) -> str:
    """The spelling under which `Foo_Bar`, `foo.bar` and `foo-bar` are one package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(requirement: str) -> tuple[str, str]:
    """`("timm", "1.0.20")` for `timm>=1.0.20`; the minimum is empty without one. Other bounds are pip's affair."""
    match = re.match(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^]]*\])?\s*([^;]*)", requirement)
    if match is None:
        raise ValueError(f"pyproject.toml: {requirement!r} does not begin with a package name")
    minimum = re.search(r">=\s*(\d+(?:\.\d+)*)", match[2])
    return normal(match[1]), minimum[1] if minimum else ""


def release(version: str) -> list[int]:
    """`[2, 8]` for `2.8.0+cpu`. A nightly build of 2.8 counts as 2.8, as an image that ships one has nothing else."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def requirements(pyproject: Path, extras: Iterable[str] = ()) -> list[str]:
    """The requirement lines of the project and of the named extras."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    lines = list(project.get("dependencies", []))
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return lines


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions of those packages (and of their stand-ins) that this interpreter has."""
    versions = {}
    for name in [candidate for wanted in names for candidate in (wanted, *STAND_INS.get(wanted, ()))]:
        # A killed install can leave a folder without metadata: KeyError, or no version at all.
        with suppress(importlib.metadata.PackageNotFoundError, KeyError):
            if version := importlib.metadata.version(name):
                versions[name] = version
    return versions


def missing(lines: Iterable[str], versions: Mapping[str, str], kept: Collection[str] = ()) -> list[str]:
    """Requirement lines that `versions` does not satisfy. A kept package satisfies at any version."""
    absent = []
    for line in lines:
        name, minimum = parse(line)
        there = [versions[other] for other in (name, *STAND_INS.get(name, ())) if other in versions]
        if not there or (name not in kept and all(release(version) < release(minimum) for version in there)):
            absent.append(line)
    return absent


def needs(lines: Iterable[str], verb: str) -> tuple[list[str], list[str]]:
    """The requirement lines that `verb` cannot do without, and those that are welcome."""
    required, welcome = [], []
    for line in lines:
        name = parse(line)[0]
        if name not in OPTIONAL or verb in OPTIONAL[name]:
            required.append(line)
        elif not (verb in APPLYING and name in OF_TRAINING):
            welcome.append(line)
    return required, welcome


def constraints(versions: Mapping[str, str]) -> list[str]:
    """Lines of a pip constraints file that hold the kept packages at what is there."""
    return [f"{name}=={versions[name]}" for name in KEPT if name in versions]


def wheel_folders(root: Path, depth: int = 6) -> list[Path]:
    """Folders with wheels in them, at most `depth` below the root: attached datasets, when the internet is off."""
    found: list[Path] = []
    level, seen = [root], set()
    for _ in range(depth + 1):
        below: list[Path] = []
        for folder in level:
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            with suppress(OSError), os.scandir(folder) as entries:
                some = list(islice(entries, LOOK_AT))
                if any(entry.name.endswith(".whl") and entry.is_file() for entry in some):
                    found.append(folder)
                below += sorted(Path(entry.path) for entry in some if entry.is_dir())
        level = below
    return found


def wheel_names(folders: Iterable[Path]) -> set[str]:
    """The packages those folders hold a wheel of."""
    return {normal(wheel.name.split("-")[0]) for folder in folders for wheel in folder.glob("*.whl")}


def attempts(
    wanted: Sequence[str], absent: Sequence[str], folders: Sequence[Path], welcome: Sequence[str] = ()
) -> list[list[str]]:
    """Arguments of `pip install` to try in turn: attached wheels alone if they have what is absent, then the index;
    first with what is welcome, then without."""
    links, names = [f"--find-links={folder}" for folder in folders], wheel_names(folders)
    tries = [[*links, *wanted, *welcome], [*links, *wanted]]
    if folders and {parse(line)[0] for line in absent} <= names:
        more = [line for line in welcome if parse(line)[0] in names]
        tries = [["--no-index", *links, *wanted, *more], ["--no-index", *links, *wanted], *tries]
    return [words for number, words in enumerate(tries) if words not in tries[:number]]


def unfinished(site: Path) -> list[Path]:
    """Records of packages whose copying was cut short: pip writes RECORD last, but believes a folder without it."""
    return [folder for folder in sorted(site.glob("*.dist-info")) if not (folder / "RECORD").is_file()]


def complaint(absent: Iterable[str], output: str, inputs: Path, log: Path) -> str:
    """What to tell the user when pip gave up: one line with the cure, after the end of the log where that helps."""
    names = dict.fromkeys(parse(line)[0] for line in absent)
    names |= dict.fromkeys(parse(line)[0] for line in re.findall(r"No matching distribution found for (\S+)", output))
    what = f"error: cannot install {', '.join(names) or 'the packages of pyproject.toml'}"
    if UNREACHABLE.search(output):
        return (
            f"{what}: the package index cannot be reached and no folder of wheels under {inputs} has all it takes; "
            f"turn the internet on, or attach a dataset of wheels (log: {log})"
        )
    last = [line.rstrip() for line in output.splitlines() if line.strip()][-15:]
    return "\n".join([*last, f"{what}: the end of pip's output is above, all of it in {log}"])


def pip_install(arguments: Sequence[str], log: Path) -> str | None:
    """Run pip into the log. None when it worked, otherwise what it said."""
    command = [sys.executable, "-P", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar=off", *arguments]
    with log.open("a+", encoding="utf-8", errors="replace") as stream:
        stream.write(f"$ {' '.join(command)}\n")
        stream.flush()
        start = stream.tell()
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT).returncode
        stream.seek(start)
        return stream.read() if code else None


def install(
    wanted: Sequence[str],
    absent: Sequence[str],
    pins: Sequence[str],
    inputs: Path,
    log: Path,
    welcome: Sequence[str] = (),
) -> int:
    """Install from wherever it works; 0, or 2 after telling the user why not."""
    output: str | None = ""
    with tempfile.TemporaryDirectory(prefix="setup-") as folder:
        pinned = []
        if pins:
            file = Path(folder, "constraints.txt")
            file.write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
            pinned = [f"--constraint={file}"]
        for arguments in attempts(wanted, absent, wheel_folders(inputs), welcome):
            output = pip_install([*pinned, *arguments], log)
            if output is None:
                return 0
    print(complaint(absent, output or "", inputs, log), file=sys.stderr)
    return 2


@contextmanager
def only_one(file: Path) -> Iterator[None]:
    """Two folds started at once share one notebook interpreter: the second waits here. No lock, no harm."""
    with file.open("rb") as stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", action="append", default=[], help="also the packages of this extra")
    parser.add_argument("--kaggle", action="store_true", help=f"not our own environment: keep its {', '.join(KEPT)}")
    parser.add_argument(
        "--complete", action="store_true", help="the last install may have been cut short: check it all"
    )
    parser.add_argument("--verb", default="train", help="with --kaggle: what is about to be run")
    parser.add_argument("--log", type=Path, help="pip's output goes here (default: a temporary file)")
    options = parser.parse_args(arguments)

    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    lines, welcome = requirements(pyproject, options.extra), []
    if options.kaggle and not options.extra:
        lines, welcome = needs(lines, options.verb)
    names = [parse(line)[0] for line in (*lines, *welcome)]
    kept = KEPT if options.kaggle else ()
    if options.complete:
        for folder in unfinished(Path(sysconfig.get_path("purelib"))):
            shutil.rmtree(folder)
    if not (lines if options.complete else missing(lines, installed(names), kept)):
        return 0

    with only_one(pyproject) if options.kaggle else nullcontext():  # run.sh holds that lock when it makes .venv
        importlib.invalidate_caches()
        absent = missing(lines, installed(names), kept)
        if not absent and not options.complete:
            return 0
        if options.kaggle:
            print(f"adding to this notebook's Python: {', '.join(absent)} …", file=sys.stderr, flush=True)
            os.environ.setdefault("PIP_RETRIES", "1")  # with the internet off, the default waits long for nothing
        log = options.log and options.log.absolute()
        if log is None:
            handle, name = tempfile.mkstemp(prefix="setup-", suffix=".log")
            os.close(handle)
            log = Path(name)
        inputs = Path(os.environ.get("KAGGLE_INPUT_DIR", "/kaggle/input"))
        pins = constraints(installed(KEPT)) if options.kaggle else []
        welcome = missing(welcome, installed(names), kept)
        return install(lines if options.complete else absent, absent, pins, inputs, log, welcome)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
