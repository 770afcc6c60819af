"""What a run keeps of its competition, so that new test rows are predicted without the training table and images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.few import few_rows
from src.competition.form import fitted_form
from src.competition.kinds import task_of
from src.competition.links import ONE
from src.competition.sample import Sample
from src.competition.table_file import is_there
from src.competition.table_rows import open_sample
from src.competition.tables import Competition, Rows, load_test_rows
from src.config import Config
from src.errors import UserError
from src.files import read_json, write_json
from src.log import say
from src.runs.opening import TEST_ROWS, embed_digits, open_competition

FILE = "competition.json"


def keep_competition(folder: Path, config: Config, competition: Competition) -> None:
    """Write into the run's folder what its predictions mean: classes, prior, names of columns, form of the sample."""
    task, sample = competition.task, competition.sample
    write_json(
        folder / FILE,
        {
            "name": competition.name,
            "kind": task.kind,
            "classes": task.names.tolist(),
            "prior": task.prior(competition.y, config.competition.metric).tolist(),
            "id_column": competition.id_column,
            "target_column": competition.target_column,
            "targets": list(competition.targets),
            "sample": {
                "columns": list(sample.columns),
                "kind": sample.kind,
                "id_position": sample.id_position,
                "positive": sample.positive,
                "guesses": sample.guesses,
                "index": list(sample.index),
            },
        },
    )


def open_test(config: Config, folder: Path) -> tuple[Competition, np.ndarray]:
    """The test rows that are under `competition.root` now, for the run in `folder`, without training rows; and the
    prior (C,) float64 of the run's training rows.

    A run that was made before it kept its competition needs the training table once more, and keeps it then. Raises
    UserError like `load_competition`.
    """
    if not (folder / FILE).is_file():
        return _with_training_rows(config, folder)
    kept, keys, root = read_json(folder / FILE), config.competition, Path(config.competition.root)
    embed_digits(keys)
    if not config.competition.root or not root.is_dir():
        raise UserError(f"competition.root={root}: no such folder; point it at the folder that holds the test images")
    try:
        task = task_of(kept["kind"], np.array(kept["classes"], np.str_))
        form, targets, id_column = kept["sample"], kept["targets"], kept["id_column"]
        prior = np.array(kept["prior"], np.float64).reshape(len(task.names))
        sample = _sample_there(config, root, form)
        if sample is None:
            sample = fitted_form(open_sample(keys, root), task, keys, say)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / FILE}: cannot be used ({error!r}); restore it or delete it") from None
    test, links = load_test_rows(keys, task, targets, id_column, sample, Path(config.paths.cache) / kept["name"])
    none = Rows(np.zeros(0, np.str_), np.zeros(0, np.bytes_))
    found = Competition(kept["name"], root, task, none, test, id_column, kept["target_column"], sample, links)
    return (few_rows(found, keys.few, TEST_ROWS) if keys.few else found), prior


def _sample_there(config: Config, root: Path, form: dict[str, Any]) -> Sample | None:
    """The sample in the form that the run knows, with the ids of the test table or images, where the file that it had
    is not there; None where it is, or where rows of a submission are no pictures."""
    keys = config.competition
    if keys.sample_csv is None or is_there(root, keys.sample_csv) or keys.rows != ONE:
        return None
    there = open_sample(replace(keys, sample_csv=None), root)
    say(f"{root / keys.sample_csv}: is not there; the submission takes the form and the order that the run knows")
    numbers = np.arange(len(there.ids)).astype(np.str_)
    return Sample(
        columns=tuple(form["columns"]),
        ids=there.ids,
        kind=form["kind"],
        id_position=form["id_position"],
        positive=form["positive"],
        guesses=form["guesses"],
        index=dict.fromkeys(form.get("index", ()), numbers),
    )


def _with_training_rows(config: Config, folder: Path) -> tuple[Competition, np.ndarray]:
    try:
        competition = open_competition(config)
    except UserError as error:
        raise UserError(
            f"{folder}: was made by an older version, which kept no {FILE}, so the training table is needed once more "
            f"({error}); type ./run.sh predict run={folder.name} competition.root=DIR where it is"
        ) from None
    try:
        keep_competition(folder, config, competition)
    except UserError:  # a run that is attached to be read
        say(f"{folder}: {FILE} cannot be kept there; the next time needs the training table again")
    return competition, competition.task.prior(competition.y, config.competition.metric)
