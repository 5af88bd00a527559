"""The official `elasticsearch` Python client against the running proxy, over a real socket."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from elasticsearch import ApiError, AuthenticationException, BadRequestError, Elasticsearch, NotFoundError

from tests.conftest import Deployment
from tests.scripts import script

CONFIG: dict[str, Any] = {
    "service": "narrative",
    "service_settings": {"api_key": "token", "model_id": "anthropic.claude-haiku-4.5"},
    "task_settings": {"max_tokens": 1024},
}


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Elasticsearch]:
    with Elasticsearch(deployment.url, api_key="test-key") as client:
        client.inference.put(task_type="completion", inference_id="made", inference_config=CONFIG)
        yield client
        client.inference.delete(inference_id="made")


def test_put_get_and_delete(client: Elasticsearch) -> None:
    made = client.inference.put(task_type="completion", inference_id="another", inference_config=CONFIG)
    assert made.body == {
        "inference_id": "another",
        "task_type": "completion",
        "service": "narrative",
        "service_settings": {"model_id": "anthropic.claude-haiku-4.5"},
        "task_settings": {"max_tokens": 1024},
    }
    assert client.inference.get(inference_id="another").body == {"endpoints": [made.body]}
    assert client.inference.get(task_type="completion", inference_id="another").body == {"endpoints": [made.body]}
    for listed in (client.inference.get(), client.inference.get(task_type="completion")):
        assert {endpoint["inference_id"] for endpoint in listed["endpoints"]} == {"made", "another"}
    assert client.inference.delete(task_type="completion", inference_id="another").body == {"acknowledged": True}
    with pytest.raises(NotFoundError):
        client.inference.get(inference_id="another")


def test_completion(client: Elasticsearch) -> None:
    answer = client.inference.completion(inference_id="made", input=script(text="Here."))
    assert answer.body == {"completion": [{"result": "Here."}]}
    settings = {"temperature": 0.1}
    for inference in (
        client.inference.inference(inference_id="made", input=script(text="Here."), task_settings=settings),
        client.inference.inference(task_type="completion", inference_id="made", input=[script(text="Here.")]),
    ):
        assert inference["completion"] == [{"result": "Here."}]


def stream(client: Elasticsearch, path: str, body: dict[str, Any]) -> list[str]:
    """The data of a stream's events. The client has no method for streams, and hands their text out whole."""
    headers = {"accept": "text/event-stream", "content-type": "application/json"}
    text = client.perform_request("POST", path, headers=headers, body=body).body
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def test_completion_streamed(client: Elasticsearch) -> None:
    *pieces, done = stream(client, "/_inference/completion/made/_stream", {"input": script(text="Some more words.")})
    assert done == "[DONE]"
    assert "".join(json.loads(piece)["completion"][0]["delta"] for piece in pieces) == "Some more words."


def test_chat_completion_streamed(client: Elasticsearch) -> None:
    messages = [{"role": "user", "content": script(text="Some more words.")}]
    *chunks, done = stream(client, "/_inference/chat_completion/made/_stream", {"messages": messages})
    assert done == "[DONE]"
    deltas = [choice["delta"] for chunk in chunks for choice in json.loads(chunk)["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == "Some more words."


@pytest.mark.parametrize(
    "credentials",
    [{"api_key": ("an-id", "test-key")}, {"basic_auth": ("elastic", "test-key")}, {"bearer_auth": "test-key"}],
)
def test_every_way_to_authenticate(deployment: Deployment, credentials: dict[str, Any]) -> None:
    with Elasticsearch(deployment.url, **credentials) as client:
        assert "endpoints" in client.inference.get().body


def test_errors_are_the_clients_own(client: Elasticsearch, deployment: Deployment) -> None:
    with Elasticsearch(deployment.url, api_key="wrong") as stranger, pytest.raises(AuthenticationException):
        stranger.inference.get()
    with pytest.raises(BadRequestError) as caught:
        client.inference.put(task_type="completion", inference_id="bad", inference_config={"service": "none"})
    assert caught.value.body["error"]["type"] == "validation_exception"
    with pytest.raises(NotFoundError):
        client.inference.completion(inference_id="absent", input="hi")


def test_a_failed_job_is_not_repeated_by_the_client(client: Elasticsearch, deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    with pytest.raises(ApiError) as caught:
        client.inference.completion(inference_id="made", input=script(fail="It broke"))
    assert caught.value.status_code == 500
    assert deployment.jobs_submitted() == before + 1
