"""`langchain-anthropic`: ChatAnthropic."""

import asyncio
from typing import Any

import anthropic
import pytest
from conftest import Proxy
from langchain_anthropic import ChatAnthropic
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from scenes import (
    ASKS_FOR_WEATHER,
    CALLS_TWICE,
    ENDLESS,
    ENDS_LATE,
    MARKDOWN,
    MODEL,
    SAYS_MARKDOWN,
    SILENCE_S,
    TOO_LONG,
    WEATHER,
    City,
    fails_once,
)

from tests.scripts import script


@tool
def get_weather(city: str) -> str:
    """The current weather in a city."""
    return WEATHER


def chat(proxy: Proxy, **options: Any) -> ChatAnthropic:
    return ChatAnthropic(**{"model": MODEL, "base_url": proxy.url, "api_key": proxy.key, "max_tokens": 2000, **options})


@pytest.fixture
def model(proxy: Proxy) -> ChatAnthropic:
    return chat(proxy)


def test_plain(model: ChatAnthropic) -> None:
    message = model.invoke([SystemMessage("Be brief."), HumanMessage(SAYS_MARKDOWN)])
    assert message.content == MARKDOWN
    assert message.usage_metadata["total_tokens"] > 0
    assert message.response_metadata["stop_reason"] == "end_turn"


def test_stream(model: ChatAnthropic) -> None:
    chunks = list(model.stream(SAYS_MARKDOWN))
    whole = sum(chunks[1:], chunks[0])
    assert whole.text == MARKDOWN
    assert len([chunk for chunk in chunks if chunk.text]) > 1
    assert whole.usage_metadata["output_tokens"] > 0


async def test_async(model: ChatAnthropic) -> None:
    assert (await model.ainvoke(SAYS_MARKDOWN)).content == MARKDOWN
    assert "".join([chunk.text async for chunk in model.astream(SAYS_MARKDOWN)]) == MARKDOWN


@pytest.mark.parametrize("streaming", [False, True])
def test_tool_loop(proxy: Proxy, streaming: bool) -> None:
    model = chat(proxy, streaming=streaming).bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(ASKS_FOR_WEATHER)]
    messages.append(model.invoke(messages))
    assert [call["args"] for call in messages[-1].tool_calls] == [{"city": "Paris"}]
    messages += [get_weather.invoke(call) for call in messages[-1].tool_calls]
    assert WEATHER in model.invoke(messages).text


def test_parallel_calls_in_a_stream_stay_apart(model: ChatAnthropic) -> None:
    chunks = list(model.bind_tools([get_weather]).stream(CALLS_TWICE))
    calls = sum(chunks[1:], chunks[0]).tool_calls
    assert [call["args"]["city"] for call in calls] == ["Rome", "Oslo"]


def test_tool_choice_any_and_by_name(model: ChatAnthropic) -> None:
    for choice in ("any", "get_weather"):
        assert model.bind_tools([get_weather], tool_choice=choice).invoke("Hello!").tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: ChatAnthropic, method: Any) -> None:
    assert isinstance(model.with_structured_output(City, method=method).invoke("Describe Paris"), City)


def test_thinking(proxy: Proxy) -> None:
    thinker = chat(proxy, thinking={"type": "enabled", "budget_tokens": 1024})
    first = thinker.invoke("Think!")
    assert [block["type"] for block in first.content] == ["thinking", "text"]
    assert thinker.invoke([HumanMessage("Think!"), first, HumanMessage("And now?")]).text


def test_counting(proxy: Proxy, model: ChatAnthropic) -> None:
    before = proxy.jobs()
    assert model.get_num_tokens_from_messages([HumanMessage("word " * 100)]) > 50
    assert proxy.jobs() == before


def test_errors(proxy: Proxy, model: ChatAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        chat(proxy, model="gpt-99").invoke("hi")
    with pytest.raises(anthropic.AuthenticationError):
        chat(proxy, api_key="wrong").invoke("hi")
    with pytest.raises(ContextOverflowError):
        model.invoke(TOO_LONG)


@pytest.mark.parametrize("streaming", [False, True])
def test_nothing_is_repeated_that_was_paid_for(proxy: Proxy, streaming: bool) -> None:
    before = proxy.jobs()
    with pytest.raises(anthropic.InternalServerError, match="The GPU melted"):
        chat(proxy, streaming=streaming).invoke(fails_once())
    assert proxy.jobs() == before + 1


def test_a_failure_after_the_stream_began_raises(blank_proxy: Proxy) -> None:
    late = script(delay=2 * SILENCE_S, fail="The GPU melted")
    with pytest.raises(anthropic.APIStatusError, match="The GPU melted"):
        list(chat(blank_proxy).stream(late))


async def test_cancellation(proxy: Proxy, request_id: str) -> None:
    model = chat(proxy, default_headers={"x-request-id": request_id})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(model.ainvoke(ENDLESS), timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


async def test_a_silent_job_is_waited_for(proxy: Proxy, blank_proxy: Proxy) -> None:
    answers = await asyncio.gather(*(chat(deployment).ainvoke(ENDS_LATE) for deployment in (proxy, blank_proxy)))
    assert [answer.content for answer in answers] == [MARKDOWN, MARKDOWN]
    assert "".join([chunk.text async for chunk in chat(blank_proxy).astream(ENDS_LATE)]) == MARKDOWN
