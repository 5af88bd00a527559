"""The envelope: the schema a model must fill, and the tolerant reader of what it filled in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.schemas import compile_parameters, compile_schema
from proxy.translate.envelope import Envelope, StructuredAnswer
from proxy.translate.reading import Call, Reading
from proxy.translate.tools import OfferedTool, ToolMenu
from tests.contract import assert_schema_is_documented

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": False}
ENCODINGS: list[Any] = ["properties", "any_of", "text"]


def tool(
    name: str = "weather", parameters: Any = CITY, *, strict: bool = False, upstream: str | None = None
) -> OfferedTool:
    compiled = compile_parameters(parameters, param="p")
    return OfferedTool(name, upstream or name, f"About {name}.", compiled, strict)


def with_tools(
    *tools: OfferedTool, required: bool = False, single: bool = False, encoding: Any = "properties", **rest: Any
) -> Envelope:
    return Envelope(menu=ToolMenu(tools or (tool(),), required, single, encoding), **rest)


def structured(schema: Any = POINT, *, strict: bool = False, as_text: bool = False, **rest: Any) -> Envelope:
    return Envelope(answer=StructuredAnswer(compile_schema(schema, param="p"), strict, as_text), **rest)


TEXT = Envelope()
THINKING = Envelope(reasoning_budget=2000)


# ---------------------------------------------------------------- schemas


def test_no_tools_means_one_plain_string_field_and_nothing_else() -> None:
    schema = TEXT.schema()
    assert list(schema["properties"]) == schema["required"] == ["content"]
    assert schema["properties"]["content"]["type"] == "string"
    assert schema["additionalProperties"] is False


def test_thinking_comes_first_and_its_budget_is_told() -> None:
    for envelope in (THINKING, with_tools(reasoning_budget=2000), structured(reasoning_budget=2000)):
        schema = envelope.schema()
        assert next(iter(schema["properties"])) == "reasoning"
        assert "2000" in schema["properties"]["reasoning"]["description"]


def test_words_come_before_calls() -> None:
    assert list(with_tools().schema()["properties"]) == ["content", "tool_calls"]


def test_a_clients_object_schema_is_the_root_when_nothing_else_is_asked_for() -> None:
    assert structured().schema() == POINT
    assert list(structured(reasoning_budget=2000).schema()["properties"]) == ["reasoning", "answer"]
    assert list(structured({"type": "array"}).schema()["properties"]) == ["answer"]


def test_tools_with_a_response_format_offer_both_and_the_answer_is_optional() -> None:
    envelope = structured(menu=with_tools().menu)
    schema = envelope.schema()
    assert list(schema["properties"]) == ["answer", "tool_calls"]
    assert schema["required"] == ["tool_calls"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_required_and_single_are_in_the_schema(encoding: Any) -> None:
    def calls(**options: bool) -> Any:
        return with_tools(encoding=encoding, **options).schema()["properties"]["tool_calls"]

    assert not {"minItems", "maxItems"} & calls().keys()
    assert calls(required=True)["minItems"] == 1
    assert calls(single=True)["maxItems"] == 1


@pytest.mark.parametrize("encoding", ["properties", "text"])
def test_the_default_and_the_simple_encoding_use_documented_keywords_only(encoding: Any) -> None:
    assert_schema_is_documented(with_tools(tool(), tool("other"), encoding=encoding).schema())


def test_every_tool_says_what_it_does() -> None:
    for encoding in ENCODINGS:
        envelope = with_tools(tool(), tool("other"), encoding=encoding)
        told = json.dumps(envelope.schema()) + envelope.instructions()
        assert "About weather." in told
        assert "About other." in told


def test_plain_text_needs_no_instructions() -> None:
    assert TEXT.instructions() == THINKING.instructions() == structured().instructions() == ""


# ---------------------------------------------------------------- reading text


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ({"content": "Hi"}, "Hi"),
        ({"content": "  Hi\n"}, "  Hi\n"),
        ({"content": "Hi", "extra": 1}, "Hi"),
        ({"content": None}, ""),
        ({"content": ""}, ""),
        ({"content": 5}, "5"),
        ({"response": "Hi"}, "Hi"),
        ("Hi", "Hi"),
        ('{"content": "Hi"}', "Hi"),
        ('```json\n{"content": "Hi"}\n```', "Hi"),
        ("```python\nx = 1\n```", "```python\nx = 1\n```"),
        ('{"a": 1}', '{"a": 1}'),
        (5, "5"),
    ],
)
def test_text_is_read_as_far_as_it_makes_sense_and_the_wrapper_never_leaks(output: Any, text: str) -> None:
    assert TEXT.read(output) == Reading(text=text)


@pytest.mark.parametrize("output", [None, [], ["a"], {}, {"a": 1, "b": 2}])
def test_output_of_which_nothing_can_be_made_is_fatal(output: Any) -> None:
    reading = TEXT.read(output)
    assert reading.fatal
    assert reading.faults


def test_the_trace_is_read_beside_the_answer() -> None:
    assert THINKING.read({"reasoning": "hm", "content": "Hi"}) == Reading(text="Hi", reasoning="hm")
    assert THINKING.read({"content": "Hi"}) == Reading(text="Hi")


def test_an_answer_only_in_the_reasoning_field_becomes_the_content() -> None:
    assert THINKING.read({"reasoning": "42", "content": ""}) == Reading(text="42")


# ---------------------------------------------------------------- reading calls

PARIS = Call("weather", {"city": "Paris"})


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "written",
    [
        {"weather": {"city": "Paris"}},
        {"weather": '{"city": "Paris"}'},
        {"name": "weather", "arguments": {"city": "Paris"}},
        {"name": "weather", "arguments": '{"city": "Paris"}'},
        {"name": "weather", "input": {"city": "Paris"}},
    ],
)
def test_a_call_is_read_in_any_spelling(encoding: Any, written: Any) -> None:
    envelope = with_tools(encoding=encoding)
    bare = [written, [written], json.dumps(written), json.dumps([written])]
    inside = [{"content": "", "tool_calls": calls} for calls in ([written], written, json.dumps([written]))]
    for output in (*inside, *bare, json.dumps(inside[0]), f"```json\n{json.dumps(inside[0])}\n```"):
        assert envelope.read(output) == Reading(calls=(PARIS,)), output


def test_several_calls_keep_their_order_also_in_one_item() -> None:
    envelope = with_tools(tool(), tool("now", None))
    read = envelope.read(
        {"content": "", "tool_calls": [{"now": {}, "weather": {"city": "Rome"}}, {"weather": {"city": "Oslo"}}]}
    )
    assert [(call.name, call.arguments) for call in read.calls] == [
        ("now", {}), ("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"}),
    ]  # fmt: skip


def test_properties_filled_with_null_beside_the_call_are_no_calls() -> None:
    envelope = with_tools(tool(), tool("now", None))
    assert envelope.read({"tool_calls": [{"weather": {"city": "Paris"}, "now": None}]}).calls == (PARIS,)
    assert envelope.read({"tool_calls": [{"now": None}]}).calls == (Call("now", {}),)


def test_words_beside_calls_are_kept_and_blanks_are_not() -> None:
    calls = [{"weather": {"city": "Paris"}}]
    assert with_tools().read({"content": "Let me look.", "tool_calls": calls}).text == "Let me look."
    assert with_tools().read({"content": " \n", "tool_calls": calls}).text is None


def test_no_calls_is_an_answer_unless_one_is_required() -> None:
    assert with_tools().read({"content": "Hi", "tool_calls": []}) == Reading(text="Hi")
    assert with_tools().read({"content": "Hi"}) == Reading(text="Hi")
    assert with_tools().read("Hi") == Reading(text="Hi")
    refused = with_tools(required=True).read({"content": "Hi", "tool_calls": []})
    assert refused.fatal


def test_at_most_one_call_is_enforced_on_the_result() -> None:
    calls = [{"weather": {"city": "Paris"}}, {"weather": {"city": "Rome"}}]
    assert with_tools(single=True).read({"tool_calls": calls}).calls == (PARIS,)


def test_a_tool_that_was_not_offered_is_never_passed_on() -> None:
    read = with_tools().read({"content": "x", "tool_calls": [{"weather": {"city": "Paris"}}, {"rm_rf": {}}]})
    assert read.calls == (PARIS,)
    assert "rm_rf" in read.faults[0]


def test_nothing_but_calls_of_tools_that_were_not_offered_is_no_answer() -> None:
    assert with_tools().read({"content": "", "tool_calls": [{"rm_rf": {}}]}).fatal
    assert not with_tools().read({"content": "Words.", "tool_calls": [{"rm_rf": {}}]}).fatal
    assert not with_tools().read({"content": "", "tool_calls": []}).fatal


def test_calls_come_back_under_the_clients_own_name() -> None:
    envelope = with_tools(tool("my tool!", upstream="my_tool_"))
    assert envelope.read({"tool_calls": [{"my_tool_": {"city": "Rome"}}]}).calls[0].name == "my tool!"


def test_tools_named_like_the_envelopes_own_words_work() -> None:
    for name in ("content", "tool_calls", "name", "arguments", "answer", "reasoning"):
        for encoding in ENCODINGS:
            envelope = with_tools(tool(name, None), encoding=encoding)
            written = (
                {name: {}}
                if encoding == "properties"
                else {"name": name, "arguments": {} if encoding == "any_of" else "{}"}
            )
            assert envelope.read({"content": "", "tool_calls": [written]}).calls == (Call(name, {}),), (name, encoding)


def test_arguments_that_do_not_match_are_a_fault_and_fatal_only_when_strict() -> None:
    output = {"tool_calls": [{"weather": {"days": "many"}}]}
    lenient, strict = with_tools().read(output), with_tools(tool(strict=True)).read(output)
    assert lenient.faults
    assert not lenient.fatal
    assert strict.fatal


def test_arguments_wrong_only_in_spelling_are_mended() -> None:
    read = with_tools().read({"tool_calls": [{"weather": {"city": "Paris", "days": "3"}}]})
    assert read == Reading(calls=(Call("weather", {"city": "Paris", "days": 3}),))


def test_arguments_that_are_no_object_are_never_handed_out_for_a_tool_that_wants_one() -> None:
    assert with_tools().read({"tool_calls": [{"weather": [1, 2]}]}).fatal


def test_parameters_that_are_no_object_are_wrapped_and_unwrapped() -> None:
    envelope = with_tools(tool("pick", {"type": "array", "items": {"type": "integer"}}))
    item = envelope.schema()["properties"]["tool_calls"]["items"]["properties"]["pick"]
    assert item["type"] == "object"
    assert envelope.read({"tool_calls": [{"pick": {"value": [1]}}]}) == Reading(calls=(Call("pick", [1]),))


# ---------------------------------------------------------------- reading structured answers


@pytest.mark.parametrize("output", [{"x": 1}, '{"x": 1}', '```json\n{"x": 1}\n```', '{"x":1}', {"x": "1"}])
def test_structured_output_is_the_bare_json_text(output: Any) -> None:
    assert structured().read(output) == Reading(text='{"x":1}')


@pytest.mark.parametrize("output", [{"answer": {"x": 1}}, {"x": 1}, '{"answer": {"x": 1}}', '{"x": 1}'])
def test_a_nested_answer_is_unwrapped(output: Any) -> None:
    assert structured(reasoning_budget=2000).read(output) == Reading(text='{"x":1}')


def test_scalar_and_array_answers() -> None:
    assert structured({"type": "array", "items": {"type": "integer"}}).read({"answer": [1, 2]}).text == "[1,2]"
    assert structured({"type": "string"}).read({"answer": "42"}).text == '"42"'
    assert structured({"type": "integer"}).read({"answer": 42}).text == "42"


def test_an_answer_as_json_text_is_read_as_its_value() -> None:
    envelope = structured(as_text=True)
    assert envelope.schema()["properties"]["answer"]["type"] == "string"
    assert '"x"' in envelope.instructions()
    assert envelope.read({"answer": '{"x": 1}'}) == Reading(text='{"x":1}')


def test_an_answer_that_does_not_match_is_fatal_only_when_strict() -> None:
    assert structured().read({"x": "no"}).faults
    assert not structured().read({"x": "no"}).fatal
    assert structured(strict=True).read({"x": "no"}).fatal


def test_prose_where_json_was_asked_for_is_never_handed_out() -> None:
    assert structured().read("Sure! Here you go").fatal


def test_calls_may_come_instead_of_the_answer_and_the_schema_binds_the_answer_only() -> None:
    envelope = structured(strict=True, menu=with_tools().menu)
    calls = [{"weather": {"city": "Paris"}}]
    assert envelope.read({"tool_calls": calls}) == Reading(calls=(PARIS,))
    assert envelope.read({"answer": None, "tool_calls": calls}) == Reading(calls=(PARIS,))
    assert envelope.read({"answer": {}, "tool_calls": calls}) == Reading(calls=(PARIS,))
    assert envelope.read({"answer": {"x": 1}, "tool_calls": []}) == Reading(text='{"x":1}')
    assert envelope.read({"tool_calls": []}).fatal


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["content", "answer", "reasoning", "tool_calls", "name", "arguments", "weather", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
ENVELOPES = [
    TEXT, THINKING, structured(), structured(strict=True), structured(as_text=True), structured({"type": "array"}),
    structured(menu=with_tools().menu), structured(reasoning_budget=2000, menu=with_tools().menu),
    *(with_tools(encoding=encoding, required=required) for encoding in ENCODINGS for required in (False, True)),
]  # fmt: skip


@given(st.sampled_from(ENVELOPES), JSON)
def test_any_output_is_read_without_a_crash_and_whatever_is_handed_out_is_sound(
    envelope: Envelope, output: Any
) -> None:
    for written in (output, json.dumps(output)):
        reading = envelope.read(written)
        assert all(call.name == "weather" for call in reading.calls)
        assert not reading.fatal or reading.faults
        if reading.fatal:
            continue
        assert all(isinstance(call.arguments, dict) for call in reading.calls)
        if envelope.answer is not None and not reading.calls:
            json.loads(reading.text or "")
        if envelope.menu is not None and envelope.menu.required:
            assert reading.calls
