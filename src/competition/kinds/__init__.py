"""The kinds of target that there are, by the name under which runs remember them."""

from __future__ import annotations

import numpy as np

from src.competition.kinds.multi import Multi
from src.competition.kinds.number import Number
from src.competition.kinds.single import Single
from src.competition.kinds.targets import Targets
from src.competition.task import Task
from src.errors import UserError

KINDS: dict[str, type[Single] | type[Multi] | type[Number] | type[Targets]] = {
    "single": Single,
    "multi": Multi,
    "number": Number,
    "targets": Targets,
}


def task_of(kind: str, names: np.ndarray) -> Task:
    """The task behind predictions of that kind whose columns are `names` (C,) str."""
    if kind not in KINDS:
        raise UserError(f"predictions are of the kind {kind!r}, which this version does not know ({', '.join(KINDS)})")
    return KINDS[kind](names)
