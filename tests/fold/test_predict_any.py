"""Any run predicts again: the old test rows as before, and others without training data, in time or stopped."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.cli import main
from src.data import cache
from src.fold.passes import Passes, folds_and_views
from src.predictions import align, fold_mean, load_predictions

pytestmark = pytest.mark.fold
KINDS = ("trained", "smaller", "soup", "climb", "rank", "vote", "stack", "frozen", "of_ensembles")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, mini_digits: Path, command_in: Callable[..., list[str]]) -> Path:
    """Two tiny trainings of two folds at two sizes, and a run of every other kind that is made of them."""
    place = tmp_path_factory.mktemp("any")
    root = place / "data"
    shutil.copytree(mini_digits, root)
    for part in ("train", "test"):
        table = pd.read_csv(root / f"{part}.csv", dtype=str)
        table["ink"] = [str(int(name) % 7) if int(name) % 5 else "" for name in table["id"]]
        table["pen"] = ["blue" if int(name) % 3 else "black" for name in table["id"]]
        table.to_csv(root / f"{part}.csv", index=False)
    words = command_in(place, f"competition.root={root}", "epochs=1", "fold=all")
    runs = f"paths.runs={place / 'runs'}"
    plain = [word for word in words if not word.startswith("run=")]
    smaller = [word for word in plain if not word.startswith("size=")]
    blocks = "features=[backbone,trained,columns:ink,pen]"
    for line in (
        [*plain, "run=trained"],
        [*smaller, "size=24", "seed=1", "stages=[{size: 1.25, length: 50%}, {}]", "tta=d4", "run=smaller"],
        ["soup", runs, "runs=[trained]", "run=soup"],
        ["features", *plain, "tta=none", "run=backbone"],
        ["features", runs, "run=trained"],
        *(["ensemble", runs, "runs=[trained,smaller]", f"method={m}", f"run={m}"] for m in ("climb", "rank", "vote")),
        ["stack", runs, "runs=[trained,smaller]", blocks, "learner=ridge", "run=stack"],
        ["stack", *plain, "features=[backbone]", "learner=ridge", "run=frozen"],
        ["ensemble", runs, "runs=[climb,frozen,soup]", "method=geometric", "run=of_ensembles"],
    ):  # fmt: skip
        assert main(line) == 0, line
    return place


@pytest.fixture
def again(place: Path, tmp_path: Path) -> Callable[..., int]:
    """Predict with a run, into places of its own; whatever is in the folder of runs stays as it is."""

    def state() -> dict[str, int]:
        files = (path for path in (place / "runs").rglob("*") if path.is_file())
        return {str(path): path.stat().st_mtime_ns for path in files}

    def start(run: str, *words: str) -> int:
        before = state()
        places = [f"paths.{name}={tmp_path / name}" for name in ("cache", "submissions", "folds")]
        code = main(["predict", f"paths.runs={place / 'runs'}", *places, f"run={run}", *words])
        assert state() == before
        return code

    return start


@pytest.fixture
def hidden(place: Path, tmp_path: Path) -> Path:
    """Test images under other names, five times as many, and a sample submission: nothing else."""
    root = tmp_path / "hidden"
    (root / "test").mkdir(parents=True)
    names = []
    for copy in range(5):
        for path in sorted((place / "data" / "test").iterdir()):
            names.append(f"h{copy}{path.stem}")
            shutil.copyfile(path, root / "test" / f"{names[-1]}.png")
    with open(root / "sample_submission.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "label"), *((name, "digit-0") for name in names)])
    return root


@pytest.mark.parametrize("run", KINDS)
def test_the_same_rows_have_the_same_predictions(
    run: str, place: Path, tmp_path: Path, again: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[bytes] = Counter()
    read_files = cache.read_files
    monkeypatch.setattr(cache, "read_files", lambda root, path: reads.update([path]) or read_files(root, path))
    assert again(run) == 0
    parts = [load_predictions(place / "runs" / run / f"fold{k}" / "test.npz") for k in range(2)]
    then, now = fold_mean(parts), load_predictions(tmp_path / "submissions" / f"{run}.npz")
    np.testing.assert_allclose(align(now, then.ids).pred, then.pred, atol=1e-6)
    submitted = (place / "submissions" / f"{run}.csv").read_text()
    assert (tmp_path / "submissions" / f"{run}.csv").read_text() == submitted
    assert len(reads) == 30 and set(reads.values()) == {1}


def test_hidden_rows_without_training_data(
    place: Path, tmp_path: Path, hidden: Path, again: Callable[..., int], capsys
) -> None:
    assert again("of_ensembles", f"competition.root={hidden}") == 0
    parts = [load_predictions(place / "runs" / "of_ensembles" / f"fold{k}" / "test.npz") for k in range(2)]
    then, now = fold_mean(parts), load_predictions(tmp_path / "submissions" / "of_ensembles.npz")
    assert len(now.ids) == 150 and list(tmp_path.glob("cache/*")) == []
    old = align(then, np.array([name[2:] for name in now.ids[:30]]))
    np.testing.assert_allclose(now.pred, np.tile(old.pred, (5, 1)), atol=1e-6)
    assert pd.read_csv(tmp_path / "submissions" / "of_ensembles.csv")["id"].tolist() == now.ids.tolist()

    capsys.readouterr()
    (tmp_path / "submissions" / "stack.csv").unlink(missing_ok=True)
    assert again("stack", f"competition.root={hidden}") == 2
    assert "features: columns: ink, pen of the test rows are needed, but there is no" in capsys.readouterr().err
    assert not (tmp_path / "submissions" / "stack.csv").exists()


def test_a_signal_leaves_a_valid_submission(
    tmp_path: Path, hidden: Path, again: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Stopped at once there are priors, later what is done; a submission that was there and fits is kept."""
    go_on, file = Passes.go_on, tmp_path / "submissions" / "climb.csv"
    asked: list[int] = []

    def stopping(at: int) -> Callable[[Passes], bool]:
        def stop(self: Passes) -> bool:
            asked.append(0)
            if len(asked) == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return go_on(self)

        return stop

    texts = []
    for at, holds in ((1, "holds the prior"), (7, "holds 1 of 2 folds"), (2, "is as it was")):
        monkeypatch.setattr(Passes, "go_on", stopping(at))
        asked.clear()
        if not holds.startswith("is"):
            file.unlink(missing_ok=True)
        capsys.readouterr()
        assert again("climb", f"competition.root={hidden}", "eval.batch_size=256") == 143
        assert f"stopped; {file} {holds}" in capsys.readouterr().err
        texts.append(file.read_text())
        assert len(pd.read_csv(file)) == 150
    assert texts[0] != texts[1] == texts[2]


def test_a_time_budget_drops_views_and_then_folds(
    place: Path, tmp_path: Path, again: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert again("trained", "time_budget=1s") == 0
    printed = capsys.readouterr().out
    assert "time_budget: over before fold 0 was begun" in printed and "holds the prior of the training rows" in printed
    assert len(pd.read_csv(tmp_path / "submissions" / "trained.csv")) == 30

    for seconds, text, folds in ((100.0, "1 of 4 TTA views", 2), (400.0, "1 of 4 TTA views, no time for fold 1", 1)):
        costs = {("trained", False): seconds}
        monkeypatch.setattr(Passes, "try_out", lambda self, *_, costs=costs: setattr(self, "cost", costs))
        monkeypatch.setattr(Passes, "remember", lambda *_: None)
        (tmp_path / "submissions" / "trained.csv").unlink()
        assert again("trained", "time_budget=300s") == 0
        assert f"time_budget: {text}" in capsys.readouterr().out
        now = load_predictions(tmp_path / "submissions" / "trained.npz")
        assert set(now.fold.tolist()) == ({-1} if folds == 2 else {0})


def test_folds_and_views_fit() -> None:
    folds = [[(10.0, 4), (5.0, 2)], [(10.0, 4), (5.0, 2)]]
    for left, wanted in ((101.0, (2, 4)), (99.0, (2, 3)), (59.0, (2, 1)), (29.0, (1, 1)), (14.0, (0, 1))):
        assert folds_and_views(folds, left) == wanted


def test_runs_of_an_older_version_have_a_cure(
    place: Path, tmp_path: Path, hidden: Path, again: Callable[..., int], capsys
) -> None:
    older = tmp_path / "older"
    shutil.copytree(place / "runs", older)
    for path in older.glob("*/competition.json"):
        path.unlink()
    there = [f"paths.runs={older}", *(f"paths.{name}={tmp_path / name}" for name in ("cache", "submissions"))]
    capsys.readouterr()
    assert main(["predict", *there, "run=trained", f"competition.root={hidden}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "type ./run.sh predict run=trained competition.root=DIR where it is" in message
    assert main(["predict", *there, "run=trained"]) == 0  # the cure
    assert main(["predict", *there, "run=trained", f"competition.root={hidden}"]) == 0

    (older / "frozen" / "fold0" / "stack.npz").unlink()
    (older / "backbone" / "backbone.json").unlink()
    for run, text in (
        ("frozen", "make it again: ./run.sh stack features=[backbone] learner=ridge run=frozen"),
        ("stack", "its features 'backbone' are of a version that did not keep their network"),
    ):
        capsys.readouterr()
        assert main(["predict", *there, f"run={run}"]) == 2
        assert text in capsys.readouterr().err
