"""`langchain-openai`: ChatOpenAI."""

import asyncio
from typing import Any

import openai
import pytest
from conftest import Proxy
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from scenes import (
    ASKS_FOR_WEATHER,
    BREAKS,
    CALLS_TWICE,
    ENDLESS,
    ENDS_LATE,
    MARKDOWN,
    MODEL,
    SAYS_MARKDOWN,
    TOO_LONG,
    WEATHER,
    City,
    fails_once,
)


@tool
def get_weather(city: str) -> str:
    """The current weather in a city."""
    return WEATHER


def chat(proxy: Proxy, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": MODEL, "base_url": proxy.base_url, "api_key": proxy.key, **options})


@pytest.fixture
def model(proxy: Proxy) -> ChatOpenAI:
    return chat(proxy)


def test_plain(model: ChatOpenAI) -> None:
    message = model.invoke(SAYS_MARKDOWN)
    assert message.content == MARKDOWN
    assert message.usage_metadata["total_tokens"] > 0
    assert message.response_metadata["finish_reason"] == "stop"


def test_stream(proxy: Proxy) -> None:
    chunks = list(chat(proxy, stream_usage=True).stream(SAYS_MARKDOWN))
    whole = sum(chunks[1:], chunks[0])
    assert isinstance(whole, AIMessageChunk)
    assert whole.content == MARKDOWN
    assert len([chunk for chunk in chunks if chunk.content]) > 1
    assert whole.usage_metadata["total_tokens"] > 0


async def test_async(model: ChatOpenAI) -> None:
    assert (await model.ainvoke(SAYS_MARKDOWN)).content == MARKDOWN
    assert "".join([chunk.content async for chunk in model.astream(SAYS_MARKDOWN)]) == MARKDOWN


@pytest.mark.parametrize("streaming", [False, True])
def test_tool_loop(proxy: Proxy, streaming: bool) -> None:
    model = chat(proxy, streaming=streaming).bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(ASKS_FOR_WEATHER)]
    messages.append(model.invoke(messages))
    assert [call["args"] for call in messages[-1].tool_calls] == [{"city": "Paris"}]
    assert messages[-1].invalid_tool_calls == []
    messages += [get_weather.invoke(call) for call in messages[-1].tool_calls]
    assert isinstance(messages[-1], ToolMessage)
    assert WEATHER in model.invoke(messages).content


def test_parallel_calls_in_a_stream_stay_apart(model: ChatOpenAI) -> None:
    chunks = list(model.bind_tools([get_weather]).stream(CALLS_TWICE))
    calls = sum(chunks[1:], chunks[0]).tool_calls
    assert [call["args"]["city"] for call in calls] == ["Rome", "Oslo"]


def test_tool_choice_any_and_by_name(model: ChatOpenAI) -> None:
    for choice in ("any", "get_weather"):
        assert model.bind_tools([get_weather], tool_choice=choice).invoke("Hello!").tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: ChatOpenAI, method: str) -> None:
    assert isinstance(model.with_structured_output(City, method=method).invoke("Describe Paris"), City)


def test_json_mode(model: ChatOpenAI) -> None:
    assert isinstance(model.with_structured_output(None, method="json_mode").invoke("Answer in JSON"), dict)


def test_reasoning_effort(model: ChatOpenAI) -> None:
    assert model.invoke("Think!", reasoning_effort="low").content


def test_errors(proxy: Proxy, model: ChatOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        chat(proxy, model="gpt-99").invoke("hi")
    with pytest.raises(openai.AuthenticationError):
        chat(proxy, api_key="wrong").invoke("hi")
    with pytest.raises(openai.APIError, match="The GPU melted"):
        list(model.stream(BREAKS))


def test_too_long_a_prompt_is_recognised_as_such(model: ChatOpenAI) -> None:
    with pytest.raises(ContextOverflowError):
        model.invoke(TOO_LONG)


def test_nothing_is_repeated_that_was_paid_for(model: ChatOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        model.invoke(fails_once())
    assert caught.value.status_code == 424


async def test_cancellation(proxy: Proxy, request_id: str) -> None:
    model = chat(proxy, default_headers={"x-request-id": request_id})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(model.ainvoke(ENDLESS), timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


def test_leaving_a_stream(proxy: Proxy, request_id: str) -> None:
    stream = chat(proxy, default_headers={"x-request-id": request_id}).stream(ENDLESS)
    next(stream)
    assert proxy.serves(request_id)
    stream.close()
    proxy.left(request_id)


async def test_a_silent_job_is_waited_for(proxy: Proxy, blank_proxy: Proxy) -> None:
    answers = await asyncio.gather(*(chat(deployment).ainvoke(ENDS_LATE) for deployment in (proxy, blank_proxy)))
    assert [answer.content for answer in answers] == [MARKDOWN, MARKDOWN]
    assert "".join([chunk.content async for chunk in chat(proxy).astream(ENDS_LATE)]) == MARKDOWN
