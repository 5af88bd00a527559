"""`instructor` on the `openai` library."""

import asyncio
from collections.abc import Iterable
from typing import Any

import instructor
import openai
import pytest
from conftest import Proxy
from instructor import Mode
from instructor.core import InstructorRetryException
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, field_validator
from scenes import BREAKS, ENDLESS, MODEL, SILENCE_S, TOO_LONG, City, fails_once

from tests.scripts import script

PARIS = {"name": "Paris", "population": 2_000_000, "climate": "mild", "districts": []}


def structured(proxy: Proxy, mode: Mode = Mode.TOOLS, key: str = Proxy.key) -> Any:
    return instructor.from_openai(OpenAI(base_url=proxy.base_url, api_key=key), mode=mode)


def ask(text: str, **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **options}


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON_SCHEMA])
def test_a_model_comes_back(proxy: Proxy, mode: Mode) -> None:
    assert isinstance(structured(proxy, mode).create(**ask("Describe Paris", response_model=City)), City)


def test_json_mode(proxy: Proxy) -> None:
    city = structured(proxy, Mode.JSON).create(**ask(script(output=PARIS), response_model=City))
    assert city.model_dump() == PARIS


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON_SCHEMA])
def test_partial_models_grow_while_streaming(proxy: Proxy, mode: Mode) -> None:
    *_, last = structured(proxy, mode).create_partial(**ask("Describe Paris", response_model=City))
    assert City.model_validate(last.model_dump())


def test_several_models_from_a_stream(proxy: Proxy) -> None:
    both = {"tasks": [PARIS, {**PARIS, "name": "Rome"}]}
    asked = ask(script(calls=[{"name": "IterableCity", "arguments": both}]), response_model=City)
    assert [city.name for city in structured(proxy).create_iterable(**asked)] == ["Paris", "Rome"]


def test_parallel_tools(proxy: Proxy) -> None:
    both = script(
        calls=[{"name": "City", "arguments": PARIS}, {"name": "City", "arguments": {**PARIS, "name": "Rome"}}]
    )
    cities = structured(proxy, Mode.PARALLEL_TOOLS).create(**ask(both, response_model=Iterable[City]))
    assert [city.name for city in cities] == ["Paris", "Rome"]


class Large(BaseModel):
    population: int

    @field_validator("population")
    @classmethod
    def is_large(cls, value: int) -> int:
        if value < 1000:
            raise ValueError("too small")
        return value


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON_SCHEMA])
def test_a_refused_answer_is_asked_for_again(proxy: Proxy, request_id: str, mode: Mode) -> None:
    answers = [{"population": 1}, {"population": 5000}]
    if mode is Mode.TOOLS:
        attempts: Any = [{"calls": [{"name": "Large", "arguments": answer}]} for answer in answers]
    else:
        attempts = [{"output": answer} for answer in answers]
    asked = ask(script(key=request_id, attempts=attempts), response_model=Large, max_retries=2)
    assert structured(proxy, mode).create(**asked).population == 5000


async def test_async(proxy: Proxy) -> None:
    client = instructor.from_openai(AsyncOpenAI(base_url=proxy.base_url, api_key=proxy.key))
    assert isinstance(await client.create(**ask("Describe Paris", response_model=City)), City)


@pytest.mark.parametrize(("options", "key", "cause"), [
    ({"model": "gpt-99"}, Proxy.key, openai.NotFoundError),
    ({}, "wrong", openai.AuthenticationError),
])  # fmt: skip
def test_errors(proxy: Proxy, options: dict[str, str], key: str, cause: type[Exception]) -> None:
    with pytest.raises((InstructorRetryException, cause)) as caught:
        structured(proxy, key=key).create(**{**ask("hi", response_model=City), **options})
    assert cause.__name__ in repr(caught.value) + repr(caught.value.__cause__)


def test_too_long_a_prompt(proxy: Proxy) -> None:
    with pytest.raises(Exception, match="longer than the model's context length"):
        structured(proxy).create(**ask(TOO_LONG, response_model=City, max_retries=1))


def test_a_failure_in_the_stream_raises(proxy: Proxy) -> None:
    with pytest.raises(Exception, match="The GPU melted"):
        list(structured(proxy).create_partial(**ask(BREAKS, response_model=City)))


def test_nothing_is_repeated_that_was_paid_for(proxy: Proxy) -> None:
    with pytest.raises(Exception, match="The GPU melted"):
        structured(proxy).create(**ask(fails_once(), response_model=City, max_retries=1))


async def test_cancellation(proxy: Proxy, request_id: str) -> None:
    headers = {"x-request-id": request_id}
    openai_client = AsyncOpenAI(base_url=proxy.base_url, api_key=proxy.key, default_headers=headers)
    call = instructor.from_openai(openai_client).create(**ask(ENDLESS, response_model=City))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(call, timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


def test_a_silent_job_is_waited_for(proxy: Proxy, blank_proxy: Proxy) -> None:
    late = ask(script(delay=SILENCE_S), response_model=City)
    for deployment in (proxy, blank_proxy):
        assert isinstance(structured(deployment).create(**late), City)
    *_, last = structured(proxy).create_partial(**late)
    assert City.model_validate(last.model_dump())
