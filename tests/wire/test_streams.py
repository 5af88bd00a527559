"""A stream's bytes, as the contract has them."""

import json
import re
from typing import Any

import pytest

from tests.conftest import Deployment
from tests.scripts import script

EVENT = re.compile(rb"(?:data: [^\n]+\n\n|event: done\ndata: \[DONE\]\n\n|: [^\n]*\n)")


def stream(deployment: Deployment, text: str, **options: Any) -> bytes:
    answer = deployment.chat({"messages": [{"role": "user", "content": text}], "stream": True, **options})
    assert answer.status_code == 200
    return answer.content


def chunks(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: {")]


def deltas(raw: bytes) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks(raw) for choice in chunk["choices"]]


def test_only_data_lines_comments_and_the_done_event_each_ended_by_line_feeds(deployment: Deployment) -> None:
    raw = stream(deployment, "Hello!")
    assert EVENT.sub(b"", raw) == b""
    assert raw.endswith(b"event: done\ndata: [DONE]\n\n")
    assert b"\r" not in raw
    assert not re.search(rb"^(id|retry):", raw, re.MULTILINE)
    assert raw.count(b"event:") == 1


def test_headers_keep_proxies_from_buffering(deployment: Deployment) -> None:
    answer = deployment.chat({"messages": [{"role": "user", "content": "hi"}], "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert {"no-cache", "no-transform"} <= set(answer.headers["cache-control"].split(", "))
    assert answer.headers["x-narrative-job-id"]


def test_chunks_share_one_id_created_and_model(deployment: Deployment) -> None:
    found = chunks(stream(deployment, "Hello!"))
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["system_fingerprint"]) for chunk in found}) == 1
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}


def test_the_first_delta_opens_the_choice_and_the_finish_delta_is_an_empty_object(deployment: Deployment) -> None:
    found = deltas(stream(deployment, "Hello!"))
    assert found[0] == {"role": "assistant", "content": ""}
    assert found[-1] == {}
    assert sum("role" in delta for delta in found) == 1


def test_finish_reason_is_null_until_the_one_finish_chunk(deployment: Deployment) -> None:
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks(stream(deployment, "Hello!"))]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]


def test_with_several_choices_every_chunk_has_the_choices_own_index(deployment: Deployment) -> None:
    found = [chunk["choices"][0] for chunk in chunks(stream(deployment, "Hello!", n=3))]
    assert [choice["index"] for choice in found[:3]] == [0, 1, 2]
    assert all(choice["delta"] == {"role": "assistant", "content": ""} for choice in found[:3])
    for index in range(3):
        mine = [choice for choice in found if choice["index"] == index]
        assert mine[-1]["finish_reason"] == "stop"
        assert "".join(choice["delta"].get("content", "") for choice in mine)


def test_a_call_is_one_delta_with_its_whole_arguments(deployment: Deployment) -> None:
    tools = [{"type": "function", "function": {"name": "now"}}]
    arguments = {"zone": "Europe/Paris " * 50}
    text = script(calls=[{"name": "now", "arguments": arguments}, {"name": "now", "arguments": {}}])
    parts = [call for delta in deltas(stream(deployment, text, tools=tools)) for call in delta.get("tool_calls", [])]
    assert [(part["index"], part["type"], part["function"]["name"]) for part in parts] == [
        (0, "function", "now"),
        (1, "function", "now"),
    ]
    assert [json.loads(part["function"]["arguments"]) for part in parts] == [arguments, {}]
    assert all(part["id"].startswith("call_") for part in parts)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085"])
def test_unicode_line_breaks_are_escaped_and_arrive(deployment: Deployment, mark: str) -> None:
    raw = stream(deployment, script(text=f"a{mark}b"))
    assert mark.encode() not in raw
    assert "".join(delta.get("content", "") for delta in deltas(raw)) == f"a{mark}b"


def test_the_reply_comes_in_pieces_of_a_few_words_that_join_to_it_exactly(deployment: Deployment) -> None:
    text = "  One  two\n\n\tthree 👩‍👩‍👧‍👦" + " word" * 100 + "\n"
    pieces = [delta["content"] for delta in deltas(stream(deployment, script(text=text))) if delta.get("content")]
    assert "".join(pieces) == text
    assert 10 < len(pieces) < 100
    assert any("👩‍👩‍👧‍👦" in piece for piece in pieces)


def test_a_long_answer_comes_in_some_hundred_pieces(make_deployment: Any, unbounded: dict[str, str]) -> None:
    text = "word 👩‍👩‍👧‍👦 " * 20_000
    raw = stream(make_deployment(unbounded, context_tokens=None), script(text=text), max_tokens=10_000_000)
    pieces = [delta["content"] for delta in deltas(raw) if delta.get("content")]
    assert "".join(pieces) == text
    assert 200 < len(pieces) <= 300


def test_the_pieces_of_an_answer_can_be_spread(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_CHAT__STREAM_PACE_MS": "300"})
    assert stream(deployment, script(text="word " * 50)).endswith(b"[DONE]\n\n")


def test_heartbeats_are_comment_lines_with_a_single_line_feed(make_deployment: Any) -> None:
    raw = stream(make_deployment({"PROXY_CHAT__HEARTBEAT_S": "0.05"}, running_s=0.4), "Hello!")
    comments = re.findall(rb"^: [^\n]*\n(?!\n)", raw, re.MULTILINE)
    assert len(comments) >= 2
    assert EVENT.sub(b"", raw) == b""
    assert raw.startswith(b"data: ")


def test_heartbeats_can_be_chunks_with_an_empty_delta(make_deployment: Any) -> None:
    environ = {"PROXY_CHAT__HEARTBEAT_S": "0.05", "PROXY_CHAT__HEARTBEAT_STYLE": "chunk"}
    raw = stream(make_deployment(environ, running_s=0.4), "Hello!")
    assert b"\n: " not in raw
    assert deltas(raw).count({}) >= 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_bears_less_silence_than_a_job_takes_gets_its_answer(make_deployment: Any, stream: bool) -> None:
    """As the SDKs do, it gives up after so much silence as it announces."""
    deployment: Deployment = make_deployment({"PROXY_CHAT__KEEPALIVE_JSON_S": "10"}, running_s=2.0)
    body = {"messages": [{"role": "user", "content": script(text="At last.")}], "stream": stream}
    answer = deployment.chat(body, headers={"x-stainless-read-timeout": "0.8"}, timeout=0.8)
    assert "At last." in answer.text


def test_heartbeats_can_be_off(make_deployment: Any) -> None:
    raw = stream(make_deployment({"PROXY_CHAT__HEARTBEAT_S": "0"}, running_s=0.2), "Hello!")
    assert b": " not in raw.replace(b'": ', b"").replace(b"data: ", b"").replace(b"event: ", b"")


def test_a_failure_after_the_start_is_a_last_error_event_and_no_done(deployment: Deployment) -> None:
    raw = stream(deployment, script(fail="The GPU melted"))
    *_, last = chunks(raw)
    assert last["error"]["code"] == "narrative_job_failed"
    assert last["error"]["type"] == "upstream_error"
    assert b"[DONE]" not in raw


def test_stream_options_without_stream_are_ignored_and_named(deployment: Deployment) -> None:
    answer = deployment.chat(
        {"messages": [{"role": "user", "content": "hi"}], "stream_options": {"include_usage": True}}
    )
    assert answer.status_code == 200
    assert answer.headers["x-proxy-ignored"] == "stream_options"
