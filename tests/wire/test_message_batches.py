"""Message batches over the wire. Source: contract `openai-batches.md`, last section; `anthropic-messages.md`, Batches."""

import json
from typing import Any

import httpx
import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from pydantic import TypeAdapter

from tests.batching import ended
from tests.conftest import Deployment
from tests.messages_api import KEY, directive
from tests.scripts import script
from tests.waiting import until_sync

PATH = "/v1/messages/batches"


def params(content: str = "Hello!", **fields: Any) -> dict[str, Any]:
    asked = {"model": "claude-4-5-haiku", "max_tokens": 100, "messages": [{"role": "user", "content": content}]}
    return {**asked, **fields}


def create(http: httpx.Client, requests: dict[str, Any], **headers: str) -> dict[str, Any]:
    listed = [{"custom_id": custom_id, "params": asked} for custom_id, asked in requests.items()]
    answer = http.post(PATH, json={"requests": listed}, headers=headers)
    assert answer.status_code == 200, answer.text
    batch: dict[str, Any] = answer.json()
    return batch


def results(http: httpx.Client, batch: dict[str, Any]) -> dict[str, dict[str, Any]]:
    answer = http.get(batch["results_url"])
    assert answer.status_code == 200
    found = [json.loads(text) for text in answer.text.splitlines()]
    for row in found:
        TypeAdapter(MessageBatchIndividualResponse).validate_python(row)
    by_id = {row["custom_id"]: row["result"] for row in found}
    assert len(by_id) == len(found)
    return by_id


def test_a_batch_answers_every_request(deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    asked = {
        "good": params(),
        "job": params(script(fail="the model fell over")),
        "wrong": params(max_tokens="many"),
        "unknown": params(model="nobody"),
        "streamed": params(stream=True),
    }
    batch = create(deployment.http, asked)
    MessageBatch.model_validate(batch)
    assert batch["id"].startswith("msgbatch_")
    assert (batch["type"], batch["processing_status"], batch["results_url"]) == ("message_batch", "in_progress", None)
    counts = {"processing": 5, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    assert batch["request_counts"] == counts
    batch = ended(deployment.http, batch["id"], PATH)
    MessageBatch.model_validate(batch)
    assert batch["request_counts"] == {**counts, "processing": 0, "succeeded": 1, "errored": 4}
    assert batch["ended_at"] >= batch["created_at"]
    found = results(deployment.http, batch)
    assert found.keys() == asked.keys()
    assert found["good"]["message"]["type"] == "message"
    errors = {id_: result["error"]["error"]["type"] for id_, result in found.items() if result["type"] == "errored"}
    assert errors == {
        "job": "api_error",
        "wrong": "invalid_request_error",
        "unknown": "not_found_error",
        "streamed": "invalid_request_error",
    }
    assert deployment.jobs_submitted() == before + 2
    assert deployment.http.get(f"/v1/batches/{batch['id']}").status_code == 404


def test_an_unknown_batch_and_one_without_results(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "test-key,other-key"})
    batch = create(deployment.http, {"a": params(script(delay=1.0))})
    path = f"{PATH}/{batch['id']}"
    assert deployment.http.get(f"{path}/results").json()["error"]["type"] == "not_found_error"
    assert deployment.http.delete(path).status_code == 409
    for method, rest in (("GET", ""), ("POST", "/cancel"), ("GET", "/results"), ("DELETE", "")):
        headers = {"x-api-key": "other-key", "authorization": ""}
        answer = deployment.http.request(method, f"{path}{rest}", headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    ended(deployment.http, batch["id"], PATH)
    assert deployment.http.delete(path).json() == {"id": batch["id"], "type": "message_batch_deleted"}
    assert deployment.http.get(path).status_code == 404
    assert deployment.http.get(PATH).json() == {"data": [], "has_more": False, "first_id": None, "last_id": None}


def test_a_cancelled_batch_has_a_row_for_what_was_not_begun(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_BATCHES__MAX_IN_FLIGHT": "4"})
    batch = create(deployment.http, {f"c{number}": params(script(delay=0.5)) for number in range(20)})
    until_sync(deployment.in_flight)
    answer = deployment.http.post(f"{PATH}/{batch['id']}/cancel").json()
    assert (answer["processing_status"], answer["cancel_initiated_at"] is None) == ("canceling", False)
    batch = ended(deployment.http, batch["id"], PATH)
    found = results(deployment.http, batch)
    kinds = [result["type"] for result in found.values()]
    assert len(found) == 20
    assert batch["request_counts"]["succeeded"] == kinds.count("succeeded") == deployment.jobs_submitted()
    assert batch["request_counts"]["canceled"] == kinds.count("canceled") > 0


def test_what_was_not_answered_in_time_expires(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_BATCHES__WINDOW_S": "2"})
    batch = create(deployment.http, {"a": params(script(state="running"))})
    batch = ended(deployment.http, batch["id"], PATH)
    assert batch["request_counts"]["expired"] == 1
    assert results(deployment.http, batch) == {"a": {"type": "expired"}}


@pytest.mark.parametrize(
    ("body", "status", "what"),
    [
        ({}, 400, "requests"),
        ({"requests": []}, 400, "requests"),
        ({"requests": [1]}, 400, "requests"),
        ({"requests": [{"params": {}}]}, 400, "requests.0.custom_id"),
        ({"requests": [{"custom_id": "x" * 513, "params": {}}]}, 400, "requests.0.custom_id"),
        (
            {"requests": [{"custom_id": "a", "params": {}}, {"custom_id": "a", "params": {}}]},
            400,
            "requests.1.custom_id",
        ),
        ({"requests": [{"custom_id": "a", "params": []}]}, 400, "requests.0.params"),
        ({"requests": [{"custom_id": str(number), "params": {}} for number in range(6)]}, 413, "requests"),
    ],
)
def test_a_body_that_is_wrong_is_refused_as_a_whole(make_deployment: Any, body: Any, status: int, what: str) -> None:
    deployment: Deployment = make_deployment({"PROXY_BATCHES__MAX_LINES": "5"})
    answer = deployment.http.post(PATH, json=body)
    assert answer.status_code == status, answer.text
    assert what in answer.json()["error"]["message"]
    assert deployment.http.get(PATH).json()["data"] == []


def test_other_bodies(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_BATCHES__MAX_FILE_BYTES": "400000"})
    assert deployment.http.post(PATH, content=b"no json").status_code == 400
    answer = deployment.http.post(PATH, content=b"", headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    large = {"requests": [{"custom_id": str(n), "params": params("x" * 90_000)} for n in range(5)]}
    assert deployment.http.post(PATH, json=large).status_code == 413


def test_integers_of_any_size_are_kept(deployment: Deployment) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**70}}}
    asked = params(tools=[{"name": "f", "input_schema": schema}])
    batch = ended(deployment.http, create(deployment.http, {"a": asked})["id"], PATH)
    assert results(deployment.http, batch)["a"]["type"] == "succeeded"


def test_other_keys_and_the_other_api_see_no_message_batch(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "test-key,other-key"})
    key = {"idempotency-key": "order-1"}
    batch = ended(deployment.http, create(deployment.http, {"a": params()}, **key)["id"], PATH)
    other = {"authorization": "Bearer other-key"}
    for method, path in (("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", "")):
        answer = deployment.http.request(method, f"{PATH}/{batch['id']}{path}", headers=other)
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    assert deployment.http.get(PATH, headers=other).json()["data"] == []
    assert create(deployment.http, {"a": params()}, **key)["id"] == batch["id"]
    assert create(deployment.http, {"a": params()}, **key, **other)["id"] != batch["id"]
    assert deployment.http.get("/v1/files").json()["data"] == []
    assert deployment.http.get(f"/v1/batches/{batch['id']}").status_code == 404
    assert deployment.http.get("/v1/batches").json()["data"] == []


def test_batches_are_listed_in_pages(make_deployment: Any) -> None:
    http = make_deployment().http
    ids = [create(http, {"a": params()})["id"] for _ in range(4)][::-1]
    page = http.get(PATH, params={"limit": 2, "after_id": ids[0]}).json()
    assert [batch["id"] for batch in page["data"]] == ids[1:3]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[1], ids[2], True)
    page = http.get(PATH, params={"limit": 2, "before_id": ids[3]}).json()
    assert [batch["id"] for batch in page["data"]] == ids[1:3]
    for wrong in ({"after_id": ids[0], "before_id": ids[1]}, {"limit": 0}, {"after_id": "msgbatch_none"}):
        assert http.get(PATH, params=wrong).status_code == 400
    for id_ in ids:
        ended(http, id_, PATH)


def test_a_retry_of_an_sdk_finds_the_batch(deployment: Deployment) -> None:
    asked = {"a": params("only once")}
    first = create(deployment.http, asked)["id"]
    assert create(deployment.http, asked, **{"x-stainless-retry-count": "1"})["id"] == first
    assert create(deployment.http, asked)["id"] != first


def test_an_endpoint_of_anthropic_gets_the_request_as_it_is(make_deployment: Any) -> None:
    from tests.messages_api import MODEL, messages_api
    from tests.serving import serve

    upstream = messages_api()
    with serve(upstream) as url:
        deployment: Deployment = make_deployment({"ANTHROPIC_BASE_URL": url})
        settings = {"service": "anthropic", "service_settings": {"api_key": KEY, "model_id": MODEL}}
        settings["task_settings"] = {"max_tokens": 50}
        made = deployment.http.put("/_inference/completion/claude", json=settings)
        assert made.status_code == 200, made.text
        batch = create(deployment.http, {"a": params(directive(text="As asked."), model="claude")})
        found = results(deployment.http, ended(deployment.http, batch["id"], PATH))
    assert found["a"]["message"]["content"][0]["text"] == "As asked."
