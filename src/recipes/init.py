"""`./run.sh init data=DIR`: look at an unknown competition folder and write its configuration."""

from __future__ import annotations

import shlex
from pathlib import Path

from src.attached import find, find_competition, inputs_folder
from src.errors import UserError
from src.files import replacing
from src.guess.guess import guess
from src.guess.words import lines, yaml_text

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "competition"


def init(data: str | None = None, metric: str | None = None, name: str | None = None) -> None:
    """Print what is in the folder `data` and why it is thought so, and write configs/competition/NAME.yaml.

    metric: how the competition scores, which tells kinds of target apart that look alike. Raises UserError for a folder
    in which there is nothing to learn, or a file of that name which was not written by this verb.
    """
    if data is None:
        raise UserError(
            "init: which folder? ./run.sh init data=DIR [metric=NAME] [name=NAME]; data=auto takes what is attached"
        )
    inputs = inputs_folder()
    root = find_competition(inputs) if data == "auto" else find(data, inputs) or Path(data)
    given = {key: value for key, value in (("metric", metric), ("name", name)) if value is not None}
    findings = guess(root, metric, given)
    called = next(finding.value for finding in findings if finding.key == "name")
    path = CONFIGS / f"{called}.yaml"
    words = [f"data={data}", *(f"{key}={value}" for key, value in given.items())]
    command = " ".join(["init", *map(shlex.quote, words)])
    if path.exists() and "# What `./run.sh init" not in path.read_text(encoding="utf-8"):
        raise UserError(f"{path}: is there and was not written by init; give another name=")
    print("\n".join(lines(findings)))
    with replacing(path) as temporary:
        temporary.write_text(yaml_text(root, findings, command), encoding="utf-8")
    print(f"written: {path}\nnext: ./run.sh fold=0 {shlex.quote(f'competition={called}')}")
