"""`./run.sh kaggle build|push|status|submit`: a folder of notebooks with what they need, and its way to Kaggle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.config import check_name, keys, unknown_key
from src.errors import UserError, nearest
from src.files import read_config, read_json, write_json, write_text
from src.kaggle import notebooks
from src.kaggle.metadata import Sources, check_slug, dataset, kernel, machine_of
from src.kaggle.official import Submission, ask, submissions, upload_dataset, user_name
from src.kaggle.pack import packed
from src.recipes.wheels import make_wheels, wanted_lines

HOME = Path("notebooks")  # folders of builds lie in it
CONFIGS = Path("configs") / "competition"
ALIASES = ("model", "preset", "experiment")
OWN = {
    "build": [
        *("competition", "name", "user", "machine", "code", "wheels", "weights", "datasets"),
        *("notebooks", "models", "internet", "public"),
    ],
    "push": ["name", "what"],
    "status": ["name", "run"],
    "submit": ["run", "name", "competition", "file", "message", "version", "wait", "every"],
}
USAGE = (
    "./run.sh kaggle build competition=SLUG [name=NAME machine=gpu|t4x2|tpu|cpu …], then push name=NAME "
    "[what=datasets|training|inference], status name=NAME, submit run=NAME"
)


def kaggle(*words: str) -> None:
    """The first word says which; the others are `key=value`, in `build` also the keys of the training."""
    verbs: dict[str, Callable[[dict[str, str], list[str]], None]] = {
        "build": build,
        "push": push,
        "status": status,
        "submit": submit,
    }
    if not words or words[0] not in verbs:
        what = f"{words[0]}: no such word{nearest(words[0], verbs)}; " if words else ""
        raise UserError(f"kaggle: {what}{USAGE}")
    own: dict[str, str] = {}
    others: list[str] = []
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"kaggle {words[0]}: {word!r}: expected key=value")
        if key in own:
            raise UserError(f"kaggle {words[0]}: {key} is given twice; leave one of them out")
        if key in OWN[words[0]]:
            own[key] = value
        elif words[0] != "build":
            raise UserError(f"kaggle {words[0]}: {key}: takes {', '.join(OWN[words[0]])}{nearest(key, OWN[words[0]])}")
        else:
            head = key.lstrip("+").split("[")[0]
            if head not in (*keys(), *ALIASES) and not head.startswith("model.options."):
                raise unknown_key(head, [*keys(), *ALIASES, *OWN["build"]])
            others.append(word)
    verbs[words[0]](own, others)


# ---- build ----------------------------------------------------------------------------------------------------------


def build(own: Mapping[str, str], words: list[str]) -> None:
    """Write notebooks/NAME: training/ and inference/, each a notebook and its kernel-metadata.json, and the data sets
    code/, wheels/ and weights/, as far as they are needed, each with its dataset-metadata.json."""
    if not own.get("competition"):
        raise UserError(f"kaggle build: which competition? Give its slug: {USAGE}")
    competition = check_slug("competition", own["competition"], most=100)
    name = check_slug("name", own.get("name") or competition[:30].rstrip("-"))
    check_name("run", name)
    user, machine = user_name(own.get("user")), machine_of(own.get("machine", "gpu"))
    for word in words:
        if word.partition("=")[0] in ("run", "competition.root", "paths.runs", "paths.folds", "paths.submissions"):
            raise UserError(f"kaggle build: {word}: the notebook says that itself; name= is the run's name")
    folder, code = HOME / name, own.get("code", "inside")
    datasets, internet = listed(own.get("datasets")), truth("internet", own.get("internet", "true"))

    # ---- data sets --------------------------------------------------------------------------------------------------
    def attach(part: str, files: Sequence[Path]) -> None:
        place, slug = folder / part, f"{name}-{part}"
        for file in files:
            target = place / file.name
            if not target.exists() or not target.samefile(file):
                place.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        write_json(place / "dataset-metadata.json", dataset(user, slug))
        datasets.append(f"{user}/{slug}")

    wheels, weights = own.get("wheels", "auto"), own.get("weights")
    if wheels == "auto":
        if not list((folder / "wheels").glob("*.whl")):
            try:
                make_wheels(folder / "wheels", wanted_lines())
            except UserError as error:
                raise UserError(
                    f"{error}; or give wheels=DIR, wheels=OWNER/SLUG of a data set, or wheels=none"
                ) from None
        attach("wheels", [])
    elif Path(wheels).is_dir():
        attach("wheels", sorted(Path(wheels).glob("*.whl")))
    elif wheels.count("/") == 1:
        datasets.append(wheels)
    elif wheels != "none":
        raise UserError(f"wheels={wheels}: no such folder; ./run.sh wheels DIR makes one; or give OWNER/SLUG, or none")
    if weights is not None and Path(weights).is_file():
        attach("weights", [Path(weights)])
    elif weights is not None and weights.count("/") == 1:
        datasets.append(weights)
    elif weights is not None:
        raise UserError(f"weights={weights}: no such file; give one, or OWNER/SLUG of a data set")
    inside: bytes | str = packed() if code == "inside" else "" if code == "dataset" else code
    if code == "dataset":
        (folder / "code").mkdir(parents=True, exist_ok=True)
        (folder / "code" / "kfold.tar.xz").write_bytes(packed())
        attach("code", [])

    # ---- notebooks --------------------------------------------------------------------------------------------------
    train = [*words, *([] if any(word.startswith("fold=") for word in words) else ["fold=all"])]
    if (CONFIGS / f"{competition}.yaml").is_file():
        train.insert(0, f"competition={competition}")
    given, private = listed(own.get("notebooks")), not truth("public", own.get("public", "false"))
    report = (Path(__file__).parent / "report.py").is_file()
    made = {
        "training": notebooks.training(competition, name, train, inside, report),
        "inference": notebooks.inference(competition, name, [], inside),
    }
    for part, contents in made.items():
        slug, of_training = f"{name}-{part}", [f"{user}/{name}-training"]
        attached = [*given, *(of_training if part == "inference" else [])]
        sources = Sources([competition], datasets, attached, listed(own.get("models")))
        online = internet and part == "training"
        write_text(folder / part / f"{slug}.ipynb", notebooks.text_of(contents))
        write_json(folder / part / "kernel-metadata.json", kernel(user, slug, machine, online, sources, private))
        size = (folder / part / f"{slug}.ipynb").stat().st_size
        print(f"{folder / part}: {slug}.ipynb, {size / 1e3:.0f} kB, {machine.shape or 'CPU'}, internet {online}")
    write_json(folder / "build.json", {"user": user, "name": name, "competition": competition})
    print(f"next: ./run.sh kaggle push name={name}, and when it is trained: push name={name} what=inference")


def listed(value: str | None) -> list[str]:
    return [item.strip() for item in (value or "").strip("[]").split(",") if item.strip()]


def truth(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise UserError(f"{key}={value}: give true or false")
    return value == "true"


# ---- push, status ---------------------------------------------------------------------------------------------------


def built(own: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
    """The folder of a build and what it is of; the only one there is, without name=."""
    there = sorted(path.parent.name for path in HOME.glob("*/build.json"))
    name = own.get("name") or (there[0] if len(there) == 1 else "")
    if name not in there:
        raise UserError(f"name={name}: which build? Give one in {HOME} ({', '.join(there) or 'none yet'}): {USAGE}")
    return HOME / name, read_json(HOME / name / "build.json")


def push(own: Mapping[str, str], words: list[str]) -> None:
    """Upload the data sets and the training notebook, which runs at once; with what= one of the three."""
    folder, of = built(own)
    what = own.get("what")
    if what not in (None, "datasets", "training", "inference"):
        raise UserError(f"what={what}: choose one of datasets, training, inference")
    if what in (None, "datasets"):
        for file in sorted(folder.glob("*/dataset-metadata.json")):
            print(upload_dataset(file.parent, read_json(file)["id"]), flush=True)
    if what != "datasets":
        print(ask("kernels", "push", "-p", str(folder / (what or "training"))), flush=True)
        print(f"next: ./run.sh kaggle status name={of['name']}")


def status(own: Mapping[str, str], words: list[str]) -> None:
    """How far the notebooks of a build are, and with run= the scores of what was submitted of it."""
    if "run" in own:
        file = noted(own["run"])
        notes = read_json(file)["submissions"] if file.is_file() else []
        if not notes:
            raise UserError(f"run={own['run']}: nothing of it was submitted; ./run.sh kaggle submit run={own['run']}")
        for note in notes:
            found = find_submission(note["competition"], note["message"])
            note_down(own["run"], {**note, **({} if found is None else as_note(found))})
        for note in read_json(file)["submissions"]:
            print(f"{note['message']}: {note['status']} {note['public']} {note['private']}")
        return
    _, of = built(own)
    for part in ("training", "inference"):
        print(ask("kernels", "status", f"{of['user']}/{of['name']}-{part}", check=part == "training"), flush=True)


# ---- submit ---------------------------------------------------------------------------------------------------------


def submit(own: Mapping[str, str], words: list[str]) -> None:
    """Upload submissions/RUN.csv, or with version= what that version of the inference notebook has written (of a code
    competition); wait for the score and note it in runs/RUN/kaggle.json."""
    run = own.get("run") or own.get("name")
    if run is None:
        raise UserError("kaggle submit: which run? Give run=NAME")
    check_name("run", run)
    config = Path("runs") / run / "config.yaml"
    file = Path(own.get("file") or Path("submissions") / f"{run}.csv")
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    score = Path("runs") / run / "cv.json"
    quoted = f" cv {read_json(score)['oof']:.5f}" if score.is_file() else ""
    message = own.get("message") or f"{run}{quoted} {at}"
    if "version" in own:
        _, of = built({"name": own.get("name", run)})
        competition = own.get("competition") or of["competition"]
        kernel_of = ["-k", f"{of['user']}/{of['name']}-inference", "-v", own["version"], "-f", "submission.csv"]
        print(ask("competitions", "submit", "-c", competition, *kernel_of, "-m", message), flush=True)
    else:
        found = own.get("competition") or (read_config(config)["competition"]["name"] if config.is_file() else None)
        if not found:
            raise UserError(f"run={run}: of which competition? {config} is not there; give competition=SLUG")
        if not file.is_file():
            raise UserError(f"{file}: no such file; ./run.sh predict run={run} writes it, or give file=")
        competition = found
        print(ask("competitions", "submit", "-c", competition, "-f", str(file), "-m", message), flush=True)
    note = {
        "date": at,
        "competition": competition,
        "message": message,
        "status": "pending",
        "public": "",
        "private": "",
    }
    note_down(run, note)
    wait, every = (seconds(key, own.get(key, usual)) for key, usual in (("wait", "1800"), ("every", "15")))
    end = time.monotonic() + wait
    while wait:
        listed_one = find_submission(competition, message)
        if listed_one is not None:
            note_down(run, {**note, **as_note(listed_one)})
            if listed_one.over:
                scores = f"public {listed_one.public or '-'} private {listed_one.private or '-'}"
                print(f"{message}: {listed_one.status} {scores}, noted in {noted(run)}", flush=True)
                return
        if time.monotonic() + every > end:
            break
        time.sleep(every)
    print(f"no score yet: ./run.sh kaggle status run={run} asks again and notes it in {noted(run)}")


def seconds(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1e6:
        raise UserError(f"{key}={text}: give a number of seconds from 0")
    return value


def find_submission(competition: str, message: str) -> Submission | None:
    return next((one for one in submissions(competition) if one.description == message), None)


def as_note(found: Submission) -> dict[str, str]:
    return {"status": found.status, "public": found.public, "private": found.private}


def noted(run: str) -> Path:
    return Path("runs") / run / "kaggle.json"


def note_down(run: str, note: Mapping[str, str]) -> None:
    """Add a submission to what is noted of the run, or change it: a message is of one submission."""
    file = noted(run)
    before = read_json(file)["submissions"] if file.is_file() else []
    others = [one for one in before if one["message"] != note["message"]]
    write_json(file, {"submissions": [*others, dict(note)]})
