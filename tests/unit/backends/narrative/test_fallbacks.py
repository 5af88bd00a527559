"""Simpler forms after a refusal, and what is remembered of it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.failures import Cause
from proxy.backends.narrative.fallbacks import Fallbacks, simpler
from proxy.backends.narrative.prompt import HISTORY, PLAIN, Form, form_text
from proxy.backends.narrative.tools import ANSWER
from proxy.catalog import ModelCard
from proxy.inference.request import JsonOutput, Message, Request, Text, Tool, ToolChoice

CARD = ModelCard(id="m", names=("m",), max_tokens=10)
OTHER = ModelCard(id="o", names=("o",), max_tokens=10)
EMAIL = {"type": "object", "properties": {"to": {"type": "string", "pattern": r"[\w-\.]+"}}}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
PARTS = {"mail": EMAIL, "weather": CITY, ANSWER: CITY}


def form(*simple: str, text_history: bool = False) -> Form:
    return Form((*simple, HISTORY) if text_history else simple)


@given(st.frozensets(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), max_size=5), st.booleans())
def test_a_form_is_read_back_from_its_text(simple: frozenset[str], text_history: bool) -> None:
    made = form(*simple, text_history=text_history)
    assert Form(filter(None, form_text(made).split(","))) == made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Invalid schema: #/properties/tool_calls/items/properties/mail: not supported", form("mail")),
        ("Invalid schema: #/properties/answer/properties/city: not supported", form(ANSWER)),
        ("Invalid schema: the regular expression is malformed", form("mail")),
        ("Invalid schema: regex parse error", form("mail")),
        ("Invalid schema: keyword 'pattern' is not supported", form("mail")),
        ("Invalid schema: invalid property `city`", form("weather", ANSWER)),
        ("Invalid schema", form("mail", "weather", ANSWER)),
    ],
)
def test_the_schema_that_a_refusal_is_about_is_simplified(text: str, expected: Form) -> None:
    assert simpler(PLAIN, PARTS, Cause.INVALID_SCHEMA, text) == expected


def test_a_wrong_guess_is_followed_by_the_simple_form_for_all_and_then_by_nothing() -> None:
    everything = form("mail", "weather", ANSWER)
    assert simpler(form("mail"), PARTS, Cause.INVALID_SCHEMA, "weather") == everything
    assert simpler(everything, PARTS, Cause.INVALID_SCHEMA, "weather") is None
    assert simpler(PLAIN, {}, Cause.INVALID_SCHEMA, "schema") is None


def test_refused_tool_blocks_change_the_history_only() -> None:
    assert simpler(form("mail"), PARTS, Cause.TOOL_BLOCKS, "") == form("mail", text_history=True)
    assert simpler(form(text_history=True), PARTS, Cause.TOOL_BLOCKS, "") is None
    assert simpler(PLAIN, PARTS, Cause.OTHER, "") is None


def request(*tools: Any, output: Any = None) -> Request:
    named = tuple(Tool(name, parameters=parameters) for name, parameters in tools)
    return Request("m", (Message("user", (Text("hi"),)),), tools=named, output=output)


def test_what_is_remembered_is_the_refused_schema_and_not_the_model() -> None:
    fallbacks = Fallbacks()
    both = request(("weather", CITY), ("mail", EMAIL))
    fallbacks.learn(CARD, both, form("mail"))
    assert fallbacks.form(CARD, both) == form("mail")
    assert fallbacks.form(CARD, request(("send", EMAIL))) == form("send")
    assert fallbacks.form(CARD, request(("mail", CITY), output=JsonOutput(CITY))) == PLAIN
    assert fallbacks.form(OTHER, both) == PLAIN


def test_a_refused_structured_output_leaves_the_tools_alone() -> None:
    fallbacks = Fallbacks()
    both = request(("weather", CITY), output=JsonOutput(EMAIL))
    fallbacks.learn(CARD, both, form(ANSWER))
    assert fallbacks.form(CARD, both) == form(ANSWER)
    assert fallbacks.form(CARD, request(("weather", CITY))) == PLAIN


def test_when_any_of_several_may_be_to_blame_only_their_combination_is_remembered() -> None:
    fallbacks = Fallbacks()
    both = request(("mail", EMAIL), ("weather", CITY))
    fallbacks.learn(CARD, both, form("mail", "weather"))
    assert fallbacks.form(CARD, both) == form("mail", "weather")
    assert fallbacks.form(CARD, request(("weather", CITY))) == PLAIN
    assert fallbacks.form(CARD, request(("mail", EMAIL))) == PLAIN


def test_tools_that_may_not_be_called_play_no_part() -> None:
    fallbacks = Fallbacks()
    some = replace(
        request(("mail", EMAIL), ("weather", CITY), ("clock", None)),
        tool_choice=ToolChoice(frozenset({"mail", "weather"})),
    )
    fallbacks.learn(CARD, some, form("mail", "weather"))
    assert fallbacks.form(CARD, some) == form("mail", "weather")
    assert fallbacks.form(CARD, replace(some, tool_choice=ToolChoice())) == PLAIN


def test_refused_tool_blocks_are_remembered_for_the_model() -> None:
    fallbacks = Fallbacks()
    fallbacks.learn(CARD, request(), form(text_history=True))
    assert fallbacks.form(CARD, request()) == form(text_history=True)
    assert fallbacks.form(OTHER, request()) == PLAIN


def test_what_was_learned_is_forgotten_after_a_while() -> None:
    now = [0.0]
    fallbacks = Fallbacks(ttl_s=10.0, clock=lambda: now[0])
    fallbacks.learn(CARD, request(("mail", EMAIL), ("weather", CITY)), form("mail"))
    now[0] = 9.9
    assert fallbacks.form(CARD, request(("mail", EMAIL))) == form("mail")
    now[0] = 10.0
    assert fallbacks.form(CARD, request(("mail", EMAIL))) == PLAIN


def test_the_memory_is_bounded() -> None:
    fallbacks = Fallbacks()
    for index in range(5_000):
        fallbacks.learn(CARD, request(("t", {"maximum": index}), ("mail", EMAIL)), form("t"))
    assert len(fallbacks.refused) == 4_096
    assert fallbacks.form(CARD, request(("t", {"maximum": 0}))) == PLAIN
    assert fallbacks.form(CARD, request(("t", {"maximum": 4_999}))) == form("t")
