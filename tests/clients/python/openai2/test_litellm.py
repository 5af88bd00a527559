"""`litellm` as a client: its `openai/` provider."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import scenes
from conftest import Proxy

from tests.waiting import until

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks a server for prices
import litellm

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The current weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def ask(proxy: Proxy, text: str, model: str = scenes.MODEL, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {
        "model": f"openai/{model}",
        "api_base": proxy.base_url,
        "api_key": proxy.key,
        "messages": messages,
        **options,
    }


def test_plain(proxy: Proxy) -> None:
    answer = litellm.completion(**ask(proxy, scenes.SAYS_MARKDOWN))
    assert answer.choices[0].message.content == scenes.MARKDOWN
    assert answer.usage.total_tokens > 0


def test_stream(proxy: Proxy) -> None:
    chunks = list(
        litellm.completion(**ask(proxy, scenes.SAYS_MARKDOWN, stream=True, stream_options={"include_usage": True}))
    )
    whole = litellm.stream_chunk_builder(chunks)
    assert whole.choices[0].message.content == scenes.MARKDOWN
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens > 0
    assert len(chunks) > 3


async def test_async(proxy: Proxy) -> None:
    assert (await litellm.acompletion(**ask(proxy, scenes.SAYS_MARKDOWN))).choices[0].message.content == scenes.MARKDOWN
    stream = await litellm.acompletion(**ask(proxy, scenes.SAYS_MARKDOWN, stream=True))
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == scenes.MARKDOWN


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_loop(proxy: Proxy, streamed: bool) -> None:
    asked = ask(proxy, scenes.ASKS_FOR_WEATHER, tools=TOOLS)
    for _ in range(2):
        answer = litellm.completion(**asked, stream=streamed)
        if streamed:
            answer = litellm.stream_chunk_builder(list(answer))
        message = answer.choices[0].message
        asked["messages"].append(message.model_dump())
        for call in message.tool_calls or []:
            assert json.loads(call.function.arguments) == {"city": "Paris"}
            asked["messages"].append({"role": "tool", "tool_call_id": call.id, "content": scenes.WEATHER})
    assert scenes.WEATHER in asked["messages"][-1]["content"]


def test_parallel_calls_in_a_stream_stay_apart(proxy: Proxy) -> None:
    stream = litellm.completion(**ask(proxy, scenes.CALLS_TWICE, tools=TOOLS, stream=True))
    message = litellm.stream_chunk_builder(list(stream)).choices[0].message
    assert [json.loads(call.function.arguments)["city"] for call in message.tool_calls] == ["Rome", "Oslo"]


def test_structured_output(proxy: Proxy) -> None:
    answer = litellm.completion(**ask(proxy, "Describe Paris", response_format=scenes.City))
    assert scenes.City.model_validate_json(answer.choices[0].message.content)


@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning(proxy: Proxy, streamed: bool) -> None:
    effort = {"reasoning_effort": "low", "allowed_openai_params": ["reasoning_effort"]}
    answer = litellm.completion(**ask(proxy, "Think!", stream=streamed, **effort))
    if streamed:
        answer = litellm.stream_chunk_builder(list(answer))
    assert answer.choices[0].message.reasoning_content
    assert answer.choices[0].message.content


def test_errors(proxy: Proxy) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**ask(proxy, "hi", model="gpt-99"))
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**{**ask(proxy, "hi"), "api_key": "wrong"})
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**ask(proxy, scenes.TOO_LONG))
    with pytest.raises(litellm.exceptions.MidStreamFallbackError, match="The GPU melted"):
        list(litellm.completion(**ask(proxy, scenes.BREAKS, stream=True)))


def test_nothing_is_repeated_that_was_paid_for(proxy: Proxy) -> None:
    with pytest.raises(litellm.APIError) as caught:
        litellm.completion(**ask(proxy, scenes.fails_once()), num_retries=2)
    assert caught.value.status_code == 424


async def test_cancellation(proxy: Proxy, request_id: str) -> None:
    call = litellm.acompletion(**ask(proxy, scenes.ENDLESS, extra_headers={"x-request-id": request_id}))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(call, timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


async def test_a_silent_job_is_waited_for(proxy: Proxy, blank_proxy: Proxy) -> None:
    calls = (litellm.acompletion(**ask(deployment, scenes.ENDS_LATE)) for deployment in (proxy, blank_proxy))
    answers = await asyncio.gather(*calls)
    assert [answer.choices[0].message.content for answer in answers] == [scenes.MARKDOWN, scenes.MARKDOWN]
    stream = await litellm.acompletion(**ask(proxy, scenes.ENDS_LATE, stream=True))
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == scenes.MARKDOWN


def test_a_batch(proxy: Proxy, tmp_path: Path) -> None:
    body = {"model": scenes.MODEL, "messages": [{"role": "user", "content": scenes.SAYS_MARKDOWN}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    requests = tmp_path / "requests.jsonl"
    requests.write_text(json.dumps(line))
    server: Any = {"custom_llm_provider": "openai", "api_base": proxy.base_url, "api_key": proxy.key}
    with requests.open("rb") as opened:
        file = litellm.create_file(file=opened, purpose="batch", **server)
    made = {"completion_window": "24h", "endpoint": "/v1/chat/completions", "input_file_id": file.id}
    created: Any = litellm.create_batch(**made, **server)

    def retrieved() -> Any:
        return litellm.retrieve_batch(batch_id=created.id, **server)

    asyncio.run(until(lambda: retrieved().status == "completed"))
    batch = retrieved()
    content: Any = litellm.file_content(file_id=batch.output_file_id, **server)
    assert json.loads(content.text)["response"]["body"]["choices"][0]["message"]["content"] == scenes.MARKDOWN
    assert batch.usage.total_tokens > 0
