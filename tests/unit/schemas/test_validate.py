"""Values are judged by the schema as it came, formats asserted, and never without bounds."""

from typing import Any

import pytest

from proxy.schemas import Validation, compile_schema, validate

D4, D6 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-06/schema#"
D7, D19 = "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2019-09/schema"


def found(schema: Any, instance: Any) -> list[tuple[str, str]]:
    errors = validate(compile_schema(schema, param="s"), instance).errors
    return [(error.path, error.message) for error in errors]


MESSAGES: list[tuple[Any, Any, str, str]] = [
    (
        {"properties": {"items": {"items": {"properties": {"price": {"type": "number"}}}}}},
        {"items": [{}, {}, {"price": "x"}]},
        "$.items[2].price",
        "expected number, got string",
    ),
    (
        {"properties": {"unit price": {"type": ["string", "null"]}}},
        {"unit price": 1},
        '$["unit price"]',
        "expected string or null, got number",
    ),
    ({"required": ["a"]}, {}, "$", 'missing property "a"'),
    ({"additionalProperties": False}, {"x": 1}, "$", 'unexpected property "x"'),
    ({"enum": ["a", 1]}, "b", "$", 'expected one of "a", 1'),
    ({"const": {"a": 1}}, {"a": True}, "$", 'expected {"a": 1}'),
    ({"minLength": 2}, "é", "$", "expected at least 2 characters"),
    ({"maxLength": 1}, "ab", "$", "expected at most 1 characters"),
    ({"pattern": "^a"}, "b", "$", "does not match ^a"),
    ({"format": "date"}, "2024-02-30", "$", "is not of format date"),
    ({"minimum": 3}, 2, "$", "is below the minimum of 3"),
    ({"$schema": D4, "minimum": 3, "exclusiveMinimum": True}, 3, "$", "expected more than 3"),
    ({"maximum": 3}, 4, "$", "is above the maximum of 3"),
    ({"exclusiveMinimum": 3}, 3, "$", "expected more than 3"),
    ({"exclusiveMaximum": 3}, 3, "$", "expected less than 3"),
    ({"multipleOf": 0.1}, 0.35, "$", "is not a multiple of 0.1"),
    ({"minItems": 1}, [], "$", "expected at least 1 items"),
    ({"maxItems": 1}, [1, 2], "$", "expected at most 1 items"),
    ({"uniqueItems": True}, [{"a": 1}, {"a": 1.0}], "$", "has repeated items"),
    (
        {"contains": {"type": "null"}, "maxContains": 1},
        [None, None],
        "$",
        "has 2 items of the form wanted, not 1 to 1",
    ),
    ({"minProperties": 1}, {}, "$", "expected at least 1 properties"),
    ({"maxProperties": 0}, {"a": 1}, "$", "expected at most 0 properties"),
    ({"not": {"type": "null"}}, None, "$", "matches what is excluded"),
    ({"properties": {"a": False}}, {"a": 1}, "$.a", "nothing is allowed here"),
    ({"$schema": D7, "items": [True], "additionalItems": False}, [1, 2], "$[1]", "nothing is allowed here"),
    ({"not": {"oneOf": [{"type": "integer"}, {"type": "string"}]}}, 1, "$", "matches what is excluded"),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 1, "$", "matches none of the alternatives"),
    ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "$", "a property that another one asks for is missing"),
    (
        {"properties": {"a": True}, "unevaluatedProperties": False},
        {"b": 1},
        "$",
        "has properties that are not described",
    ),
]


@pytest.mark.parametrize(("schema", "instance", "path", "message"), MESSAGES, ids=[case[3] for case in MESSAGES])
def test_an_error_says_where_and_what_was_expected(schema: Any, instance: Any, path: str, message: str) -> None:
    assert found(schema, instance) == [(path, message)]


def test_a_path_is_one_line_whatever_the_names() -> None:
    schema = {"properties": {'a\n"\\': {"items": {"type": "string"}}}}
    assert found(schema, {'a\n"\\': ["x", 1]})[0][0] == r'$["a\n\"\\"][1]'


def test_the_alternative_that_was_meant_tells_what_is_wrong() -> None:
    members = [
        {
            "type": "object",
            "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
            "required": ["kind"],
        },
        {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind", "bark"]},
        {"type": "null"},
    ]
    assert found({"anyOf": members}, {"kind": "cat", "lives": "nine"}) == [("$.lives", "expected integer, got string")]
    assert found({"oneOf": members}, {"kind": "dog"}) == [("$", 'missing property "bark"')]


def test_messages_quote_nothing_of_the_value() -> None:
    secret = "sk-secret"
    schemas = [
        {"type": "integer"},
        {"enum": [1]},
        {"maxLength": 1},
        {"pattern": "^x"},
        {"format": "uri"},
        {"not": {"minLength": 1}},
        {"anyOf": [False, {"type": "null"}]},
    ]
    assert all(secret not in message for schema in schemas for _, message in found(schema, secret))


def test_the_number_of_errors_is_bounded() -> None:
    schema = {"items": {"type": "string"}}
    assert len(found(schema, list(range(100)))) == 10


VALID: list[tuple[Any, Any]] = [
    ({"$schema": D4, "format": "url"}, "no such format"),
    ({"format": "date"}, 5),
    ({"multipleOf": 0.1}, 0.3),
    ({"multipleOf": 0.01}, 1e300),
    ({"multipleOf": 3}, 9.0),
    ({"enum": [1]}, 1.0),
    ({"type": "integer"}, 1.0),
    ({"type": "string", "nullable": True}, None),
    ({"uniqueItems": True}, [1, True, "1", None, [1], [True]]),
    ({"minLength": 1, "maxLength": 1}, "😀"),
    ({"pattern": "b"}, "abc"),
    ({"$schema": D6, "items": False, "additionalItems": False}, []),
    ({"$schema": D7, "contains": {"type": "null"}, "minContains": 3}, [None]),
    ({"$schema": D19, "items": {"$recursiveRef": "#"}}, [[[]]]),
    ({"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}, {"x1": 1}),
    ({"$schema": D4, "const": 1}, 2),
]


@pytest.mark.parametrize(("schema", "instance"), VALID, ids=repr)
def test_what_the_draft_allows_is_no_error(schema: Any, instance: Any) -> None:
    assert found(schema, instance) == []


def test_a_draft_4_date_is_checked_too() -> None:
    """Which formats are checked does not depend on the draft."""
    for draft in (D4, D6, D7, D19):
        assert found({"$schema": draft, "format": "date"}, "tomorrow")
        assert found({"$schema": draft, "format": "uuid"}, "1")


def test_a_schema_inside_that_names_its_draft_is_evaluated_by_the_same_rules() -> None:
    """The library would go on with its own validator, and its backtracking patterns, from there."""
    schema = {"$schema": D7, "properties": {"a": {"$schema": D7, "pattern": "^(a+)+$"}}}
    assert found(schema, {"a": "a" * 50 + "!"}) == [("$.a", "does not match ^(a+)+$")]


UNDECIDED = r"a(?=b)"


def test_a_value_that_matches_several_alternatives_is_accepted_and_reported() -> None:
    schema = {"properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}, {"type": "string"}]}}}
    compiled = compile_schema(schema, param="s")
    assert validate(compiled, {"a": 1}) == Validation(notes=("$.a: matches 2 of the alternatives, not one",))
    assert validate(compiled, {"a": 1.5}) == Validation()
    assert validate(compiled, {"a": None}).errors


EXACT: list[tuple[Any, Any, bool]] = [
    ({"not": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}, 1, True),
    ({"not": {"oneOf": [{"type": "integer"}, {"type": "string"}]}}, 1, False),
    ({"if": {"oneOf": [{"type": "integer"}, {"type": "number"}]}, "then": False}, 1, True),
    ({"contains": {"oneOf": [{"type": "integer"}, {"type": "number"}]}, "minContains": 0, "maxContains": 0}, [1], True),
]


@pytest.mark.parametrize(("schema", "instance", "accepted"), EXACT, ids=repr)
def test_a_oneof_is_exact_where_accepting_it_would_refuse_the_value(schema: Any, instance: Any, accepted: bool) -> None:
    assert (validate(compile_schema(schema, param="s"), instance) == Validation()) is accepted


UNCHECKED: list[tuple[Any, Any]] = [
    ({"pattern": UNDECIDED}, "x"),
    ({"not": {"pattern": UNDECIDED}}, "x"),
    ({"not": {"not": {"pattern": UNDECIDED}}}, "x"),
    ({"oneOf": [{"pattern": UNDECIDED}, {"type": "null"}]}, "x"),
    ({"anyOf": [{"pattern": UNDECIDED}, {"type": "null"}]}, "x"),
    ({"if": {"pattern": UNDECIDED}, "then": {"maxLength": 0}, "else": {"maxLength": 0}}, "x"),
    ({"contains": {"pattern": UNDECIDED}}, ["x"]),
    ({"contains": {"pattern": UNDECIDED}, "maxContains": 0, "minContains": 0}, ["x"]),
    ({"patternProperties": {UNDECIDED: False}, "additionalProperties": False}, {"x": 1}),
    ({"patternProperties": {UNDECIDED: False}, "unevaluatedProperties": False}, {"x": 1}),
    ({"propertyNames": {"pattern": UNDECIDED}}, {"x": 1}),
    ({"pattern": "^(?:.{1,60000})$"}, "x"),
    ({"format": "uri"}, "data:" + "x" * 70_000),
]


@pytest.mark.parametrize(("schema", "instance"), UNCHECKED, ids=[str(case[0]) for case in UNCHECKED])
def test_what_cannot_be_decided_is_accepted_and_reported(schema: Any, instance: Any) -> None:
    found = validate(compile_schema(schema, param="s"), instance)
    assert found.errors == ()
    assert len(found.notes) == 1
    assert "checked" in found.notes[0]


DECIDED: list[tuple[Any, Any, bool]] = [
    ({"pattern": UNDECIDED, "maxLength": 0}, "x", False),
    ({"not": {"pattern": UNDECIDED, "maxLength": 0}}, "x", True),
    ({"anyOf": [{"pattern": UNDECIDED}, {"type": "string"}]}, "x", True),
    ({"contains": {"pattern": UNDECIDED}, "minContains": 2}, ["x"], False),
    ({"contains": {"pattern": UNDECIDED, "maxLength": 0}}, ["x"], False),
]


@pytest.mark.parametrize(("schema", "instance", "accepted"), DECIDED, ids=repr)
def test_what_other_keywords_decide_is_decided(schema: Any, instance: Any, accepted: bool) -> None:
    found = validate(compile_schema(schema, param="s"), instance)
    assert (not found.errors) is accepted
    assert found.notes == () or not accepted


@pytest.mark.parametrize(("count", "reported"), [(10, 10), (11, 10)])
def test_the_number_of_notes_is_bounded(count: int, reported: int) -> None:
    schema = {"items": {"oneOf": [True, True]}}
    assert len(validate(compile_schema(schema, param="s"), list(range(count))).notes) == reported
