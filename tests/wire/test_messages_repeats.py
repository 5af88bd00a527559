"""When a stream of the Messages API begins, and what repeats of a request cost: never a second job for one answer."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from proxy.sandbox import Fault
from tests.conftest import Deployment
from tests.messages_client import HEADERS, SESSION, asking, post
from tests.messages_folding import assert_message_is_anthropics, fold_messages, stream_events
from tests.scripts import script
from tests.waiting import until

NO_HOLD = {"PROXY_MESSAGES__HOLD_S": "0"}
BILLING = "x-anthropic-billing-header: cc_version=2.1.332."


def failing(cause: str = "Something odd", **fields: Any) -> dict[str, Any]:
    return asking(script(fail=f"{cause} ({uuid4()})"), **fields)


def client_of(deployment: Deployment) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=deployment.url, headers=HEADERS, timeout=30)


async def leave(deployment: Deployment, body: dict[str, Any], **headers: str) -> None:
    """Send a request, and close the connection once its job is in flight."""
    before = deployment.jobs_submitted()
    async with client_of(deployment) as client:
        call = asyncio.create_task(client.post("/v1/messages", json=body, headers=headers))
        await until(lambda: deployment.jobs_submitted() > before and deployment.in_flight())
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await until(lambda: deployment.in_flight() == 0)


# ---------------------------------------------------------------- when a stream begins


@pytest.mark.parametrize(
    ("cause", "status", "repeat"),
    [
        ("Something odd", 502, "false"),
        ("`temperature` and `top_p` cannot both be specified for this model.", 502, "false"),
        ("max_tokens: 64064 > 64000, which is the maximum allowed number of output tokens", 502, "false"),
        ("input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000", 400, "false"),
        ("ThrottlingException: Too many tokens, please wait before trying again.", 429, "true"),
        ("Overloaded", 529, "true"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_job_keeps_its_status(
    deployment: Deployment, cause: str, status: int, repeat: str, stream: bool
) -> None:
    answer = post(deployment.url, failing(cause, stream=stream))
    assert answer.status_code == status, answer.text
    assert (answer.headers["x-should-retry"], "retry-after" in answer.headers) == (repeat, repeat == "true")
    assert answer.headers["x-narrative-job-id"]
    message = answer.json()["error"]["message"]
    assert ("prompt is too long" in message) is (status == 400)


@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_answer_is_an_error(deployment: Deployment, stream: bool) -> None:
    answer = post(deployment.url, asking(script(text=" ", key=str(uuid4())), stream=stream))
    assert (answer.status_code, answer.headers["x-should-retry"]) == (502, "false")
    assert "empty" in answer.json()["error"]["message"]


def test_a_stream_that_is_not_held_fails_by_an_event(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(NO_HOLD)
    body = failing(stream=True)
    answer = post(deployment.url, body)
    assert answer.status_code == 200
    first, last = stream_events(answer.content)
    assert (first["type"], last["type"]) == ("message_start", "error")
    assert last["error"]["type"] == "api_error"
    assert last["request_id"] == answer.headers["request-id"]
    again = post(deployment.url, {**body, "stream": False})
    assert (again.status_code, again.headers["x-should-retry"]) == (502, "false")
    assert deployment.jobs_submitted() == 1


def test_an_overload_after_a_job_is_no_overloaded_event(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(NO_HOLD)
    *_, last = stream_events(post(deployment.url, failing("Overloaded", stream=True)).content)
    assert (last["type"], last["error"]["type"]) == ("error", "api_error")


async def test_a_stream_is_silent_for_a_while_and_then_pings(make_deployment: Any) -> None:
    environ = {"PROXY_MESSAGES__HOLD_S": "0.3", "PROXY_CHAT__HEARTBEAT_S": "0.05"}
    deployment: Deployment = make_deployment(environ, running_s=1.0)
    async with (
        client_of(deployment) as client,
        client.stream("POST", "/v1/messages", json=asking("Hi", stream=True)) as answer,
    ):
        raw = b"".join([chunk async for chunk in answer.aiter_raw()])
    events = stream_events(raw)
    assert [event["type"] for event in events[:3]] == ["message_start", "ping", "ping"]
    assert_message_is_anthropics(fold_messages(events))


def test_a_stream_without_pings_where_the_answer_is_soon(deployment: Deployment) -> None:
    assert b"event: ping" not in post(deployment.url, asking("Hello!", stream=True)).content


def test_the_hold_respects_an_sdks_timeout(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_MESSAGES__HOLD_S": "20"}, running_s=1.2)
    answer = post(deployment.url, asking("Hello!", stream=True), **{"x-stainless-timeout": "1"})
    assert b"event: ping" in answer.content
    assert fold_messages(stream_events(answer.content))["stop_reason"] == "end_turn"


def test_blanks_ahead_of_a_whole_answer_if_a_setting_asks_for_them(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_CHAT__KEEPALIVE_JSON_S": "0.05"}, running_s=0.6)
    answer = post(deployment.url, asking("Hello!"))
    assert answer.content.startswith(b" ")
    assert_message_is_anthropics(answer.json())
    failed = post(deployment.url, failing())
    assert (failed.status_code, json.loads(failed.content)["type"]) == (200, "error")


# ---------------------------------------------------------------- repeats


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_an_equal_request_gets_a_failure_again_without_a_job(make_deployment: Any, stream: bool, again: bool) -> None:
    deployment: Deployment = make_deployment()
    body = failing()
    answers = [post(deployment.url, {**body, "stream": each}) for each in (stream, again, stream)]
    assert {(answer.status_code, answer.headers["x-should-retry"]) for answer in answers} == {(502, "false")}
    assert len({answer.json()["error"]["message"] for answer in answers}) == 1
    assert deployment.jobs_submitted() == 1


def test_an_empty_answer_is_not_paid_again_at_once(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    body = asking(script(text=""))
    assert [post(deployment.url, body).status_code for _ in range(3)] == [502] * 3
    assert deployment.jobs_submitted() == 1


@pytest.mark.parametrize("hold_s", ["0", "15"])
@pytest.mark.parametrize("again", [False, True])
async def test_a_cut_stream_is_taken_up_by_its_repeat(make_deployment: Any, hold_s: str, again: bool) -> None:
    deployment: Deployment = make_deployment({"PROXY_MESSAGES__HOLD_S": hold_s}, running_s=0.5)
    body = asking("Hello!")
    await leave(deployment, {**body, "stream": True})
    answer = post(deployment.url, {**body, "stream": again})
    message = fold_messages(stream_events(answer.content)) if again else answer.json()
    assert message["stop_reason"] == "end_turn"
    assert deployment.jobs_submitted() == 1


async def test_repeats_differ_by_billing_suffix_and_agree_by_session(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.4)

    def body(suffix: str) -> dict[str, Any]:
        blocks = [{"type": "text", "text": f"{BILLING}{suffix}"}, {"type": "text", "text": "Be brief."}]
        return asking("Hello!", system=blocks, stream=True)

    await leave(deployment, body("a1b"), **{SESSION: "one"})
    assert post(deployment.url, body("c2d"), **{SESSION: "two"}).status_code == 200
    assert deployment.jobs_submitted() == 2, "another session is another client"
    assert post(deployment.url, body("c2d"), **{SESSION: "one"}).status_code == 200
    assert deployment.jobs_submitted() == 2


@pytest.mark.parametrize("stream", [False, True])
def test_within_a_session_an_answer_that_was_written_is_given_again(make_deployment: Any, stream: bool) -> None:
    """The connection may have broken between the proxy and the agent."""
    deployment: Deployment = make_deployment()
    body = asking("Hello!", stream=stream)
    first, again = (post(deployment.url, body, **{SESSION: "one"}) for _ in range(2))
    assert first.headers["x-narrative-job-id"] == again.headers["x-narrative-job-id"]
    assert deployment.jobs_submitted() == 1
    for session in ({SESSION: "two"}, {}):
        assert post(deployment.url, body, **session).status_code == 200
    assert deployment.jobs_submitted() == 3


def test_a_key_gets_the_same_answer_streamed_or_not(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    key = {"idempotency-key": "turn-1"}
    first = post(deployment.url, asking("Hello!"), **key).json()
    again = post(deployment.url, asking("Hello!", stream=True), **key)
    assert fold_messages(stream_events(again.content)) == first
    assert deployment.jobs_submitted() == 1
    assert post(deployment.url, asking("Bye!"), **key).status_code == 422


def test_a_job_that_takes_too_long_is_taken_up(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=1.5)
    body = asking("Hello!", stream=True)
    late = post(deployment.url, body, **{"x-request-timeout": "0.3"})
    assert (late.status_code, late.json()["error"]["type"]) == (504, "timeout_error")
    assert (late.headers["x-should-retry"], late.headers["retry-after"]) == ("true", "1")
    assert fold_messages(stream_events(post(deployment.url, body).content))["stop_reason"] == "end_turn"
    assert deployment.jobs_submitted() == 1


def test_a_lost_submission_is_paid_once(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    deployment.sandbox.state.faults.add(Fault(kind="close", operation="run", handled=True, times=1))
    assert post(deployment.url, asking("Hello!", stream=True)).status_code == 200
    assert deployment.jobs_submitted() == 1
