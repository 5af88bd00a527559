"""Background responses on one replica; several are in `tests/faults/test_responses_faults.py`."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from proxy.sandbox import Fault
from tests.conftest import Deployment
from tests.responses_folding import assert_response_is_openais, fold_items, response_events
from tests.scripts import script
from tests.waiting import until

URL = "/v1/responses"
KEY = {"idempotency-key": "order-1"}
RETRY = {"x-stainless-retry-count": "1"}
ENDLESS = script(state="running")


def body(given: Any = "Hello!", **fields: Any) -> dict[str, Any]:
    return {"model": "claude-4-5-haiku", "input": given, "background": True, **fields}


def begin(deployment: Deployment, given: Any = "Hello!", *, headers: Any = None, **fields: Any) -> dict[str, Any]:
    answer = deployment.http.post(URL, json=body(given, **fields), headers=headers)
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    assert_response_is_openais(response)
    return response


def get(deployment: Deployment, id_: str) -> dict[str, Any]:
    response: dict[str, Any] = deployment.http.get(f"{URL}/{id_}").json()
    assert_response_is_openais(response)
    return response


async def ended(deployment: Deployment, id_: str) -> dict[str, Any]:
    response: dict[str, Any] = {}

    async def holds() -> bool:
        nonlocal response
        response = await asyncio.to_thread(get, deployment, id_)
        return response["status"] not in ("queued", "in_progress")

    await until(holds)
    return response


async def test_a_background_response_is_queued_then_in_progress_then_completed(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.5)
    queued = begin(deployment, script(text="Done."), metadata={"a": "b"})
    assert (queued["status"], queued["background"], queued["output"], queued["usage"]) == ("queued", True, [], None)
    assert get(deployment, queued["id"])["status"] == "in_progress"
    response = await ended(deployment, queued["id"])
    assert (response["status"], response["metadata"]) == ("completed", {"a": "b"})
    assert response["output"][0]["content"][0]["text"] == "Done."
    assert response["created_at"] == queued["created_at"]
    assert deployment.jobs_submitted() == 1
    continued = deployment.http.post(URL, json=body(previous_response_id=response["id"], background=None))
    assert continued.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_has_no_effect_is_named_in_headers(make_deployment: Any, stream: bool) -> None:
    deployment: Deployment = make_deployment()
    answer = deployment.http.post(URL, json=body(truncation="auto", temperature=2, stream=stream))
    assert answer.headers["x-proxy-ignored"] == "truncation"
    assert answer.headers["x-proxy-adjusted"] == "temperature: lowered to 1"


async def test_openais_client_polls(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.3)
    async with AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="test-key") as client:
        response = await client.responses.create(model="claude-4-5-haiku", input=script(text="Done."), background=True)
        while response.status in ("queued", "in_progress"):
            response = await client.responses.retrieve(response.id)
    assert response.output_text == "Done."


async def test_the_answer_does_not_wait_for_a_slow_submission(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    deployment.sandbox.state.faults.add(Fault(kind="stuck", operation="run", times=1))
    queued = begin(deployment)
    assert queued["status"] == "queued"
    deployment.sandbox.state.faults.clear()
    assert (await ended(deployment, queued["id"]))["status"] == "completed"
    assert deployment.jobs_submitted() == 1


def test_what_is_refused_at_once_has_a_status_and_leaves_nothing(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    given = script(reject={"status": 403, "body": {"error": "x", "error_description": "no"}})
    for _ in range(2):
        answer = deployment.http.post(URL, json=body(given), headers=KEY)
        assert answer.status_code in (403, 502)
    wrong = {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": 3}}}}
    assert deployment.http.post(URL, json=body(**wrong)).status_code == 400
    assert deployment.http.post(URL, json=body(model="none")).status_code == 404
    assert deployment.jobs_submitted() == 0


async def test_a_failed_job_is_a_failed_response(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.1)
    queued = begin(deployment, script(fail="broken"))
    response = await ended(deployment, queued["id"])
    assert (response["status"], response["error"]["code"], response["output"]) == ("failed", "server_error", [])
    assert response["error"]["message"].startswith("narrative_job_failed: ")
    answer = deployment.http.post(URL, json=body(previous_response_id=queued["id"]))
    assert answer.json()["error"]["code"] == "previous_response_not_found"


async def test_what_costs_nothing_to_repeat_is_repeated(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_JOBS__MAX_IN_FLIGHT": "1", "PROXY_JOBS__PLACE_WAIT_S": "0.9"})
    running = begin(deployment, ENDLESS)
    waiting = [begin(deployment, f"Number {number}") for number in range(2)]
    deployment.http.post(f"{URL}/{running['id']}/cancel")
    assert {(await ended(deployment, response["id"]))["status"] for response in waiting} == {"completed"}
    assert deployment.jobs_submitted() == 3


async def test_a_deadline_ends_a_response(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_JOBS__DEADLINE_S": "1"})
    response = await ended(deployment, begin(deployment, ENDLESS)["id"])
    assert (response["status"], response["error"]["message"].partition(":")[0]) == ("failed", "job_timeout")


def test_there_is_an_end_to_how_many_are_worked_on(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_RESPONSES__MAX_BACKGROUND": "2"})
    for _ in range(2):
        begin(deployment, ENDLESS)
    answer = deployment.http.post(URL, json=body("Hi."))
    assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "true")
    assert deployment.jobs_submitted() == 2


# ---------------------------------------------------------------- streams


async def test_a_stream_can_be_dropped_and_read_again_from_any_event(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_CHAT__HEARTBEAT_S": "0.1"}, running_s=0.6)
    key = {"authorization": "Bearer test-key"}
    begun = b""
    async with httpx.AsyncClient(base_url=deployment.url, headers=key, timeout=30) as client:
        async with client.stream("POST", URL, json=body(script(text="One two three."), stream=True)) as answer:
            async for data in answer.aiter_bytes():
                begun += data
                if b"response.in_progress" in begun and b"\n:" in begun:
                    break
        events = response_events(begun.rpartition(b"\n\n")[0] + b"\n\n")
        assert [event["response"]["status"] for event in events] == ["queued", "queued", "in_progress"]
        id_ = events[0]["response"]["id"]
        live = await client.get(f"{URL}/{id_}", params={"stream": "true", "starting_after": 1})
        rest = response_events(live.content, first=2)
        assert rest[0] == events[2]
        whole = response_events((await client.get(f"{URL}/{id_}?stream=true")).content)
    assert whole[2:] == rest
    assert whole[:3] == events
    assert whole[-1]["response"] == get(deployment, id_)
    assert fold_items(whole) == whole[-1]["response"]["output"]
    assert deployment.jobs_submitted() == 1


def test_openais_client_streams(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.2)
    client = OpenAI(base_url=f"{deployment.url}/v1", api_key="test-key")
    events = client.responses.create(model="claude-4-5-haiku", input="Hi.", background=True, stream=True)
    seen = [(event.sequence_number, event.type) for event in events]
    assert [number for number, _ in seen] == list(range(len(seen)))
    assert [kind for _, kind in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert seen[-1][1] == "response.completed"


async def test_a_stream_of_a_failed_response_ends_with_that(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.2)
    answer = deployment.http.post(URL, json=body(script(fail="broken"), stream=True))
    events = response_events(answer.content)
    assert [event["type"] for event in events][2:] == ["response.in_progress", "response.failed"]
    assert events[-1]["response"]["status"] == "failed"


@pytest.mark.parametrize(("method", "path"), [("POST", "/cancel"), ("DELETE", "")])
async def test_a_stream_of_what_is_cancelled_or_deleted_ends_too(make_deployment: Any, method: str, path: str) -> None:
    deployment: Deployment = make_deployment({"PROXY_CHAT__HEARTBEAT_S": "0.1"})
    id_ = begin(deployment, ENDLESS)["id"]
    key = {"authorization": "Bearer test-key"}
    async with httpx.AsyncClient(base_url=deployment.url, headers=key, timeout=30) as client:
        reading = asyncio.create_task(client.get(f"{URL}/{id_}", params={"stream": "true"}))
        await until(lambda: deployment.app.state.lifecycle.in_flight)
        await client.request(method, f"{URL}/{id_}{path}")
        events = response_events((await reading).content)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["status"] == ("cancelled" if path else "failed")


# ---------------------------------------------------------------- cancelling


async def test_a_running_response_is_cancelled_once(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.5)
    id_ = begin(deployment)["id"]
    first = deployment.http.post(f"{URL}/{id_}/cancel")
    assert (first.json()["status"], first.json()["output"]) == ("cancelled", [])
    assert "paid" in first.headers["x-proxy-adjusted"]
    again = deployment.http.post(f"{URL}/{id_}/cancel")
    assert again.json() == first.json()
    assert "x-proxy-adjusted" not in again.headers
    await until(lambda: all(job.ended_at < time.time() for job in deployment.sandbox.state.store.jobs()))
    assert get(deployment, id_)["status"] == "cancelled"
    assert deployment.http.post(URL, json=body(previous_response_id=id_)).status_code == 400


async def test_a_finished_response_comes_back_as_it_is(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    id_ = begin(deployment)["id"]
    response = await ended(deployment, id_)
    answer = deployment.http.post(f"{URL}/{id_}/cancel")
    assert answer.json() == response
    assert "x-proxy-adjusted" not in answer.headers


def test_only_background_responses_are_cancelled(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    id_ = begin(deployment, background=False)["id"]
    answer = deployment.http.post(f"{URL}/{id_}/cancel")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_deleted_response_runs_on_unseen(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.3)
    id_ = begin(deployment)["id"]
    assert deployment.http.delete(f"{URL}/{id_}").json()["deleted"] is True
    await until(lambda: deployment.in_flight() == 0)
    assert deployment.http.get(f"{URL}/{id_}").status_code == 404


# ---------------------------------------------------------------- repeats


@pytest.mark.parametrize(("first", "then"), [(KEY, KEY), ({}, RETRY)], ids=["a key", "an SDK's retry"])
async def test_a_repeat_gets_the_same_response(
    make_deployment: Any, first: dict[str, str], then: dict[str, str]
) -> None:
    deployment: Deployment = make_deployment(running_s=0.3)
    one = begin(deployment, headers=first)
    assert begin(deployment, headers=then)["id"] == one["id"]
    response = await ended(deployment, one["id"])
    assert begin(deployment, headers=then) == response
    assert deployment.jobs_submitted() == 1


async def test_a_repeat_of_what_failed_with_a_job_takes_that_up_without_any_mark(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(
        {"PROXY_NARRATIVE__READ_TIMEOUT_S": "0.2", "PROXY_JOBS__DEADLINE_S": "0.5"}
    )
    faults = deployment.sandbox.state.faults
    faults.add(
        Fault(kind="stuck", operation="run", handled=True), Fault(kind="status", operation="list_jobs", status=500)
    )
    answer = await asyncio.to_thread(deployment.http.post, URL, json=body())
    assert answer.json()["error"]["code"] == "narrative_submit_unknown"
    assert answer.headers["x-should-retry"] == "true"
    faults.clear()
    again = await asyncio.to_thread(begin, deployment)
    assert (await ended(deployment, again["id"]))["status"] == "completed"
    assert deployment.jobs_submitted() == 1


async def test_a_repeat_within_a_turn_gets_the_same_response(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    turn = {"client_metadata": {"turn_id": "t"}}
    assert begin(deployment, **turn)["id"] == begin(deployment, **turn)["id"]
    await until(lambda: deployment.in_flight() == 0)
    assert deployment.jobs_submitted() == 1


async def test_equal_requests_without_marks_are_two(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    made = [begin(deployment)["id"] for _ in range(2)]
    assert len(set(made)) == 2
    for id_ in made:
        await ended(deployment, id_)
    assert deployment.jobs_submitted() == 2


async def test_a_key_with_another_body_is_a_422(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    await ended(deployment, begin(deployment, headers=KEY)["id"])
    assert deployment.http.post(URL, json=body("Other."), headers=KEY).status_code == 422
    assert deployment.jobs_submitted() == 1


async def test_a_bug_ends_a_response_too(make_deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment: Deployment = make_deployment()

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("proxy.api.openai.responses.background.finished", broken)
    response = await ended(deployment, begin(deployment)["id"])
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert "ZeroDivision" not in str(response)
