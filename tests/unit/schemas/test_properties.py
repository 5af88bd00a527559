"""What holds for every schema: never narrower, never another exception, never a changed valid value."""

import json
from typing import Any

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from proxy.errors import InvalidRequest
from proxy.schemas import CompiledSchema, Dialect, Validation, coerce, compile_schema, validate
from tests.unit.schemas.documented import DOCUMENTED, keywords_in
from tests.unit.schemas.strategies import instances, json_values, schemas

relaxed = settings(
    suppress_health_check=list(HealthCheck),
    deadline=None,
    max_examples=100,
)


def compiled_or_none(schema: Any, dialect: Dialect = "documented") -> CompiledSchema | None:
    try:
        return compile_schema(schema, param="s", dialect=dialect)
    except InvalidRequest as error:
        refused = error
    assert refused.code == "invalid_json_schema"
    assert refused.param is not None
    assert refused.param.startswith("s")
    return None


def accepts(schema: Any, instance: Any) -> bool:
    """Whether the stock validator of the schema's draft takes the instance."""
    checker = validator_for(schema, default=Draft202012Validator)
    try:
        return bool(checker(schema).is_valid(instance))
    except (RecursionError, TypeError):  # faults of the stock validator
        return reject()


def has_float(value: Any) -> bool:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return isinstance(value, float) or any(map(has_float, inner))


@given(st.data())
@relaxed
def test_every_instance_that_the_original_accepts_is_accepted_by_the_compiled_schema(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    dialect: Dialect = data.draw(st.sampled_from(["documented", "full"]))
    compiled = compiled_or_none(schema, dialect)
    instance = data.draw(instances(schema))
    if compiled is None:
        return
    Draft202012Validator.check_schema(compiled.schema)
    assert keywords_in(compiled.schema) <= DOCUMENTED | ({"anyOf", "const", "format"} if dialect == "full" else set())
    if accepts(schema, instance):
        Draft202012Validator(compiled.schema).validate(instance)


@given(st.data())
@relaxed
def test_check_finds_errors_exactly_where_the_stock_validator_does(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    compiled = compiled_or_none(schema)
    instance = data.draw(instances(schema))
    if compiled is not None and not has_float(instance):  # draft 4 calls 1.0 no integer
        assert (validate(compiled, instance) == Validation()) == accepts(schema, instance)


@given(st.data())
@relaxed
def test_coercing_leaves_valid_values_alone_and_leaves_others_with_fewer_violations(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    compiled = compiled_or_none(schema)
    instance = data.draw(instances(schema))
    if compiled is None:
        return
    before = json.dumps(instance)
    coerced = coerce(compiled, instance)
    assert json.dumps(instance) == before
    if coerced != instance:
        assert len(validate(compiled, coerced).errors) < len(validate(compiled, instance).errors)
    assert json.dumps(coerce(compiled, instance)) == json.dumps(coerced)


@given(st.data())
@relaxed
def test_parameters_are_never_narrower_than_the_objects_of_the_original(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    instance = data.draw(instances(schema))
    try:
        compiled = compile_schema(schema, param="s", parameters=True)
    except InvalidRequest:
        return
    if compiled.is_object:
        assert compiled.schema["type"] == "object"
    if accepts(schema, instance) and (isinstance(instance, dict) or not compiled.must_be_object):
        Draft202012Validator(compiled.schema).validate(instance)


@given(
    json_values
    | st.dictionaries(
        st.sampled_from(["type", "properties", "items", "$ref", "enum", "required", "allOf", "$id"]), json_values
    )
)
@relaxed
def test_what_is_no_schema_is_refused_with_a_path_and_nothing_else_is_raised(schema: Any) -> None:
    compiled_or_none(schema)
