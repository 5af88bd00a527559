"""What becomes of real schemas: do they compile, does the compiled form stay within the documented keywords and take all that the
original takes, does the check catch what it does not take, and what does it cost?

    python -m benchmarks.fidelity_schemas [--data DIR] [--full]

Times are CPU time, as the machine may be shared.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from proxy.errors import InvalidRequest
from proxy.schemas import CompiledSchema, Dialect, Validation, coerce, compile_schema, validate

Json = Any
ROOT = Path(__file__).parents[1]
SHARED, OWN = ROOT.parent / "shared" / "data", ROOT / "tests" / "data"
DOCUMENTED = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "enum", "minLength", "maxLength", "pattern"}
    | {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minItems",
        "maxItems",
        "uniqueItems",
    }
    | {"description", "title"}
)
FULL = DOCUMENTED | {"anyOf", "const", "format"}


@dataclass(frozen=True, slots=True)
class Case:
    """A schema, with values that match it and values that do not."""

    id: str
    schema: Json
    valid: list[Json]
    invalid: list[Json]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `goal` is the least share, or the most of anything else."""

    label: str
    value: str
    goal: str = ""
    met: bool = True


def read_cases(folder: Path) -> list[Case]:
    """The cases of `schemas.jsonl` in a folder."""
    return [Case(**json.loads(line)) for line in (folder / "schemas.jsonl").read_text("utf-8").rstrip("\n").split("\n")]


def compile_cases(cases: Sequence[Case], dialect: Dialect) -> tuple[list[tuple[Case, CompiledSchema]], list[str]]:
    """The cases that compile, and why the others do not."""
    compiled, refused = [], []
    for case in cases:
        try:
            compiled.append((case, compile_schema(case.schema, param="schema", dialect=dialect)))
        except InvalidRequest as error:
            refused.append(f"{case.id}: {error.message}")
    return compiled, refused


def stays_within(schema: Json, allowed: frozenset[str]) -> bool:
    """Whether a compiled schema is a valid one of draft 2020-12 with the allowed keywords alone."""
    return Draft202012Validator(Draft202012Validator.META_SCHEMA).is_valid(schema) and all(
        node.keys() <= allowed for node in _nodes(schema)
    )


def _nodes(schema: Json) -> Iterator[dict[str, Json]]:
    left = [schema]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            left += [
                *node.get("properties", {}).values(),
                node.get("items"),
                node.get("additionalProperties"),
                *node.get("anyOf", ()),
            ]


def with_client_names(schema: Json, aliases: Mapping[str, str]) -> Json:
    """A compiled schema with the client's property names in place of their aliases."""
    if isinstance(schema, list):
        return [with_client_names(member, aliases) for member in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {keyword: with_client_names(value, aliases) for keyword, value in schema.items() if keyword != "enum"}
    if isinstance(schema.get("properties"), dict) and isinstance(schema.get("required", []), list):
        renamed["properties"] = {aliases.get(name, name): member for name, member in renamed["properties"].items()}
        renamed["required"] = [aliases.get(name, name) for name in schema.get("required", ())]
    return {**renamed, "enum": schema["enum"]} if "enum" in schema else renamed


def narrowed(case: Case, compiled: CompiledSchema) -> list[str]:
    """The valid instances that the compiled schema does not accept."""
    validator = Draft202012Validator(with_client_names(compiled.schema, compiled.aliases))
    errors = (next(validator.iter_errors(value), None) for value in case.valid)
    return [f"{case.id}: {error.json_path} {error.message[:120]}" for error in errors if error]


def missed(case: Case, compiled: CompiledSchema) -> list[str]:
    """The invalid instances that validation neither refuses nor reports."""
    return [
        f"{case.id}: {json.dumps(value)[:160]}" for value in case.invalid if validate(compiled, value) == Validation()
    ]


def refused_wrongly(case: Case, compiled: CompiledSchema) -> list[str]:
    """The valid instances that validation refuses, or that coercion changes."""
    refused = [
        f"{case.id}: {found[0].path} {found[0].message}"
        for value in case.valid
        if (found := validate(compiled, value).errors)
    ]
    return refused + [f"{case.id}: coercion changed it" for value in case.valid if coerce(compiled, value) is not value]


def cpu_ms(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return (time.process_time() - started) * 1e3


def compile_times(cases: Sequence[Case], dialect: Dialect) -> tuple[list[float], list[float]]:
    """Milliseconds for each schema: never seen before, and seen before."""
    cold, cached = [], []
    for number, case in enumerate(cases):
        unseen = {**case.schema, "$comment": f"cold {number}"} if isinstance(case.schema, dict) else case.schema

        def compile_it(schema: Json = unseen) -> None:
            try:
                compile_schema(schema, param="schema", dialect=dialect)
            except InvalidRequest:
                return

        cold.append(cpu_ms(compile_it))
        cached.append(min(cpu_ms(compile_it) for _ in range(3)))
    return sorted(cold), sorted(cached)


def at(values: Sequence[float], share: float) -> float:
    """The value below which a share of sorted values lies."""
    return values[min(int(len(values) * share), len(values) - 1)]


def share_row(label: str, good: int, total: int, goal: float) -> Row:
    share = good / max(total, 1)
    return Row(label, f"{share:8.2%}  ({good:,} of {total:,})", f"≥ {goal:.1%}", share >= goal)


def time_row(label: str, value: float, goal: float, unit: str) -> Row:
    return Row(label, f"{value:8.2f} {unit}", f"< {goal:g} {unit}", value < goal)


def measure(cases: Sequence[Case], dialect: Dialect = "documented") -> tuple[list[Row], dict[str, list[str]]]:
    """The table, and the cases behind each share below 100 %."""
    compile_schema({"type": "object"}, param="warm-up", dialect=dialect)
    cold, cached = compile_times(cases, dialect)
    compiled, refused = compile_cases(cases, dialect)
    outside = [
        case.id
        for case, result in compiled
        if not stays_within(result.schema, FULL if dialect == "full" else DOCUMENTED)
    ]
    narrow = [line for case, result in compiled for line in narrowed(case, result)]
    uncaught = [line for case, result in compiled for line in missed(case, result)]
    wrongly = [line for case, result in compiled for line in refused_wrongly(case, result)]
    valid, invalid = (sum(len(getattr(case, kind)) for case, _ in compiled) for kind in ("valid", "invalid"))
    before = sum(len(orjson.dumps(case.schema)) for case, _ in compiled)
    after = sum(len(orjson.dumps(result.schema)) for _, result in compiled)
    growth = sorted(len(orjson.dumps(result.schema)) / len(orjson.dumps(case.schema)) for case, result in compiled)
    rows = [
        share_row("schemas that compile", len(compiled), len(cases), 0.99),
        share_row("… to a valid schema of allowed keywords only", len(compiled) - len(outside), len(compiled), 1),
        share_row("valid instances that the compiled schema accepts", valid - len(narrow), valid, 0.999),
        share_row("valid instances that validation accepts and coercion leaves alone", valid - len(wrongly), valid, 1),
        share_row("invalid instances that validation catches", invalid - len(uncaught), invalid, 0.99),
        time_row("compile, cold, p50", at(cold, 0.5), 20, "ms"),
        time_row("compile, cold, p99", at(cold, 0.99), 20, "ms"),
        time_row("compile, cached, p50", at(cached, 0.5) * 1e3, 50, "µs"),
        time_row("compile, cached, p99", at(cached, 0.99) * 1e3, 50, "µs"),
        Row(
            "size, compiled against original, all together",
            f"{after / max(before, 1):8.2f}  ({before:,} to {after:,} bytes)",
        ),
        Row("size, compiled against original, p50 / p99", f"{at(growth, 0.5):8.2f} / {at(growth, 0.99):.2f}"),
    ]
    return rows, {
        "refused": refused,
        "outside": outside,
        "narrowed": narrow,
        "missed": uncaught,
        "refused wrongly": wrongly,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED if SHARED.exists() else OWN)
    parser.add_argument("--full", action="store_true", help="compile to anyOf, const and format too")
    options = parser.parse_args()
    rows, details = measure(read_cases(options.data), "full" if options.full else "documented")
    for row in rows:
        print(f"{'✓' if row.met else '✗'} {row.label:<64}{row.value:<36}{row.goal}")
    for label, lines in details.items():
        for line in lines:
            print(f"  {label}: {line}")
    raise SystemExit(any(not row.met for row in rows))


if __name__ == "__main__":
    main()
