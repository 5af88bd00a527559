"""Neutral requests → what is run, and what is reported about it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.backends.narrative.prompt import HISTORY, PLAIN, Form, Prepared, prepare
from proxy.backends.narrative.tools import ANSWER
from proxy.backends.narrative.types import TextBlock, encoded
from proxy.catalog import ModelCard, load_catalog
from proxy.errors import InvalidRequest, SchemaTooComplex
from proxy.inference.request import (
    JsonOutput,
    Message,
    Reasoning,
    Request,
    Rules,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from proxy.schemas import Budget, SchemaLimits
from tests.unit.schemas.test_budget import entangled

CARD = ModelCard(id="anthropic.claude-haiku-4.5", names=("haiku",), max_tokens=4096)
HI = Message("user", (Text("hi", "messages[0].content"),), "messages[0]")
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER, CLOCK = Tool("weather", parameters=CITY), Tool("clock")


RULES = Rules()


def prepared(card: ModelCard = CARD, rules: Rules = RULES, form: Form = PLAIN, **fields: Any) -> Prepared:
    return prepare(replace(Request("haiku", (HI,)), **fields), card, rules, form)


def offered(made: Prepared) -> list[str]:
    return [tool.name for tool in made.expected.tools.tools] if made.expected.tools else []


# ---------------------------------------------------------------- limits


def test_the_reply_limit_is_the_requests_or_the_models_plus_headroom() -> None:
    assert prepared().config.max_tokens == 4096 + 64
    assert prepared(max_tokens=10).config.max_tokens == 10 + 64
    assert prepared(rules=Rules(headroom_tokens=0), max_tokens=10).config.max_tokens == 10


def test_a_thinking_budget_comes_on_top_of_the_limit() -> None:
    made = prepared(max_tokens=10, reasoning=Reasoning(1024))
    assert (made.config.max_tokens, made.expected.reasoning_budget, made.expected.reasoning_shown) == (
        10 + 64 + 1024,
        1024,
        True,
    )
    assert not prepared(reasoning=Reasoning(1024, shown=False)).expected.reasoning_shown


LIMITED = CARD.model_copy(update={"max_output_tokens": 64_000})


@pytest.mark.parametrize(
    ("max_tokens", "budget", "sent", "words", "reasoning", "adjusted"),
    [
        (63_936, None, 64_000, 63_936, None, []),
        (63_937, None, 64_000, 63_937, None, []),
        (64_000, None, 64_000, 64_000, None, []),
        (64_001, None, 64_000, 64_000, None, ["max_tokens: lowered to 64000, the model's largest output"]),
        (10_000, 8_192, 18_256, 10_000, 8_192, []),
        (55_808, 8_192, 64_000, 55_808, 8_192, []),
        (
            60_000,
            8_192,
            64_000,
            60_000,
            4_000,
            ["thinking: lowered to 4000 tokens, as the model's largest output is 64000"],
        ),
        (
            64_000,
            8_192,
            64_000,
            64_000,
            1_024,
            ["thinking: lowered to 1024 tokens, as the model's largest output is 64000"],
        ),
    ],
)
def test_reply_headroom_and_thinking_stay_within_the_models_largest_output(
    max_tokens: int, budget: int | None, sent: int, *, words: int, reasoning: int | None, adjusted: list[str]
) -> None:
    made = prepared(LIMITED, max_tokens=max_tokens, reasoning=Reasoning(budget) if budget else None)
    assert (made.config.max_tokens, made.expected.max_words, made.expected.reasoning_budget) == (sent, words, reasoning)
    assert list(made.adjusted) == adjusted


def test_every_model_of_the_table_has_a_largest_output_above_its_usual_limit() -> None:
    for card in load_catalog().cards:
        assert card.max_output_tokens is not None
        assert card.context_tokens is not None
        assert card.max_tokens + 64 < card.max_output_tokens < card.context_tokens
        made = prepared(card, max_tokens=card.max_output_tokens, reasoning=Reasoning(8192))
        assert made.config.max_tokens == card.max_output_tokens


# ---------------------------------------------------------------- sampling

BESIDE = "top_p: left out, the model does not accept it beside temperature"


@pytest.mark.parametrize(
    ("accepted", "given", "sent", "adjusted"),
    [
        ("both", (0.5, 0.9), (0.5, 0.9), []),
        ("one", (0.5, 0.9), (0.5, None), [BESIDE]),
        ("one", (0.0, 0.0), (0.0, None), [BESIDE]),
        ("one", (0.5, None), (0.5, None), []),
        ("one", (None, 0.9), (None, 0.9), []),
        (
            "none",
            (0.5, 0.9),
            (None, None),
            [f"{name}: left out, the model does not accept it" for name in ("temperature", "top_p")],
        ),
        ("none", (0.0, None), (None, None), ["temperature: left out, the model does not accept it"]),
        ("none", (None, None), (None, None), []),
    ],
)
def test_only_the_sampling_parameters_that_the_model_accepts_are_sent(
    accepted: str, given: tuple[Any, Any], sent: tuple[Any, Any], adjusted: list[str]
) -> None:
    made = prepared(
        CARD.model_copy(update={"sampling": accepted}), sampling=Sampling(temperature=given[0], top_p=given[1])
    )
    assert (made.config.temperature, made.config.top_p) == sent
    assert list(made.adjusted) == adjusted


def test_claude_takes_one_sampling_parameter_and_o4_mini_none() -> None:
    cards = {card.id: card.sampling for card in load_catalog().cards}
    assert {accepted for id_, accepted in cards.items() if "claude" in id_} == {"one"}
    assert cards["openai.o4-mini"] == "none"
    assert cards["openai.gpt-4.1"] == "both"


def test_top_k_has_no_effect_and_is_reported() -> None:
    made = prepared(sampling=Sampling(top_k=5), ignored=("seed",))
    assert made.ignored == ("seed", "top_k")
    assert prepared(ignored=("seed",)).ignored == ("seed",)


def test_stop_strings_are_forwarded_only_where_the_card_says_so() -> None:
    stop = Sampling(stop=("a", "b"))
    assert prepared(sampling=stop).expected.stop == ("a", "b")
    assert prepared(sampling=stop).config.stop_sequences is None
    assert prepared(CARD.model_copy(update={"forward_stop": True}), sampling=stop).config.stop_sequences == ("a", "b")


# ---------------------------------------------------------------- tools


def test_tool_choice_limits_the_tools_offered() -> None:
    both = (WEATHER, CLOCK)
    assert offered(prepared(tools=both)) == ["weather", "clock"]
    assert offered(prepared(tools=both, tool_choice=ToolChoice(names=frozenset()))) == []
    made = prepared(tools=both, tool_choice=ToolChoice(frozenset({"clock"}), required=True, single=True))
    assert made.expected.tools
    assert (offered(made), made.expected.tools.required, made.expected.tools.single) == (["clock"], True, True)


def test_names_that_models_would_not_accept_are_safe_and_unique_upstream_also_in_the_history() -> None:
    names = ["a.b", "a b", "a_b", "ü" * 128, "ü" * 127]
    past = Message("assistant", (ToolCall("1", "a b", {}),), "messages[1]")
    result = Message("user", (ToolResult("1", (Text("x"),)),), "messages[2]")
    made = prepared(messages=(HI, past, result), tools=tuple(map(Tool, names)))
    assert made.expected.tools
    upstream = {tool.name: tool.upstream_name for tool in made.expected.tools.tools}
    assert len(set(upstream.values())) == len(names)
    assert all(name.isascii() and len(name) <= 64 for name in upstream.values())
    assert upstream["a_b"] == "a_b"
    assert made.messages[2].content[0].name == upstream["a b"]  # type: ignore[union-attr]


def test_a_short_system_block_after_the_clients_own_says_how_to_call_tools() -> None:
    made = prepared(messages=(Message("system", (Text("Be brief."),)), HI), tools=(WEATHER,))
    own, ours = made.messages[0].content
    assert made.messages[0].role == "system"
    assert own.text == "Be brief."  # type: ignore[union-attr]
    assert "tool_calls" in ours.text  # type: ignore[union-attr]
    assert len(ours.text) < 800  # type: ignore[union-attr]


def test_a_schema_that_cannot_be_compiled_names_its_path() -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared(tools=(Tool("f", parameters={"type": "nope"}, schema_path="tools[0].function.parameters"),))
    assert caught.value.param is not None
    assert caught.value.param.startswith("tools[0].function.parameters")
    with pytest.raises(InvalidRequest):
        prepared(rules=Rules(schema_limits=SchemaLimits(max_bytes=10)), tools=(WEATHER,))


def test_the_schemas_of_one_request_share_one_budget() -> None:
    """A hundred tools of definitions that contain each other took minutes of CPU time."""
    tools = tuple(
        Tool(f"t{number}", parameters=entangled(5_000 + number), schema_path=f"tools[{number}].function.parameters")
        for number in range(100)
    )
    with pytest.raises(SchemaTooComplex) as caught:
        prepare(Request("haiku", (HI,), tools=tools), CARD, RULES, budget=Budget(20_000))
    assert caught.value.param is not None
    assert caught.value.param.startswith("tools[")
    assert offered(prepared(tools=tools[:1])) == ["t0"]


def test_bounds_that_an_upstream_refuses_are_described_and_still_validated() -> None:
    card = CARD.model_copy(update={"schema_bounds": False})
    numbers = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
    tool = Tool("count", parameters=numbers, strict=True)
    fields: dict[str, Any]
    for fields in ({"tools": (tool,), "tool_choice": ToolChoice(required=True)}, {"output": JsonOutput(numbers)}):
        sent = json.dumps(prepared(card, **fields).config.output_format_schema)
        assert "3" in sent
        assert not any(keyword in sent for keyword in ('"minimum"', '"minItems"'))
    assert prepared(card, tools=(tool,)).expected.parse({"tool_calls": [{"count": {"n": 1}}]}).undeliverable


def test_any_json_object_is_a_structured_output_that_must_be_one() -> None:
    made = prepared(output=JsonOutput())
    assert made.config.output_format_schema["type"] == "object"
    assert made.expected.parse("no JSON").undeliverable
    assert made.expected.max_words is None


# ---------------------------------------------------------------- property names

FILTER = {
    "type": "object",
    "properties": {
        "filter[name]": {"type": "string"},
        "Account Number": {"type": "object", "properties": {"größe": {"type": "integer"}}},
    },
    "required": ["filter[name]"],
    "additionalProperties": False,
}
OWN: dict[str, Any] = {"filter[name]": "x", "Account Number": {"größe": 3}}


def aliased(schema: Any, value: Any) -> Any:
    """The value as a model would write it: the n-th property of the client's schema is the n-th of the schema that is sent."""
    names = dict(zip(FILTER["properties"], schema["properties"], strict=True))  # type: ignore[arg-type]
    (inner,) = schema["properties"][names["Account Number"]]["properties"]
    return {
        names["filter[name]"]: value["filter[name]"],
        names["Account Number"]: {inner: value["Account Number"]["größe"]},
    }


@pytest.mark.parametrize("simple", [False, True])
def test_property_names_that_upstreams_refuse_are_aliased_and_come_back(simple: bool) -> None:
    tool = Tool("find", parameters=FILTER, strict=True)
    made = prepared(
        tools=(tool, CLOCK),
        output=JsonOutput(FILTER, strict=True),
        form=Form(frozenset({"find", ANSWER} if simple else ())),
    )
    assert made.expected.tools
    assert made.expected.answer
    written = aliased(made.expected.tools.tools[0].compiled.schema, OWN)
    answer = aliased(made.expected.answer.compiled.schema, OWN)
    assert all(name.isascii() and name.replace("_", "").isalnum() for name in [*written, *answer])
    call = {"find": json.dumps(written) if simple else written}
    assert made.expected.parse({"tool_calls": [call]}).calls[0].arguments == OWN
    parsed = made.expected.parse({"answer": json.dumps(answer) if simple else answer, "tool_calls": []})
    assert (json.loads(parsed.text or ""), parsed.errors) == (OWN, ())


def test_past_calls_are_written_with_the_aliases_of_their_tool() -> None:
    past = Message(
        "assistant", (ToolCall("1", "find", {**OWN, "list": [OWN]}), ToolCall("2", "other", OWN)), "messages[1]"
    )
    made = prepared(messages=(HI, past), tools=(Tool("find", parameters=FILTER),))
    assert made.expected.tools
    expected = aliased(made.expected.tools.tools[0].compiled.schema, OWN)
    find, other = made.messages[2].content
    assert find.input == {**expected, "list": [expected]}  # type: ignore[union-attr]
    assert other.input == OWN  # type: ignore[union-attr]


# ---------------------------------------------------------------- forms

SIMPLE = "tools: written in the simple form, with arguments as JSON text"


def test_a_request_over_the_models_schema_budget_gets_the_simple_form_by_itself() -> None:
    small = CARD.model_copy(update={"max_schema_bytes": 900})
    tools = tuple(Tool(f"tool_{index}", parameters=CITY) for index in range(20))
    made = prepared(small, tools=tools)
    assert made.expected.tools
    assert made.expected.tools.effective_encoding == "text"
    assert SIMPLE in made.adjusted
    assert prepared(small, tools=tools[:1]).adjusted == ()


def test_a_form_simplifies_the_parts_it_names_and_reports_them() -> None:
    fields: dict[str, Any] = {"tools": (WEATHER, CLOCK), "output": JsonOutput(CITY)}
    one = prepared(form=Form(frozenset({"weather"})), **fields)
    properties = one.config.output_format_schema["properties"]
    assert properties["tool_calls"]["items"]["properties"]["weather"]["type"] == "string"
    assert properties["tool_calls"]["items"]["properties"]["clock"]["type"] == "object"
    assert properties["answer"]["type"] == "object"
    assert one.adjusted == ("tools: weather written in the simple form, with arguments as JSON text",)
    answer = prepared(form=Form(frozenset({ANSWER})), **fields)
    assert answer.config.output_format_schema["properties"]["answer"]["type"] == "string"
    assert answer.adjusted == ("structured output: written in the simple form, as JSON text",)
    assert prepared(form=Form(frozenset({"weather", "clock"})), **fields).adjusted == (SIMPLE,)


def test_a_model_of_the_text_encoding_reports_nothing() -> None:
    text = CARD.model_copy(update={"tool_encoding": "text"})
    made = prepared(text, tools=(WEATHER,), output=JsonOutput(CITY))
    assert made.adjusted == ()
    assert made.config.output_format_schema["properties"]["answer"]["type"] == "string"


@pytest.mark.parametrize("by_card", [True, False])
def test_tool_history_as_text_for_models_that_accept_no_blocks(by_card: bool) -> None:
    card = CARD.model_copy(update={"tool_history": "text"}) if by_card else CARD
    past = Message("assistant", (ToolCall("1", "clock", {}),), "messages[1]")
    result = Message("user", (ToolResult("1", (Text("12"),)),), "messages[2]")
    made = prepared(card, form=Form(() if by_card else (HISTORY,)), messages=(HI, past, result))
    assert {type(block) for turn in made.messages for block in turn.content} == {TextBlock}
    assert made.adjusted == (() if by_card else ("history: past tool calls and results written as text",))


# ---------------------------------------------------------------- the body


def test_tags_of_the_request_follow_those_of_the_submission() -> None:
    assert prepared(tags=("user:u1", "team:red")).body("d", "rid:r").tags == ("rid:r", "user:u1", "team:red")


def test_integers_beyond_64_bits_reach_the_wire_exactly() -> None:
    made = prepared(messages=(HI, Message("assistant", (ToolCall("1", "count", {"to": 10**30}),), "messages[1]")))
    assert json.loads(encoded(made.body("d")))["messages"][-2]["content"][0]["input"] == {"to": 10**30}


def test_failed_results_keep_their_mark() -> None:
    past = Message("assistant", (ToolCall("1", "clock", {}),), "messages[1]")
    marks = []
    for is_error in (True, False):
        result = Message("user", (ToolResult("1", (Text("x"),), is_error=is_error),), "messages[2]")
        marks.append(prepared(messages=(HI, past, result)).messages[-1].content[0].is_error)  # type: ignore[union-attr]
    assert marks == [True, None]


# ---------------------------------------------------------------- repairs


def test_a_repair_adds_the_output_and_what_was_wrong_with_it() -> None:
    again = prepared().repair({"x": 1}, ("`x` is wrong",))
    assert [turn.role for turn in again.messages] == ["user", "assistant", "user"]
    assert again.messages[1].content[0].text == '{"x":1}'  # type: ignore[union-attr]
    assert "`x` is wrong" in again.messages[2].content[0].text  # type: ignore[union-attr]


def test_a_repair_names_five_errors_at_most_and_echoes_a_bounded_output() -> None:
    again = prepared().repair("o" * 30_000, [f"error {index}" for index in range(6)])
    assert len(again.messages[1].content[0].text) == 20_000  # type: ignore[union-attr]
    complaint = again.messages[2].content[0].text  # type: ignore[union-attr]
    assert "error 4" in complaint
    assert "error 5" not in complaint


def test_a_repair_names_properties_as_the_model_was_sent_them() -> None:
    long = "x" * 100
    schema = {
        "type": "object",
        "properties": {
            name: {"type": "integer"} for name in ("filter[name]", "$top", "größe", "plain", long, "ä" * 90)
        },
        "required": ["filter[name]", long],
    }
    tools = (Tool("plain tool", parameters={**schema, "required": ["größe"]}, strict=True), CLOCK)
    made = prepared(tools=tools, output=JsonOutput(schema, strict=True))
    assert made.expected.answer
    aliases = {name: alias for alias, name in made.expected.answer.compiled.aliases.items()}
    assert aliases.keys() == {"filter[name]", "$top", "größe", long, "ä" * 90}
    wrong = {aliases["$top"]: "a", aliases["größe"]: "b", aliases["ä" * 90]: "c", "plain": "d"}
    for output in ({"answer": wrong, "tool_calls": []}, {"tool_calls": [{"plain_tool": {"plain": "x"}}]}):
        parsed = made.expected.parse(output)
        assert parsed.errors
        complaint = made.repair(output, parsed.errors).messages[-1].content[0].text  # type: ignore[union-attr]
        assert complaint.isascii()
        assert not any(name[:60] in complaint for name in aliases)
        assert any(alias in complaint for alias in aliases.values())
