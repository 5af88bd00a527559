"""The official `openai` Python library, asynchronous: streams, cancellation, and what it repeats by itself."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.conftest import Deployment
from tests.scripts import script
from tests.waiting import until

MODEL = "claude-4-5-haiku"


@pytest.fixture
async def client(deployment: Deployment) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="test-key") as client:
        yield client


def ask(text: str, **options: Any) -> Any:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **options}


class City(BaseModel):
    name: str
    population: int


async def test_plain_and_stream(client: AsyncOpenAI) -> None:
    plain = await client.chat.completions.create(**ask(script(text="Said so.")))
    assert plain.choices[0].message.content == "Said so."
    stream = await client.chat.completions.create(**ask(script(text="Said so."), stream=True))
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Said so."


async def test_stream_helper_with_a_pydantic_model(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(**ask("Describe Paris", response_format=City)) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert "content.done" in kinds
    assert isinstance(final.choices[0].message.parsed, City)


async def test_many_at_once_each_get_their_own_answer(client: AsyncOpenAI) -> None:
    calls = [client.chat.completions.create(**ask(script(text=f"Answer {number}."))) for number in range(20)]
    answers = await asyncio.gather(*calls)
    assert [answer.choices[0].message.content for answer in answers] == [f"Answer {number}." for number in range(20)]


async def test_cancelling_stops_the_waiting(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    async with AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="test-key") as client:
        call = asyncio.create_task(client.chat.completions.create(**ask(script(state="running"))))
        await until(lambda: deployment.in_flight() == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: deployment.in_flight() == 0)


async def test_leaving_a_stream_stops_the_waiting(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    async with AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="test-key") as client:
        async with client.chat.completions.stream(**ask(script(state="running"))) as stream:
            await anext(aiter(stream))
            assert deployment.in_flight() == 1
        await until(lambda: deployment.in_flight() == 0)


async def test_a_failed_job_is_not_repeated(deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    async with AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="test-key", max_retries=2) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**ask(script(fail="The GPU melted, asked for by the async client")))
    assert caught.value.status_code == 424
    assert deployment.jobs_submitted() == before + 1
