"""A repeated request to the Responses API is not paid twice, and its answer has the same ids."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from proxy.sandbox import Fault
from tests.conftest import Deployment
from tests.responses_folding import response_events
from tests.scripts import script
from tests.waiting import until

URL = "/v1/responses"
TURN = {"client_metadata": {"turn_id": "turn-1", "session_id": "s"}}
KEY = {"idempotency-key": "order-1"}
RETRY = {"x-stainless-retry-count": "1"}
CODEX = Path(__file__).parents[1] / "data" / "codex" / "unknown-model.json"


def body(given: Any = "Hello!", **fields: Any) -> dict[str, Any]:
    return {"model": "claude-4-5-haiku", "input": given, **fields}


def client_of(deployment: Deployment) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=deployment.url, headers={"authorization": "Bearer test-key"}, timeout=30)


def whole(answer: httpx.Response) -> dict[str, Any]:
    """The response, of a stream that at its end."""
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        response: dict[str, Any] = answer.json()
        return response
    events = response_events(answer.content)
    assert events[0]["response"]["id"] == events[-1]["response"]["id"]
    last: dict[str, Any] = events[-1]["response"]
    return last


def ids(response: dict[str, Any]) -> list[str]:
    """Every id in it."""
    return [response["id"], *(item[name] for item in response["output"] for name in ("id", "call_id") if name in item)]


async def leave(deployment: Deployment, request: dict[str, Any], **headers: str) -> None:
    """Send a request, and close the connection once its job is in flight."""
    before = deployment.jobs_submitted()
    async with client_of(deployment) as client:
        call = asyncio.create_task(client.post(URL, json=request, headers=headers))
        await until(lambda: deployment.jobs_submitted() > before and deployment.in_flight())
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await until(lambda: deployment.in_flight() == 0)


CALLING = {
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}],
    "input": script(text="Let me see.", calls=[{"name": "f", "arguments": {}}, {"name": "f", "arguments": {}}]),
}


@pytest.mark.parametrize("streamed", [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize(
    ("fields", "headers"), [(TURN, {}), ({}, KEY)], ids=["the same turn", "the same idempotency key"]
)
async def test_a_repeat_of_a_delivered_answer_is_the_same_answer(
    make_deployment: Any, fields: dict[str, Any], headers: dict[str, str], streamed: tuple[bool, bool]
) -> None:
    deployment: Deployment = make_deployment()
    async with client_of(deployment) as client:
        answers = [
            whole(await client.post(URL, json={**body(), **CALLING, **fields, "stream": stream}, headers=headers))
            for stream in streamed
        ]
    assert ids(answers[0]) == ids(answers[1])
    assert answers[0]["output"] == answers[1]["output"]
    assert deployment.jobs_submitted() == 1


async def test_a_turn_is_recognized_whatever_the_order_of_its_map(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.2)
    recorded = json.loads(CODEX.read_text("utf-8"))["requests"]
    async with client_of(deployment) as client:
        for request in recorded:
            first = request["body"]
            metadata = dict(reversed(first["client_metadata"].items()))
            answers = [
                whole(await client.post(URL, json=sent)) for sent in (first, {**first, "client_metadata": metadata})
            ]
            assert ids(answers[0]) == ids(answers[1])
    assert deployment.jobs_submitted() == len(recorded)


async def test_equal_requests_of_one_turn_that_are_in_flight_share_a_job(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.4)
    async with client_of(deployment) as client:
        answers = await asyncio.gather(*(client.post(URL, json=body(stream=True, **TURN)) for _ in range(5)))
    assert len({whole(answer)["id"] for answer in answers}) == 1
    assert deployment.jobs_submitted() == 1


async def test_a_turn_is_one_callers(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "test-key,other-key"})
    async with client_of(deployment) as client:
        mine = whole(await client.post(URL, json=body(**TURN)))
        others = whole(await client.post(URL, json=body(**TURN), headers={"authorization": "Bearer other-key"}))
    assert mine["id"] != others["id"]
    assert deployment.jobs_submitted() == 2


@pytest.mark.parametrize(
    "others",
    [body(), body(**TURN, input="Other."), body(client_metadata={"turn_id": "turn-2"}), body(client_metadata={})],
)
async def test_other_requests_are_paid(make_deployment: Any, others: dict[str, Any]) -> None:
    deployment: Deployment = make_deployment()
    async with client_of(deployment) as client:
        first = whole(await client.post(URL, json=body(**TURN)))
        second = whole(await client.post(URL, json=others))
    assert first["id"] != second["id"]
    assert deployment.jobs_submitted() == 2


async def test_equal_requests_without_marks_are_two_wishes_once_the_first_was_delivered(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    async with client_of(deployment) as client:
        answers = [whole(await client.post(URL, json=body(stream=stream))) for stream in (True, False)]
    assert answers[0]["id"] != answers[1]["id"]
    assert deployment.jobs_submitted() == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "headers", "then"),
    [({}, {}, {}), ({}, {}, RETRY), ({}, KEY, KEY), (TURN, {}, {})],
    ids=["without marks", "an SDK's retry", "a key", "a turn"],
)
async def test_a_job_whose_answer_nobody_received_is_taken_up(
    make_deployment: Any, fields: dict[str, Any], headers: dict[str, str], then: dict[str, str], stream: bool
) -> None:
    deployment: Deployment = make_deployment(running_s=0.4)
    await leave(deployment, body(stream=stream, **fields), **headers)
    async with client_of(deployment) as client:
        answer = await client.post(URL, json=body(stream=stream, **fields), headers=then)
    assert whole(answer)["status"] == "completed"
    assert deployment.jobs_submitted() == 1


async def test_a_stream_that_is_cut_before_its_last_event_was_not_delivered(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_CHAT__STREAM_PACE_MS": "20000"})
    given = script(text="word " * 400)
    begun = ""
    async with client_of(deployment) as client:
        async with client.stream("POST", URL, json=body(given, stream=True)) as answer:
            async for line in answer.aiter_lines():
                if '"response.created"' in line:
                    begun = json.loads(line.removeprefix("data: "))["response"]["id"]
                if "output_text.delta" in line:
                    break
        await until(lambda: not deployment.app.state.lifecycle.in_flight)
        again = whole(await client.post(URL, json=body(given)))
    assert again["id"] == begun
    assert deployment.jobs_submitted() == 1


@pytest.mark.parametrize("fields", [TURN, {}], ids=["a turn", "without marks"])
async def test_a_stream_that_ended_before_its_job_is_repeated_for_nothing(
    make_deployment: Any, fields: dict[str, Any]
) -> None:
    deployment: Deployment = make_deployment({"PROXY_JOBS__DEADLINE_S": "1"}, running_s=1.6)
    async with client_of(deployment) as client:
        first = await client.post(URL, json=body(stream=True, **fields))
        end = response_events(first.content)[-1]["response"]
        assert end["error"]["message"].startswith("job_timeout: ")
        again = whole(await client.post(URL, json=body(stream=True, **fields)))
    assert (again["status"], again["id"]) == ("completed", end["id"])
    assert deployment.jobs_submitted() == 1


@pytest.mark.parametrize("fields", [TURN, {}], ids=["a turn", "without marks"])
async def test_a_client_that_leaves_while_its_submission_is_slow_leaves_no_second_job(
    make_deployment: Any, fields: dict[str, Any]
) -> None:
    deployment: Deployment = make_deployment()
    deployment.sandbox.state.faults.add(Fault(kind="stuck", operation="run", handled=True, times=1))
    async with client_of(deployment) as client:
        async with client.stream("POST", URL, json=body(stream=True, **fields)) as answer:
            begun = await anext(answer.aiter_bytes())
        await until(lambda: not deployment.app.state.lifecycle.in_flight)
        deployment.sandbox.state.faults.clear()
        again = whole(await client.post(URL, json=body(stream=True, **fields)))
    assert again["id"] in begun.decode()
    assert deployment.jobs_submitted() == 1


async def test_an_sdk_that_repeats_after_a_lost_submission_pays_one_job(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    deployment.sandbox.state.faults.add(Fault(kind="close", operation="run", handled=True, times=1))
    async with AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="test-key", timeout=20) as client:
        response = await client.responses.create(model="claude-4-5-haiku", input="Hello!")
    assert response.status == "completed"
    assert deployment.jobs_submitted() == 1


# ---------------------------------------------------------------- failures


async def test_a_paid_failure_is_given_again_without_a_job(make_deployment: Any) -> None:
    """The AI SDK repeats after 2 and 6 seconds, without any mark."""
    deployment: Deployment = make_deployment()
    async with client_of(deployment) as client:
        answers = [await client.post(URL, json=body(script(fail="broken"))) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [424] * 3
    assert len({answer.json()["error"]["message"] for answer in answers}) == 1
    assert answers[0].headers["x-should-retry"] == "false"
    assert deployment.jobs_submitted() == 1


async def test_a_failed_turn_of_codex_fails_again_in_its_stream(make_deployment: Any) -> None:
    """Codex repeats a failed stream five times, and each request that gets a status but 400 four times more."""
    deployment: Deployment = make_deployment(running_s=0.2)
    async with client_of(deployment) as client:
        answers = [await client.post(URL, json=body(script(fail="broken"), stream=True, **TURN)) for _ in range(6)]
    ends = [response_events(answer.content)[-1] for answer in answers]
    assert {end["type"] for end in ends} == {"response.failed"}
    assert {end["response"]["error"]["message"] for end in ends} == {ends[0]["response"]["error"]["message"]}
    assert ends[0]["response"]["error"]["message"].startswith("narrative_job_failed: ")
    assert deployment.jobs_submitted() == 1


async def test_a_refusal_that_cost_a_job_is_final_for_codex(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    given = script(fail="prompt is too long: 250000 tokens > 200000 maximum")
    async with client_of(deployment) as client:
        first = await client.post(URL, json=body(given, stream=True, **TURN))
        again = await client.post(URL, json=body(given, stream=True, **TURN))
    assert response_events(first.content, judged=False)[-1]["response"]["error"]["code"] == "context_length_exceeded"
    assert (again.status_code, again.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert deployment.jobs_submitted() == 1


async def test_a_failed_turn_may_be_tried_again_later(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_STATE__REPLAY_FAILURES_S": "0"})
    given = script(key="once", attempts=[{"fail": "broken"}, {"text": "Fine."}])
    async with client_of(deployment) as client:
        assert (await client.post(URL, json=body(given, **TURN))).status_code == 424
        assert whole(await client.post(URL, json=body(given, **TURN)))["status"] == "completed"
    assert deployment.jobs_submitted() == 2


async def test_no_answer_is_kept_in_the_clear_for_a_turn(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    async with client_of(deployment) as client:
        await client.post(URL, json=body(script(text="A very secret answer."), store=False, **TURN))
    store = deployment.app.state.store
    kept = [await store.read(name) for name in list(store._records)]
    assert kept
    assert "secret" not in json.dumps([dict(record) for record in kept])
