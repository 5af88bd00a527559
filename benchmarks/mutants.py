"""Draws random mutants of `proxy/` and counts those that the tests notice.

    python -m benchmarks.mutants --seed 1 --count 80

A mutant is one small change at one place: a comparison, a boolean, a number, a returned value or a dropped call. Places are drawn
uniformly from all of them, without replacement, by `random.Random(seed)`. For every mutant the tests that execute the mutated line
run in a copy of the tree; they are known from one run of the suite under `coverage` with a context for each test. A mutant whose line
no test executes in the test process meets the tests that start processes instead. Survivors are printed as diffs: whether one changes
anything that matters is a person's judgement.
"""

import argparse
import ast
import copy
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import unified_diff
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from coverage.numbits import numbits_to_nums

ROOT = Path(__file__).parents[1]
TESTS = ("tests/unit", "tests/wire", "tests/faults", "tests/clients")
PROCESS_TESTS = ("tests/wire/test_commands.py", "tests/faults/test_shutdown.py", "tests/faults/test_replicas.py")
MOST_TESTS = 150
TIMEOUT_S = 300

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """One changed place: the file, its line, and the whole mutated source."""

    file: Path
    line: int
    source: str

    def diff(self) -> str:
        """The change as a unified diff without context."""
        before = (ROOT / self.file).read_text().splitlines()
        return "\n".join(
            list(unified_diff(before, self.source.splitlines(), str(self.file), "mutant", lineterm="", n=0))[2:]
        )


def mutated(node: Any) -> Iterator[Any]:
    """The variants of one node."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            yield _with(node, ops=[COMPARISONS[type(op)]()])
        case ast.BoolOp(op=op):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            yield _with(node, op=OPERATORS[type(op)]())
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None))
        case ast.IfExp() | ast.If():
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Expr(value=ast.Call() | ast.Await(value=ast.Call())):
            yield ast.Pass()


def _with(node: ast.AST, **changes: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def places(tree: ast.AST) -> Iterator[Any]:
    """Every node that may be mutated; annotations, log calls and texts of errors are left out."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom)):
                continue
            if isinstance(node, ast.Expr) and ast.unparse(node).startswith(("log.", "await log.")):
                continue
            yield node
            yield from places(node)


def mutants_of(file: Path) -> list[Mutant]:
    """All mutants of one file."""
    source = (ROOT / file).read_bytes()
    starts = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]
    found = []
    for node in places(ast.parse(source)):
        for variant in mutated(node):
            place: Any
            place, change = (node.test, variant.test) if isinstance(node, ast.If) else (node, variant)
            text = ast.unparse(ast.fix_missing_locations(change))
            if isinstance(change, ast.expr):
                text = f"({text})"
            start, end = (
                starts[place.lineno - 1] + place.col_offset,
                starts[place.end_lineno - 1] + place.end_col_offset,
            )
            found.append(Mutant(file, place.lineno, (source[:start] + text.encode() + source[end:]).decode()))
    return found


def record_contexts(database: Path) -> None:
    """Run the suite once and note which test executes which line."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "3", "-p", "no:cacheprovider", *TESTS]
    command += ["--cov=proxy", "--cov-context=test", "--cov-report="]
    environment = {
        "COVERAGE_FILE": str(database),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/local/bin",
    }
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def tests_of(mutant: Mutant, database: Path) -> list[str]:
    """The tests that execute a mutant's line, unit tests first."""
    with sqlite3.connect(database) as connection:
        rows = (
            connection.execute(
                "select context.context, line_bits.numbits from line_bits join file on file.id = line_bits.file_id "
                "join context on context.id = line_bits.context_id where file.path like ?",
                (f"%/{mutant.file}",),
            ).fetchall()
            or connection.execute(
                "select context.context, arc.fromno from arc join file on file.id = arc.file_id "
                "join context on context.id = arc.context_id where file.path like ? and abs(arc.fromno) = ?",
                (f"%/{mutant.file}", mutant.line),
            ).fetchall()
        )
    covering = {
        context.partition("|")[0]
        for context, bits in rows
        if context and (isinstance(bits, int) or mutant.line in numbits_to_nums(bits))
    }
    ordered = sorted(covering, key=lambda test: (not test.startswith("tests/unit"), test))
    step = max(len(ordered) // MOST_TESTS, 1)
    return ordered[::step] or list(PROCESS_TESTS)


def survives(mutant: Mutant, tree: Path, tests: list[str]) -> bool:
    """Whether the tests pass on a mutant. A run that does not end in time counts as noticed."""
    target = tree / mutant.file
    original = target.read_text()
    target.write_text(mutant.source)
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        return subprocess.run(command, cwd=tree, capture_output=True, timeout=TIMEOUT_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        target.write_text(original)


def main() -> None:
    """Draw, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--contexts", type=Path, help="a coverage database of an earlier run")
    options = parser.parse_args()
    files = sorted(path.relative_to(ROOT) for path in (ROOT / "proxy").rglob("*.py"))
    population = [mutant for file in files for mutant in mutants_of(file)]
    drawn = random.Random(options.seed).sample(population, options.count)
    with tempfile.TemporaryDirectory() as folder:
        database = options.contexts or Path(folder, "contexts")
        if not database.exists():
            record_contexts(database)
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.jobs):
            ignored = shutil.ignore_patterns(".git", ".venv*", "node_modules", "__pycache__")
            trees.put(Path(shutil.copytree(ROOT, Path(folder, f"tree{number}"), ignore=ignored)))

        def judged(mutant: Mutant) -> bool:
            tree = trees.get()
            try:
                alive = survives(mutant, tree, tests_of(mutant, database))
            finally:
                trees.put(tree)
            print(f"{'SURVIVED' if alive else 'killed':9} {mutant.file}:{mutant.line}", flush=True)
            if alive:
                print(mutant.diff(), flush=True)
            return alive

        with ThreadPoolExecutor(options.jobs) as pool:
            alive = sum(pool.map(judged, drawn))
    print(f"{len(drawn) - alive} of {len(drawn)} killed, of {len(population)} mutants; seed {options.seed}")


if __name__ == "__main__":
    main()
