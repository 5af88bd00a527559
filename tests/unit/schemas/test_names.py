"""Property names that upstreams refuse are sent under aliases, and come back as the client wrote them."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.schemas import CompiledSchema, Validation, coerce, compile_schema, validate

ACCEPTED = re.compile(r"^[a-zA-Z0-9_.-]{1,64}$")
CLOSED = {"additionalProperties": False}


def properties(schema: Any) -> set[str]:
    """All property names of a compiled schema."""
    if isinstance(schema, list):
        return set().union(*map(properties, schema))
    if not isinstance(schema, dict):
        return set()
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    inner += [schema.get("items"), schema.get("additionalProperties")]
    return set(schema.get("properties", ())).union(*map(properties, inner))


def aliased(value: Any, compiled: CompiledSchema) -> Any:
    names = {name: alias for alias, name in compiled.aliases.items()}
    if isinstance(value, list):
        return [aliased(item, compiled) for item in value]
    if isinstance(value, dict):
        return {names.get(name, name): aliased(item, compiled) for name, item in value.items()}
    return value


NAMES = ["filter[name]", "Account Number", "größe", "名前", "a" * 65, "", "$schema", "a b", "a_b", "a/b"]


def test_names_that_are_refused_get_aliases_that_are_accepted_unique_and_always_the_same() -> None:
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in NAMES}, "required": NAMES}
    compiled = compile_schema(schema, param="p", parameters=True)
    written = list(compiled.schema["properties"])
    assert all(map(ACCEPTED.match, written))
    assert len(set(written)) == len(NAMES)
    assert compiled.schema["required"] == written
    assert written == [
        "filter_name",
        "Account_Number",
        "groe",
        "property",
        "a" * 64,
        "property_2",
        "schema",
        "a_b_2",
        "a_b",
        "a_b_3",
    ]
    assert "a_b" not in compiled.aliases
    assert compiled.schema["properties"]["filter_name"]["description"] == 'Named "filter[name]".'
    assert compile_schema({**schema, "$comment": "not cached"}, param="p", parameters=True).aliases == compiled.aliases


@pytest.mark.parametrize(("length", "kept"), [(64, True), (65, False)])
def test_a_name_of_64_characters_is_kept(length: int, kept: bool) -> None:
    compiled = compile_schema({"type": "object", "properties": {"a" * length: {}}}, param="s")
    assert (not compiled.aliases) is kept


NESTED: list[tuple[Any, Any]] = [
    ({"properties": {"a b": {"properties": {"c d": {"type": "integer"}}}}}, {"a b": {"c d": 1}}),
    ({"items": {"properties": {"a b": {"type": "integer"}}}}, [{"a b": 1}, {"a b": 2}]),
    ({"additionalProperties": {"type": "object", "properties": {"a b": {}}}}, {"free name": {"a b": 1}}),
    (
        {
            "anyOf": [
                {"type": "object", "properties": {"a b": {"items": {"properties": {"x y": {}}}}}, **CLOSED},
                {"type": "object", "properties": {"c d": {"properties": {"e f": {}}}}, **CLOSED},
            ]
        },
        {"c d": {"e f": 1}},
    ),
    (
        {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"k k": {"$ref": "#/$defs/n"}}}}},
        {"k k": {"k k": {}}},
    ),
]


@pytest.mark.parametrize("dialect", ["documented", "full", "anthropic"])
@pytest.mark.parametrize(("schema", "value"), NESTED, ids=[str(index) for index in range(len(NESTED))])
def test_names_are_restored_at_any_depth(schema: Any, value: Any, dialect: Any) -> None:
    schema = {"type": "array" if isinstance(value, list) else "object", **schema}
    compiled = compile_schema(schema, param="s", dialect=dialect)
    if dialect != "anthropic":
        assert " " not in "".join(properties(compiled.schema))
    assert coerce(compiled, aliased(value, compiled)) == value
    assert coerce(compiled, value) == value
    assert validate(compiled, value) == Validation()


def test_free_names_are_left_alone_even_where_one_equals_an_alias() -> None:
    schema = {"type": "object", "properties": {"a b": {"type": "object", "additionalProperties": True}}, **CLOSED}
    compiled = compile_schema(schema, param="s")
    assert coerce(compiled, {"a_b": {"a_b": 1}}) == {"a b": {"a_b": 1}}


def test_an_alias_beside_the_name_itself_is_left_alone() -> None:
    compiled = compile_schema({"type": "object", "properties": {"a b": {}}}, param="s")
    assert coerce(compiled, {"a b": 1, "a_b": 2}) == {"a b": 1, "a_b": 2}


@given(st.lists(st.text(max_size=70), unique=True, max_size=6))
def test_any_names_are_aliased_and_restored(names: list[str]) -> None:
    schema = {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in names},
        "additionalProperties": False,
    }
    compiled = compile_schema(schema, param="s")
    assert all(map(ACCEPTED.match, compiled.schema["properties"]))
    value = dict.fromkeys(names, 1)
    assert coerce(compiled, aliased(value, compiled)) == value
