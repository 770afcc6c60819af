"""The predictions of a blend or a second model for test rows, of what its networks have predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from src.competition.task import Task
from src.ensembling.blend import mix
from src.ensembling.columns import apply_encoding
from src.ensembling.stack import said_by
from src.errors import UserError, first_few
from src.files import DAMAGED
from src.fold.pipeline import Columns, Given, Mixed, Network, Part, networks_of
from src.predictions import load_features


@dataclass(frozen=True)
class TestRows:
    """What is known of the test rows: ids (M,) str, predictions or features by network, cells of columns (M,) str."""

    ids: np.ndarray
    task: Task
    done: dict[tuple[str, bool], np.ndarray]
    cells: Mapping[str, np.ndarray]


def combine(part: Part, rows: TestRows) -> np.ndarray:
    """(M, C) float32 of what all networks of `part` have predicted."""
    if isinstance(part, Network):
        return rows.done[part.key]
    members = np.stack([combine(member, rows) for member in part.members]) if part.members else None
    if isinstance(part, Mixed):
        assert members is not None
        return mix(part.method, members, part.weights)
    blocks = []
    for name, block in part.blocks.items():
        if block is None:
            assert members is not None
            blocks.append(said_by(members, rows.task))
        elif isinstance(block, Network):
            blocks.append(rows.done[block.key])
        elif isinstance(block, Columns):
            blocks.append(apply_encoding(block.encoding, rows.cells))
        else:
            blocks.append(given(block, rows.ids, part.run))
        wanted = len(part.choice.statistics[len(blocks) - 1][0])
        if blocks[-1].shape[1] != wanted:
            raise UserError(
                f"run={part.run}: {name!r} has {blocks[-1].shape[1]} columns, but its model was fitted on {wanted}; "
                f"restore what it was made of, or make {part.run} again"
            )
    try:
        return part.choice.predict(blocks)
    except DAMAGED as error:
        raise UserError(f"run={part.run}: its model cannot be applied ({error}); make it again") from None


def given(block: Given, ids: np.ndarray, run: str) -> np.ndarray:
    """(M, D) of the rows `ids` (M,) str. UserError for rows that the file lacks."""
    file = load_features(block.file)
    x, missing = file.of(ids, test=True)
    if missing:
        raise UserError(
            f"run={run}: {block.file} lacks {len(missing)} of {len(ids)} test ids ({first_few(missing)}), and was not "
            "made by ./run.sh features, so that it cannot be made here; write it again with the present test rows"
        )
    return x


def stopgap(part: Part, rows: TestRows) -> np.ndarray | None:
    """The mean of such members as have predicted, where not all have; None where none has."""
    if isinstance(part, Network):
        return None if part.features else rows.done.get(part.key)
    if all(network.key in rows.done for network in networks_of(part)):
        return combine(part, rows)
    found = [pred for member in part.members if (pred := stopgap(member, rows)) is not None]
    return np.asarray(np.mean(found, axis=0, dtype=np.float64), np.float32) if found else None
