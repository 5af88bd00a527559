"""No schema and no value stalls the server, overflows its stack, or raises anything but a 400."""

import json
from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.schemas import SchemaLimits, Validation, coerce, compile_schema, validate
from proxy.schemas.patterns import pattern


def nested(levels: int, value: Any = "x", key: str = "a") -> Any:
    for _ in range(levels):
        value = {key: value}
    return value


def refusal(schema: Any, limits: SchemaLimits = SchemaLimits()) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        compile_schema(schema, param="s", limits=limits)
    assert caught.value.code == "invalid_json_schema"
    return caught.value


@pytest.mark.parametrize("levels", [130, 1_000, 100_000])
@pytest.mark.parametrize("keyword", ["not", "items", "no keyword", "default"])
def test_a_schema_nested_too_deep_is_refused(levels: int, keyword: str) -> None:
    """A schema nested a thousand deep raises RecursionError in every walker."""
    assert "nested" in refusal(nested(levels, {}, keyword)).message


def test_a_schema_as_deep_as_allowed_compiles_and_is_opened_at_the_bottom() -> None:
    schema: Any = {"type": "string"}
    for _ in range(60):
        schema = {"type": "object", "properties": {"a": schema}}
    compiled = compile_schema(schema, param="s")
    assert "What is nested here is not described." in json.dumps(compiled.schema)
    assert validate(compiled, nested(60, 1)).errors
    assert not validate(compiled, nested(60)).errors


@pytest.mark.parametrize(
    ("limits", "words", "place"),
    [
        (SchemaLimits(max_bytes=100), "bytes", "s"),
        (SchemaLimits(max_properties=3), "more than 3 properties", "s"),
        (SchemaLimits(max_alternatives=3), "more than 3 alternatives", "s.anyOf"),
        (SchemaLimits(max_depth=1), "nested more than 1 levels", "s.anyOf[3]"),
    ],
)
def test_limits_are_expressed_with_the_place(limits: SchemaLimits, words: str, place: str) -> None:
    schema = {
        "properties": {name: {"type": "string"} for name in "abcd"},
        "anyOf": [{"required": [name]} for name in "abcd"],
    }
    error = refusal(schema, limits)
    assert words in error.message
    assert error.param is not None
    assert error.param.startswith(place.split(".", maxsplit=1)[0])


@pytest.mark.parametrize(
    "schema",
    [
        "x", None, [], 3, 1.5, object(), {1, 2}, {"a": object()}, {"a": {1}}, b"{}", {"enum": float("nan")},
        {"minimum": float("inf")}, {"a": [float("-inf"), 10**30]}, False, {"enum": []}, {"not": {}}, {"type": "string", "enum": [1]},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_schema_or_takes_no_value_is_refused(schema: Any) -> None:
    assert refusal(schema).param is not None


def test_numbers_that_json_writers_round_are_left_out_of_the_compiled_schema() -> None:
    schema = {"minimum": -(10**30), "minLength": 10**20, "enum": [10**30, 1]}
    compiled = compile_schema(schema, param="s")
    assert json.loads(json.dumps(compiled.schema)) == compiled.schema == {"type": "integer"}
    assert not validate(compiled, 10**30).errors


def test_halves_of_characters_do_no_harm() -> None:
    compiled = compile_schema({"properties": {"\ud800": {"title": "\udfff"}}}, param="s")
    json.dumps(compiled.schema, ensure_ascii=False).encode()
    assert not validate(compiled, {"\ud800": "\ud800"}).errors


DAG = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}, {"$ref": f"#/$defs/a{i + 1}"}]} for i in range(30)}
EXPRESSION = {
    "E": {"anyOf": [{"$ref": f"#/$defs/t{i}"} for i in range(12)]},
    **{
        f"t{i}": {
            "type": "object",
            "properties": {"kind": {"const": i}, "left": {"$ref": "#/$defs/E"}, "right": {"$ref": "#/$defs/E"}},
            "required": ["kind"],
        }
        for i in range(12)
    },
}


def test_references_that_fan_out_are_evaluated_once_each() -> None:
    compiled = compile_schema({"$ref": "#/$defs/a0", "$defs": {**DAG, "a30": {"type": "string"}}}, param="s")
    assert compiled.schema == {"type": "string"}
    assert not validate(compiled, "x").errors
    assert [error.message for error in validate(compiled, 1).errors] == ["matches none of the alternatives"]
    assert coerce(compiled, 1) == "1"


def test_a_deep_value_of_a_union_of_recursive_types_is_evaluated_and_coerced() -> None:
    compiled = compile_schema({"$ref": "#/$defs/E", "$defs": EXPRESSION}, param="s")
    value: Any = {"kind": 0}
    for kind in range(1, 12):
        value = {"kind": kind, "left": value, "right": {"kind": 0}}
    assert not validate(compiled, value).errors
    wrong = value | {"right": {"kind": "3"}}
    assert validate(compiled, wrong).errors
    assert coerce(compiled, wrong) == value | {"right": {"kind": 3}}


def test_merges_that_fan_out_end() -> None:
    both = {"allOf": [{"$ref": "#/$defs/a{}"}, {"$ref": "#/$defs/b{}"}]}
    defs = {
        f"{letter}{i}": {
            "type": "object",
            "properties": {name: json.loads(json.dumps(both).replace("{}", str(i + 1))) for name in "xy"},
        }
        for i in range(40)
        for letter in "ab"
    }
    schema = {"$ref": "#/$defs/a0", "$defs": {**defs, "a40": {"type": "string"}, "b40": {}}}
    assert compile_schema(schema, param="s").is_object


def test_hundreds_of_alternatives_are_merged() -> None:
    members = [
        {
            "type": "object",
            "properties": {"kind": {"const": i}, f"p{i}": {"type": "string"}},
            "additionalProperties": False,
        }
        for i in range(500)
    ]
    compiled = compile_schema({"anyOf": members}, param="s")
    assert len(compiled.schema["properties"]) == 501
    assert compiled.schema["properties"]["p499"] == {"type": "string"}


@pytest.mark.parametrize("value", [nested(5_000), [nested(3_000, [], "a")], nested(90_000)])
def test_a_value_nested_too_deep_is_accepted_and_reported(value: Any) -> None:
    schema = {
        "$ref": "#/$defs/n",
        "$defs": {"n": {"additionalProperties": {"$ref": "#/$defs/n"}, "items": {"$ref": "#/$defs/n"}}},
    }
    compiled = compile_schema(schema, param="s")
    assert validate(compiled, value) == Validation(notes=("$: nested too deeply to be checked",))
    assert coerce(compiled, value) is value
    listed = compile_schema({"enum": [1], "uniqueItems": True}, param="s")
    assert validate(listed, [value, value]).errors
    assert coerce(listed, value) is value


def test_a_value_too_large_to_be_checked_is_accepted_and_reported() -> None:
    schema = {"items": {"oneOf": [{"properties": {"k": {"const": i}}} for i in range(300)]}}
    compiled = compile_schema(schema, param="s")
    assert validate(compiled, [{"k": 1}] * 1_000) == Validation(notes=("$: too large to be checked completely",))
    assert validate(compiled, [{"k": 1}] * 10) == Validation()
    found = validate(compiled, [{"k": "x"}, *[{"k": 1}] * 1_000])
    assert [error.path for error in found.errors] == ["$[0]"]


@pytest.mark.parametrize(
    "source", [r"^(a+)+$", r"^(a|aa)+$", r"(x+x+)+y", r"^(?=(a+)+$)b", r"(a*)*\1", r"(.*)*(.*)*(.*)*z"]
)
def test_a_catastrophic_pattern_stalls_nothing(source: str) -> None:
    """A caller's pattern runs in a backtracking engine on the event loop."""
    text = "a" * 50_000 + "!"
    schema = {
        "pattern": source,
        "patternProperties": {source: {"type": "null"}},
        "additionalProperties": {"pattern": source},
    }
    for keyword in ({}, {"propertyNames": {"pattern": source}}, {"unevaluatedProperties": False, "allOf": [{}]}):
        compiled = compile_schema(schema | keyword, param="s")
        for value in (text, {text: text}):
            judged = pattern(source).found_in(text)
            assert judged is not True
            assert bool(validate(compiled, value).errors) is (judged is False)
            assert coerce(compiled, value) is value


def test_numbers_that_are_none_are_no_multiples() -> None:
    compiled = compile_schema({"type": "number", "multipleOf": 0.1}, param="s", parameters=True)
    for number in (float("nan"), float("inf")):
        assert validate(compiled, number).errors
        assert coerce(compiled, number) is number
