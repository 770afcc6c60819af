"""A fold in TensorBoard or MLflow, by Accelerate's trackers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.tracking.tracker import NoTracker, Watched

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "mlflow": ("mlflow",)}


class OtherTracker(NoTracker):
    """TensorBoard, in fold<k>/tensorboard, or MLflow, in mlflow.db beside the runs unless MLFLOW_TRACKING_URI says
    otherwise; both over Accelerate's trackers. id: MLflow's of a run that goes on."""

    def __init__(self, name: str, watched: Watched, id: str | None) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self.name, self.step, folder = name, watched.step, watched.folder
        if name == "mlflow":
            import mlflow

            mlflow.end_run("KILLED")  # of a fold that ended before its time
            runs = folder.parent.parent.resolve()
            if "MLFLOW_TRACKING_URI" not in os.environ:
                mlflow.set_tracking_uri(f"sqlite:///{runs}/mlflow.db")
            options = {"run_id": id} if id else {"run_name": f"{watched.run}/fold{watched.fold}"}
            artifacts = None if "MLFLOW_TRACKING_URI" in os.environ else (runs / "mlflow").as_uri()
            self.tracker = LOGGER_TYPE_TO_CLASS[name](experiment_name=watched.project, logging_dir=artifacts, **options)
        else:
            self.tracker = LOGGER_TYPE_TO_CLASS[name](run_name=name, logging_dir=str(folder))
        getattr(self.tracker, "start", lambda: None)()  # older versions have started by now
        self.id = self.tracker.tracker.info.run_id if name == "mlflow" else None
        if not watched.step:
            self.tracker.store_init_configuration(_flat(watched.config))

    def log(self, values: Mapping[str, Any]) -> None:
        self.step = int(values.get("step", self.step))
        numbers = {key: float(value) for key, value in values.items() if key != "step" and _is_number(value)}
        self.tracker.log(numbers, step=self.step)

    def summary(self, values: Mapping[str, Any]) -> None:
        self.log({f"final/{key}": value for key, value in values.items()})

    def image(self, name: str, path: Path) -> None:
        if self.name == "mlflow":
            self.tracker.log_artifact(str(path), "figures")
            return
        import cv2

        picture = cv2.imread(str(path))
        assert picture is not None
        self.tracker.log_images(
            {name: cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)[None]}, step=self.step, dataformats="NHWC"
        )

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        if self.name == "mlflow":
            import mlflow

            mlflow.log_table({column: [row[at] for row in rows] for at, column in enumerate(columns)}, f"{name}.json")
            return
        lines = [columns, ["---"] * len(columns), *rows]
        self.tracker.log({name: "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)}, step=self.step)

    def finish(self) -> None:
        self.tracker.finish()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys, their values what trackers take: numbers, truth values and text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (bool, int, float)) else str(value)
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
