"""Histories as clients send them → turns that strict models take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.translate.messages import (
    CONTINUE,
    EMPTY_RESULT,
    NO_RESULT,
    Conversation,
    HistoryRules,
    called_names,
    translate_messages,
)
from proxy.translate.names import upstream_names
from proxy.wire.openai import ChatRequest
from tests.contract import assert_turns_are_strict

RESULTS_FIRST = ["tool_result", "tool_result", "text"]


def converse(*messages: object, rules: HistoryRules = HistoryRules()) -> Conversation:
    request = ChatRequest.model_validate({"model": "m", "messages": list(messages)})
    names = upstream_names(called_names(request.messages))
    return translate_messages(request.messages, names, rules)


def turns(conversation: Conversation) -> list[dict]:
    return [turn.model_dump(exclude_none=True) for turn in conversation.turns]


def texts(conversation: Conversation) -> list[tuple[str, list[str]]]:
    return [(turn["role"], [block["text"] for block in turn["content"]]) for turn in turns(conversation)]


def user(text: object = "hi") -> dict:
    return {"role": "user", "content": text}


def calling(*ids: str, name: str = "look", arguments: object = "{}", content: str | None = None) -> dict:
    calls = [{"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}} for id_ in ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(id_: str | None, content: object = "found") -> dict:
    return {"role": "tool", "tool_call_id": id_, "content": content}


def test_leading_system_and_developer_turns_form_the_system_text() -> None:
    conversation = converse({"role": "system", "content": "A"}, {"role": "developer", "content": "B"}, user())
    assert conversation.system == "A\n\nB"
    assert texts(conversation) == [("user", ["hi"])]


def test_a_later_system_turn_stays_in_place_inside_a_user_turn() -> None:
    conversation = converse(
        user("a"), {"role": "assistant", "content": "b"}, {"role": "system", "content": "S"}, user("c")
    )
    assert conversation.system == ""
    assert texts(conversation) == [("user", ["a"]), ("assistant", ["b"]), ("user", ["[system message]\nS", "c"])]


def test_neighbouring_turns_of_one_role_are_merged() -> None:
    assistant = {"role": "assistant", "content": "x"}
    conversation = converse(user("a"), user("b"), assistant, assistant, user("c"))
    assert texts(conversation) == [("user", ["a", "b"]), ("assistant", ["x", "x"]), ("user", ["c"])]
    assert conversation.repairs == ()


@pytest.mark.parametrize("blank", ["", " ", "\n\t", None, [], [{"type": "text", "text": " "}]])
def test_blank_text_is_left_out(blank: object) -> None:
    assert texts(converse(user("a"), {"role": "assistant", "content": blank}, user("b"))) == [("user", ["a", "b"])]


def test_all_results_of_a_turn_come_first_in_the_next_user_turn_in_the_order_of_the_calls() -> None:
    conversation = converse(
        user(), calling("a", "b"), result("b", "second"), user("and?"), result("a", "first"), user("!")
    )
    _, assistant, answer = turns(conversation)
    assert [block["tool_use_id"] for block in assistant["content"]] == ["a", "b"]
    assert [block["type"] for block in answer["content"]][:3] == RESULTS_FIRST
    assert [block["content"][0]["text"] for block in answer["content"][:2]] == ["first", "second"]
    assert [block["text"] for block in answer["content"][2:]] == ["and?", "!"]
    assert conversation.repairs == ("messages: a tool result was moved to its call",)


def test_heroku_list_form_of_tool_results() -> None:
    items = [{"tool_call_id": "b", "content": "2"}, {"tool_call_id": "a", "content": [{"type": "text", "text": "1"}]}]
    conversation = converse(user(), calling("a", "b"), {"role": "tool", "content": items})
    assert [block["content"][0]["text"] for block in turns(conversation)[2]["content"]] == ["1", "2"]


def test_tool_content_as_a_json_value_is_written_as_json_text_once() -> None:
    conversation = converse(user(), calling("a"), result("a", {"t": 21, "unit": "°C"}))
    assert turns(conversation)[2]["content"][0]["content"][0]["text"] == '{"t":21,"unit":"°C"}'


def test_the_retired_function_role_pairs_by_name() -> None:
    conversation = converse(
        user(),
        {"role": "assistant", "content": None, "function_call": {"name": "other", "arguments": "{}"}},
        {"role": "function", "name": "other", "content": "ok"},
    )
    _, assistant, answer = turns(conversation)
    assert assistant["content"][0]["name"] == "other"
    assert answer["content"][0]["tool_use_id"] == assistant["content"][0]["tool_use_id"]


def test_ids_stay_unique_when_the_client_reuses_them_each_turn() -> None:
    conversation = converse(
        user(), calling("call_0"), result("call_0", "one"), calling("call_0"), result("call_0", "two")
    )
    dumped = turns(conversation)
    ids = [block["tool_use_id"] for turn in dumped for block in turn["content"] if block["type"] == "tool_use"]
    assert len(set(ids)) == 2
    answers = {
        block["tool_use_id"]: block["content"][0]["text"]
        for turn in dumped
        for block in turn["content"]
        if block["type"] == "tool_result"
    }
    assert [answers[id_] for id_ in ids] == ["one", "two"]


def test_one_id_twice_in_one_turn_pairs_in_order() -> None:
    conversation = converse(user(), calling("x", "x"), result("x", "one"), result("x", "two"))
    assert [block["content"][0]["text"] for block in turns(conversation)[2]["content"]] == ["one", "two"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
        ('{"a": ', {"raw_arguments": '{"a": '}),
        ("[1]", {"raw_arguments": "[1]"}),
        ('{"a": 1e999}', {"raw_arguments": '{"a": 1e999}'}),
        ("[" * 5000, {"raw_arguments": "[" * 5000}),
        ('{"a":1}{"b":2}', {"raw_arguments": '{"a":1}{"b":2}'}),
    ],
)
def test_past_arguments_that_are_no_object_are_wrapped_and_never_lost(written: object, read: object) -> None:
    conversation = converse(user(), calling("a", arguments=written), result("a"))
    assert turns(conversation)[1]["content"][0]["input"] == read


def test_a_call_without_a_result_gets_a_neutral_one() -> None:
    conversation = converse(user(), calling("a", "b"), result("a"), user("go on"))
    answer = turns(conversation)[2]["content"]
    assert answer[1]["content"][0]["text"] == NO_RESULT
    assert conversation.repairs == ("messages: a call without a result was given a neutral one",)


def test_a_result_without_its_call_is_kept_as_a_text_note() -> None:
    conversation = converse(user("a"), result("gone", "precious"), user("b"))
    assert texts(conversation) == [("user", ["a", "[Result of an earlier tool call]\nprecious", "b"])]
    assert len(conversation.repairs) == 1


def test_a_blank_result_is_a_visible_placeholder() -> None:
    conversation = converse(user(), calling("a"), result("a", ""))
    assert turns(conversation)[2]["content"][0]["content"][0]["text"] == EMPTY_RESULT


def test_a_result_without_an_id_goes_to_the_waiting_call() -> None:
    conversation = converse(user(), calling("a"), result(None, "r"))
    assert turns(conversation)[2]["content"][0]["content"][0]["text"] == "r"
    assert len(conversation.repairs) == 1


def test_a_trailing_assistant_turn_is_trimmed_and_closed_with_a_user_turn() -> None:
    conversation = converse(user("a"), {"role": "assistant", "content": "Once upon \n"})
    assert texts(conversation) == [("user", ["a"]), ("assistant", ["Once upon"]), ("user", [CONTINUE])]


def test_a_history_that_begins_with_the_assistant_is_opened_with_a_user_turn() -> None:
    conversation = converse({"role": "assistant", "content": "Welcome!"}, user("hi"))
    assert [turn["role"] for turn in turns(conversation)] == ["user", "assistant", "user"]


def test_a_system_message_alone_gets_a_user_turn() -> None:
    conversation = converse({"role": "system", "content": "S"})
    assert conversation.system == "S"
    assert texts(conversation) == [("user", [CONTINUE])]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([user(), calling("a"), user()], "messages[1].tool_calls[0]"),
        ([user(), result("x")], "messages[1]"),
        ([user(), {"role": "assistant", "content": "x"}], "messages[1].role"),
        ([{"role": "assistant", "content": "x"}, user()], "messages"),
        ([user(), calling("a"), result(None)], "messages[2]"),
        ([user(), calling("a"), user("wait"), result("a")], "messages[3]"),
        ([user(), calling("x", "x"), result("x"), result("x")], "messages[1].tool_calls[1]"),
        ([user(), calling("a", arguments="{bad"), result("a")], "messages[1].tool_calls[0]"),
        ([user(), {"role": "assistant", "content": ""}, user()], "messages[1]"),
        ([user("")], "messages[0].content"),
    ],
)
def test_strict_history_refuses_instead_of_repairing(messages: list, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        converse(*messages, rules=HistoryRules(strict=True))
    assert caught.value.param == param


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "image", "video"])
def test_media_is_refused_with_its_path(kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        converse(user("x"), user([{"type": "text", "text": "see"}, {"type": kind, kind: {"url": "http://x"}}]))
    assert (caught.value.param, caught.value.code) == ("messages[1].content[1].type", "unsupported_content")


def test_media_in_earlier_turns_can_be_a_placeholder_but_never_in_the_last_user_turn() -> None:
    image = [{"type": "image_url", "image_url": {"url": "http://x"}}]
    rules = HistoryRules(media_placeholder=True)
    conversation = converse(user(image), calling("a"), result("a", image), user("and?"), rules=rules)
    assert "image_url left out" in texts_of_all(conversation)
    with pytest.raises(InvalidRequest):
        converse(user("a"), user(image), rules=rules)


def texts_of_all(conversation: Conversation) -> str:
    return " ".join(str(turn) for turn in turns(conversation))


@pytest.mark.parametrize(
    "assistant",
    [
        {"role": "assistant", "content": "Answer", "reasoning_content": "SECRET"},
        {"role": "assistant", "content": "Answer", "reasoning": {"thinking": "SECRET"}},
        {"role": "assistant", "content": "<think>SECRET</think>\nAnswer"},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "SECRET"}, {"type": "text", "text": "Answer"}],
        },
    ],
)
def test_reasoning_echoed_back_by_a_client_is_kept_out(assistant: dict) -> None:
    conversation = converse(user(), assistant, user())
    assert texts(conversation)[1] == ("assistant", ["Answer"])
    assert "SECRET" not in texts_of_all(conversation)


def test_anthropic_style_tool_parts_are_translated() -> None:
    conversation = converse(
        user(),
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"q": 1}}]},
        user(
            [
                {"type": "tool_result", "tool_use_id": "t1", "content": "seen", "is_error": True},
                {"type": "text", "text": "so?"},
            ]
        ),
    )
    _, assistant, answer = turns(conversation)
    assert assistant["content"][0] == {"type": "tool_use", "tool_use_id": "t1", "name": "look", "input": {"q": 1}}
    assert answer["content"][0]["is_error"] is True
    assert answer["content"][1]["text"] == "so?"


def test_past_calls_and_results_can_be_written_as_text() -> None:
    conversation = converse(
        user(), calling("a", arguments='{"q":1}'), result("a", "r"), rules=HistoryRules(tool_blocks=False)
    )
    blocks = [block for turn in turns(conversation) for block in turn["content"]]
    assert {block["type"] for block in blocks} == {"text"}
    assert 'look (a) with {"q":1}' in blocks[1]["text"]
    assert blocks[2]["text"].endswith("r")


IDS = st.sampled_from(["a", "b", "call_0", "", "id with spaces", "x" * 100])
TEXTS = st.sampled_from(["", " ", "hello", "<think>hm</think>yes", "x\n"])
CALLS = st.lists(IDS, min_size=1, max_size=3).map(lambda ids: calling(*ids))
MESSAGES = st.one_of(
    TEXTS.map(user),
    TEXTS.map(lambda text: {"role": "assistant", "content": text}),
    TEXTS.map(lambda text: {"role": "system", "content": text}),
    CALLS,
    st.tuples(IDS, TEXTS).map(lambda pair: result(*pair)),
    st.tuples(IDS, TEXTS).map(
        lambda pair: {"role": "tool", "content": [{"tool_call_id": pair[0], "content": pair[1]}] * 2}
    ),
    TEXTS.map(lambda text: {"role": "function", "name": "look", "content": text}),
)


@given(st.lists(MESSAGES, min_size=1, max_size=12))
def test_any_history_becomes_turns_that_strict_models_take(messages: list) -> None:
    assert_turns_are_strict(turns(converse(*messages)))


@given(st.lists(MESSAGES, min_size=1, max_size=8))
def test_every_result_survives_somewhere(messages: list) -> None:
    marked = [
        {**message, "content": f"result number {index}"} if message["role"] == "tool" else message
        for index, message in enumerate(messages)
        if not (message["role"] == "tool" and isinstance(message["content"], list))
    ] or [user()]
    everything = texts_of_all(converse(*marked))
    for index, message in enumerate(marked):
        if message["role"] == "tool":
            assert message["content"] in everything, index


@pytest.mark.parametrize(
    ("messages", "repair"),
    [
        ([user(), calling("a"), user("wait"), result("a")], "a tool result was moved to its call"),
        (
            [user(), calling("x", "x"), result("x"), result("x")],
            "a call with an id that was used before got another one",
        ),
        ([user(), calling("a", arguments="{bad"), result("a")], "past arguments that are no JSON object were wrapped"),
        ([user(), {"role": "assistant", "content": ""}, user()], "an empty turn was left out"),
        ([user("a"), user(" "), user("b")], "an empty turn was left out"),
    ],
)
def test_every_repair_is_told(messages: list, repair: str) -> None:
    assert converse(*messages).repairs == (f"messages: {repair}",)


def test_a_history_in_order_needs_no_repair_even_in_strict_mode() -> None:
    parts = [{"type": "tool_result", "tool_use_id": "b", "content": "2"}]
    talk = [
        user(),
        calling("a"),
        result("a"),
        calling("b"),
        user(parts),
        {"role": "assistant", "content": "So."},
        user(),
    ]
    assert converse(*talk, rules=HistoryRules(strict=True)).repairs == ()
