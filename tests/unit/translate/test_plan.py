"""Requests → plans: what is run, and what is told about it."""

import json
from typing import Any

import pytest

from proxy.api.http.bodies import parse_body
from proxy.catalog import ModelCard
from proxy.errors import InvalidRequest
from proxy.translate.messages import HistoryRules
from proxy.translate.plan import Plan, PlanRules, make_plan
from proxy.wire.openai import ChatRequest
from tests.unit.schemas.test_budget import entangled

CARD = ModelCard(id="anthropic.claude-haiku-4.5", names=("haiku",), max_tokens=4096)
RULES = PlanRules(efforts={"low": 2048, "medium": 4096})
HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def plan(card: ModelCard = CARD, rules: PlanRules = RULES, **fields: Any) -> Plan:
    return make_plan(
        parse_body(ChatRequest, json.dumps({"model": "haiku", "messages": HI, **fields}).encode()), card, rules
    )


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        plan(**fields)
    return caught.value


def offered(made: Plan) -> list[str]:
    return [tool.name for tool in made.envelope.menu.tools] if made.envelope.menu else []


def test_the_reply_limit_is_the_clients_or_the_models_plus_headroom() -> None:
    assert plan().config.max_tokens == 4096 + 64
    assert plan(max_tokens=10).config.max_tokens == 10 + 64
    assert plan(max_tokens=10, max_completion_tokens=20).config.max_tokens == 20 + 64


def test_a_thinking_budget_comes_on_top_of_the_limit() -> None:
    thinking = {"enabled": True, "budget_tokens": 1024}
    assert plan(max_tokens=10, extended_thinking=thinking).config.max_tokens == 10 + 64 + 1024


@pytest.mark.parametrize(
    ("fields", "budget", "shown", "heroku"),
    [
        ({}, None, False, False),
        ({"extended_thinking": True}, 4096, True, True),
        ({"extended_thinking": {"enabled": True}}, 4096, True, True),
        ({"extended_thinking": {"enabled": True, "include_reasoning": False}}, 4096, False, False),
        ({"extended_thinking": False}, None, False, False),
        ({"extended_thinking": {"enabled": False, "budget_tokens": 2000}}, None, False, False),
        ({"extended_thinking": {"budget_tokens": 2000}}, None, False, False),
        ({"reasoning_effort": "low"}, 2048, True, False),
        ({"reasoning_effort": "none"}, None, False, False),
        ({"reasoning_effort": "low", "extended_thinking": False}, None, False, False),
    ],
)
def test_thinking(fields: dict, budget: int | None, shown: bool, heroku: bool) -> None:
    made = plan(**fields)
    assert (made.envelope.reasoning_budget, made.show_reasoning, made.reasoning_object) == (budget, shown, heroku)


@pytest.mark.parametrize(
    ("setting", "fields", "object_"),
    [("always", {"reasoning_effort": "low"}, True), ("never", {"extended_thinking": True}, False)],
)
def test_the_reasoning_object_can_be_forced_either_way(setting: Any, fields: dict, object_: bool) -> None:
    rules = PlanRules(efforts={"low": 2048, "medium": 4096}, reasoning_object=setting)
    assert plan(rules=rules, **fields).reasoning_object is object_


def test_an_unknown_effort_names_the_field() -> None:
    assert refused(reasoning_effort="huge").param == "reasoning_effort"


@pytest.mark.parametrize("none", [None, []])
@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_no_tools_with_any_harmless_choice_is_as_no_tools(none: Any, choice: Any) -> None:
    assert plan(tools=none, tool_choice=choice).envelope.menu is None


@pytest.mark.parametrize("choice", ["required", "any", {"type": "function", "function": {"name": "weather"}}])
def test_only_a_required_or_named_tool_without_tools_is_a_400(choice: Any) -> None:
    assert str(refused(tools=[], tool_choice=choice).param).startswith("tool_choice")


@pytest.mark.parametrize(
    ("choice", "names", "required", "single"),
    [
        (None, ["weather", "clock"], False, False),
        ("auto", ["weather", "clock"], False, False),
        ("required", ["weather", "clock"], True, False),
        ("any", ["weather", "clock"], True, False),
        ({"type": "function", "function": {"name": "clock"}}, ["clock"], True, True),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "clock"}}]}}, ["clock"], False, False),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]}}, ["clock"], True, False),
    ],
)  # fmt: skip
def test_tool_choice(choice: Any, names: list[str], required: bool, single: bool) -> None:
    menu = plan(tools=[WEATHER, CLOCK], tool_choice=choice).envelope.menu
    assert menu
    assert ([tool.name for tool in menu.tools], menu.required, menu.single) == (names, required, single)


@pytest.mark.parametrize("choice", ["none", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}])
def test_a_choice_of_no_tools_offers_none(choice: Any) -> None:
    assert offered(plan(tools=[WEATHER], tool_choice=choice)) == []


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"type": "function", "function": {"name": "nope"}}, "tool_choice.function.name"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "nope"}}]}}, "tool_choice.allowed_tools.tools[0].function.name"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}, "tool_choice.allowed_tools.tools"),
    ],
)  # fmt: skip
def test_a_choice_of_a_tool_that_is_not_offered_names_its_path(choice: Any, param: str) -> None:
    assert refused(tools=[WEATHER], tool_choice=choice).param == param


def test_parallel_tool_calls_false_means_one_at_most() -> None:
    menu = plan(tools=[WEATHER], parallel_tool_calls=False).envelope.menu
    assert menu
    assert menu.single


def test_a_blank_or_repeated_tool_name_is_named() -> None:
    assert refused(tools=[WEATHER, WEATHER]).param == "tools[1].function.name"
    assert refused(tools=[{"type": "function", "function": {"name": "  "}}]).param == "tools[0].function.name"
    assert refused(functions=[{"name": "a"}, {"name": "a"}]).param == "functions[1].name"


def test_names_that_models_would_not_take_are_safe_and_unique_upstream_also_in_the_history() -> None:
    names = ["a.b", "a b", "a_b", "ü" * 128, "ü" * 127]
    history = [
        *HI,
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "a b", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ]
    made = plan(messages=history, tools=[{"type": "function", "function": {"name": name}} for name in names])
    assert made.envelope.menu
    upstream = {tool.name: tool.upstream_name for tool in made.envelope.menu.tools}
    assert len(set(upstream.values())) == len(names)
    assert all(name.isascii() and len(name) <= 64 for name in upstream.values())
    assert upstream["a_b"] == "a_b"
    assert made.messages[2].content[0].name == upstream["a b"]


def test_the_retired_functions_pair() -> None:
    made = plan(functions=[{"name": "clock"}], function_call="auto")
    assert made.function_call
    assert offered(made) == ["clock"]
    assert offered(plan(functions=[{"name": "clock"}], function_call="none")) == []
    assert refused(functions=[{"name": "clock"}], function_call={"name": "x"}).param == "function_call.name"


def test_what_tools_do_is_told_in_a_short_system_block_after_the_clients_own() -> None:
    made = plan(messages=[{"role": "system", "content": "Be brief."}, *HI], tools=[WEATHER])
    system = made.messages[0]
    assert system.role == "system"
    assert system.content[0].text == "Be brief."
    assert "tool_calls" in system.content[1].text
    assert len(system.content[1].text) < 800


def test_user_and_metadata_become_tags_beside_a_unique_one() -> None:
    tags = plan(user="u1", metadata={"team": "red"}).run_request(data_plane_id="d", rid="r").tags
    assert tags == ("rid:r", "user:u1", "team:red")


def test_stop_is_applied_here_and_forwarded_only_where_the_card_says_so() -> None:
    assert plan(stop=["a", "", "a", "b"]).stop == ("a", "b")
    assert plan(stop="x").config.stop_sequences is None
    forwarding = CARD.model_copy(update={"forward_stop": True})
    assert plan(forwarding, stop="x").config.stop_sequences == ("x",)


def test_top_p_is_passed_on_only_when_given() -> None:
    assert plan().config.top_p is None
    assert plan(top_p=0.5).config.top_p == 0.5


def test_what_is_ignored_is_named_and_null_is_not() -> None:
    assert plan(seed=1, logprobs=None, store=False, messages=[{**HI[0], "name": "Bob"}]).ignored == (
        "seed",
        "store",
        "messages.name",
    )


def test_what_another_field_overrules_is_named() -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    overruled = plan(
        stop=["x"],
        response_format={"type": "json_object"},
        tools=[{"type": "function", "function": function}],
        functions=[function],
        tool_choice="auto",
        function_call="auto",
        extended_thinking={"enabled": False},
        reasoning_effort="high",
    )
    assert set(overruled.ignored) == {"stop", "functions", "function_call", "reasoning_effort"}
    assert plan(stop=["x"], response_format={"type": "text"}, reasoning_effort="none").ignored == ()


def test_the_number_of_choices_is_limited() -> None:
    assert plan(n=8).choices == 8
    assert refused(n=9).param == "n"


def test_strict_histories_are_refused_by_setting() -> None:
    rules = PlanRules(efforts={}, history=HistoryRules(strict=True))
    with pytest.raises(InvalidRequest) as caught:
        plan(rules=rules, messages=[*HI, {"role": "tool", "tool_call_id": "x", "content": "y"}])
    assert (caught.value.code, caught.value.param) == ("invalid_history", "messages[1]")


def test_tool_history_as_text_for_models_that_take_no_blocks() -> None:
    card = CARD.model_copy(update={"tool_history": "text"})
    history = [
        *HI,
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "clock", "arguments": "{}"}}]},
    ]
    blocks = [block.type for turn in plan(card, messages=history).messages for block in turn.content]
    assert set(blocks) == {"text"}


def test_a_request_over_the_models_schema_budget_gets_the_simple_form_by_itself() -> None:
    small = CARD.model_copy(update={"max_schema_bytes": 900})
    tools = [
        {"type": "function", "function": {"name": f"tool_{index}", "parameters": WEATHER["function"]["parameters"]}}
        for index in range(20)
    ]
    made = plan(small, tools=tools)
    assert made.envelope.menu
    assert made.envelope.menu.encoding == "text"
    assert "tools: written in the simple form, with arguments as JSON text" in made.adjusted
    assert plan(small, tools=tools[:1]).adjusted == ()


def test_integers_beyond_64_bits_reach_the_wire_exactly() -> None:
    call = {"id": "1", "function": {"name": "count", "arguments": json.dumps({"to": 10**30})}}
    made = plan(messages=[*HI, {"role": "assistant", "tool_calls": [call]}])
    assert f'{{"to":{10**30}}}' in made.run_request(data_plane_id="d", rid="r").model_dump_json()


def test_bounds_that_an_upstream_refuses_are_told_in_words_and_still_checked() -> None:
    card = CARD.model_copy(update={"schema_bounds": False})
    numbers = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
    tool = {"type": "function", "function": {"name": "count", "parameters": numbers, "strict": True}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": numbers}}
    for fields in ({"tools": [tool], "tool_choice": "required"}, {"response_format": wanted}):
        sent = json.dumps(plan(card, **fields).config.output_format_schema)
        assert "3" in sent
        assert not any(keyword in sent for keyword in ('"minimum"', '"minItems"'))
    assert plan(card, tools=[tool]).envelope.read({"tool_calls": [{"count": {"n": 1}}]}).fatal


def test_asking_again_adds_the_output_and_what_was_wrong_with_it() -> None:
    again = plan().asking_again({"x": 1}, ("`x` is wrong",))
    assert [turn.role for turn in again.messages] == ["user", "assistant", "user"]
    assert again.messages[1].content[0].text == '{"x":1}'
    assert "`x` is wrong" in again.messages[2].content[0].text


def test_the_schemas_of_one_request_share_one_budget() -> None:
    """A hundred tools of definitions that contain each other took minutes of CPU time."""
    tools = [
        {"type": "function", "function": {"name": f"t{number}", "parameters": entangled(5_000 + number)}}
        for number in range(100)
    ]
    error = refused(tools=tools)
    assert error.code == "schema_too_complex"
    assert error.param is not None
    assert error.param.startswith("tools[")
    assert offered(plan(tools=tools[:2])) == ["t0", "t1"]
