"""`./run.sh wheels DIR`: what an index has as source only is built, and the folder is proven to be enough."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from src.errors import UserError
from src.recipes.wheels import IMAGES, make_wheels, pins, wanted_lines, wheels
from tests.process.test_run_sh import NO_INTERNET, write_index, write_wheel

pytestmark = pytest.mark.process

# A build backend in the source itself, so that nothing else is needed to build it.
BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "sourceonly-4.9.3-py3-none-any.whl"
    info = "sourceonly-4.9.3.dist-info"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as archive:
        archive.writestr("sourceonly/__init__.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: sourceonly\\nVersion: 4.9.3\\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{info}/RECORD", "")
    return name
"""


def write_source(page: Path) -> None:
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND,
        "PKG-INFO": "Metadata-Version: 2.1\nName: sourceonly\nVersion: 4.9.3\n",
    }
    page.mkdir(parents=True)
    with tarfile.open(page / "sourceonly-4.9.3.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"sourceonly-4.9.3/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    (page / "index.html").write_text('<a href="sourceonly-4.9.3.tar.gz">sourceonly-4.9.3.tar.gz</a>')


def reach(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in (("PIP_CONFIG_FILE", os.devnull), ("PIP_INDEX_URL", index), ("PIP_RETRIES", "0")):
        monkeypatch.setenv(name, value)


def test_a_package_without_wheels_is_built_and_the_set_installs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing = write_wheel(tmp_path / "built", "needing", needs=("sourceonly==4.9.*", "torch>=2.8"))
    index = write_index(tmp_path / "simple", needing)
    write_source(tmp_path / "simple" / "sourceonly")
    reach(monkeypatch, index)
    folder = tmp_path / "wheels"
    write_wheel(folder, "needing", "0.9")  # of an earlier time
    write_wheel(folder, "other")
    made = make_wheels(folder, ["needing>=1.0", "sourceonly", "torch>=2.8"])
    assert [path.name for path in made] == ["needing-1.0-py3-none-any.whl", "sourceonly-4.9.3-py3-none-any.whl"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "needing-1.0-py3-none-any.whl",
        "other-1.0-py3-none-any.whl",
        "sourceonly-4.9.3-py3-none-any.whl",
    ]
    with pytest.raises(UserError, match=r"wheels: pip install .*sourceonly"):  # the proof is by installing
        make_wheels(tmp_path / "less", ["needing>=1.0"])
    assert not (tmp_path / "less").exists()


def test_nothing_is_left_where_it_cannot_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(monkeypatch, NO_INTERNET)
    with pytest.raises(UserError, match=r"^wheels: pip wheel .*is the package index reachable\?$"):
        make_wheels(tmp_path / "wheels", ["needing>=1.0"])
    assert not (tmp_path / "wheels").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for words, complaint in (((), "where to"), (("a", "b"), "'b'"), ((str(tmp_path / "mine"),), r"notes\.txt")):
        with pytest.raises(UserError, match=complaint):
            wheels(*words)


def test_what_images_lack_comes_with_all_it_needs() -> None:
    found = [line.partition("==")[0] for line in pins(wanted_lines(), IMAGES)]
    assert found == ["antlr4-python3-runtime", "hydra-core", "omegaconf", "torch-pruning"]
    assert "mlxtend" in [line.partition("==")[0] for line in pins(wanted_lines(["mlxtend"]), IMAGES)]
