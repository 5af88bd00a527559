"""The Messages API over real sockets: answers, streams, counts, models, headers and errors."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Deployment
from tests.messages_client import HEADERS, asking, get, post
from tests.messages_folding import assert_message_is_anthropics, fold_messages, stream_events
from tests.scripts import script

RECORDED = Path(__file__).parents[1] / "data" / "claude-code"
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = script(calls=[{"name": "get_weather", "arguments": {"city": "Ulm"}}])


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, type and message, after asserting what holds for every error."""
    body = answer.json()
    assert body["type"] == "error"
    assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    assert answer.headers["x-should-retry"] in ("true", "false")
    return answer.status_code, body["error"]["type"], body["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/", "/v1/messages?beta=true&new=1", "//v1/messages"])
def test_a_whole_answer(deployment: Deployment, path: str) -> None:
    answer = post(deployment.url, asking("Hello!"), path)
    assert answer.status_code == 200, answer.text
    assert_message_is_anthropics(answer.json())
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert answer.headers["x-narrative-job-id"]
    assert answer.headers["x-proxy-model"] == "anthropic.claude-haiku-4.5"


def test_a_stream_folds_to_a_whole_answer(deployment: Deployment) -> None:
    body = asking(CALL, tools=[WEATHER], thinking={"type": "adaptive"}, max_tokens=20_000, stream=True)
    answer = post(deployment.url, body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    folded = fold_messages(stream_events(answer.content))
    assert_message_is_anthropics(folded)
    assert [block["type"] for block in folded["content"]] == ["thinking", "tool_use"]
    assert folded["content"][1]["input"] == {"city": "Ulm"}
    assert folded["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "test-key"},
        {"authorization": "Bearer test-key"},
        {"authorization": "Bearer test-key", "x-api-key": "another-key"},
    ],
)
def test_keys_by_either_header_on_every_api(deployment: Deployment, headers: dict[str, str]) -> None:
    for path in ("/v1/messages", "/v1/chat/completions"):
        answer = httpx.post(f"{deployment.url}{path}", json=asking("Hello!"), headers=headers, timeout=30)
        assert answer.status_code == 200, (path, answer.text)
    assert httpx.get(f"{deployment.url}/v1/models", headers=headers).status_code == 200


def test_claude_code_may_ask_whether_the_server_is_there(deployment: Deployment) -> None:
    answer = httpx.head(f"{deployment.url}/", follow_redirects=False)
    assert answer.status_code == 404, "any answer will do for it"


def test_both_apis_on_one_base_url(deployment: Deployment) -> None:
    body = asking("Hello!")
    said = post(deployment.url, body).json()["content"][0]["text"]
    assert post(deployment.url, body, "/v1/chat/completions").json()["choices"][0]["message"]["content"] == said


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (asking("x", max_tokens=0), 400, "max_tokens: "),
        (asking([{"type": "image", "source": {}}]), 400, "messages.0.content.0"),
        (
            asking([{"type": "document", "source": {"type": "url"}}]),
            400,
            "messages.0.content.0",
        ),
        (asking("x", model="claude-opus-5-5"), 404, "model: claude-opus-5-5"),
        ({"model": "claude-opus-5-5"}, 404, "model: claude-opus-5-5"),  # before the body is decoded
        (asking("x", tools=[WEATHER, WEATHER]), 400, "tools.1.name: "),
        (
            asking("x", tools=[{"type": "web_search_20250305", "name": "web_search"}]),
            400,
            "tools.0.type: ",
        ),
        (
            asking("x", tools=[{"name": "a", "input_schema": {"type": "no"}}]),
            400,
            "tools.0.input_schema",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_refused_before_any_job(
    deployment: Deployment, body: dict[str, Any], status: int, message: str, stream: bool
) -> None:
    before = deployment.jobs_submitted()
    found = error_of(post(deployment.url, {**body, "stream": stream}))
    assert found[:2] == (status, "not_found_error" if status == 404 else "invalid_request_error")
    assert found[2].startswith(message)
    assert deployment.jobs_submitted() == before


def test_a_body_that_is_not_json(deployment: Deployment) -> None:
    answer = httpx.post(f"{deployment.url}/v1/messages", content=b"{", headers=HEADERS)
    assert error_of(answer)[:2] == (400, "invalid_request_error")


@pytest.mark.parametrize("key", [None, "wrong"])
def test_keys_that_are_not_known(deployment: Deployment, key: str | None) -> None:
    headers = {} if key is None else {"x-api-key": key}
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = httpx.post(f"{deployment.url}{path}", json=asking("x"), headers=headers)
        status, kind, message = error_of(answer)
        assert (status, kind) == (401, "authentication_error")
        assert "invalid x-api-key" not in message


def test_a_body_that_is_too_large(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__MAX_BODY_BYTES": "2000"})
    assert error_of(post(deployment.url, asking("x" * 3_000)))[:2] == (413, "request_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("PUT", "/v1/messages/batches", 405, "invalid_request_error"),
        ("GET", "/v1/messages/batches/msgbatch_1/results", 404, "not_found_error"),
        ("POST", "/v1/messages/other", 404, "not_found_error"),
        ("GET", "/v1/models/nobody", 404, "not_found_error"),
    ],
)
def test_other_paths(deployment: Deployment, method: str, path: str, status: int, kind: str) -> None:
    assert error_of(httpx.request(method, f"{deployment.url}{path}", headers=HEADERS))[:2] == (status, kind)


def test_a_server_that_stops_is_overloaded(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    deployment.app.state.lifecycle.draining = True
    answer = post(deployment.url, asking("x"))
    assert error_of(answer)[:2] == (529, "overloaded_error")
    assert (answer.headers["x-should-retry"], bool(answer.headers["retry-after"])) == ("true", True)


def test_limits_have_this_apis_names(make_deployment: Any) -> None:
    limited = {"PROXY_ACCESS__REQUESTS_PER_MINUTE": "2", "PROXY_ACCESS__WAIT_S": "0"}
    deployment: Deployment = make_deployment(limited)
    for stream in (False, True):
        answer = post(deployment.url, asking("Hello!", stream=stream))
        assert answer.headers["anthropic-ratelimit-requests-limit"] == "2"
        assert answer.headers["anthropic-ratelimit-requests-remaining"] == str(1 - stream)
        assert answer.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert "x-ratelimit-limit-requests" not in answer.headers
    answer = post(deployment.url, asking("Hello!"))
    assert error_of(answer)[:2] == (429, "rate_limit_error")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert post(deployment.url, asking("x"), "/v1/messages/count_tokens").status_code == 200, "counting is not limited"


def test_browsers_may_send_this_apis_headers(deployment: Deployment) -> None:
    wanted = "x-api-key,anthropic-version,anthropic-beta,anthropic-dangerous-direct-browser-access"
    headers = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": wanted,
    }
    answer = httpx.options(f"{deployment.url}/v1/messages", headers=headers)
    assert answer.status_code == 200
    allowed = answer.headers["access-control-allow-headers"]
    assert allowed == "*" or set(wanted.split(",")) <= {name.strip() for name in allowed.split(",")}


# ---------------------------------------------------------------- counting


def test_counting_is_an_estimate_without_a_job(deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    body = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "a" * 350}]}
    for path in ("/v1/messages/count_tokens", "/v1/messages/count_tokens/?beta=true"):
        answer = post(deployment.url, body, path)
        assert (answer.status_code, answer.json()) == (200, {"input_tokens": 104})
    more = post(deployment.url, {**body, "tools": [WEATHER], "system": "s"}, "/v1/messages/count_tokens")
    assert more.json()["input_tokens"] > 104
    for limit in (None, "many", 1):  # no field of a count, however it is filled
        thinking = {"type": "enabled", "budget_tokens": 2048}
        answer = post(deployment.url, {**body, "thinking": thinking, "max_tokens": limit}, "/v1/messages/count_tokens")
        assert answer.json() == {"input_tokens": 104}
    assert deployment.jobs_submitted() == before


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "nobody", "messages": [{"role": "user", "content": "a"}]}, 404, "model: nobody"),
        ({"model": "claude-4-5-haiku"}, 400, "messages: "),
        ({"messages": [{"role": "user", "content": "a"}]}, 400, "model: "),
        ({**asking("a"), "tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 400, "tools.0.type: "),
    ],
)
def test_counting_refuses_what_messages_refuse(
    deployment: Deployment, body: dict[str, Any], status: int, message: str
) -> None:
    found = error_of(post(deployment.url, body, "/v1/messages/count_tokens"))
    assert (found[0], found[2].startswith(message)) == (status, True)


# ---------------------------------------------------------------- models


def test_the_version_header_decides_the_shape_of_models(deployment: Deployment) -> None:
    url = f"{deployment.url}/v1/models"
    theirs = httpx.get(url, headers={"x-api-key": "test-key"})
    assert theirs.json()["object"] == "list"
    ours = get(deployment.url, "/v1/models/?limit=1000")
    assert [model["id"] for model in ours.json()["data"]] == [model["id"] for model in theirs.json()["data"]]
    assert all("anthropic-version" in answer.headers["vary"] for answer in (theirs, ours))
    model = ours.json()["data"][0]
    assert get(deployment.url, f"/v1/models/{model['id']}").json() == model
    assert model == {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": "2025-10-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": None,
        "max_tokens": None,
        "capabilities": None,
    }


def test_models_come_in_pages(deployment: Deployment) -> None:
    ids = [model["id"] for model in get(deployment.url, "/v1/models?limit=1000").json()["data"]]
    first = get(deployment.url, "/v1/models?limit=2").json()
    assert ([model["id"] for model in first["data"]], first["has_more"]) == (ids[:2], True)
    assert (first["first_id"], first["last_id"]) == (ids[0], ids[1])
    rest = get(deployment.url, f"/v1/models?after_id={ids[1]}").json()
    assert ([model["id"] for model in rest["data"]], rest["has_more"]) == (ids[2:], False)
    back = get(deployment.url, f"/v1/models?before_id={ids[2]}&limit=1").json()
    assert ([model["id"] for model in back["data"]], back["has_more"]) == ([ids[1]], True)
    none = get(deployment.url, f"/v1/models?after_id={ids[-1]}").json()
    assert none == {"data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after_id=nobody", "after_id=a&before_id=b"])
def test_wrong_pages(deployment: Deployment, query: str) -> None:
    assert error_of(get(deployment.url, f"/v1/models?{query}"))[:2] == (400, "invalid_request_error")


def test_models_need_a_key(deployment: Deployment) -> None:
    answer = httpx.get(f"{deployment.url}/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert error_of(answer)[:2] == (401, "authentication_error")


# ---------------------------------------------------------------- what comes of a request


def text_of(body: dict[str, Any]) -> list[str]:
    return [block["text"] for turn in body["messages"] for block in turn["content"] if block["type"] == "text"]


def test_system_turns_and_results_reach_the_model_in_their_places(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Ulm"}}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "system", "content": "It is Monday."},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]}]},
    ]
    answer = post(deployment.url, asking("", messages=turns, system="Be brief.", tools=[WEATHER]))
    assert answer.status_code == 200, answer.text
    assert "replaced by a note" in answer.headers["x-proxy-adjusted"]
    [body] = deployment.submissions()
    system, user, assistant, result = body["messages"]
    assert system["content"][0]["text"] == "Be brief."
    assert [block["text"] for block in user["content"]] == ["Weather?", "[system message]\nIt is Monday."]
    assert assistant["content"][0]["name"] == "get_weather"
    assert "image left out" in result["content"][0]["content"][0]["text"]


def test_histories_are_repaired(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    turns = [
        {"role": "system", "content": "First."},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "gone", "content": "18 C"}]},
        {"role": "user", "content": [{"type": "text", "text": "Hello!"}, {"type": "text", "text": " "}]},
        {"role": "assistant", "content": "The answer is ("},
    ]
    answer = post(deployment.url, asking("", messages=turns, system="Be brief."))
    assert answer.status_code == 200, answer.text
    assert "a user turn was added at the end" in answer.headers["x-proxy-adjusted"]
    [body] = deployment.submissions()
    system, user, assistant, last = body["messages"]
    assert system["content"][0]["text"] == "Be brief.\n\nFirst."
    assert [block["text"] for block in user["content"]] == ["[Result of an earlier tool call]\n18 C", "Hello!"]
    assert (assistant["role"], last["role"]) == ("assistant", "user")


def test_media_in_earlier_turns_become_notes_if_a_setting_asks_for_them(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_CHAT__MEDIA": "placeholder"})
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    earlier = [{"role": "user", "content": [image]}, {"role": "assistant", "content": "A cat."}]
    answer = post(deployment.url, asking("", messages=[*earlier, {"role": "user", "content": "Really?"}]))
    assert answer.status_code == 200, answer.text
    assert "image left out" in deployment.submissions()[0]["messages"][0]["content"][0]["text"]
    assert post(deployment.url, asking([image])).status_code == 400


def test_a_content_filter_is_a_refusal(deployment: Deployment) -> None:
    message = post(deployment.url, asking(script(fail="The output was blocked by the content filtering policy"))).json()
    assert (message["stop_reason"], message["content"]) == ("refusal", [])
    assert message["stop_details"]["type"] == "refusal"


def test_the_end_users_device_stays_here(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    user = json.dumps({"device_id": "0123456789abcdef"})
    assert post(deployment.url, asking("Hello!", metadata={"user_id": user})).status_code == 200
    [body] = deployment.submissions()
    assert "0123456789abcdef" not in json.dumps(body)
    assert any(tag.startswith("user:") for tag in body["tags"])


def test_stop_sequences_end_the_text(deployment: Deployment) -> None:
    message = post(deployment.url, asking(script(text="one two three"), stop_sequences=["three", "two"])).json()
    assert message["content"][0]["text"] == "one "
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "two")


def test_structured_output_is_one_text_block_of_json(deployment: Deployment) -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "additionalProperties": False,
    }
    wanted = {"effort": "high", "format": {"type": "json_schema", "schema": schema}}
    [block] = post(deployment.url, asking("Name it.", output_config=wanted)).json()["content"]
    assert json.loads(block["text"]).keys() == {"title"}


def test_a_single_call_where_only_one_is_wanted(deployment: Deployment) -> None:
    calls = script(calls=[{"name": "get_weather", "arguments": {"city": city}} for city in ("Ulm", "Bonn")])
    choice = {"type": "any", "disable_parallel_tool_use": True}
    message = post(deployment.url, asking(calls, tools=[WEATHER], tool_choice=choice)).json()
    assert [block["type"] for block in message["content"]] == ["tool_use"]
    assert len(post(deployment.url, asking(calls, tools=[WEATHER])).json()["content"]) == 2


def test_the_limit_of_a_model_lowers_max_tokens(deployment: Deployment) -> None:
    answer = post(deployment.url, asking("Hello!", max_tokens=10_000_000))
    assert "max_tokens: lowered to" in answer.headers["x-proxy-adjusted"]


def test_what_has_no_effect_is_named(deployment: Deployment) -> None:
    answer = post(deployment.url, asking("Hello!", top_k=3, service_tier="auto", cache_control={"type": "ephemeral"}))
    assert set(answer.headers["x-proxy-ignored"].split(", ")) == {"top_k", "service_tier"}


def test_recorded_turns_of_claude_code_are_answered(deployment: Deployment) -> None:
    first, second = json.loads((RECORDED / "turns.json").read_text("utf-8"))["requests"]
    for request in (first, second):
        body = {**request["body"], "tools": first["body"]["tools"]}
        answer = post(deployment.url, body, request["path"])
        assert answer.status_code == 200, answer.text
        assert fold_messages(stream_events(answer.content))["stop_reason"] in ("end_turn", "tool_use")
        assert answer.headers["x-proxy-ignored"] == "context_management"


def test_a_key_sent_as_the_model_is_not_echoed(make_deployment: Any) -> None:
    key = "sk-0123456789abcdef"
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": key, "PROXY_CHAT__DEFAULT_MODEL": "claude-4-5-haiku"})
    for stream in (False, True):
        answer = post(deployment.url, asking("Hello!", model=key, stream=stream), **{"x-api-key": key})
        assert answer.status_code == 200
        assert key not in answer.text
