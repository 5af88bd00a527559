"""Histories as clients keep them → turns that strict models take."""

import dataclasses
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.inference import history
from proxy.inference.history import (
    CONTINUE,
    EMPTY_RESULT,
    NO_RESULT,
    Conversation,
    repair,
    upstream_names,
)
from proxy.inference.request import Media, Message, Rules, Text, Tool, ToolCall, ToolResult
from tests.contract import SAFE, assert_turns_are_strict

RESULTS_FIRST = ["tool_result", "tool_result", "text"]
RULES = Rules()
STRICT = Rules(strict_history=True)
MEDIA = Rules(media_placeholder=True)


def converse(*messages: Message, rules: Rules = RULES, tool_blocks: bool = True) -> Conversation:
    placed = tuple(_placed(message, f"messages[{index}]") for index, message in enumerate(messages))
    return repair(placed, upstream_names((), placed), rules, tool_blocks=tool_blocks)


def _placed(message: Message, path: str) -> Message:
    """The message with the paths that a decoder gives it and its blocks."""
    content: list[Any] = []
    for index, block in enumerate(message.content):
        name = "tool_calls" if isinstance(block, ToolCall) else "content"
        content.append(dataclasses.replace(block, path=block.path or f"{path}.{name}[{index}]"))
    return dataclasses.replace(message, content=tuple(content), path=path)


def turns(conversation: Conversation) -> list[dict]:
    return [{"role": turn.role, "content": [_block(block) for block in turn.content]} for turn in conversation.turns]


def _block(block: Any) -> dict:
    match block:
        case ToolCall():
            return {"type": "tool_use", "tool_use_id": block.id, "name": block.name, "input": block.arguments}
        case ToolResult():
            shown = {"type": "tool_result", "tool_use_id": block.call_id, "content": [_block(b) for b in block.content]}
            return {**shown, "is_error": True} if block.is_error else shown
    return {"type": "text", "text": block.text}


def texts(conversation: Conversation) -> list[tuple[str, list[str]]]:
    return [(turn["role"], [block["text"] for block in turn["content"]]) for turn in turns(conversation)]


def _content(text: str | None) -> tuple[Text, ...]:
    return () if text is None else (Text(text),)


def user(text: str | None = "hi") -> Message:
    return Message("user", _content(text))


def assistant(text: str | None) -> Message:
    return Message("assistant", _content(text))


def system(text: str) -> Message:
    return Message("system", _content(text))


def calling(*ids: str, name: str = "look", arguments: Any = None, content: str | None = None) -> Message:
    return Message("assistant", (*_content(content), *(ToolCall(id_, name, arguments or {}) for id_ in ids)))


def result(id_: str | None, content: str = "found", **fields: Any) -> Message:
    return Message("user", (ToolResult(id_, _content(content), **fields),))


# ---------------------------------------------------------------- texts and turns


def test_leading_system_and_developer_turns_form_the_system_text() -> None:
    conversation = converse(system("A"), Message("developer", (Text("B"),)), user())
    assert conversation.system == "A\n\nB"
    assert texts(conversation) == [("user", ["hi"])]


def test_a_later_system_turn_stays_in_place_inside_a_user_turn() -> None:
    conversation = converse(user("a"), assistant("b"), system("S"), user("c"))
    assert conversation.system == ""
    assert texts(conversation) == [("user", ["a"]), ("assistant", ["b"]), ("user", ["[system message]\nS", "c"])]


def test_neighbouring_turns_of_one_role_are_merged() -> None:
    conversation = converse(user("a"), user("b"), assistant("x"), assistant("x"), user("c"))
    assert texts(conversation) == [("user", ["a", "b"]), ("assistant", ["x", "x"]), ("user", ["c"])]
    assert conversation.repairs == ()


@pytest.mark.parametrize("blank", ["", " ", "\n\t", None])
def test_blank_text_is_left_out(blank: str | None) -> None:
    assert texts(converse(user("a"), assistant(blank), user("b"))) == [("user", ["a", "b"])]


def test_a_trailing_assistant_turn_is_trimmed_and_closed_with_a_user_turn() -> None:
    conversation = converse(user("a"), assistant("Once upon \n"))
    assert texts(conversation) == [("user", ["a"]), ("assistant", ["Once upon"]), ("user", [CONTINUE])]


def test_a_history_that_begins_with_the_assistant_is_opened_with_a_user_turn() -> None:
    conversation = converse(assistant("Welcome!"), user("hi"))
    assert [turn["role"] for turn in turns(conversation)] == ["user", "assistant", "user"]


def test_a_system_message_alone_gets_a_user_turn() -> None:
    conversation = converse(system("S"))
    assert conversation.system == "S"
    assert texts(conversation) == [("user", [CONTINUE])]


@pytest.mark.parametrize("tag", ["think", "thinking", "thought"])
def test_reasoning_that_a_client_sends_back_in_the_text_is_kept_out(tag: str) -> None:
    conversation = converse(user(), assistant(f" <{tag}>SECRET\n</{tag}>\nAnswer <think>as said</think>"), user())
    assert texts(conversation)[1] == ("assistant", ["Answer <think>as said</think>"])
    assert texts(converse(user(f"<{tag}>mine</{tag}>")))[0][1] == [f"<{tag}>mine</{tag}>"]


# ---------------------------------------------------------------- calls and results


def test_all_results_of_a_turn_come_first_in_the_next_user_turn_in_the_order_of_the_calls() -> None:
    conversation = converse(
        user(), calling("a", "b"), result("b", "second"), user("and?"), result("a", "first"), user("!")
    )
    _, calls, answer = turns(conversation)
    assert [block["tool_use_id"] for block in calls["content"]] == ["a", "b"]
    assert [block["type"] for block in answer["content"]][:3] == RESULTS_FIRST
    assert [block["content"][0]["text"] for block in answer["content"][:2]] == ["first", "second"]
    assert [block["text"] for block in answer["content"][2:]] == ["and?", "!"]
    assert conversation.repairs == ("messages: a tool result was moved to its call",)


def test_results_and_text_in_one_message() -> None:
    both = Message(
        "user",
        (Text("so?"), ToolResult("b", (Text("2"),)), ToolResult("a", (Text("1"), Text("1b")), is_error=True)),
    )
    answer = turns(converse(user(), calling("a", "b", content="Let me see."), both))[2]["content"]
    assert [block["type"] for block in answer] == RESULTS_FIRST
    assert [block["text"] for block in answer[0]["content"]] == ["1", "1b"]
    assert answer[0]["is_error"] is True
    assert "is_error" not in answer[1]


def test_a_result_that_names_its_tool_pairs_by_name() -> None:
    conversation = converse(user(), calling("", name="other"), calling("", name="a b"), result(None, "ok", name="a b"))
    _, calls, answer = turns(conversation)
    assert [block["name"] for block in calls["content"]] == ["other", "a_b"]
    assert answer["content"][1]["tool_use_id"] == calls["content"][1]["tool_use_id"]
    assert answer["content"][1]["content"][0]["text"] == "ok"


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


@pytest.mark.parametrize("answers", [["found"], []])
def test_a_call_that_is_twice_in_its_turn_counts_once(answers: list[str]) -> None:
    """Clients write one call as a content part and again in `tool_calls`."""
    conversation = converse(user(), calling("x", "x", arguments={"q": 1}), *(result("x", text) for text in answers))
    _, calls, answer = turns(conversation)
    assert [block["tool_use_id"] for block in calls["content"]] == ["x"]
    assert [block["content"][0]["text"] for block in answer["content"]] == (answers or [NO_RESULT])
    assert "messages: a call that was made twice counts once" in conversation.repairs


def test_two_calls_with_one_id_and_other_arguments_are_two_calls() -> None:
    twice = Message("assistant", (ToolCall("x", "look", {"q": 1}), ToolCall("x", "look", {"q": 2})))
    _, calls, answer = turns(converse(user(), twice, result("x", "one")))
    assert [block["input"] for block in calls["content"]] == [{"q": 1}, {"q": 2}]
    assert [block["content"][0]["text"] for block in answer["content"]] == ["one", NO_RESULT]


def test_a_call_without_an_id_gets_the_result_that_has_no_call() -> None:
    conversation = converse(user(), calling("a", ""), result("made-up", "for the other"), result("a", "for a"))
    assert [block["content"][0]["text"] for block in turns(conversation)[2]["content"]] == ["for a", "for the other"]
    assert conversation.repairs == ("messages: a result with an unknown id was given to the call that had none",)


def test_a_call_without_an_id_of_an_earlier_turn_gets_no_result_with_an_unknown_id() -> None:
    conversation = converse(user(), calling(""), user("wait"), assistant("yes"), result("gone", "kept"))
    assert NO_RESULT in texts_of_all(conversation)
    assert "[Result of an earlier tool call]\\nkept" in texts_of_all(conversation)


def test_a_result_without_an_id_goes_to_the_call_without_one_wherever_it_stands() -> None:
    conversation = converse(user(), calling("a", ""), result(None, "for the other"), result("a", "for a"))
    assert [block["content"][0]["text"] for block in turns(conversation)[2]["content"]] == ["for a", "for the other"]


def test_a_result_without_an_id_goes_to_the_waiting_call() -> None:
    conversation = converse(user(), calling("a"), result(None, "r"))
    assert turns(conversation)[2]["content"][0]["content"][0]["text"] == "r"
    assert len(conversation.repairs) == 1


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"a": 1}, {"a": 1}),
        (None, {}),
        (" ", {}),
        ('{"a": ', {"raw_arguments": '{"a": '}),
        ([1], {"raw_arguments": [1]}),
        ("[" * 5000, {"raw_arguments": "[" * 5000}),
    ],
)
def test_past_arguments_that_are_no_object_are_wrapped_and_never_lost(given: object, sent: object) -> None:
    conversation = converse(user(), Message("assistant", (ToolCall("a", "look", given),)), result("a"))
    assert turns(conversation)[1]["content"][0]["input"] == sent


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


def test_past_calls_and_results_can_be_written_as_text() -> None:
    conversation = converse(user(), calling("a", arguments={"q": "é"}), result("a", "r"), tool_blocks=False)
    blocks = [block for turn in turns(conversation) for block in turn["content"]]
    assert [block["text"] for block in blocks] == ["hi", '[Called look (a) with {"q":"é"}]', "[Result of a]\nr"]


# ---------------------------------------------------------------- refusals and reports


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([user(), calling("a"), user()], "messages[1].tool_calls[0]"),
        ([user(), result("x", path="messages[1]")], "messages[1]"),
        ([user(), assistant("x")], "messages[1].role"),
        ([assistant("x"), user()], "messages"),
        ([user(), calling("a"), result(None, path="messages[2]")], "messages[2]"),
        ([user(), calling(""), result("made-up", path="messages[2]")], "messages[2]"),
        ([user(), calling("a"), user("wait"), result("a", path="messages[3]")], "messages[3]"),
        ([user(), calling("x", "x"), result("x"), result("x")], "messages[1].tool_calls[1]"),
        ([user(), calling("x", "x"), result("x")], "messages[1].tool_calls[1]"),
        ([user(), calling("a", arguments="{bad"), result("a")], "messages[1].tool_calls[0]"),
        ([user(), assistant(""), user()], "messages[1]"),
        ([user("")], "messages[0].content"),
    ],
)
def test_strict_history_refuses_instead_of_repairing(messages: list[Message], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        converse(*messages, rules=STRICT)
    assert (caught.value.param, caught.value.code) == (param, "invalid_history")


def test_repairs_are_reported_under_the_clients_name_for_the_history() -> None:
    messages = (Message("assistant", (Text("x"),), path="input[0]"),)
    assert repair(messages, {}, Rules()).repairs == (
        "input: the conversation was opened with a user turn",
        "input: a user turn was added at the end",
    )


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "image", "video"])
def test_media_is_refused_with_its_path(kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        converse(user("x"), Message("user", (Text("see"), Media(kind))))
    assert (caught.value.param, caught.value.code) == ("messages[1].content[1].type", "unsupported_content")


@pytest.mark.parametrize("role", ["system", "developer"])
def test_media_in_the_system_text_is_refused(role: Any) -> None:
    with pytest.raises(InvalidRequest):
        converse(Message(role, (Media("image"),)), user(), rules=MEDIA)


def test_media_in_earlier_turns_can_be_a_placeholder_but_never_in_the_last_user_turn() -> None:
    seen = Message("user", (Media("image_url"),))
    shown = Message("user", (ToolResult("a", (Media("image"),)),))
    conversation = converse(seen, calling("a"), shown, user("and?"), rules=MEDIA)
    assert "image_url left out" in texts_of_all(conversation)
    assert "image left out" in texts_of_all(conversation)
    with pytest.raises(InvalidRequest):
        converse(user("a"), seen, rules=MEDIA)
    with pytest.raises(InvalidRequest):
        converse(user("a"), seen, calling("a"), result("a"), rules=MEDIA)


def texts_of_all(conversation: Conversation) -> str:
    return " ".join(str(turn) for turn in turns(conversation))


@pytest.mark.parametrize(
    ("messages", "repaired"),
    [
        ([user(), calling("a"), user("wait"), result("a")], "a tool result was moved to its call"),
        (
            [user(), calling("x", "x"), result("x"), result("x")],
            "a call with an id that was used before got another one",
        ),
        ([user(), calling("a", arguments="{bad"), result("a")], "past arguments that are no JSON object were wrapped"),
        ([user(), assistant(""), user()], "an empty turn was left out"),
        ([user(), calling("a"), assistant(""), result("a")], "an empty turn was left out"),
        ([user("a"), user(" "), user("b")], "an empty turn was left out"),
    ],
)
def test_every_repair_is_reported(messages: list[Message], repaired: str) -> None:
    assert converse(*messages).repairs == (f"messages: {repaired}",)


def test_a_history_in_order_needs_no_repair_even_in_strict_mode() -> None:
    talk = [user(), calling("a"), result("a"), calling("b", "c"), result("c"), result("b"), assistant("So."), user()]
    assert converse(*talk, rules=STRICT).repairs == ()


# ---------------------------------------------------------------- names


def test_safe_names_keep_themselves_whatever_comes_before_them() -> None:
    names = upstream_names(map(Tool, ["a.b", "a_b", "a b", "", "x" * 70, "x" * 64]), ())
    assert names["a_b"] == "a_b"
    assert names["x" * 64] == "x" * 64
    assert len(set(names.values())) == 6


@given(st.lists(st.text(max_size=70), max_size=20))
def test_names_are_safe_and_unique(wanted: list[str]) -> None:
    names = upstream_names(map(Tool, wanted), ())
    assert names.keys() == set(wanted)
    assert len(set(names.values())) == len(names)
    assert all(SAFE.match(name) for name in names.values())
    assert all(names[name] == name for name in wanted if SAFE.match(name))


# ---------------------------------------------------------------- properties

IDS = st.sampled_from(["a", "b", "call_0", "", "id with spaces", "x" * 100])
TEXTS = st.sampled_from(["", " ", "hello", "<think>hm</think>yes", "x\n"])
MESSAGES = st.one_of(
    TEXTS.map(user),
    TEXTS.map(assistant),
    TEXTS.map(system),
    st.lists(IDS, min_size=1, max_size=3).map(lambda ids: calling(*ids)),
    st.tuples(IDS, TEXTS).map(lambda pair: result(pair[0] or None, pair[1])),
    st.tuples(IDS, IDS, TEXTS).map(
        lambda three: Message("user", (*(ToolResult(id_, (Text("r"),)) for id_ in three[:2]), Text(three[2])))
    ),
    TEXTS.map(lambda text: result(None, text, name="look")),
)


@given(st.lists(MESSAGES, min_size=1, max_size=12))
def test_any_history_becomes_turns_that_strict_models_take(messages: list[Message]) -> None:
    assert_turns_are_strict(turns(converse(*messages)))


@given(st.one_of(st.lists(TEXTS, max_size=3).map(lambda texts: Message("user", tuple(map(Text, texts)))), MESSAGES))
def test_one_message_alone_is_treated_like_any_other(message: Message) -> None:
    """Most requests hold one message, for which there is a short way."""
    alone = (_placed(message, "messages[0]"),)
    full = history._History(upstream_names((), alone), RULES, alone)
    full.add(alone[0])
    if message.role != "system":
        assert repair(alone, upstream_names((), alone), RULES).turns == tuple(full.finish())
        assert repair(alone, upstream_names((), alone), RULES).repairs == tuple(full.repairs)


@given(st.lists(MESSAGES, min_size=1, max_size=8))
def test_every_result_survives_exactly_once(messages: list[Message]) -> None:
    numbered: list[Message] = []
    count = 0
    for message in messages:
        content: list[Any] = []
        for block in message.content:
            if isinstance(block, ToolResult):
                block = dataclasses.replace(block, content=(Text(f"<{count}>"),))  # noqa: PLW2901
                count += 1
            content.append(block)
        numbered.append(dataclasses.replace(message, content=tuple(content)))
    everything = texts_of_all(converse(*numbered))
    assert [everything.count(f"<{number}>") for number in range(count)] == [1] * count


@pytest.mark.parametrize(
    "shape",
    ["answered at the end", "one call a turn", "results of nothing", "one id", "no ids", "empty turns", "one turn"],
)
def test_the_work_is_linear_in_the_number_of_messages(shape: str) -> None:
    """Ten times the messages take ten times the steps; a search through all turns for each result would take a hundred times."""
    assert _steps(_long_history(shape, 2_000)) < 11 * _steps(_long_history(shape, 200))


def _steps(messages: list[Message]) -> int:
    """Lines that the repair of a history runs."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename == history.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        converse(*messages)
    finally:
        sys.settrace(before)
    return count


def _long_history(shape: str, count: int) -> list[Message]:
    half = count // 2
    match shape:
        case "answered at the end":
            calls = [message for n in range(half) for message in (calling(f"c{n}"), user())]
            return [*calls, *(result(f"c{n}") for n in range(half))]
        case "one call a turn":
            return [message for n in range(half) for message in (calling(f"c{n}"), result(f"c{n}"))]
        case "results of nothing":
            return [calling(*(f"c{n}" for n in range(half))), *(result(f"other{n}") for n in range(half))]
        case "one id":
            return [message for _ in range(half) for message in (calling("c"), result("c"))]
        case "no ids":
            return [calling(*[""] * half), *(result(None) for _ in range(half))]
        case "empty turns":
            return [message for _ in range(half) for message in (user(), assistant(""))]
    return [calling(*(f"c{n}" for n in range(half))), *(calling(f"d{n}") for n in range(half))]
