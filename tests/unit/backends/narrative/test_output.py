"""The output schema that a model must fill, and the tolerant reader of what comes back."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.output import OutputFormat
from proxy.backends.narrative.tools import ANSWER, ParsedOutput, Part, Toolset
from proxy.inference.request import ToolCall
from proxy.schemas import compile_schema
from tests.contract import assert_schema_is_documented

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": False}
ENCODINGS: list[Any] = ["properties", "any_of", "text"]


def tool(name: str = "weather", parameters: Any = CITY, *, strict: bool = False, upstream: str | None = None) -> Part:
    compiled = compile_schema(parameters, param="p", parameters=True)
    return Part(name, upstream or name, f"About {name}.", compiled, strict)


def with_tools(
    *tools: Part, required: bool = False, single: bool = False, encoding: Any = "properties", **rest: Any
) -> OutputFormat:
    offered = tuple(replace(each, simple=each.simple or encoding == "text") for each in tools or (tool(),))
    return OutputFormat(tools=Toolset(offered, required, single, encoding), **rest)


def structured(schema: Any = POINT, *, strict: bool = False, simple: bool = False, **rest: Any) -> OutputFormat:
    return OutputFormat(answer=Part("", ANSWER, "", compile_schema(schema, param="p"), strict, simple), **rest)


TEXT = OutputFormat()
THINKING = OutputFormat(reasoning_budget=2000)


# ---------------------------------------------------------------- schemas


def test_no_tools_means_one_plain_string_field_and_nothing_else() -> None:
    schema = TEXT.schema()
    assert list(schema["properties"]) == schema["required"] == ["content"]
    assert schema["properties"]["content"]["type"] == "string"
    assert schema["additionalProperties"] is False


def test_thinking_comes_first_and_its_budget_is_named() -> None:
    for expected in (THINKING, with_tools(reasoning_budget=2000), structured(reasoning_budget=2000)):
        schema = expected.schema()
        assert next(iter(schema["properties"])) == "reasoning"
        assert "2000" in schema["properties"]["reasoning"]["description"]


def test_text_comes_before_calls() -> None:
    assert list(with_tools().schema()["properties"]) == ["content", "tool_calls"]


def test_a_clients_object_schema_is_the_root_when_nothing_else_is_asked_for() -> None:
    assert structured().schema() == POINT
    assert list(structured(reasoning_budget=2000).schema()["properties"]) == ["reasoning", "answer"]
    assert list(structured({"type": "array"}).schema()["properties"]) == ["answer"]


def test_tools_with_a_response_format_offer_both_and_the_answer_is_optional() -> None:
    expected = structured(tools=with_tools().tools)
    schema = expected.schema()
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


def test_every_tool_is_described() -> None:
    for encoding in ENCODINGS:
        expected = with_tools(tool(), tool("other"), encoding=encoding)
        written = json.dumps(expected.schema()) + expected.instructions()
        assert "About weather." in written
        assert "About other." in written


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
    assert TEXT.parse(output) == ParsedOutput(text=text)


@pytest.mark.parametrize("output", [None, [], ["a"], {}, {"a": 1, "b": 2}])
def test_output_of_which_nothing_can_be_made_cannot_be_delivered(output: Any) -> None:
    reading = TEXT.parse(output)
    assert reading.undeliverable
    assert reading.errors


def test_the_trace_is_read_beside_the_answer() -> None:
    assert THINKING.parse({"reasoning": "hm", "content": "Hi"}) == ParsedOutput(text="Hi", reasoning="hm")
    assert THINKING.parse({"content": "Hi"}) == ParsedOutput(text="Hi")


def test_an_answer_only_in_the_reasoning_field_becomes_the_content() -> None:
    assert THINKING.parse({"reasoning": "42", "content": ""}) == ParsedOutput(text="42")


# ---------------------------------------------------------------- reading calls

PARIS = ToolCall("", "weather", {"city": "Paris"})


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
    expected = with_tools(encoding=encoding)
    bare = [written, [written], json.dumps(written), json.dumps([written])]
    inside = [{"content": "", "tool_calls": calls} for calls in ([written], written, json.dumps([written]))]
    for output in (*inside, *bare, json.dumps(inside[0]), f"```json\n{json.dumps(inside[0])}\n```"):
        assert expected.parse(output) == ParsedOutput(calls=(PARIS,)), output


def test_several_calls_keep_their_order_also_in_one_item() -> None:
    expected = with_tools(tool(), tool("now", None))
    read = expected.parse(
        {"content": "", "tool_calls": [{"now": {}, "weather": {"city": "Rome"}}, {"weather": {"city": "Oslo"}}]}
    )
    assert [(call.name, call.arguments) for call in read.calls] == [
        ("now", {}), ("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"}),
    ]  # fmt: skip


def test_properties_filled_with_null_beside_the_call_are_no_calls() -> None:
    expected = with_tools(tool(), tool("now", None))
    assert expected.parse({"tool_calls": [{"weather": {"city": "Paris"}, "now": None}]}).calls == (PARIS,)
    assert expected.parse({"tool_calls": [{"now": None}]}).calls == (ToolCall("", "now", {}),)


def test_text_beside_calls_are_kept_and_blanks_are_not() -> None:
    calls = [{"weather": {"city": "Paris"}}]
    assert with_tools().parse({"content": "Let me look.", "tool_calls": calls}).text == "Let me look."
    assert with_tools().parse({"content": " \n", "tool_calls": calls}).text is None


def test_no_calls_is_an_answer_unless_one_is_required() -> None:
    assert with_tools().parse({"content": "Hi", "tool_calls": []}) == ParsedOutput(text="Hi")
    assert with_tools().parse({"content": "Hi"}) == ParsedOutput(text="Hi")
    assert with_tools().parse("Hi") == ParsedOutput(text="Hi")
    refused = with_tools(required=True).parse({"content": "Hi", "tool_calls": []})
    assert refused.undeliverable


def test_at_most_one_call_is_enforced_on_the_result() -> None:
    calls = [{"weather": {"city": "Paris"}}, {"weather": {"city": "Rome"}}]
    assert with_tools(single=True).parse({"tool_calls": calls}).calls == (PARIS,)


def test_a_tool_that_was_not_offered_is_never_passed_on() -> None:
    read = with_tools().parse({"content": "x", "tool_calls": [{"weather": {"city": "Paris"}}, {"rm_rf": {}}]})
    assert read.calls == (PARIS,)
    assert "rm_rf" in read.errors[0]


def test_nothing_but_calls_of_tools_that_were_not_offered_is_no_answer() -> None:
    assert with_tools().parse({"content": "", "tool_calls": [{"rm_rf": {}}]}).undeliverable
    assert not with_tools().parse({"content": "Words.", "tool_calls": [{"rm_rf": {}}]}).undeliverable
    assert not with_tools().parse({"content": "", "tool_calls": []}).undeliverable


def test_calls_come_back_under_the_clients_own_name() -> None:
    expected = with_tools(tool("my tool!", upstream="my_tool_"))
    assert expected.parse({"tool_calls": [{"my_tool_": {"city": "Rome"}}]}).calls[0].name == "my tool!"


def test_tools_named_like_the_output_schemas_own_properties_work() -> None:
    for name in ("content", "tool_calls", "name", "arguments", "answer", "reasoning"):
        for encoding in ENCODINGS:
            expected = with_tools(tool(name, None), encoding=encoding)
            written = (
                {name: {}}
                if encoding == "properties"
                else {"name": name, "arguments": {} if encoding == "any_of" else "{}"}
            )
            assert expected.parse({"content": "", "tool_calls": [written]}).calls == (ToolCall("", name, {}),), (
                name,
                encoding,
            )


def test_arguments_that_do_not_match_are_an_error_and_undeliverable_only_when_strict() -> None:
    output = {"tool_calls": [{"weather": {"days": "many"}}]}
    lenient, strict = with_tools().parse(output), with_tools(tool(strict=True)).parse(output)
    assert lenient.errors
    assert not lenient.undeliverable
    assert strict.undeliverable


def test_a_lone_argument_that_is_wrong_is_never_taken_for_a_wrapper() -> None:
    films = {"type": "object", "properties": {"genre": {"type": "string"}, "cast": {"type": "string"}}}
    read = with_tools(tool("find", films, strict=True)).parse({"tool_calls": [{"find": {"genre": {"not": "this"}}}]})
    assert read.calls == (ToolCall("", "find", {"genre": {"not": "this"}}),)
    assert read.undeliverable


def test_arguments_wrong_only_in_spelling_are_corrected() -> None:
    read = with_tools().parse({"tool_calls": [{"weather": {"city": "Paris", "days": "3"}}]})
    assert read == ParsedOutput(calls=(ToolCall("", "weather", {"city": "Paris", "days": 3}),))


def test_arguments_that_are_no_object_are_never_delivered_for_a_tool_that_wants_one() -> None:
    assert with_tools().parse({"tool_calls": [{"weather": [1, 2]}]}).undeliverable


def test_parameters_that_are_no_object_are_wrapped_and_unwrapped() -> None:
    expected = with_tools(tool("pick", {"type": "array", "items": {"type": "integer"}}))
    item = expected.schema()["properties"]["tool_calls"]["items"]["properties"]["pick"]
    assert item["type"] == "object"
    assert expected.parse({"tool_calls": [{"pick": {"value": [1]}}]}) == ParsedOutput(
        calls=(ToolCall("", "pick", [1]),)
    )


# ---------------------------------------------------------------- reading structured answers


@pytest.mark.parametrize("output", [{"x": 1}, '{"x": 1}', '```json\n{"x": 1}\n```', '{"x":1}', {"x": "1"}])
def test_structured_output_is_the_bare_json_text(output: Any) -> None:
    assert structured().parse(output) == ParsedOutput(text='{"x":1}')


@pytest.mark.parametrize("output", [{"answer": {"x": 1}}, {"x": 1}, '{"answer": {"x": 1}}', '{"x": 1}'])
def test_a_nested_answer_is_unwrapped(output: Any) -> None:
    assert structured(reasoning_budget=2000).parse(output) == ParsedOutput(text='{"x":1}')


def test_scalar_and_array_answers() -> None:
    assert structured({"type": "array", "items": {"type": "integer"}}).parse({"answer": [1, 2]}).text == "[1,2]"
    assert structured({"type": "string"}).parse({"answer": "42"}).text == '"42"'
    assert structured({"type": "integer"}).parse({"answer": 42}).text == "42"


def test_an_answer_as_json_text_is_read_as_its_value() -> None:
    expected = structured(simple=True)
    assert expected.schema()["properties"]["answer"]["type"] == "string"
    assert '"x"' in expected.instructions()
    assert expected.parse({"answer": '{"x": 1}'}) == ParsedOutput(text='{"x":1}')


def test_an_answer_that_does_not_match_cannot_be_delivered_only_when_strict() -> None:
    assert structured().parse({"x": "no"}).errors
    assert not structured().parse({"x": "no"}).undeliverable
    assert structured(strict=True).parse({"x": "no"}).undeliverable


def test_prose_where_json_was_asked_for_is_never_delivered() -> None:
    assert structured().parse("Sure! Here you go").undeliverable


def test_calls_may_come_instead_of_the_answer_and_the_schema_binds_the_answer_only() -> None:
    expected = structured(strict=True, tools=with_tools().tools)
    calls = [{"weather": {"city": "Paris"}}]
    assert expected.parse({"tool_calls": calls}) == ParsedOutput(calls=(PARIS,))
    assert expected.parse({"answer": None, "tool_calls": calls}) == ParsedOutput(calls=(PARIS,))
    assert expected.parse({"answer": {}, "tool_calls": calls}) == ParsedOutput(calls=(PARIS,))
    assert expected.parse({"answer": {"x": 1}, "tool_calls": []}) == ParsedOutput(text='{"x":1}')
    assert expected.parse({"tool_calls": []}).undeliverable


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
FORMATS = [
    TEXT, THINKING, structured(), structured(strict=True), structured(simple=True), structured({"type": "array"}),
    structured(tools=with_tools().tools), structured(reasoning_budget=2000, tools=with_tools().tools),
    *(with_tools(encoding=encoding, required=required) for encoding in ENCODINGS for required in (False, True)),
]  # fmt: skip


@given(st.sampled_from(FORMATS), JSON)
def test_any_output_is_read_without_a_crash_and_whatever_is_delivered_is_sound(
    expected: OutputFormat, output: Any
) -> None:
    for written in (output, json.dumps(output)):
        reading = expected.parse(written)
        assert all(call.name == "weather" for call in reading.calls)
        assert not reading.undeliverable or reading.errors
        if reading.undeliverable:
            continue
        assert all(isinstance(call.arguments, dict) for call in reading.calls)
        if expected.answer is not None and not reading.calls:
            json.loads(reading.text or "")
        if expected.tools is not None and expected.tools.required:
            assert reading.calls


# ---------------------------------------------------------------- one level of wrapping too many


@pytest.mark.parametrize(
    "output",
    [
        {"response": {"content": "Hi"}},
        '{"response": {"content": "Hi"}}',
        '```json\n{"output": {"content": "Hi"}}\n```',
        {"content": {"content": "Hi"}},
    ],
)
def test_text_is_taken_out_of_one_level_of_wrapping_too_many(output: Any) -> None:
    assert TEXT.parse(output) == ParsedOutput(text="Hi")


def test_calls_are_taken_out_of_one_level_of_wrapping_too_many() -> None:
    calls = [{"weather": {"city": "Paris"}}]
    assert with_tools().parse({"response": {"content": "", "tool_calls": calls}}).calls == (PARIS,)
    own_name = with_tools(tool("response", {"type": "object", "properties": {"content": {"type": "string"}}}))
    assert own_name.parse({"response": {"content": "x"}}).calls == (ToolCall("", "response", {"content": "x"}),)


@pytest.mark.parametrize("expected", [structured(strict=True), structured(strict=True, reasoning_budget=2000)])
@pytest.mark.parametrize("output", [{"response": {"x": 1}}, '{"response": {"x": 1}}'])
def test_a_structured_answer_is_taken_out_of_one_level_of_wrapping_too_many(
    expected: OutputFormat, output: Any
) -> None:
    assert expected.parse(output) == ParsedOutput(text='{"x":1}')


def test_an_answer_that_only_looks_wrapped_stays_whole() -> None:
    schema = {
        "type": "object",
        "properties": {"foo": {"type": "object", "properties": {"answer": {"type": "integer"}}}},
    }
    output = {"foo": {"answer": 5}}
    assert structured(schema).parse(output).text == '{"foo":{"answer":5}}'
    assert structured(schema, reasoning_budget=2000).parse(output).text == '{"foo":{"answer":5}}'


# ---------------------------------------------------------------- mixed encodings


def simple(name: str, parameters: Any = CITY) -> Part:
    return Part(name, name, f"About {name}.", compile_schema(parameters, param="p", parameters=True), simple=True)


@pytest.mark.parametrize("encoding", ["properties", "any_of"])
def test_a_tool_in_simple_form_leaves_the_others_their_structure(encoding: Any) -> None:
    expected = with_tools(tool(), simple("search"), encoding=encoding)
    items = expected.schema()["properties"]["tool_calls"]["items"]
    if encoding == "properties":
        assert items["properties"]["weather"]["properties"]["city"] == {"type": "string"}
        assert items["properties"]["search"]["type"] == "string"
    else:
        structure, text = (alternative["properties"]["arguments"] for alternative in items["anyOf"])
        assert structure["properties"]["city"] == {"type": "string"}
        assert text["type"] == "string"
    assert "- search: About search." in expected.instructions()
    assert "- weather" not in expected.instructions()
    written = [
        {"weather": {"city": "Paris"}},
        {"search": '{"city": "Rome"}'},
        {"name": "search", "arguments": '{"city": "Oslo"}'},
    ]
    calls = expected.parse({"content": "", "tool_calls": written}).calls
    assert [(call.name, call.arguments["city"]) for call in calls] == [
        ("weather", "Paris"),
        ("search", "Rome"),
        ("search", "Oslo"),
    ]


@pytest.mark.parametrize("encoding", ["properties", "any_of"])
def test_tools_that_are_all_in_simple_form_are_written_as_the_text_encoding(encoding: Any) -> None:
    as_text = with_tools(tool("search"), encoding="text")
    all_simple = with_tools(simple("search"), encoding=encoding)
    assert all_simple.schema() == as_text.schema()
    assert all_simple.instructions() == as_text.instructions()


def test_mixed_encodings_use_documented_keywords_only() -> None:
    assert_schema_is_documented(with_tools(tool(), simple("search")).schema())


# ---------------------------------------------------------------- what is reported


def test_at_most_five_errors_are_named() -> None:
    many = {"type": "object", "properties": {f"p{index}": {"type": "integer"} for index in range(9)}}
    wrong = {f"p{index}": "x" for index in range(9)}
    assert len(structured(many).parse(wrong).errors) == 5
    assert len(with_tools(tool("f", many)).parse({"tool_calls": [{"f": wrong}, {"f": wrong}]}).errors) == 5
    both = structured(many, tools=with_tools().tools).parse(
        {"answer": wrong, "tool_calls": [{f"t{index}": {}} for index in range(4)]}
    )
    assert len(both.errors) == 5


def test_a_value_that_matches_two_alternatives_is_accepted_and_noted() -> None:
    two = {
        "type": "object",
        "properties": {"v": {"oneOf": [{"type": "integer"}, {"type": "number"}]}},
        "required": ["v"],
    }
    answer = structured(two, strict=True).parse({"v": 1})
    assert (answer.errors, answer.undeliverable) == ((), False)
    assert "alternatives" in answer.notes[0]
    call = with_tools(tool("f", two, strict=True)).parse({"tool_calls": [{"f": {"v": 1}}]})
    assert (call.errors, call.undeliverable) == ((), False)
    assert "arguments of f" in call.notes[0]
