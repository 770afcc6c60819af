"""Do the tests notice small mistakes? `python -m benchmarks.mutants [count=20] [rooms=a,b] [again=survived] [out=CSV]`.

From each room a seeded sample of one-place changes is drawn: a comparison the other way, + for -, a number one larger,
a condition turned round, a statement or an argument left out. Each is put into a copy of the tree, the room's test
files run on it with `-x`, those that name the module first, and whether they notice goes into cache/mutants.csv as
soon as it is known. The same command goes on where it was stopped; `again=survived` runs those again that had survived.
Not for CI: a change takes from a second to minutes.

Own, because neither tool fits. mutmut 3.8 first runs all tests to learn which of them reaches what, and has no samples
and no operator that leaves out a statement. cosmic-ray 8.7 (whose sessions are resumable) has none that leaves out a
statement or an argument, which is what most mistakes are that tests have overlooked here (`clip` never applied, a seed
not handed on), and starts Python anew for each change: loading torch takes longer than most of these tests. Here each
run is forked from a process that has the libraries loaded.
"""

from __future__ import annotations

import ast
import copy
import csv
import importlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

REPO = Path(__file__).resolve().parent.parent
COLUMNS = ("room", "file", "line", "column", "change", "result", "by", "seconds")
LOADED = ("numpy", "torch", "torchvision", "timm", "accelerate", "cv2", "pandas", "scipy.stats", "mlxtend.data",
          "sklearn.linear_model", "sklearn.model_selection", "albumentations", "matplotlib.pyplot", "hydra", "pytest",
          "hypothesis", "torch_pruning")  # fmt: skip
# Of each room in src/, or of one module of it: the test files that should notice, or single tests of them, quick ones
# first.
RUN, STUDENTS = "fold/train::test_a_run_writes_every_artefact", "fold/students::test_students_soups_and_features"
STUDENTS += "_are_runs_like_any_other"
BUDGET = "unit/fold_parts unit/budget fold/train::test_a_budget_shortens_the_run_as_a_whole"
MEMBERS, ENSEMBLE = "unit/members unit/files", "fold/second_level::test_an_ensemble_is_one_more_run"
TESTS = {
    "training": "unit/sampling unit/schedule unit/plan unit/stages unit/losses_mixing unit/objective unit/distillation "
    "unit/optimizer unit/freezing unit/memory unit/budget unit/range_test unit/batch_finder unit/interrupt "
    f"unit/averaging unit/checkpoint unit/learner unit/engine {RUN}",
    "ensembling": "unit/soup unit/blend unit/stack",
    "search": "unit/study unit/tricks unit/effects",
    "search/effects": " ".join(
        f"unit/effects::test_{name}"
        for name in (
            "an_interval_is_students_over_the_means_of_the_folds",
            "holm_rejects_what_the_paper_rejects",
            "seeds_do_not_stand_for_folds",
            "verdicts",
            "techniques_that_an_earlier_rung_has_dropped_count",
            "what_a_rung_promotes",
            "pairs_are_judged_by_their_fold",
            "the_variances_between_and_within_folds_are_told_apart",
            "the_design_that_is_needed_reaches_the_power_that_a_simulation_finds",
        )
    ),
    "search/study": "unit/study",
    "search/table": "unit/study",
    "search/tricks": "unit/tricks",
    "inference": "unit/predict_tta",
    "competition": f"unit/task unit/metrics unit/submission unit/tables unit/folds unit/digits unit/files {ENSEMBLE}",
    # ---- a fold and its parts ----
    "fold": f"unit/fold_parts {RUN}",
    "fold/backbone": "fold/predict_any",
    "fold/batch_size": "unit/fold_parts unit/batch_finder fold/train::test_a_batch_size_is_found_once",
    "fold/choose": f"unit/choose unit/learner unit/averaging {RUN}",
    "fold/deadline": BUDGET,
    "fold/exhibits": "unit/report_sections process/report",
    "fold/explain": f"unit/grad_cam unit/gallery {RUN}",
    "fold/in_time": BUDGET,
    "fold/lesson": f"unit/lesson unit/distillation unit/fold_parts {STUDENTS} fold/students",
    "fold/look_on": f"unit/fold_parts {RUN}",
    "fold/looked_at": "unit/garbage_in unit/survey",
    "fold/measured": "unit/fold_parts unit/statistics unit/augment fold/train::test_statistics_of_the_training_rows_"
    "belong_to_the_run",
    "fold/network": f"unit/network unit/pruning {RUN} fold/probe",
    "fold/objective": "unit/objective unit/objective_kinds unit/fold_parts unit/numbers_and_targets",
    "fold/passes": "fold/predict_any",
    "fold/pipeline": "fold/predict_any",
    "fold/plan": "unit/fold_parts unit/plan unit/freezing",
    "fold/predictor": f"unit/network {RUN} {STUDENTS} fold/pictures_and_grades",
    "fold/probe": "unit/linear_probe fold/probe",
    "fold/pruned": "unit/pruning fold/prune::test_fold_k_starts_from_fold_k_alone fold/prune",
    "fold/resume": "unit/fold_parts unit/checkpoint process/kill::test_killed_at_an_aimed_moment",
    "fold/setup": f"unit/fold_parts {RUN} fold/start",
    "fold/teacher": f"unit/lesson {STUDENTS} fold/students fold/pictures_and_grades",
    "fold/train_fold": f"{RUN} fold/train::test_learning_happens fold/train::test_a_batch_size_is_found_once "
    "fold/at_chance_trained::test_copies_of_a_picture_are_in_one_half fold/decided_runs",
    "fold/train_run": f"{RUN} fold/start fold/train::test_multirun_trains_several_folds "
    "fold/train::test_data_that_changed_under_the_folds_are_refused",
    # ---- runs ----
    "runs": f"unit/opening {MEMBERS} {RUN} {ENSEMBLE}",
    "runs/claims": f"unit/files fold/start {RUN} fold/train::test_data_that_changed_under_the_folds_are_refused "
    "process/simultaneous",
    "runs/combined": f"{MEMBERS} fold/second_level",
    "runs/decided": f"unit/links unit/decisions fold/decided_runs {ENSEMBLE}",
    "runs/folder": f"unit/attached {MEMBERS} {RUN}",
    "runs/kept": "fold/predict_any",
    "runs/listing": "unit/runs unit/members",
    "runs/made_by": "unit/report_sections process/report",
    "runs/members": MEMBERS,
    "runs/opening": f"unit/opening fold/second_level::test_copies_stay_together_within_one_fold {RUN}",
    "runs/output": f"unit/files unit/report {RUN} {ENSEMBLE}",
    "runs/published": "fold/predict_any unit/attached",
    "runs/record": "process/report unit/report_sections",
    "runs/scoring": f"unit/scoring unit/own_metric {ENSEMBLE}",
    "runs/start": f"fold/start fold/same_run {RUN}",
    "runs/summary": f"{ENSEMBLE} fold/decided_runs fold/train::test_multirun_trains_several_folds",
    "runs/take_over": "unit/attached process/next_session",
    # ---- recipes ----
    "recipes/ablate": "unit/tricks unit/study fold/ablate",
    "recipes/bench": "unit/benchmarks unit/verbs",
    "recipes/distill": STUDENTS,
    "recipes/ensemble": "fold/second_level",
    "recipes/features": f"fold/features {STUDENTS} "
    "fold/second_level::test_features_of_a_run_with_other_folds_are_refused",
    "recipes/frozen": "fold/probe::test_frozen",
    "recipes/init": "unit/words unit/guess",
    "recipes/lr_find": "unit/range_test fold/train::test_lr_find_writes_a_picture_and_suggests_a_rate",
    "recipes/predict": f"fold/decided_runs fold/prune {STUDENTS} fold/pictures_and_grades",
    "recipes/prepare": "unit/duplicates fold/multi::test_looking_and_finding",
    "recipes/prune": "fold/prune::test_fold_k_starts_from_fold_k_alone fold/prune",
    "recipes/runs": "unit/runs",
    "recipes/score": "fold/kinds::test_a_file_is_graded_by_itself unit/submission",
    "recipes/sizes": "fold/train::test_score_against_test_size",
    "recipes/smoke": "fold/multi::test_the_smoke_test_passes",
    "recipes/soup": f"unit/soup {STUDENTS} fold/students",
    "recipes/stack": "unit/beside fold/second_level::test_a_stack_of_runs_and_features fold/second_level",
    "recipes/train": RUN,
}
ROOMS = ("training", "ensembling", "search", "inference", "competition", "fold", "runs", "recipes")
SHOWN = ("effects_plot.py",)  # pictures, which nobody tests line by line
SWAPS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
         ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub,
         ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mod, ast.Mod: ast.Mult,
         ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}  # fmt: skip
NAMES = {"max": "min", "argmax": "argmin", "any": "all", "floor": "ceil", "zeros": "ones", "maximum": "minimum",
         "train": "val"}  # fmt: skip
NAMES |= {new: old for old, new in NAMES.items()}
PATHS = re.compile(r"Path|path|folder|root|place|runs|figures|record")  # what a slash joins
SPEAKING = ("say", "print", "print_line")  # what is said and shown is not under test
TRIVIAL = ("strict", "flush", "encoding", "newline", "exist_ok", "parents", "dtype", "non_blocking", "kind", "threads")


class Mutant(NamedTuple):
    file: str
    line: int
    column: int
    end: tuple[int, int]
    new: str
    label: str = ""

    def change(self, source: bytes) -> str:
        if self.label:
            return self.label
        old, new = (" ".join(text.split()) for text in (source[slice(*self.span(source))].decode(), self.new))
        same = next((i for i, (a, b) in enumerate(zip(old, new.lstrip("("), strict=False)) if a != b), 0)
        first = max(0, same - 20) if len(old) > 70 else 0  # of something long, where it differs
        return f"{old[first:][:70]} -> {new[first:][:70]}"

    def span(self, source: bytes) -> tuple[int, int]:
        lines = source.splitlines(keepends=True)
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line))
        return starts[self.line - 1] + self.column, starts[self.end[0] - 1] + self.end[1]

    def apply(self, source: bytes) -> bytes:
        first, last = self.span(source)
        return source[:first] + self.new.encode() + source[last:]


# ---- what may be changed --------------------------------------------------------------------------------------------
def mutants(file: str, source: bytes) -> list[Mutant]:
    """Every change of one place in a source file that is worth a try."""
    found = []
    for node, new in changes(ast.parse(source)):
        text = f"({ast.unparse(new)})" if isinstance(new, ast.expr) else ast.unparse(new)
        end = (node.end_lineno, node.end_col_offset)
        mutant = Mutant(file, node.lineno, node.col_offset, end, text, getattr(new, "label", ""))
        try:
            compile(mutant.apply(source), file, "exec")
        except SyntaxError:
            continue
        found.append(mutant)
    return found


def changes(node: ast.AST) -> Iterator[tuple[Any, ast.AST]]:
    """(node, what takes its place), without messages, annotations, decorators and assertions."""
    if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)):
        return
    if isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or called(node.value) in SPEAKING):
        return
    for new in replacements(node):
        yield node, new
    if isinstance(node, (ast.IfExp, ast.If, ast.While)) and not isinstance(node.test, (ast.UnaryOp, ast.Compare)):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.keyword) and child.arg in TRIVIAL:
                continue
            if isinstance(child, ast.AST):
                yield from changes(child)


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    def like(**fields: object) -> ast.AST:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield like(ops=[SWAPS[type(node.ops[0])](), *node.ops[1:]])
    division = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    of_text = isinstance(node, ast.BinOp) and any(
        isinstance(x, (ast.JoinedStr, ast.Constant)) and not is_number(x) for x in (node.left, node.right)
    )
    of_text |= division and bool(PATHS.search(ast.unparse(node)))
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS and not of_text:
        yield like(op=SWAPS[type(node.op)]())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        yield node.operand
    if is_number(node):
        yield like(value=not node.value if isinstance(node.value, bool) else node.value + 1)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in NAMES:
        yield like(id=NAMES[node.id])
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in NAMES:
        yield like(attr=NAMES[node.attr])
    if isinstance(node, ast.Call) and called(node) not in SPEAKING:
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in TRIVIAL:
                left = [other for other in node.keywords if other is not keyword]
                yield like(keywords=left, label=f"{called(node)}(…) without {keyword.arg}=")
    if isinstance(node, ast.Return) and node.value is not None:
        yield like(value=None)
    if isinstance(node, (ast.AugAssign, ast.Continue, ast.Break)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield ast.Pass()
    if isinstance(node, ast.Assign) and not isinstance(node.targets[0], (ast.Name, ast.Tuple)):
        yield ast.Pass()


def is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float))


def called(node: ast.AST) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "id", getattr(function, "attr", ""))


# ---- whether the tests notice ---------------------------------------------------------------------------------------
def tests_of(room: str, file: str) -> list[str]:
    """What should notice a change of a module: its own tests or its room's, those first that name the module."""
    module = file.removesuffix(".py").replace("/", ".")
    every = []
    for name in (TESTS.get(f"{room}/{Path(file).stem}") or TESTS[room]).split():
        folder, _, rest = name.partition("/")
        stem, colons, test = rest.partition("::")
        every.append(f"tests/{folder}/test_{stem}.py{colons}{test}")
    texts = {name: (REPO / name.partition("::")[0]).read_text() for name in every}
    return sorted(every, key=lambda name: ("/unit/" not in name, not re.search(rf"\b{module}\b", texts[name])))


def run(tree: Path, tests: list[str], limit: float) -> tuple[str, str]:
    """killed, survived or timeout, and the first test that failed. limit: seconds of processor time, which unlike the
    clock's do not depend on who else uses the machine."""
    log = tree / "log"
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (round(limit), round(limit) + 1))
        os.chdir(tree)
        sys.path[:] = [str(tree), *(place for place in sys.path if Path(place or ".").resolve() != REPO)]
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "--tb=no", "-p", "no:cacheprovider", *tests])))
    end = time.monotonic() + 20 * limit  # of what waits for ever
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.05)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "timeout", ""
    if status == 0:
        return "survived", ""
    if os.waitstatus_to_exitcode(status) in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout", ""
    failed = re.search(r"^(?:FAILED|ERROR) \S*?(\w+\.py\S*)", log.read_text(errors="replace"), re.MULTILINE)
    return "killed", failed[1] if failed else f"exit status {os.waitstatus_to_exitcode(status)}"


def judge(tree: Path, room: str, mutant: Mutant, limit: float) -> dict[str, object]:
    place = tree / mutant.file
    source, began = place.read_bytes(), time.monotonic()
    try:
        place.write_bytes(mutant.apply(source))
        result, by = run(tree, tests_of(room, mutant.file), limit)
    finally:
        place.write_bytes(source)
    seconds = f"{time.monotonic() - began:.1f}"
    values = (room, mutant.file, mutant.line, mutant.column, mutant.change(source), result, by, seconds)
    return dict(zip(COLUMNS, values, strict=True))


def key(row: dict[str, object]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in COLUMNS[:5])


def sample(room: str, seed: int = 0) -> list[Mutant]:
    """All changes of a room in the order in which they are tried."""
    files = sorted(
        str(path.relative_to(REPO)) for path in (REPO / "src" / room).rglob("*.py") if path.name not in SHOWN
    )
    every = [mutant for file in files for mutant in mutants(file, (REPO / file).read_bytes())]
    random.Random(f"{seed} {room}").shuffle(every)
    return every


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    count, rooms = int(given.get("count", 20)), given.get("rooms", ",".join(ROOMS)).split(",")
    out, limit = Path(given.get("out", "cache/mutants.csv")), float(given.get("limit", 120))
    tree = Path(tempfile.mkdtemp(prefix="mutants-"))
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True)
    for name in tracked.stdout.splitlines():
        if (REPO / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, tree / name)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for module in LOADED:
        importlib.import_module(module)
    known: dict[tuple[str, ...], dict[str, object]] = {}
    if out.is_file():
        with open(out, newline="") as file:
            known = {key(row): row for row in csv.DictReader(file)}  # of a change that was tried again, the last
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(",".join(COLUMNS) + "\n")
    with open(out, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        for room in rooms:
            for number, mutant in enumerate(sample(room)):
                change = mutant.change((REPO / mutant.file).read_bytes())
                before = known.get((room, mutant.file, str(mutant.line), str(mutant.column), change))
                if before["result"] != given.get("again") if before else number >= count or "again" in given:
                    continue
                row = judge(tree, room, mutant, limit)
                known[key(row)] = row
                writer.writerow(row)
                file.flush()
                print("  ".join(str(row[name]) for name in COLUMNS[1:] if name != "column"), flush=True)
    shutil.rmtree(tree)
    for room in rooms:
        results = Counter(str(row["result"]) for row in known.values() if row["room"] == room)
        print(f"{room:<12} {results['killed']} of {results['killed'] + results['survived']} noticed ({dict(results)})")


if __name__ == "__main__":
    main(sys.argv[1:])
