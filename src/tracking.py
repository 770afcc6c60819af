"""Weights & Biases behind four calls, or an object with the same calls that does nothing."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any


class NoTracker:
    """`wandb.mode=disabled`, and every process but the first."""

    id: str | None = None

    def log(self, values: Mapping[str, Any]) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...
    def image(self, name: str, path: Path) -> None: ...
    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None: ...
    def finish(self) -> str | None: ...


class WandbTracker(NoTracker):
    """One W&B run per fold: group = run, name = run/fold<k>."""

    def __init__(
        self,
        *,
        mode: str,
        project: str,
        entity: str | None,
        run: str,
        fold: int,
        folder: Path,
        config: Mapping[str, Any],
        id: str | None,
    ) -> None:
        import wandb

        self.wandb, self.mode = wandb, mode
        os.environ.setdefault("WANDB_SILENT", "true")
        self.run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=project,
            entity=entity,
            group=run,
            name=f"{run}/fold{fold}",
            job_type="train",
            dir=str(folder),
            config=dict(config),
            id=id,
            resume="allow" if id and mode == "online" else None,
            settings=wandb.Settings(console="off", x_disable_stats=mode == "offline"),
        )
        self.id = self.run.id

    def log(self, values: Mapping[str, Any]) -> None:
        self.run.log(dict(values), step=int(values["step"]) if "step" in values else None)

    def summary(self, values: Mapping[str, Any]) -> None:
        self.run.summary.update(dict(values))

    def image(self, name: str, path: Path) -> None:
        if path.is_file():  # not one that could not be drawn
            self.run.log({name: self.wandb.Image(str(path))})

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        self.run.log({name: self.wandb.Table(columns=[*columns], data=rows)})

    def finish(self) -> str | None:
        """Closes the run; offline, returns the line that uploads it."""
        folder = Path(self.run.dir).parent
        self.run.finish()
        return f"wandb sync {_relative(folder)}" if self.mode == "offline" else None


def start_tracking(
    mode: str,
    *,
    project: str,
    entity: str | None,
    run: str,
    fold: int,
    folder: Path,
    config: Mapping[str, Any],
    id: str | None = None,
) -> NoTracker:
    """mode: auto (online with an API key, else offline), online, offline, disabled (nothing is even imported)."""
    if mode == "auto":
        mode = "online" if has_api_key() else "offline"
    if mode == "disabled":
        return NoTracker()
    folder.mkdir(parents=True, exist_ok=True)
    begin = partial(
        WandbTracker, project=project, entity=entity, run=run, fold=fold, folder=folder, config=config, id=id
    )
    if mode == "offline":
        return begin(mode=mode)
    try:
        return begin(mode=mode)
    except Exception as error:  # no network, a wrong key, a server's bad day: none of them may end a training run
        print(f"W&B cannot be reached ({type(error).__name__}), tracking offline: {' '.join(str(error).split())[:120]}")
        return begin(mode="offline")


def has_api_key() -> bool:
    """WANDB_API_KEY, a netrc entry, or a Kaggle secret of that name (which is then put into the environment)."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        if netrc.netrc().authenticators("api.wandb.ai"):
            return True
    except (OSError, netrc.NetrcParseError):
        pass
    if not os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        return False
    try:
        from kaggle_secrets import UserSecretsClient  # in Kaggle's images only

        os.environ["WANDB_API_KEY"] = UserSecretsClient().get_secret("WANDB_API_KEY")
    except Exception:  # no such secret, or the internet is off: the run is then tracked offline, and says so
        return False
    return True


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
