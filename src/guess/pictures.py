"""A folder of pictures without a table: the label is a folder, or a part of the file's name."""

from __future__ import annotations

import os
import re
from collections import Counter

from src.archives import ARCHIVES
from src.guess.finding import Finding
from src.guess.folder import Folder
from src.guess.templates import literal, split_of

# (what the name without extension looks like, template of it); labels hold no digits at their end
FORMS = (
    (re.compile(r"(?P<label>.*?[^\d._\- ])(?P<sep>[._\- ]+)(?P<number>\d+)"), "{{label}}{sep}{{number}}"),
    (re.compile(r"(?P<label>[A-Za-z]+)(?P<sep>)(?P<number>\d+)"), "{{label}}{sep}{{number}}"),
    (re.compile(r"(?P<number>\d+)(?P<sep>[._\- ]+)(?P<label>[^\d._\- ].*)"), "{{number}}{sep}{{label}}"),
    (re.compile(r"(?P<label>[^._\-]+)(?P<sep>[._\-]+)(?P<number>[0-9a-fA-F]{6,})"), "{{label}}{sep}{{number}}"),
    (re.compile(r"(?P<number>[0-9a-fA-F]{6,})(?P<sep>[._\-]+)(?P<label>[^._\-]+)"), "{{number}}{sep}{{label}}"),
)
LEAST = 2  # pictures of a class
LABELLED = {"train", "training", "val", "valid", "validation", "dev"}  # folders of rows with labels


def find_labelled_pictures(folder: Folder) -> list[Finding]:
    """Findings on `train_csv` (none), `train_images` and the target; empty if pictures do not tell their labels."""
    counts = folder.folders()
    train = {path: count for path, count in counts.items() if split_of(path) != "test"}
    if (found := _folder_per_class(train)) is not None:
        template, classes, how = found
        return _findings(template, "a folder per class", f"{classes} folders in {how}, {sum(train.values())} pictures")
    for path in sorted(train, key=lambda path: (split_of(path) != "train", -train[path])):
        names = [
            os.path.splitext(os.path.basename(os.fsdecode(image)))[0]
            for image in folder.images
            if os.fsdecode(image.rpartition(b"/")[0]) == path
        ]
        for form, template in FORMS:
            matches = [match for name in names if (match := form.fullmatch(name))]
            if len(matches) < len(names) or len({match["sep"] for match in matches}) != 1:
                continue
            labels = Counter(match["label"] for match in matches)
            if 2 <= len(labels) <= len(names) / LEAST and min(labels.values()) >= LEAST:
                made = template.format(sep=literal(matches[0]["sep"]))
                place = f"{literal(path)}/{made}" if path else made
                shown = ", ".join(sorted(labels)[:4])
                return _findings(
                    place,
                    "the label is in the file's name",
                    f"{len(labels)} labels ({shown}) in names such as {names[0]}",
                )
    return []


def _folder_per_class(counts: dict[str, int]) -> tuple[str, int, str] | None:
    """(template, number of classes, the folder above): at the level where folders differ in one part only."""
    for depth in sorted({path.count("/") + 1 for path in counts if path}):
        parts = [path.split("/") for path in counts if path and path.count("/") + 1 == depth]
        if sum(counts["/".join(part)] for part in parts) < 0.9 * sum(counts.values()):
            continue
        differing = [at for at in range(depth) if len({part[at] for part in parts}) > 1]
        splits = [at for at in differing if {part[at].lower() for part in parts} <= LABELLED]
        splits = splits or [
            at for at in differing if all(os.fsencode(part[at]).lower().endswith(ARCHIVES) for part in parts)
        ]
        if len(differing) == 2 and len(splits) == 1:  # train/cat, valid/cat: all of them are labelled rows; or shards
            differing.remove(splits[0])
        if len(differing) == 1 and len({part[differing[0]] for part in parts}) >= 2:
            at = differing[0]
            names = {part[at] for part in parts}
            if (any(split_of(name) for name in names) and len(names) <= 3) or _are_shards(names):
                continue  # train and test, not classes
            shape = [literal(part) for part in parts[0]]
            shape[at] = "{label}"
            for other in splits:
                shape[other] = "{" + "|".join(sorted({part[other] for part in parts})) + "}"
            return "/".join(shape) + "/{name}", len(names), "/".join(parts[0][:at]) or "the folder itself"
    return None


def _are_shards(names: set[str]) -> bool:
    """Whether these are archives that differ in their numbers only."""
    archives = all(os.fsencode(name).lower().endswith(ARCHIVES) for name in names)
    return archives and len({re.sub(r"\d+", "", name) for name in names}) == 1


def _findings(template: str, rule: str, why: str) -> list[Finding]:
    return [
        Finding("train_csv", None, rule, "no table has the training rows"),
        Finding("train_images", template, rule, why),
        Finding("id_column", "id", "path of the picture", "paths are unique"),
        Finding("target_column", "label", rule, why),
        Finding("kind", "single", rule, why),
    ]
