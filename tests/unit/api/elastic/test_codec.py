"""Inference calls → neutral requests, and events → server-sent events."""

import json
import math

import pytest

from proxy.api.elastic.codec import (
    ChatEncoder,
    CompletionBody,
    CompletionEncoder,
    completion_digest,
    completion_requests,
    timeout_seconds,
)
from proxy.api.openai.decode import ChatReply
from proxy.api.openai.encode import ChatStreamEncoder
from proxy.errors import InvalidRequest, JobTimeout
from proxy.inference.request import Message, Text
from proxy.inference.result import Choice, Result, Usage, result_events

RESULT = Result("r1", 1, "abc", (Choice("Some words, and a few more of them.", reasoning="hm"),), Usage(1, 2, 3))


def body(**fields: object) -> CompletionBody:
    return CompletionBody.model_validate({"input": "hi", **fields})


def test_each_input_is_a_request_of_its_own() -> None:
    settings = {"max_tokens": 5, "temperature": 1.5, "top_p": 0.5, "top_k": 0}
    one, two = completion_requests("mine", body(input=["one", "two"], task_settings=settings), stream=False)
    assert one.messages == (Message("user", (Text("one", "input"),), "input"),)
    assert (one.model, one.max_tokens, one.body_bytes) == ("mine", 5, 3)
    assert (one.sampling.temperature, one.sampling.top_p, one.sampling.top_k) == (1.0, 0.5, None)
    assert one.adjusted == ("temperature: lowered to 1",)
    assert completion_digest(one) != completion_digest(two)
    assert completion_digest(two) == completion_digest(
        completion_requests("mine", body(input="two", task_settings=settings), stream=True)[0]
    )


def test_a_blank_input_and_several_for_one_stream_are_refused() -> None:
    for wrong, stream in ((body(input=" "), False), (body(input=["a", ""]), False), (body(input=["a", "b"]), True)):
        with pytest.raises(InvalidRequest) as caught:
            completion_requests("mine", wrong, stream=stream)
        assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, math.inf),
        ("-1", math.inf),
        ("0", math.inf),
        ("30s", 30),
        ("100ms", 0.1),
        ("2m", 120),
        ("1h", 3600),
        ("1d", 86_400),
    ],
)
def test_timeouts(text: str | None, seconds: float) -> None:
    assert timeout_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "5", "-3s", "1.5s", "9" * 100 + "s"])
def test_what_is_no_time_value_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        timeout_seconds(text)


def test_a_completions_stream_holds_its_text_only() -> None:
    encoder = CompletionEncoder()
    sent = [data for event in result_events(RESULT) for data in encoder.encode(event)]
    assert all(data.startswith(b"event: message\ndata: ") and data.endswith(b"\n\n") for data in sent)
    texts = [json.loads(data.split(b"data: ")[1])["completion"][0]["delta"] for data in sent]
    assert "".join(texts) == RESULT.choices[0].text
    assert encoder.heartbeat() == b""


def test_a_chat_completions_stream_holds_openais_chunks() -> None:
    encoder = ChatEncoder(ChatStreamEncoder(ChatReply("mine", include_usage=True)))
    assert encoder.heartbeat() == b""
    sent = [json.loads(data.split(b"data: ")[1]) for event in result_events(RESULT) for data in encoder.encode(event)]
    assert {chunk["object"] for chunk in sent} == {"chat.completion.chunk"}
    assert sent[-1]["usage"]["total_tokens"] == 3
    assert b'"delta":{}' in encoder.heartbeat()
    assert encoder.error(JobTimeout("late")).startswith(b"event: error\ndata: ")
