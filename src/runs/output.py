"""What a finished fold leaves behind, on disk and in W&B; the manifest comes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src import files, predictions
from src.competition.metrics import per_class
from src.predictions import Predictions
from src.reporting.figures import confusion_matrix, history_picture
from src.tracking import NoTracker


def save_fold(
    folder: Path,
    *,
    oof: Predictions,
    test: Predictions,
    weights: Mapping[str, Any] | None,
    history: Sequence[Mapping[str, float]],
    manifest: Mapping[str, Any],
    tracker: NoTracker,
) -> str | None:
    """Write a fold's artefacts; `manifest` has at least run, fold, metric, score, scores, weights, model and kept.

    A fold of an ensemble has no `weights` (None) and no history: it lies in its members.
    Returns the command that uploads an offline W&B run, or None.
    """
    predictions.save_predictions(folder / "oof.npz", oof)
    predictions.save_predictions(folder / "test.npz", test)
    if weights is not None:
        metadata = {"model": manifest["model"], "kept": manifest["kept"]}
        files.save_weights(folder / "weights.safetensors", weights, metadata)
        files.write_csv(folder / "history.csv", history)
    title = f"{manifest['run']}/fold{manifest['fold']}: {manifest['metric']} {manifest['score']:.4f}"
    picture = confusion_matrix(folder / "figures" / "confusion.png", oof.labels(), oof.pred, list(oof.classes), title)
    tracker.image("confusion", picture)
    if history:
        picture = history_picture(folder / "figures" / "history.png", history, manifest["metric"], title)
        tracker.image("history", picture)
    table = per_class(oof.labels(), oof.pred, oof.classes)
    tracker.table("per class", [str(name) for name in table.columns], table.values.tolist())
    compared = {f"weights/{name}": value for name, value in manifest["weights"].items()}
    tracker.summary({**manifest["scores"], **compared, "kept": manifest["kept"]})
    sync = tracker.finish()
    files.write_json(folder / "manifest.json", {**manifest, "wandb": tracker.id})
    return sync
