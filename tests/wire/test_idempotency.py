"""A request that is repeated is not paid twice."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, Omit

from proxy.sandbox import SANDBOX_DATA_PLANE, Fault
from tests.conftest import Deployment
from tests.folding import fold
from tests.scripts import script
from tests.waiting import until

HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}
KEY = {"idempotency-key": "order-1"}
RETRY = {"x-stainless-retry-count": "1"}


def chunks(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]", answer.text
    return [json.loads(line) for line in lines[:-1]]


def body(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": content}], **fields}


def call(**arguments: Any) -> dict[str, Any]:
    return {"calls": [{"name": "weather", "arguments": arguments}]}


def client_of(deployment: Deployment) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=deployment.url, headers={"authorization": "Bearer test-key"}, timeout=30)


async def leave(deployment: Deployment, request: dict[str, Any], **headers: str) -> None:
    """Send a request, and close the connection once its job is in flight."""
    before = deployment.jobs_submitted()
    async with client_of(deployment) as client:
        call = asyncio.create_task(client.post("/v1/chat/completions", json=request, headers=headers))
        await until(lambda: deployment.jobs_submitted() > before and deployment.in_flight())
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await until(lambda: deployment.in_flight() == 0)


# ---------------------------------------------------------------- with a key


def test_the_same_key_and_body_get_the_finished_answer_again(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    first = deployment.chat(HELLO, headers=KEY)
    again = deployment.chat(HELLO, headers=KEY)
    assert first.status_code == again.status_code == 200
    assert again.json() == first.json()
    assert again.headers["x-narrative-job-id"] == first.headers["x-narrative-job-id"]
    assert deployment.jobs_submitted() == 1


@pytest.mark.parametrize("usage", [True, False])
def test_a_finished_answer_is_given_again_as_a_stream_too(make_deployment: Any, usage: bool) -> None:
    deployment: Deployment = make_deployment()
    first = deployment.chat({**HELLO, "n": 2}, headers=KEY).json()
    options = {"stream": True, "stream_options": {"include_usage": usage}}
    folded = fold(chunks(deployment.chat({**HELLO, "n": 2, **options}, headers=KEY)))
    assert folded["choices"] == first["choices"]
    assert folded["usage"] == (first["usage"] if usage else None)
    assert deployment.jobs_submitted() == 2


def test_a_streamed_answer_is_given_again_whole(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    streamed = fold(chunks(deployment.chat({**HELLO, "stream": True}, headers=KEY)))
    assert deployment.chat(HELLO, headers=KEY).json()["choices"] == streamed["choices"]
    assert deployment.jobs_submitted() == 1


@pytest.mark.parametrize("kept_bytes", ["0", "1048576"])
def test_an_answer_that_took_a_second_job_is_the_same_again_without_another_one(
    make_deployment: Any, kept_bytes: str
) -> None:
    deployment: Deployment = make_deployment({"PROXY_STATE__MAX_ANSWER_BYTES": kept_bytes})
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    ask = {
        "messages": [{"role": "user", "content": script(key="twice", attempts=[call(days=1), call(city="Rome")])}],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": city}}],
    }
    first = deployment.chat(ask, headers=KEY)
    again = deployment.chat(ask, headers=KEY)
    assert first.status_code == 200, first.text
    assert again.json() == first.json()
    assert deployment.jobs_submitted() == 2


def test_the_same_key_with_another_body_is_a_422(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    deployment.chat(HELLO, headers=KEY)
    refused = deployment.chat({**HELLO, "temperature": 0.5}, headers=KEY)
    assert refused.status_code == 422
    assert refused.json()["error"]["type"] == "idempotency_error"
    assert refused.json()["error"]["code"] == "idempotency_key_reused"
    assert refused.headers["x-should-retry"] == "false"
    assert deployment.jobs_submitted() == 1


def test_bodies_are_compared_as_parsed_not_byte_for_byte(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    plain = {"model": "claude-4-5-haiku", **HELLO}
    deployment.http.post("/v1/chat/completions", content=json.dumps(plain), headers=KEY)
    shuffled = json.dumps({"temperature": None, **dict(reversed(plain.items()))}, indent=3)
    assert deployment.http.post("/v1/chat/completions", content=shuffled, headers=KEY).status_code == 200
    assert deployment.jobs_submitted() == 1


def test_a_key_whose_request_was_refused_may_be_used_again(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    assert deployment.chat({"messages": []}, headers=KEY).status_code == 400
    refused = deployment.chat({"messages": [{"role": "user", "content": script(reject={"status": 400})}]}, headers=KEY)
    assert refused.status_code >= 400
    assert deployment.chat(HELLO, headers=KEY).status_code == 200
    assert deployment.jobs_submitted() == 1


async def test_requests_with_one_key_at_the_same_time_share_one_job(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.3)
    async with client_of(deployment) as client:
        asks = [
            client.post("/v1/chat/completions", json=body("Hi.", stream=index % 2 == 1), headers=KEY)
            for index in range(20)
        ]
        answers = await asyncio.gather(*asks)
    plain = [answer.json()["choices"] for answer in answers[::2]]
    streamed = [fold(chunks(answer))["choices"] for answer in answers[1::2]]
    assert all(choices == plain[0] for choices in plain + streamed)
    assert deployment.jobs_submitted() == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_left_gets_its_answer_with_the_same_key(make_deployment: Any, stream: bool) -> None:
    deployment: Deployment = make_deployment(running_s=0.5)
    await leave(deployment, body("Hi.", stream=stream), **KEY)
    async with client_of(deployment) as client:
        answer = await client.post("/v1/chat/completions", json=body("Hi."), headers=KEY)
    assert answer.status_code == 200
    assert deployment.jobs_submitted() == 1


async def test_a_client_that_left_during_the_submission_leaves_no_second_job(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    fault = Fault(kind="slow", operation="run", delay_s=0.5, times=1)
    deployment.sandbox.state.faults.add(fault)
    async with client_of(deployment) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/chat/completions", json=body("Hi."), headers=KEY, timeout=0.2)
        answer = await client.post("/v1/chat/completions", json=body("Hi."), headers=KEY)
    assert answer.status_code == 200
    assert deployment.jobs_submitted() == 1
    await until(lambda: deployment.in_flight() == 0)


async def test_after_a_submission_of_unknown_outcome_the_key_finds_the_job(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    faults = deployment.sandbox.state.faults
    faults.add(
        Fault(kind="close", operation="run", handled=True, times=1),
        Fault(kind="status", operation="list_jobs", status=500),
    )
    async with client_of(deployment) as client:
        unknown = await client.post("/v1/chat/completions", json=body("Hi."), headers={**KEY, "x-request-timeout": "3"})
        assert unknown.json()["error"]["code"] == "narrative_submit_unknown"
        faults.clear()
        answer = await client.post("/v1/chat/completions", json=body("Hi."), headers=KEY)
    assert answer.status_code == 200, answer.text
    assert deployment.jobs_submitted() == 1


def test_keys_are_scoped_to_the_caller(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "test-key,other-key"})
    mine = deployment.chat(HELLO, headers=KEY)
    others = deployment.chat(HELLO, headers={**KEY, "authorization": "Bearer other-key"})
    assert others.json()["id"] != mine.json()["id"]
    assert deployment.jobs_submitted() == 2


def test_a_job_that_narrative_forgot_is_run_anew(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_STATE__MAX_ANSWER_BYTES": "0"}, max_jobs=1)
    first = deployment.chat(HELLO, headers=KEY)
    deployment.chat(HELLO)
    again = deployment.chat(HELLO, headers=KEY)
    assert again.status_code == 200, again.text
    assert again.json()["id"] != first.json()["id"]


def test_a_key_that_is_no_key_is_a_400(deployment: Deployment) -> None:
    refused = deployment.chat(HELLO, headers={"idempotency-key": "k" * 256})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "Idempotency-Key"


# ---------------------------------------------------------------- without one


@pytest.mark.parametrize("first_stream", [False, True])
@pytest.mark.parametrize("then_stream", [False, True])
@pytest.mark.parametrize("headers", [{}, RETRY, {"x-stainless-retry-count": "0"}], ids=["plain", "SDK", "first try"])
async def test_an_equal_request_takes_up_the_job_of_the_client_that_vanished(
    make_deployment: Any, first_stream: bool, then_stream: bool, headers: dict[str, str]
) -> None:
    """Trap: clients send no idempotency key by default; some repeat with `x-stainless-retry-count`, most without."""
    deployment: Deployment = make_deployment(running_s=0.5)
    await leave(deployment, body("Hi.", stream=first_stream))
    async with client_of(deployment) as client:
        answer = await client.post("/v1/chat/completions", json=body("Hi.", stream=then_stream), headers=headers)
    assert answer.status_code == 200
    assert (fold(chunks(answer)) if then_stream else answer.json())["choices"][0]["message"]["content"]
    assert deployment.jobs_submitted() == 1


async def test_a_job_that_ended_without_a_client_is_taken_up(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.2)
    await leave(deployment, body("Hi."))
    await until(lambda: all(job.ended_at < time.time() for job in deployment.sandbox.state.store.jobs()))
    async with client_of(deployment) as client:
        for jobs in (1, 2):
            answer = await client.post("/v1/chat/completions", json=body("Hi."))
            assert answer.status_code == 200
            assert deployment.jobs_submitted() == jobs


async def test_a_stream_that_was_cut_leaves_its_job_to_the_next_equal_request(make_deployment: Any) -> None:
    """The client leaves after the first bytes, before the chunk with `finish_reason`."""
    deployment: Deployment = make_deployment(running_s=0.5)
    async with client_of(deployment) as client:
        async with client.stream("POST", "/v1/chat/completions", json=body("Hi.", stream=True)) as answer:
            await anext(answer.aiter_bytes())
        await until(lambda: deployment.in_flight() == 0)
        again = await client.post("/v1/chat/completions", json=body("Hi."))
    assert again.status_code == 200
    assert deployment.jobs_submitted() == 1


async def test_a_stream_that_was_read_to_its_finish_reason_was_delivered(make_deployment: Any) -> None:
    """Many clients stop reading there, before the usage chunk and `[DONE]`."""
    deployment: Deployment = make_deployment()
    async with client_of(deployment) as client:
        for jobs in (1, 2):
            async with client.stream("POST", "/v1/chat/completions", json=body("Hi.", stream=True)) as answer:
                async for line in answer.aiter_lines():
                    if '"finish_reason":"stop"' in line:
                        break
            assert deployment.jobs_submitted() == jobs


@pytest.mark.parametrize("key", [{}, KEY], ids=["plain", "with a key"])
async def test_a_request_that_timed_out_invites_a_repeat_that_gets_its_job(
    make_deployment: Any, key: dict[str, str]
) -> None:
    deployment: Deployment = make_deployment(running_s=1.5)
    async with client_of(deployment) as client:
        late = await client.post("/v1/chat/completions", json=body("Hi."), headers={"x-request-timeout": "0.5", **key})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "job_timeout")
        assert late.headers["x-should-retry"] == "true"
        assert late.headers["retry-after"] == "1"
        again = await client.post("/v1/chat/completions", json=body("Hi."), headers=key)
    assert again.status_code == 200
    assert again.headers["x-narrative-job-id"] == late.headers["x-narrative-job-id"]
    assert deployment.jobs_submitted() == 1


async def test_a_timeout_whose_job_cannot_be_taken_up_invites_nobody(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_STATE__ADOPT": "off"}, running_s=1.5)
    late = deployment.chat(HELLO, headers={"x-request-timeout": "0.5"})
    assert late.status_code == 504
    assert late.headers["x-should-retry"] == "false"
    assert "retry-after" not in late.headers


async def test_after_a_submission_of_unknown_outcome_an_equal_request_finds_the_job(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    faults = deployment.sandbox.state.faults
    faults.add(
        Fault(kind="close", operation="run", handled=True, times=1),
        Fault(kind="status", operation="list_jobs", status=500),
    )
    async with client_of(deployment) as client:
        unknown = await client.post("/v1/chat/completions", json=body("Hi."), headers={"x-request-timeout": "3"})
        assert unknown.json()["error"]["code"] == "narrative_submit_unknown"
        assert unknown.headers["x-should-retry"] == "true"
        faults.clear()
        answer = await client.post("/v1/chat/completions", json=body("Hi."))
    assert answer.status_code == 200, answer.text
    assert deployment.jobs_submitted() == 1


@pytest.mark.parametrize("announced", [True, False], ids=["announces its retries", "as openai 1.40"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_sdk_that_gives_up_three_times_before_the_end_pays_one_job(
    make_deployment: Any, announced: bool, stream: bool
) -> None:
    deployment: Deployment = make_deployment({"PROXY_CHAT__HEARTBEAT_S": "0"}, running_s=4.0)
    quiet = Omit()
    hidden = dict.fromkeys(("x-stainless-retry-count", "x-stainless-read-timeout", "x-stainless-timeout"), quiet)
    async with AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="test-key", timeout=1.5, max_retries=3) as client:
        answer: Any = await client.chat.completions.create(
            model="claude-4-5-haiku",
            messages=[{"role": "user", "content": "Hi."}],
            stream=stream,
            extra_headers={} if announced else hidden,  # type: ignore[arg-type]  # the library takes Omit
        )
        if not stream:
            assert answer.choices[0].message.content
    assert deployment.jobs_submitted() == 1


async def test_a_vanished_job_is_taken_up_once(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.5)
    await leave(deployment, body("Hi."))
    async with client_of(deployment) as client:
        asks = [client.post("/v1/chat/completions", json=body("Hi."), headers=headers) for headers in (RETRY, {}, {})]
        answers = await asyncio.gather(*asks)
    assert len({answer.json()["id"] for answer in answers}) == 3
    assert deployment.jobs_submitted() == 3


@pytest.mark.parametrize("headers", [{}, RETRY], ids=["plain", "SDK"])
async def test_an_equal_request_does_not_share_the_job_of_a_client_that_is_still_there(
    make_deployment: Any, headers: dict[str, str]
) -> None:
    deployment: Deployment = make_deployment(running_s=0.3)
    async with client_of(deployment) as client:
        first = asyncio.create_task(client.post("/v1/chat/completions", json=body("Hi.")))
        await until(lambda: deployment.in_flight() == 1)
        second = await client.post("/v1/chat/completions", json=body("Hi."), headers=headers)
        assert second.json()["id"] != (await first).json()["id"]
    assert deployment.jobs_submitted() == 2


async def test_a_delivered_answer_is_not_given_to_a_later_retry(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    async with client_of(deployment) as client:
        for stream in (False, True):
            await client.post("/v1/chat/completions", json=body("Hi.", stream=stream))
            await client.post("/v1/chat/completions", json=body("Hi.", stream=stream), headers=RETRY)
    assert deployment.jobs_submitted() == 4


@pytest.mark.parametrize(
    ("again", "headers"),
    [
        (body("Hi.", temperature=0.1), RETRY),
        (body("Hi."), {**RETRY, "authorization": "Bearer other-key"}),
        (body("Hi.", model="claude-4-5-sonnet"), {}),
    ],
    ids=["another body", "another caller", "another model"],
)
async def test_nothing_else_takes_up_a_vanished_job(
    make_deployment: Any, again: dict[str, Any], headers: dict[str, str]
) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "test-key,other-key"}, running_s=0.3)
    await leave(deployment, body("Hi."))
    async with client_of(deployment) as client:
        assert (await client.post("/v1/chat/completions", json=again, headers=headers)).status_code == 200
    assert deployment.jobs_submitted() == 2


async def test_callers_with_tokens_of_their_own_never_see_each_others_jobs(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(
        {"NARRATIVE_API_KEY": "", "PROXY_API_KEYS": "", "NARRATIVE_DATA_PLANE_ID": SANDBOX_DATA_PLANE}, running_s=0.3
    )
    await leave(deployment, body("Hi."), authorization="Bearer token-of-a")
    await leave(deployment, body("Hi."), authorization="Bearer token-of-a", **KEY)
    async with client_of(deployment) as client:
        for repeat in (RETRY, KEY):
            headers = {**repeat, "authorization": "Bearer token-of-b"}
            assert (await client.post("/v1/chat/completions", json=body("Hi."), headers=headers)).status_code == 200
    assert deployment.jobs_submitted() == 4


@pytest.mark.parametrize(("adopt", "jobs"), [("off", [2, 3]), ("sdk_retry", [2, 2])])
async def test_adoption_can_be_limited_or_switched_off(make_deployment: Any, adopt: str, jobs: list[int]) -> None:
    deployment: Deployment = make_deployment({"PROXY_STATE__ADOPT": adopt}, running_s=0.3)
    await leave(deployment, body("Hi."))
    await leave(deployment, body("Hi."))
    assert deployment.jobs_submitted() == jobs[0]
    async with client_of(deployment) as client:
        assert (await client.post("/v1/chat/completions", json=body("Hi."), headers=RETRY)).status_code == 200
    assert deployment.jobs_submitted() == jobs[1]


# ---------------------------------------------------------------- failures that were paid


def failing(text: str = "broken", **fields: Any) -> dict[str, Any]:
    return body(script(fail=text), **fields)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("key", [{}, KEY], ids=["plain", "with a key"])
async def test_a_paid_failure_is_given_again_without_a_job(
    make_deployment: Any, stream: bool, key: dict[str, str]
) -> None:
    deployment: Deployment = make_deployment()
    first = deployment.chat(failing(), headers=key)
    assert (first.status_code, first.json()["error"]["code"]) == (424, "narrative_job_failed")
    again = deployment.chat(failing(stream=stream), headers=key)
    assert (again.status_code, again.json()) == (424, first.json())
    assert again.headers["x-narrative-job-id"] == first.headers["x-narrative-job-id"]
    assert again.headers["x-should-retry"] == "false"
    assert deployment.jobs_submitted() == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("cause", "status", "code"),
    [
        ("prompt is too long: 209353 tokens > 199999 maximum", 400, "context_length_exceeded"),
        ("`temperature` and `top_p` cannot both be specified for this model.", 400, "unsupported_parameter"),
        ("Model unavailable", 404, "model_not_found"),
    ],
)
async def test_a_job_that_failed_for_the_requests_own_fault_is_not_paid_again(
    make_deployment: Any, cause: str, status: int, code: str, stream: bool
) -> None:
    deployment: Deployment = make_deployment()
    ask = body(script(fail=cause))
    first = deployment.chat(ask)
    assert (first.status_code, first.json()["error"]["code"]) == (status, code)
    again = deployment.chat({**ask, "stream": stream})
    assert (again.status_code, again.json()) == (status, first.json())
    assert again.headers["x-should-retry"] == "false"
    assert deployment.jobs_submitted() == 1


async def test_a_job_that_failed_under_load_may_be_tried_again(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    ask = body(script(key="load", attempts=[{"fail": "ThrottlingException"}, {"text": "Done."}]))
    first = deployment.chat(ask)
    assert (first.status_code, first.headers["x-should-retry"]) == (429, "true")
    assert deployment.chat(ask).status_code == 200


async def test_a_failure_inside_a_stream_is_given_again_before_one(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    streamed = deployment.chat(failing(stream=True))
    assert "narrative_job_failed" in streamed.text
    assert deployment.chat(failing()).status_code == 424
    assert deployment.jobs_submitted() == 1


async def test_a_paid_failure_is_given_again_to_the_same_caller_only(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "test-key,other-key"})
    deployment.chat(failing())
    deployment.chat(failing(), headers={"authorization": "Bearer other-key"})
    deployment.chat(failing("otherwise"))
    assert deployment.jobs_submitted() == 3


async def test_clients_that_need_no_key_are_told_apart_by_the_one_they_send(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "", "PROXY_SERVER__ALLOW_UNAUTHENTICATED": "always"})
    one, other = (
        {"authorization": f"Bearer {name}", "idempotency-key": "1"} for name in ("ann-example", "bob-example")
    )
    deployment.chat(failing(), headers=one)
    deployment.chat(failing(), headers=other)
    assert deployment.jobs_submitted() == 2
    assert deployment.chat(failing(), headers={**other, "authorization": "bearer bob-example"}).status_code == 424
    assert deployment.jobs_submitted() == 2


async def test_giving_failures_again_can_be_switched_off(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_STATE__REPLAY_FAILURES_S": "0"})
    for jobs in (1, 2):
        assert deployment.chat(failing()).status_code == 424
        assert deployment.jobs_submitted() == jobs


async def test_giving_failures_again_ends(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_STATE__REPLAY_FAILURES_S": "0.5"})
    deployment.chat(failing())
    await until(lambda: deployment.chat(failing()).status_code == 424 and deployment.jobs_submitted() == 2)


@pytest.mark.parametrize("key", [{}, KEY], ids=["plain", "with a key"])
@pytest.mark.parametrize("stream", [False, True])
async def test_when_one_choice_failed_a_repeat_pays_for_that_one_only(
    make_deployment: Any, stream: bool, key: dict[str, str]
) -> None:
    deployment: Deployment = make_deployment()
    attempts = [{"text": "A"}, {"fail": "broken"}, {"fail": "broken"}, {"text": "B"}]
    ask = body(script(key="once", attempts=attempts), n=2)
    first = deployment.chat({**ask, "stream": stream}, headers=key)
    assert "narrative_job_failed" in first.text
    assert deployment.jobs_submitted() == 3
    again = deployment.chat(ask, headers=key)
    assert again.status_code == 200, again.text
    assert {choice["message"]["content"] for choice in again.json()["choices"]} == {"A", "B"}
    assert deployment.jobs_submitted() == 4


async def test_what_is_kept_does_not_grow_with_the_requests_that_were_answered(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    async with client_of(deployment) as client:
        for index in range(30):
            await client.post("/v1/chat/completions", json=body(f"Hi {index}.", stream=index % 2 == 0))
    await until(lambda: len(deployment.app.state.store) == 0)
