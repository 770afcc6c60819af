"""Predictions aligned by id, and files that are whole or not there."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src import files
from src.competition.kinds import task_of
from src.errors import UserError
from src.files import read_config, read_json, save_weights, write_config, write_csv, write_json, write_text
from src.predictions import (
    Features,
    Predictions,
    align,
    concatenate,
    fold_mean,
    load_features,
    load_predictions,
    save_features,
    save_predictions,
)
from src.runs.folder import finished, finished_folds, fold_folder

REPO = Path(__file__).resolve().parent.parent.parent


def predictions(ids: list[str], fold: int = 0, target: bool = False, seed: int = 0) -> Predictions:
    """Each row's numbers follow from its id, so a row that moved is seen."""
    rows = [np.random.default_rng([seed, *name.encode()]).random(3) for name in ids]
    return Predictions(
        np.array(ids, dtype=str),
        np.array(rows, np.float32).reshape(len(ids), 3),
        np.array(["cat", "dog", "eel"]),
        np.full(len(ids), fold),
        np.array([("eel", "cat", "dog")[len(name) % 3] for name in ids], dtype="<U3") if target else None,
    )


def same(one: Predictions, other: Predictions) -> None:
    for name in ("ids", "pred", "classes", "fold"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.target is None) == (other.target is None)
    if one.target is not None:
        np.testing.assert_array_equal(one.target, other.target)


# ---- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [False, True])
@pytest.mark.parametrize("ids", [["b", "a", "é/c.png"], [], ["007"]])
def test_save_and_load(tmp_path: Path, ids: list[str], target: bool) -> None:
    original = predictions(ids, 3, target)
    save_predictions(tmp_path / "deep" / "oof.npz", original)
    loaded = load_predictions(tmp_path / "deep" / "oof.npz")
    same(loaded, original)
    assert loaded.pred.dtype == np.float32 and loaded.fold.dtype == np.int64 and loaded.ids.dtype.kind == "U"
    assert os.listdir(tmp_path / "deep") == ["oof.npz"]


def test_the_file_is_as_promised(tmp_path: Path) -> None:
    save_predictions(tmp_path / "oof.npz", predictions(["a", "b"], target=True))
    with np.load(tmp_path / "oof.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {"ids", "pred", "classes", "fold", "target"}


def test_features_are_saved_and_loaded(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 2))
    save_features(tmp_path / "deep" / "features.npz", Features(np.array(["b", "a", "007"]), x, 4))
    loaded = load_features(tmp_path / "deep" / "features.npz")
    assert loaded.ids.tolist() == ["b", "a", "007"] and loaded.fold == 4 and loaded.x.dtype == np.float32
    np.testing.assert_allclose(loaded.x, x, rtol=1e-6)
    assert os.listdir(tmp_path / "deep") == ["features.npz"]


def test_what_is_no_features_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"features\.npz: there is no such file"):
        load_features(tmp_path / "features.npz")
    save_predictions(tmp_path / "oof.npz", predictions(["a", "b"]))
    with pytest.raises(UserError, match="not a features file"):
        load_features(tmp_path / "oof.npz")
    x = np.array([[0.0], [np.nan]])
    np.savez(tmp_path / "nan.npz", ids=np.array(["a", "b"]), x=x, fold=-1)
    with pytest.raises(UserError, match=r"nan\.npz: not a features file \(features hold NaN"):
        load_features(tmp_path / "nan.npz")
    np.savez(tmp_path / "twice.npz", ids=np.array(["a", "a"]), x=np.zeros((2, 1)), fold=-1)
    with pytest.raises(UserError, match="an id occurs twice"):
        load_features(tmp_path / "twice.npz")
    np.savez(tmp_path / "code.npz", ids=np.array([{"a": 1}, "b"], dtype=object), x=np.zeros((2, 1)), fold=-1)
    with pytest.raises(UserError, match="not a features file"):
        load_features(tmp_path / "code.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_is_refused(value: float) -> None:
    bad = predictions(["a", "b"])
    bad.pred[1, 2] = value
    with pytest.raises(AssertionError, match="NaN or infinity"):
        Predictions(bad.ids, bad.pred, bad.classes, bad.fold)


def test_shapes_and_repeated_ids_are_refused() -> None:
    good = predictions(["a", "b"], target=True)
    for change in (
        {"ids": good.ids[:1]},
        {"pred": good.pred[:, :2]},
        {"classes": good.classes[:2]},
        {"fold": good.fold[:1]},
        {"target": good.target[:1]},
        {"ids": np.array(["a", "a"])},
    ):
        with pytest.raises(AssertionError):
            Predictions(**{**vars(good), **change})


def test_labels() -> None:
    classes = np.array(["eel", "cat", "dog"])  # in no particular order
    table = Predictions(
        np.array(["a", "b", "c"]), np.zeros((3, 3)), classes, np.zeros(3, int), np.array(["dog", "eel", "cat"])
    )
    assert task_of(table.kind, table.classes).encode(table.target).tolist() == [2, 0, 1]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(NAMES, min_size=1, unique=True), st.randoms())
def test_align_permutations(ids: list[str], random) -> None:
    original = predictions(ids, target=True)
    shuffled = random.sample(ids, len(ids))
    found = align(original, np.array(shuffled, dtype=str))
    same(found, predictions(shuffled, target=True))
    same(align(found, original.ids), original)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (["a", "b"], r"0 missing \(none\), 1 unknown \(c\)"),
        (["a", "b", "c", "d"], r"1 missing \(d\), 0 unknown"),
        (["a", "b", "x"], r"1 missing \(x\), 1 unknown \(c\)"),
        ([], r"0 missing \(none\), 3 unknown \(c, a, b\)"),
        (["A", "b", "c"], r"1 missing \(A\), 1 unknown \(a\)"),
    ],
)
def test_align_counts_strangers(wanted: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        align(predictions(["c", "a", "b"]), np.array(wanted, dtype=str))


def test_align_nothing() -> None:
    with pytest.raises(UserError, match="1 missing"):
        align(predictions([]), np.array(["a"]))
    assert len(align(predictions([]), np.array([], dtype=str)).ids) == 0


def test_fold_mean_is_aligned() -> None:
    ids = ["d", "a", "c", "b"]
    parts = [predictions(order, k, seed=k) for k, order in enumerate((ids, ids[::-1], sorted(ids)))]
    mean = fold_mean(parts)
    assert mean.ids.tolist() == ids and (mean.fold == -1).all() and mean.pred.dtype == np.float32
    for row, name in enumerate(ids):
        own = [part.pred[part.ids.tolist().index(name)].astype(float) for part in parts]
        np.testing.assert_allclose(mean.pred[row], np.mean(own, axis=0), rtol=1e-6)


def test_fold_mean_of_one() -> None:
    mean = fold_mean([predictions(["b", "a"], 4)])
    same(mean, predictions(["b", "a"], 4))


def test_fold_mean_refuses_other_ids() -> None:
    with pytest.raises(UserError, match="do not match"):
        fold_mean([predictions(["a", "b"]), predictions(["a", "c"])])


def test_concatenate() -> None:
    parts = [predictions(["a", "c"], 0, True), predictions(["b"], 1, True)]
    whole = concatenate(parts)
    assert whole.ids.tolist() == ["a", "c", "b"] and whole.fold.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(whole.target, np.concatenate([part.target for part in parts]))
    assert concatenate([parts[0], predictions(["b"], 1)]).target is None


def test_concatenate_refuses_repeated_ids() -> None:
    with pytest.raises(AssertionError, match="an id occurs twice"):
        concatenate([predictions(["a", "b"], 0), predictions(["b", "c"], 1)])


@pytest.mark.parametrize("join", [concatenate, fold_mean])
def test_other_classes_are_refused(join) -> None:
    one, two = predictions(["a"]), predictions(["b" if join is concatenate else "a"])
    swapped = Predictions(two.ids, two.pred, two.classes[::-1], two.fold)
    with pytest.raises((UserError, AssertionError)):
        join([one, swapped])


# ---- bad files ------------------------------------------------------------------------------------------------------


def arrays_of(ids: list[str]) -> dict[str, np.ndarray]:
    return {key: value for key, value in vars(predictions(ids)).items() if value is not None}


def archive_bytes() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays_of(["a", "b"]))
    return file.getvalue()


def npy_bytes() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def flipped(content: bytes) -> bytes:
    return content[:60] + bytes([content[60] ^ 255]) + content[61:]


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        *(
            pytest.param(content, id=why)
            for content, why in (
                (b"", "EOFError of an empty file"),
                (archive_bytes()[:200], "BadZipFile of a truncated file"),
                (flipped(archive_bytes()), "BadZipFile of a damaged file"),
                (npy_bytes(), "TypeError of a .npy file"),
            )
        ),
    ],
)
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "oof.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"oof\.npz: not a predictions file"):
        load_predictions(tmp_path / "oof.npz")


@pytest.mark.parametrize("name", ["ids", "pred", "classes", "fold"])
def test_incomplete_and_senseless_tables_are_refused(tmp_path: Path, name: str) -> None:
    arrays = arrays_of(["a", "b"])
    np.savez(tmp_path / "a.npz", **{key: value for key, value in arrays.items() if key != name})
    np.savez(tmp_path / "b.npz", **{**arrays, name: arrays[name][:1]})
    for file in ("a.npz", "b.npz"):
        with pytest.raises(UserError, match="not a predictions file"):
            load_predictions(tmp_path / file)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    arrays = arrays_of(["a", "b"])
    np.savez(tmp_path / "a.npz", **{**arrays, "ids": np.array(["a", {}], dtype=object)})
    with pytest.raises(UserError, match="not a predictions file"):
        load_predictions(tmp_path / "a.npz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"oof\.npz: there is no such file; has the run finished\?"):
        load_predictions(tmp_path / "oof.npz")


# ---- writing --------------------------------------------------------------------------------------------------------


WRITERS = {
    "text": lambda path: write_text(path, "é\n"),
    "json": lambda path: write_json(path, {"a": np.float32(0.5), "b": np.arange(2), "c": path}),
    "config": lambda path: write_config(path, {"a": (1, 2), "b": {"c": None, "d": 1e-5}}),
    "history": lambda path: write_csv(path, [{"step": 1, "loss": 0.5}]),
    "predictions": lambda path: save_predictions(path, predictions(["a"])),
    "weights": lambda path: save_weights(path, {"w": torch.ones(2)}, {"model": "m"}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_writing_is_by_rename(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the rename the old file is there, whole; afterwards nothing but the new one."""
    path = tmp_path / "new" / "file"
    path.parent.mkdir()
    path.write_text("old")
    seen, replace = [], os.replace

    def watched(source: str, target: str) -> None:
        seen.append((Path(target).read_text(), Path(source).stat().st_size > 0, Path(source).parent))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", watched)
    WRITERS[kind](path)
    assert seen == [("old", True, path.parent)]
    assert os.listdir(path.parent) == ["file"] and path.read_bytes() != b"old"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_failing_rename_leaves_the_old_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space"):
        WRITERS[kind](path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_failing_write_leaves_no_temporary_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space"):
        WRITERS[kind](tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_json_of_numpy_values(tmp_path: Path) -> None:
    write_json(
        tmp_path / "a.json", {"f": np.float32(0.5), "i": np.int64(3), "a": np.arange(3), "p": Path("x"), "n": None}
    )
    assert read_json(tmp_path / "a.json") == {"f": 0.5, "i": 3, "a": [0, 1, 2], "p": "x", "n": None}


def test_config_comes_back(tmp_path: Path) -> None:
    from src.config import Config, build, defaults

    write_config(tmp_path / "config.yaml", defaults())
    assert build(read_config(tmp_path / "config.yaml")) == Config()


def test_history(tmp_path: Path) -> None:
    write_csv(tmp_path / "h.csv", [{"step": 100000, "loss": 0.25}, {"step": 200000, "loss": 0.125, "accuracy": 0.5}])
    assert (tmp_path / "h.csv").read_text() == "step,loss,accuracy\n100000,0.25,\n200000,0.125,0.5\n"


def test_history_keeps_the_numbers(tmp_path: Path) -> None:
    write_csv(tmp_path / "h.csv", [{"step": 1234567, "loss": 0.123456789}])
    step, loss = (tmp_path / "h.csv").read_text().splitlines()[1].split(",")
    assert int(step) == 1234567 and float(loss) == pytest.approx(0.123456789, rel=1e-6)


def test_weights_come_back_with_their_metadata(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    state = model.state_dict() | {"count": torch.tensor(3)}
    save_weights(tmp_path / "w.safetensors", state, {"model": "m", "kept": "ema"})
    loaded = load_file(tmp_path / "w.safetensors")
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[key], state[key]) for key in state)
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"model": "m", "kept": "ema"}


def test_finished_folds(tmp_path: Path) -> None:
    for k in (0, 2, 10):
        write_json(fold_folder(tmp_path, "r", k) / "manifest.json", {})
    (fold_folder(tmp_path, "r", 1)).mkdir()
    (tmp_path / "r" / "foldx").mkdir()
    write_json(tmp_path / "r" / "foldx" / "manifest.json", {})
    assert finished_folds(tmp_path, "r") == [0, 2, 10]
    assert finished(fold_folder(tmp_path, "r", 2)) and not finished(fold_folder(tmp_path, "r", 1))
    assert finished_folds(tmp_path, "none") == []


def test_an_archive_that_unpacks_to_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "oof.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pred.npy", b"")
        archive.infolist()[0].file_size = 10**14  # what the directory at the end of the file then says
    with pytest.raises(UserError, match="unpacks to 100000 GB"):
        load_predictions(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases"),
        ("a: !!python/object/apply:os.system ['true']\n", "cannot be read as a configuration"),
        ("a: [1", "cannot be read as a configuration"),
        ("- 1\n", "holds no configuration"),
        ("", "holds no configuration"),
    ],
)
def test_a_strange_configuration_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        read_config(tmp_path / "config.yaml")


def test_strange_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: cannot be read"):
        read_json(tmp_path / "manifest.json")


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    stay = [".a.csv.tmp.bak", ".lock", "a.csv", "a.csv.12.ab.tmp", ".b.csv.12.ab.tmp", ".aa.csv.12.ab.tmp"]
    for name in [*stay, ".a.csv.12.ab.tmp", ".a.csv.7.cd.tmp"]:
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path, "a.csv")
    assert sorted(os.listdir(tmp_path)) == sorted(stay)
    files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(name for name in stay if name[0] != "." or "12" not in name)
    files.remove_leftovers(tmp_path / "none")


def test_what_a_killed_write_leaves_is_what_is_removed(tmp_path: Path) -> None:
    """`replacing` and `remove_leftovers` mean the same names."""
    pid = os.fork()
    if pid == 0:
        with files.replacing(tmp_path / "deep" / "a.csv") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert len(os.listdir(tmp_path / "deep")) == 1
    files.remove_leftovers(tmp_path / "deep", "a.csv")
    assert os.listdir(tmp_path / "deep") == []


# ---- locks ----------------------------------------------------------------------------------------------------------

# Holds the lock named by its argument until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from src.files import held
with held(Path(sys.argv[1]), 0, "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_lock_is_held_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ".lock"
    with holder(path) as process:
        with pytest.raises(UserError, match=r"^somebody has it$"), files.held(path, 0, "somebody has it"):
            pytest.fail("held twice")
        process.communicate("")
    with files.held(path, 0, "somebody has it"):
        pass
    with pytest.raises(KeyError), files.held(path, 0, "somebody has it"):
        raise KeyError  # an error inside gives it back, too
    with files.held(path, 0, "somebody has it"):
        assert path.exists()


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with holder(path) as process:
        assert process.stdin is not None
        threading.Timer(0.3, process.stdin.close).start()
        with files.held(path, 20, "somebody has it"):
            assert process.wait(20) == 0


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    with holder(tmp_path / ".lock") as process:
        process.kill()
    assert (tmp_path / ".lock").exists()
    with files.held(tmp_path / ".lock", 0, "somebody has it"):
        pass


def test_a_lock_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"\.lock: cannot be locked"), files.held(tmp_path / "file/.lock", 0, "no"):
        pytest.fail("held")


def test_is_held_sees_another_process(tmp_path: Path) -> None:
    lock, (ready, asked) = tmp_path / ".fold0.lock", (os.pipe(), os.pipe())
    pid = os.fork()
    if pid == 0:
        with files.held(lock, 0, "busy"):
            os.write(ready[1], b"x")
            os.read(asked[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert files.is_held(lock)
    os.write(asked[1], b"x")
    os.waitpid(pid, 0)
    assert not files.is_held(lock)
