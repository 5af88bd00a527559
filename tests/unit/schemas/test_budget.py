"""One budget bounds the work of all schemas and values of a request, and can be abandoned; what is small enough holds no event loop."""

import random
import threading
from typing import Any

import pytest

from proxy.errors import SchemaTooComplex
from proxy.schemas import Budget, SchemaLimits, coerce, compile_schema, is_heavy, validate
from proxy.schemas.compile import _Cache


def entangled(seed: int, count: int = 60, width: int = 3) -> dict[str, Any]:
    """Definitions that contain each other under `anyOf`."""
    choose = random.Random(seed)
    definitions = {
        f"d{number}": {
            "type": "object",
            "properties": {"p": {"anyOf": [{"$ref": f"#/$defs/d{choose.randrange(count)}"} for _ in range(width)]}},
        }
        for number in range(count)
    }
    return {"$ref": "#/$defs/d0", "$defs": definitions}


def steps(schema: Any) -> int:
    budget = Budget(10**9)
    compile_schema(schema, param="p", parameters=True, budget=budget)
    return 10**9 - budget.left


@pytest.mark.parametrize("width", [2, 3, 12])
def test_entangled_definitions_take_steps_by_their_size(width: int) -> None:
    schema = entangled(width, width=width)
    size = len(str(schema))
    assert compile_schema(schema, param="p", parameters=True).is_object
    assert steps({**schema, "title": "not cached"}) <= 2 * (2_000 + size // 4) + size


def test_a_hundred_entangled_tools_are_refused_by_name_when_the_budget_ends() -> None:
    budget = Budget(20_000)

    def compile_all() -> None:
        for number in range(100):
            compile_schema(
                entangled(100 + number), param=f"tools[{number}].function.parameters", parameters=True, budget=budget
            )

    with pytest.raises(SchemaTooComplex, match="too complex") as caught:
        compile_all()
    assert caught.value.code == "schema_too_complex"
    assert caught.value.status == 400
    assert caught.value.param is not None
    assert caught.value.param.startswith("tools[")


def test_the_budget_is_exact_on_both_sides() -> None:
    schema = {
        "type": "object",
        "properties": {f"p{number}": {"type": "string"} for number in range(50)},
        "title": "exact",
    }
    needed = steps(schema)
    with pytest.raises(SchemaTooComplex):
        compile_schema({**schema, "title": "less "}, param="p", parameters=True, budget=Budget(needed - 1))
    assert compile_schema({**schema, "title": "equal"}, param="p", parameters=True, budget=Budget(needed)).is_object


def test_a_schema_seen_before_costs_nothing() -> None:
    compile_schema(entangled(7), param="p", parameters=True)
    budget = Budget(0)
    assert compile_schema(entangled(7), param="q", parameters=True, budget=budget).is_object
    assert budget.left == 0


def test_a_schema_that_ran_out_of_budget_is_compiled_when_there_is_one() -> None:
    with pytest.raises(SchemaTooComplex):
        compile_schema(entangled(8), param="p", parameters=True, budget=Budget(10))
    assert compile_schema(entangled(8), param="p", parameters=True).is_object


def test_a_value_over_the_budget_is_accepted_and_reported() -> None:
    compiled = compile_schema({"items": {"type": "integer"}}, param="s")
    values = ["x"] * 5 + [1] * 5_000
    found = validate(compiled, [1] * 5_000, Budget(10))
    assert found.errors == ()
    assert found.notes == ("$: too large to be checked completely",)
    assert coerce(compiled, values, Budget(10)) is values
    assert validate(compiled, [1] * 5_000, Budget()).notes == ()


def test_work_in_another_thread_can_be_abandoned() -> None:
    budget = Budget(10**9)
    ended = threading.Event()

    def work() -> None:
        try:
            for number in range(10_000):
                compile_schema(entangled(1_000 + number), param="p", parameters=True, budget=budget)
        except SchemaTooComplex:
            ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    budget.abandon()
    thread.join(30)
    assert ended.is_set()


def test_only_small_work_may_hold_an_event_loop() -> None:
    assert not is_heavy(4_096)
    assert is_heavy(4_097)


def test_a_light_value_is_given_fewer_steps_than_a_heavy_one() -> None:
    """What is handled on the event loop must end soon, whatever the schema."""
    schema = {"items": {"anyOf": [{"const": number} for number in range(60)]}}
    compiled = compile_schema(schema, param="s")
    assert validate(compiled, [59] * 100).notes == ()
    assert validate(compiled, [59] * 300).notes == ("$: too large to be checked completely",)
    assert validate(compiled, [59] * 600 + ["x" * 4_000]).errors


@pytest.mark.parametrize(("size", "refused"), [(1_048_576, False), (1_048_577, True)])
def test_schemas_may_have_a_mebibyte(size: int, refused: bool) -> None:
    schema = {"type": "string", "description": ""}
    schema["description"] = "x" * (size - len('{"type":"string","description":""}'))
    if refused:
        with pytest.raises(Exception, match="1,048,577 bytes"):
            compile_schema(schema, param="s")
    else:
        assert compile_schema(schema, param="s").schema == schema


def test_five_thousand_properties_are_compiled() -> None:
    """The most that OpenAI documents."""
    inner = {
        "type": "object",
        "properties": {f"q{number}": {"type": "string", "description": "d" * 60} for number in range(49)},
    }
    schema = {"type": "object", "properties": {f"p{number}": inner for number in range(100)}}
    compiled = compile_schema(schema, param="s")
    assert len(compiled.schema["properties"]["p99"]["properties"]) == 49


def test_the_cache_is_bounded_by_bytes() -> None:
    cache = _Cache(max_bytes=100)
    results = [compile_schema({"title": str(number)}, param="s") for number in range(4)]
    cache.put("a", results[0], 40)
    cache.put("b", results[1], 40)
    assert cache.get("a") is results[0]
    cache.put("c", results[2], 40)
    assert cache.get("b") is None  # the one that was used last is kept
    assert cache.get("a") is results[0]
    assert cache.get("c") is results[2]
    cache.put("large", results[3], 101)
    assert cache.get("large") is None
    cache.put("d", results[3], 100)
    assert [cache.get(key) for key in "acd"] == [None, None, results[3]]


def test_results_are_cached_by_limits_and_dialect_too() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1, "minimum": 0}, "b": {"$ref": "#"}}}
    others: list[dict[str, Any]] = [{"dialect": "full"}, {"limits": SchemaLimits(recursion_depth=1)}]
    for options in others:
        assert compile_schema(schema, param="s").schema != compile_schema(schema, param="s", **options).schema
