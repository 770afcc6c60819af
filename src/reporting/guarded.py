"""The one place where pictures are guarded: none of them may end the work that it shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec

from src.log import say

P = ParamSpec("P")


def picture(draw: Callable[Concatenate[Path, P], Path | None]) -> Callable[Concatenate[Path, P], Path]:
    """Make a function that draws into its first argument one that never raises: an error is one printed line and no
    file. Text is drawn as it is: a class or a run may be called `$\\foo$`, which would be an error in
    matplotlib's formulas.
    """

    @wraps(draw)
    def guarded(path: Path, *args: P.args, **kwargs: P.kwargs) -> Path:
        try:
            import matplotlib

            with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False}):
                draw(path, *args, **kwargs)
        except Exception as error:  # whatever it is, the predictions are worth more
            say(f"no picture {path}: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
            with suppress(OSError):
                path.unlink(missing_ok=True)  # of an earlier state
        return path

    return guarded
