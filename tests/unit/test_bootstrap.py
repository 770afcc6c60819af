"""The set-up's decisions, without an interpreter to set up: what is needed, what is missing, where it may come from."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import bootstrap

ROOT = Path(__file__).resolve().parents[2]


def folder_with(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).touch()
    return path


def test_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse((ROOT / "src" / "bootstrap.py").read_text(encoding="utf-8"))
    used = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    used |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in used} <= set(sys.stdlib_module_names)


def test_this_projects_own_list_is_understood() -> None:
    lines = bootstrap.requirements(ROOT / "pyproject.toml", ["dev"])
    names = [bootstrap.parse(line)[0] for line in lines]
    assert {"torch", "hydra-core", "pytest"} <= set(names)
    assert len(set(names)) == len(names)
    for (
        line
    ) in lines:  # only plain lower bounds: others would be checked by pip, but not by the quick look at each start
        name, minimum = bootstrap.parse(line)
        assert line == (f"{name}>={minimum}" if minimum else name)


def test_requirements_adds_the_extras_asked_for(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[project]\ndependencies = ["a"]\n[project.optional-dependencies]\ndev = ["b"]\n')
    assert bootstrap.requirements(pyproject) == ["a"]
    assert bootstrap.requirements(pyproject, ["dev"]) == ["a", "b"]
    pyproject.write_text("[project]\n")
    assert bootstrap.requirements(pyproject) == []


@pytest.mark.parametrize(
    ("line", "name", "minimum"),
    [
        ("timm>=1.0.20", "timm", "1.0.20"),
        ("Foo_Bar.baz", "foo-bar-baz", ""),
        ("  ray[default] >= 2 , <3", "ray", "2"),
        ("tomli<3", "tomli", ""),
        ('a>=1.5; python_version < "3.12"', "a", "1.5"),
        ('a; python_version >= "3.12"', "a", ""),
    ],
)
def test_parse(line: str, name: str, minimum: str) -> None:
    assert bootstrap.parse(line) == (name, minimum)


def test_parse_refuses_what_has_no_name() -> None:
    with pytest.raises(ValueError, match="package name"):
        bootstrap.parse(">=3")


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=4),
    st.sampled_from(["", "+cpu", ".0", "rc1", ".post1", "a0+git9"]),
)
def test_a_version_satisfies_itself_however_it_is_dressed(numbers: list[int], dress: str) -> None:
    plain = ".".join(map(str, numbers))
    assert bootstrap.release(plain + dress) == bootstrap.release(plain)
    assert bootstrap.missing([f"a>={plain}"], {"a": plain + dress}) == []
    assert bootstrap.missing([f"a>={plain}.1"], {"a": plain + dress}) == [f"a>={plain}.1"]


@pytest.mark.parametrize(
    ("line", "versions", "absent"),
    [
        ("a", {}, True),
        ("a", {"a": "0.1"}, False),
        ("a>=2.8", {"a": "2.10.1"}, False),  # numbers, not letters
        ("a>=2.8", {"a": "2.7.1"}, True),
        ("a>=2.8", {"a": "unknown"}, True),
        ("Some_Name>=1", {"some-name": "1"}, False),
        ("opencv-python-headless>=4.9", {"opencv-python": "4.10.0.84"}, False),
        ("opencv-python-headless>=4.9", {"opencv-contrib-python": "4.12"}, False),
        ("opencv-python-headless>=4.9", {"opencv-python": "4.5"}, True),
        ("opencv-python-headless>=4.9", {"opencv-python": "4.5", "opencv-python-headless": "4.11"}, False),
    ],
)
def test_missing(line: str, versions: dict[str, str], absent: bool) -> None:
    assert bootstrap.missing([line], versions) == ([line] if absent else [])


def test_a_kept_package_is_never_replaced_but_added_when_absent() -> None:
    lines = ["torch>=2.8", "torchvision>=0.23", "timm>=1.0"]
    versions = {"torch": "2.5.0+cpu", "timm": "0.9"}
    assert bootstrap.missing(lines, versions, kept=bootstrap.KEPT) == ["torchvision>=0.23", "timm>=1.0"]


def test_constraints_hold_exactly_what_is_there() -> None:
    versions = {"torch": "2.8.0+cpu", "numpy": "2.1.3", "pandas": "2.2"}
    assert bootstrap.constraints(versions) == ["torch==2.8.0+cpu", "numpy==2.1.3"]
    assert bootstrap.constraints({}) == []


def test_installed_asks_for_stand_ins_too_and_survives_broken_metadata(tmp_path: Path, monkeypatch) -> None:
    whole = folder_with(tmp_path / "opencv_python-4.11.dist-info")
    (whole / "METADATA").write_text("Metadata-Version: 2.1\nName: opencv-python\nVersion: 4.11\n")
    folder_with(tmp_path / "broken_one-1.0.dist-info")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert bootstrap.installed(["opencv-python-headless", "broken-one", "absent"]) == {"opencv-python": "4.11"}


def test_wheel_folders_finds_them_nested_and_only_so_deep(tmp_path: Path) -> None:
    top = folder_with(tmp_path / "wheels", "a-1-py3-none-any.whl")
    deep = folder_with(tmp_path / "1/2/3/4/5/6", "b-1-py3-none-any.whl")
    folder_with(tmp_path / "1/2/3/4/5/6/7", "c-1-py3-none-any.whl")
    folder_with(tmp_path / "images", "a.jpg", "b.jpg")
    (tmp_path / "images" / "loop").symlink_to(tmp_path)
    assert bootstrap.wheel_folders(tmp_path) == [top, deep]
    assert bootstrap.wheel_folders(tmp_path, depth=1) == [top]
    assert bootstrap.wheel_folders(tmp_path / "absent") == []


def test_wheel_folders_does_not_read_an_image_folder_to_its_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bootstrap, "LOOK_AT", 3)
    folder_with(tmp_path / "images", *(f"{number}.jpg" for number in range(50)))
    wheels = folder_with(tmp_path / "wheels", "a-1-py3-none-any.whl")
    assert bootstrap.wheel_folders(tmp_path) == [wheels]


def test_wheels_alone_are_tried_first_when_they_have_what_is_absent(tmp_path: Path) -> None:
    wheels = folder_with(tmp_path, "hydra_core-1.3.2-py3-none-any.whl", "antlr4_python3_runtime-4.9.3-py3-none-any.whl")
    assert bootstrap.wheel_names([wheels]) == {"hydra-core", "antlr4-python3-runtime"}
    links = f"--find-links={wheels}"
    lines = ["hydra-core>=1.3.2", "torch>=2.8"]
    assert bootstrap.attempts(lines, lines[:1], [wheels]) == [["--no-index", links, *lines], [links, *lines]]
    assert bootstrap.attempts(lines, lines, [wheels]) == [[links, *lines]]
    assert bootstrap.attempts(lines, lines, []) == [lines]


def test_what_is_welcome_comes_along_and_is_no_condition(tmp_path: Path) -> None:
    wheels = folder_with(tmp_path, "hydra_core-1.3.2-py3-none-any.whl", "mlxtend-0.23-py3-none-any.whl")
    links = f"--find-links={wheels}"
    wanted, welcome = ["hydra-core>=1.3.2"], ["mlxtend", "wandb"]
    assert bootstrap.attempts(wanted, wanted, [wheels], welcome) == [
        ["--no-index", links, *wanted, "mlxtend"],
        ["--no-index", links, *wanted],
        [links, *wanted, *welcome],
        [links, *wanted],
    ]
    assert bootstrap.attempts(wanted, wanted, [], welcome) == [[*wanted, *welcome], wanted]


@pytest.mark.parametrize(
    ("verb", "required", "never"),
    [
        ("train", set(), set()),
        ("prune", {"torch-pruning"}, set()),
        ("predict", set(), {"torch-pruning", "mlxtend", "wandb"}),
    ],
)
def test_needs_are_those_of_the_verb(verb: str, required: set[str], never: set[str]) -> None:
    lines = bootstrap.requirements(ROOT / "pyproject.toml")
    needed, welcome = ({bootstrap.parse(line)[0] for line in part} for part in bootstrap.needs(lines, verb))
    every = {bootstrap.parse(line)[0] for line in lines}
    assert set(bootstrap.OPTIONAL) < every, "each is one of ours"
    assert needed & set(bootstrap.OPTIONAL) == required
    assert every - needed - welcome == never


def test_unfinished_names_the_packages_whose_copying_was_cut_short(tmp_path: Path) -> None:
    folder_with(tmp_path / "whole-1.dist-info", "METADATA", "RECORD")
    half = folder_with(tmp_path / "half-1.dist-info", "METADATA")
    assert bootstrap.unfinished(tmp_path) == [half]


def test_complaint_is_one_line_without_an_index_and_names_what_a_wheel_needs_in_turn() -> None:
    output = (
        "ERROR: Could not find a version that satisfies the requirement antlr4 (from versions: none)\n"
        "ERROR: No matching distribution found for antlr4==4.9.*\n"
    )
    text = bootstrap.complaint(["hydra-core>=1.3"], output, Path("/in"), Path("/log"))
    assert "\n" not in text
    for part in ("error: ", "hydra-core, antlr4", "turn the internet on", "attach a dataset of wheels", "/in", "/log"):
        assert part in text


def test_complaint_shows_the_end_of_the_log_for_anything_else() -> None:
    output = "\n".join(f"line {number}" for number in range(40)) + "\n\nERROR: no space left on device\n"
    lines = bootstrap.complaint(["a"], output, Path("/in"), Path("/log")).splitlines()
    assert "line 39" in lines
    assert "line 3" not in lines
    assert lines[-2] == "ERROR: no space left on device"
    assert lines[-1].startswith("error: cannot install a:")
