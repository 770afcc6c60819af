"""A competition of emoji to fine-tune on: pictures of one emoji by four vendors in all skin tones are one group.

Nine unbalanced categories (people are over half), 10,000 rows to train on and 3,000 of other emoji, 72 px JPEGs, with
the hidden labels. The pictures are those of npm's packages emoji-datasource-{apple,google,twitter,facebook}
(`npm pack NAME`, `tar xzf`, each below ROOT/VENDOR/package): `python -m benchmarks.emoji root=ROOT to=FOLDER`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.rounds import arguments, run
from src.errors import UserError
from src.files import read_json

VENDORS = ("apple", "google", "twitter", "facebook")
TRAIN, TEST, HELD_OUT = 10_000, 3_000, 0.23  # rows, rows, share of the emoji that only the test rows have
PICTURE, MARGIN = 64, 4  # px


def main(words: Sequence[str]) -> Path:
    """Writes train/, test/, train.csv, sample_submission.csv and solution.csv below `to`."""
    values = arguments(words, root="", to="")
    root, to = Path(values["root"]), Path(values["to"])
    if not values["to"] or to.exists():
        raise UserError(f"to={to}: give a folder that is not there yet")
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[str, Path]]] = {}  # by emoji: (category, picture)
    for emoji in read_json(root / VENDORS[0] / "package" / "emoji.json"):
        if emoji["category"] == "Component":  # skin tones and hair alone, five of them
            continue
        names = [emoji["image"], *(tone["image"] for tone in emoji.get("skin_variations", {}).values())]
        places = [root / vendor / "package" / "img" / vendor / "64" for vendor in VENDORS]
        found[emoji["short_name"]] = [
            (emoji["category"], place / name) for place in places for name in names if (place / name).is_file()
        ]
    groups = sorted(found)
    rng.shuffle(groups)
    tested = round(HELD_OUT * len(groups))
    rows = {}
    for part, emoji, most in (("test", groups[:tested], TEST), ("train", groups[tested:], TRAIN)):
        all_of_them = [(name, *picture) for name in emoji for picture in found[name]]
        chosen = rng.permutation(len(all_of_them))[:most]
        (to / part).mkdir(parents=True)
        rows[part] = [(f"{part}{number:05d}", *all_of_them[i]) for number, i in enumerate(chosen)]
        for name, _, _, file in rows[part]:
            on_white(file).save(to / part / f"{name}.jpg", quality=92)
    train = [(name, category, emoji) for name, emoji, category, _ in rows["train"]]
    solution = [(name, category) for name, _, category, _ in rows["test"]]
    write(to / "train.csv", ("image_id", "category", "emoji"), train)
    write(to / "solution.csv", ("image_id", "category"), solution)
    write(to / "sample_submission.csv", ("image_id", "category"), [(name, "Objects") for name, _ in solution])
    print(f"{to}: {len(train)} rows of {len(groups) - tested} emoji, {len(solution)} of {tested} others")
    return to


def on_white(file: Path) -> Image.Image:
    picture = Image.open(file).convert("RGBA").resize((PICTURE, PICTURE))
    whole = Image.new("RGB", (PICTURE + 2 * MARGIN,) * 2, "white")
    whole.paste(picture, (MARGIN, MARGIN), picture)
    return whole


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    run(main)
