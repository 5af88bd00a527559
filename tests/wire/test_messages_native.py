"""Named endpoints by the Messages API: those of Anthropic pass requests and answers on as they are, and fallbacks work."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.sandbox import Fault
from tests.conftest import Deployment
from tests.messages_api import KEY, MODEL, directive, messages_api
from tests.messages_client import asking, get, post
from tests.messages_folding import fold_messages, stream_events
from tests.serving import serve


class Service:
    """A deployment with endpoints on a Messages API and on the sandbox."""

    def __init__(self, stack: ExitStack, **more: str) -> None:
        self.api = messages_api()
        environ = {"ANTHROPIC_BASE_URL": stack.enter_context(serve(self.api)), "PROXY_ANTHROPIC__MAX_RETRIES": "0"}
        self.deployment = Deployment(stack, {**environ, "PROXY_ACCESS__WAIT_S": "0", **more}, {})
        self.url = self.deployment.url
        self.put("claude", "anthropic", api_key=KEY, model_id=MODEL)

    def put(self, name: str, service: str, task_settings: dict[str, Any] | None = None, **settings: Any) -> None:
        body = {"service": service, "service_settings": settings, "task_settings": task_settings or {}}
        if service == "anthropic":
            body["task_settings"] = {"max_tokens": 1024, **body["task_settings"]}
        answer = self.deployment.http.put(f"/_inference/completion/{name}", json=body)
        assert answer.status_code == 200, answer.text

    def last(self) -> dict[str, Any]:
        """The body of the newest request upstream."""
        return dict(self.api.state.requests[-1])


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with ExitStack() as stack:
        yield Service(stack)


def claude(text: Any, **fields: Any) -> dict[str, Any]:
    return asking(text, **{"model": "claude", **fields})


def test_the_body_goes_upstream_as_it_came(service: Service) -> None:
    body = claude(
        directive(text="Seen."),
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        thinking={"type": "enabled", "budget_tokens": 1024},
        max_tokens=4000,
        metadata={"user_id": "u"},
    )
    answer = post(service.url, body)
    assert answer.status_code == 200, answer.text
    assert service.last() == {**body, "model": MODEL, "stream": True}
    assert "x-proxy-ignored" not in answer.headers
    assert "x-proxy-adjusted" not in answer.headers


def test_the_clients_version_and_betas_go_along(service: Service) -> None:
    answer = post(service.url, claude("Hello"), **{"anthropic-version": "2026-10-21"})
    assert "anthropic-version" in answer.json()["error"]["message"], "the strict API wants another one"


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_comes_back_as_it_is(service: Service, stream: bool) -> None:
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    calls = [{"name": "look", "input": {"at": "this"}}, {"name": "look", "input": {}}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    text = directive(text="I look.", thinking="Hm, let me see.", calls=calls)
    answer = post(service.url, claude(text, tools=tools, thinking=thinking, max_tokens=4000, stream=stream))
    assert answer.status_code == 200, answer.text
    message = fold_messages(stream_events(answer.content)) if stream else answer.json()
    assert message["id"] == "msg_0123"
    assert message["model"] == "claude"
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm, let me see.", "signature": "signed"},
        {"type": "text", "text": "I look.", "citations": None},
        {"type": "tool_use", "id": "toolu_0", "name": "look", "input": {"at": "this"}},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}},
    ]
    assert message["usage"]["cache_read_input_tokens"] == 2
    assert answer.headers["x-proxy-model"] == MODEL


def test_tokens_come_as_they_are_made(service: Service) -> None:
    body = claude(directive(text="first and then more", hold=True), stream=True)
    said = ""
    with httpx.stream("POST", f"{service.url}/v1/messages", json=body, headers={"x-api-key": "test-key"}) as answer:
        for line in answer.iter_lines():
            said += line
            if "first a" in said:  # the upstream waits until this was seen
                service.api.state.release.set()
    assert "message_stop" in said


def test_media_and_server_tools_are_the_upstreams_to_judge(service: Service) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
    answer = post(service.url, claude([image, {"type": "text", "text": "What is it?"}]))
    assert service.last()["messages"][0]["content"][0] == image
    assert answer.json()["error"]["message"] == "Anthropic refused the request: messages.content.type"
    counted = post(service.url, claude([image]), "/v1/messages/count_tokens")
    assert counted.status_code == 200


@pytest.mark.parametrize(
    ("directives", "status", "kind"),
    [
        ({"status": 429, "type": "rate_limit_error"}, 429, "rate_limit_error"),
        ({"status": 529, "type": "overloaded_error"}, 502, "api_error"),
        ({"status": 400, "type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"}, 400, "invalid_request_error"),
        ({"status": 401, "type": "authentication_error"}, 502, "api_error"),
        ({"text": "Hello there", "broken": True}, 200, "api_error"),
    ],
)  # fmt: skip
def test_failures_upstream(service: Service, directives: dict[str, Any], status: int, kind: str) -> None:
    answer = post(service.url, claude(directive(**directives), stream=True))
    assert answer.status_code == status
    error = answer.json() if status != 200 else stream_events(answer.content)[-1]
    assert error["error"]["type"] == kind


def test_defaults_of_an_endpoint_fill_in_what_is_not_named(service: Service) -> None:
    service.put("warm", "anthropic", {"temperature": 0.5, "top_k": 3}, api_key=KEY, model_id=MODEL)
    assert post(service.url, claude("Hello", model="warm")).status_code == 200
    assert (service.last()["temperature"], service.last()["top_k"]) == (0.5, 3)
    thinking = {"type": "enabled", "budget_tokens": 1024}
    assert post(service.url, claude("Hello", model="warm", thinking=thinking, max_tokens=3000)).status_code == 200
    assert "temperature" not in service.last()


def test_a_key_gets_the_answer_again(service: Service) -> None:
    key = {"idempotency-key": "native-1"}
    text = directive(text="Once.", thinking="Hm.")
    body = claude(text, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=4000)
    first = post(service.url, {**body, "stream": True}, **key)
    before = len(service.api.state.requests)
    again = post(service.url, body, **key)
    assert {**again.json(), "stop_details": None} == fold_messages(stream_events(first.content))
    assert len(service.api.state.requests) == before


def test_the_same_endpoint_still_serves_the_other_apis(service: Service) -> None:
    body = {"model": "claude", "messages": [{"role": "user", "content": directive(text="Neutral.")}]}
    answer = service.deployment.http.post("/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["message"]["content"] == "Neutral."


def test_endpoints_of_narrative(service: Service) -> None:
    service.put("mine", "narrative", model_id="anthropic.claude-haiku-4.5")
    answer = post(service.url, asking("Hello!", model="mine"))
    assert (answer.status_code, answer.json()["model"]) == (200, "mine")
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    refused = post(service.url, asking("Hello!", model="mine", tools=tools))
    assert (refused.status_code, refused.json()["error"]["message"][:13]) == (400, "tools.0.type:")
    counted = post(service.url, asking("Hello!", model="mine", tools=tools), "/v1/messages/count_tokens")
    assert counted.status_code == 400


def test_a_fallback_takes_over_where_it_can(service: Service) -> None:
    service.put("falling", "anthropic", api_key=KEY, model_id=MODEL, fallback="claude-4-5-haiku")
    down = directive(status=503)
    answer = post(service.url, claude(f"Hello! {down}", model="falling"))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-proxy-served-by"] == "claude-4-5-haiku"
    assert answer.json()["model"] == "falling"
    streamed = post(service.url, claude(f"Hello! {down}", model="falling", stream=True))
    assert fold_messages(stream_events(streamed.content))["model"] == "falling"
    image = {"type": "image", "source": {}}
    before = service.deployment.jobs_submitted()
    refused = post(service.url, claude([image, {"type": "text", "text": down}], model="falling"))
    assert refused.status_code == 400
    assert service.deployment.jobs_submitted() == before


def test_a_model_falls_back_to_an_endpoint(tmp_path: Path) -> None:
    models = tmp_path / "models.toml"
    models.write_text(
        '[[models]]\nid = "anthropic.claude-haiku-4.5"\nnames = ["haiku"]\nmax_tokens = 4096\nfallback = "claude"\n'
    )
    with ExitStack() as stack:
        service = Service(stack, PROXY_CHAT__MODELS_FILE=str(models))
        down = Fault(kind="status", status=503, operation="run", headers={"retry-after": "3600"})
        service.deployment.sandbox.state.faults.add(down)
        image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
        refused = post(service.url, asking([image], model="haiku"))
        assert refused.status_code == 400, "Narrative was to serve it"
        answer = post(service.url, asking(directive(text="Here."), model="haiku"))
        assert answer.status_code == 200, answer.text
        assert (answer.json()["content"][0]["text"], answer.headers["x-proxy-served-by"]) == ("Here.", "claude")
        assert answer.json()["model"] == "haiku"


def test_endpoints_are_listed(service: Service) -> None:
    model = get(service.url, "/v1/models/claude").json()
    assert (model["id"], model["type"]) == ("claude", "model")
    assert model in get(service.url, "/v1/models?limit=1000").json()["data"]
