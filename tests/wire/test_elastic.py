"""The Elastic face over real sockets, as the contract has it: shapes, errors, who may do what, what lasts."""

import base64
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.conftest import Deployment
from tests.scripts import script
from tests.serving import serve
from tests.wire.test_access import create

PLANE = "11111111-2222-3333-4444-555555555555"
BODY: dict[str, Any] = {
    "service": "narrative",
    "service_settings": {"api_key": "endpoint-token", "model_id": "anthropic.claude-haiku-4.5", "data_plane_id": PLANE},
    "task_settings": {"max_tokens": 1024, "temperature": 0.3},
}
SHOWN = {
    "inference_id": "mine",
    "task_type": "completion",
    "service": "narrative",
    "service_settings": {"model_id": "anthropic.claude-haiku-4.5", "data_plane_id": PLANE},
    "task_settings": {"max_tokens": 1024, "temperature": 0.3},
}


@pytest.fixture
def deployment(make_deployment: Any) -> Deployment:
    made: Deployment = make_deployment({"PROXY_ACCESS__WAIT_S": "0"})
    return made


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployment]:
    """One with the endpoint `mine` for all tests that change nothing."""
    with ExitStack() as stack:
        deployment = Deployment(stack, {}, {})
        deployment.http.put("/_inference/completion/mine", json=BODY)
        yield deployment


@pytest.fixture
def mine(deployment: Deployment) -> Deployment:
    """A deployment with the endpoint `mine`."""
    answer = deployment.http.put("/_inference/completion/mine", json=BODY)
    assert answer.status_code == 200, answer.text
    return deployment


def changed(**settings: Any) -> dict[str, Any]:
    return {**BODY, "service_settings": {**BODY["service_settings"], **settings}}


def events(raw: bytes) -> list[tuple[str, str]]:
    """(event, data) of every event; comment lines are left out."""
    lines = b"".join(line for line in raw.splitlines(keepends=True) if not line.startswith(b":")).decode()
    found = []
    for block in lines.split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), data.removeprefix("data: ")))
    return found


def assert_is_elastics_error(answer: httpx.Response, status: int) -> dict[str, Any]:
    body = answer.json()
    assert answer.status_code == body["status"] == status, body
    assert body.keys() == {"error", "status"}
    error = body["error"]
    assert error.keys() == {"root_cause", "type", "reason"}
    assert error["root_cause"] == [{"type": error["type"], "reason": error["reason"]}]
    assert answer.headers["x-elastic-product"] == "Elasticsearch"
    assert isinstance(error, dict)
    return error


# ---------------------------------------------------------------- management


def test_an_endpoint_is_created_shown_listed_and_deleted_without_its_key(mine: Deployment) -> None:
    assert mine.http.get("/_inference/mine").json() == {"endpoints": [SHOWN]}
    for path in ("/_inference", "/_inference/_all", "/_inference/completion/mine", "/_inference/completion/_all"):
        answer = mine.http.get(path)
        assert answer.json() == {"endpoints": [SHOWN]}
        assert answer.headers["x-elastic-product"] == "Elasticsearch"
        assert "endpoint-token" not in answer.text
    assert mine.http.delete("/_inference/mine").json() == {"acknowledged": True}
    assert mine.http.get("/_inference").json() == {"endpoints": []}
    assert_is_elastics_error(mine.http.get("/_inference/mine"), 404)
    assert_is_elastics_error(mine.http.delete("/_inference/completion/mine"), 404)


def test_an_endpoint_can_be_created_without_naming_its_task_type(deployment: Deployment) -> None:
    assert deployment.http.put("/_inference/mine", json=BODY).json() == SHOWN


def test_a_dry_run_deletes_nothing(mine: Deployment) -> None:
    assert mine.http.delete("/_inference/mine", params={"dry_run": "true"}).json() == {"acknowledged": False}
    assert mine.http.get("/_inference/mine").status_code == 200


def test_answers_have_the_media_type_that_was_asked_for(mine: Deployment) -> None:
    wanted = "application/vnd.elasticsearch+json; compatible-with=9"
    headers = {"accept": wanted, "content-type": wanted}
    assert mine.http.get("/_inference/mine", headers=headers).headers["content-type"] == wanted
    assert mine.http.get("/_inference/none", headers=headers).headers["content-type"] == wanted
    assert mine.http.get("/_inference/mine").headers["content-type"] == "application/json"
    body = json.dumps({"input": "hi"})
    assert mine.http.post("/_inference/completion/mine", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("completion/mine", b"{", "JSON"),
        ("completion/mine", b"[]", "object"),
        ("completion/mine", b"", "JSON"),
        ("completion/mine", {}, "service"),
        ("completion/mine", {**BODY, "service": "openai"}, "openai"),
        ("completion/mine", {"service": "narrative"}, "service_settings"),
        ("completion/mine", changed(model_id="gpt-99"), "gpt-99"),
        ("completion/mine", changed(model_id=None), "service_settings.model_id"),
        ("completion/mine", changed(api_key=7), "service_settings.api_key"),
        ("completion/mine", changed(api_key="tökén"), "service_settings.api_key"),
        ("completion/mine", changed(nonsense=1), "service_settings.nonsense"),
        ("completion/mine", changed(data_plane_id="my plane"), "service_settings.data_plane_id"),
        ("completion/other", changed(fallback="nothing"), "service_settings.fallback"),
        ("completion/other", changed(fallback="other"), "service_settings.fallback"),
        ("completion/mine", changed(rate_limit={"requests_per_minute": 0}), "requests_per_minute"),
        ("completion/mine", {**BODY, "task_settings": {"max_tokens": 0}}, "task_settings.max_tokens"),
        ("completion/mine", {**BODY, "task_settings": {"temperature": "hot"}}, "task_settings.temperature"),
        ("completion/mine", {"service": "anthropic", "service_settings": {"model_id": "m"}}, "api_key"),
        (
            "completion/mine",
            {"service": "anthropic", "service_settings": {"model_id": "m", "api_key": "k"}},
            "task_settings",
        ),
        (
            "chat_completion/mine",
            {
                "service": "anthropic",
                "service_settings": {"model_id": "m", "api_key": "k"},
                "task_settings": {"max_tokens": 1},
            },
            "chat_completion",
        ),
        ("text_embedding/mine", BODY, "text_embedding"),
        ("completion/Mine", BODY, "inference_id"),
        ("completion/-mine", BODY, "inference_id"),
        ("completion/_all", BODY, "inference_id"),
        ("completion/" + "a" * 101, BODY, "inference_id"),
        ("completion/claude-4-5-haiku", BODY, "name of a model"),
    ],
)
def test_a_bad_put_is_a_400_that_names_what_is_wrong_and_stores_nothing(
    shared: Deployment, path: str, body: Any, named: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = assert_is_elastics_error(shared.http.put(f"/_inference/{path}", content=content), 400)
    assert named in error["reason"]
    assert "endpoint-token" not in error["reason"]
    assert shared.http.get("/_inference").json() == {"endpoints": [SHOWN]}


def test_a_second_endpoint_of_the_same_id_is_refused(mine: Deployment) -> None:
    error = assert_is_elastics_error(mine.http.put("/_inference/completion/mine", json=BODY), 400)
    assert error["type"] == "resource_already_exists_exception"


def test_another_task_type_than_the_endpoints_is_refused(mine: Deployment) -> None:
    for method in ("GET", "DELETE"):
        assert_is_elastics_error(mine.http.request(method, "/_inference/chat_completion/mine"), 400)


def test_credentials_are_tried_before_anything_is_stored(deployment: Deployment) -> None:
    refused = deployment.http.put("/_inference/completion/mine", json=changed(api_key="invalid-token"))
    assert "validation call" in assert_is_elastics_error(refused, 400)["reason"]
    assert "invalid-token" not in refused.text
    assert deployment.http.get("/_inference").json() == {"endpoints": []}
    assert deployment.jobs_submitted() == 0


async def one_data_plane(request: Request) -> Response:
    """An upstream with jobs on one data plane, and no other."""
    if request.query_params.get("data_plane_id") not in (None, PLANE):
        return JSONResponse({"error": "Invalid data plane", "error_description": "It was not found"}, 404)
    return JSONResponse({"records": [], "total_records": 0})


def test_a_fallback_is_a_model_or_an_endpoint_that_exists(mine: Deployment) -> None:
    for name, fallback in (("second", "mine"), ("third", "claude-4-5-haiku")):
        put = mine.http.put(f"/_inference/completion/{name}", json=changed(fallback=fallback))
        assert put.status_code == 200, put.text
        assert put.json()["service_settings"]["fallback"] == fallback


def test_a_data_plane_that_the_credentials_do_not_reach_is_refused(make_deployment: Any) -> None:
    with serve(Starlette(routes=[Route("/jobs", one_data_plane)])) as upstream:
        deployment = make_deployment({"NARRATIVE_ENVIRONMENT": upstream})
        unreachable = "99999999-2222-3333-4444-555555555555"
        refused = deployment.http.put("/_inference/completion/mine", json=changed(data_plane_id=unreachable))
        assert "validation call" in assert_is_elastics_error(refused, 400)["reason"]
        assert deployment.http.get("/_inference").json() == {"endpoints": []}
        assert deployment.http.put("/_inference/completion/mine", json=BODY).status_code == 200


def test_the_trial_can_be_switched_off(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_ELASTIC__VERIFY_ON_CREATE": "false"})
    answer = deployment.http.put("/_inference/completion/mine", json=changed(api_key="invalid-token"))
    assert answer.status_code == 200
    refused = deployment.http.post("/_inference/completion/mine", json={"input": "hi"})
    assert "credentials" in assert_is_elastics_error(refused, 500)["reason"]
    chat = deployment.chat({"model": "mine", "messages": [{"role": "user", "content": "hi"}]})
    assert chat.status_code == 502  # it is not the client's key that is wrong
    assert chat.json()["error"]["code"] == "endpoint_unauthorized"


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/_inference"), ("PATCH", "/_inference/mine"), ("GET", "/_inference/a/b/c/d")]
)
def test_what_is_not_served_gets_elastics_error_too(shared: Deployment, method: str, path: str) -> None:
    assert "no handler found" in assert_is_elastics_error(shared.http.request(method, path), 400)["reason"]


# ---------------------------------------------------------------- who may do what


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    [
        "ApiKey test-key",
        f"ApiKey {basic('an-id', 'test-key')}",
        "Bearer test-key",
        f"Basic {basic('elastic', 'test-key')}",
    ],
)
def test_every_way_of_the_official_clients_to_authenticate_is_understood(
    shared: Deployment, authorization: str
) -> None:
    assert httpx.get(f"{shared.url}/_inference", headers={"authorization": authorization}).status_code == 200


@pytest.mark.parametrize(
    "authorization", ["", "ApiKey wrong", "ApiKey", f"Basic {basic('test-key', '')}", "Basic !!", "Digest test-key"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_anything_else_is_a_401(shared: Deployment, method: str, authorization: str) -> None:
    answer = httpx.request(method, f"{shared.url}/_inference/mine", headers={"authorization": authorization})
    assert assert_is_elastics_error(answer, 401)["type"] == "security_exception"
    assert "ApiKey" in answer.headers["www-authenticate"]


def test_only_the_admin_key_creates_and_deletes_where_there_is_one(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_ADMIN_KEY": "the-admin"})
    path = f"{deployment.url}/_inference/completion/mine"
    admin = {"authorization": "ApiKey the-admin"}
    assert_is_elastics_error(deployment.http.put(path, json=BODY), 403)
    assert httpx.put(path, json=BODY, headers=admin).status_code == 200
    assert_is_elastics_error(deployment.http.delete(path), 403)
    for headers in (admin, dict(deployment.http.headers)):
        assert httpx.get(path, headers=headers).status_code == 200
        assert httpx.post(path, json={"input": "hi"}, headers=headers).status_code == 200
    assert httpx.delete(path, headers=admin).status_code == 200
    assert httpx.get(f"{deployment.url}/v1/models", headers={"authorization": "Bearer the-admin"}).status_code == 401


def test_without_an_admin_key_nobody_creates_endpoints_on_an_address_that_others_reach(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_HOST": "0.0.0.0"})
    refusal = deployment.http.put("/_inference/completion/mine", json=BODY)
    assert "PROXY_ADMIN_KEY" in assert_is_elastics_error(refusal, 403)["reason"]


def test_a_token_that_is_merely_passed_through_opens_no_endpoint_on_an_address_that_others_reach(
    make_deployment: Any, tmp_path: Path
) -> None:
    environ = {"PROXY_ACCESS__FOLDER": str(tmp_path)}
    owner = make_deployment(environ)
    owner.http.put("/_inference/completion/mine", json=BODY)
    key = create(owner)
    deployment = make_deployment({**environ, "NARRATIVE_API_KEY": "", "PROXY_API_KEYS": "", "PROXY_HOST": "0.0.0.0"})
    stranger = {"authorization": "Bearer any-string", "openai-project": PLANE}
    request = {"model": "mine", "messages": [{"role": "user", "content": "hi"}]}
    chat, inference = f"{deployment.url}/v1/chat/completions", f"{deployment.url}/_inference/completion/mine"
    assert httpx.post(chat, json=request, headers=stranger).status_code == 404
    assert httpx.get(f"{deployment.url}/v1/models/mine", headers=stranger).status_code == 404
    assert "mine" not in httpx.get(f"{deployment.url}/v1/models", headers=stranger).text
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert_is_elastics_error(httpx.request(method, inference, json={"input": "hi"}, headers=stranger), 403)
    holder = {"authorization": f"Bearer {key}"}
    assert httpx.post(chat, json=request, headers=holder).status_code == 200
    assert httpx.post(inference, json={"input": "hi"}, headers=holder).status_code == 200
    refused = httpx.post(chat, json={**request, "model": "gpt-4.1"}, headers=holder)
    assert refused.status_code == 403  # the proxy has no token of its own to spend


def test_a_key_sees_and_uses_only_its_endpoints(mine: Deployment) -> None:
    mine.http.put("/_inference/completion/other", json=BODY)
    headers = {"authorization": f"ApiKey {create(mine, '--models', 'mine')}"}
    listed = httpx.get(f"{mine.url}/_inference", headers=headers).json()["endpoints"]
    assert [endpoint["inference_id"] for endpoint in listed] == ["mine"]
    asked = {"input": "hi"}
    assert httpx.post(f"{mine.url}/_inference/completion/mine", json=asked, headers=headers).status_code == 200
    for name in ("other", "absent"):
        path = f"{mine.url}/_inference/completion/{name}"
        assert_is_elastics_error(httpx.post(path, json=asked, headers=headers), 403)
        assert_is_elastics_error(httpx.get(path, headers=headers), 403)


def test_a_key_bound_to_another_data_plane_is_refused(mine: Deployment) -> None:
    headers = {"authorization": f"ApiKey {create(mine, '--data-plane', '00000000-0000-4000-8000-000000000000')}"}
    answer = httpx.post(f"{mine.url}/_inference/completion/mine", json={"input": "hi"}, headers=headers)
    assert_is_elastics_error(answer, 403)
    assert mine.jobs_submitted() == 0


# ---------------------------------------------------------------- inference


def test_a_completion_runs_with_the_endpoints_model_plane_and_settings(mine: Deployment) -> None:
    answer = mine.http.post("/_inference/completion/mine", json={"input": script(text="Here.")})
    assert answer.json() == {"completion": [{"result": "Here."}]}
    (body,) = mine.submissions()
    assert body["data_plane_id"] == PLANE
    assert body["model"] == "anthropic.claude-haiku-4.5"
    assert body["inference_config"]["temperature"] == 0.3
    assert body["inference_config"]["max_tokens"] >= 1024


def test_a_request_overrides_the_endpoints_settings(mine: Deployment) -> None:
    settings = {"max_tokens": 50, "top_p": 0.5, "top_k": 3}
    mine.http.post("/_inference/mine", json={"input": "hi", "task_settings": settings})
    config = mine.submissions()[0]["inference_config"]
    assert config["max_tokens"] < 1024
    assert config["top_p"] == 0.5
    assert "temperature" not in config  # one of the two, not both


def test_every_input_of_a_list_has_its_result_in_order(mine: Deployment) -> None:
    inputs = [script(text=word) for word in ("one", "two", "three")]
    answer = mine.http.post("/_inference/completion/mine", json={"input": inputs})
    assert [each["result"] for each in answer.json()["completion"]] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [1]}, "input[0]"),
        ({"input": "hi", "task_settings": {"max_tokens": -1}}, "task_settings.max_tokens"),
        ({"input": "hi", "task_settings": {"nonsense": 1}}, "nonsense"),
        ({"input": "hi", "nonsense": 1}, "nonsense"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "/_stream"])
def test_a_bad_inference_call_is_a_400(shared: Deployment, body: dict[str, Any], named: str, suffix: str) -> None:
    error = assert_is_elastics_error(shared.http.post(f"/_inference/completion/mine{suffix}", json=body), 400)
    assert named in error["reason"]
    assert shared.jobs_submitted() == 0


@pytest.mark.parametrize(
    "path",
    [
        "completion/absent",
        "absent",
        "completion/absent/_stream",
        "chat_completion/absent/_stream",
        "completion/gpt-4.1",
    ],
)
def test_an_endpoint_that_is_not_there_is_a_404(shared: Deployment, path: str) -> None:
    body = {"input": "hi", "messages": [{"role": "user", "content": "hi"}]}
    error = assert_is_elastics_error(shared.http.post(f"/_inference/{path}", json=body), 404)
    assert error["type"] == "resource_not_found_exception"


def test_other_task_types_are_refused(mine: Deployment) -> None:
    assert_is_elastics_error(mine.http.post("/_inference/rerank/mine", json={"input": "hi"}), 400)
    assert_is_elastics_error(mine.http.post("/_inference/chat_completion/mine", json={"messages": []}), 400)


def test_a_completion_streams_its_deltas_under_event_message_up_to_done(mine: Deployment) -> None:
    text = "Some text\u2028of several\n\nwords, 👩‍👩‍👧‍👦 included."
    answer = mine.http.post("/_inference/completion/mine/_stream", json={"input": script(text=text)})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-elastic-product"] == "Elasticsearch"
    found = events(answer.content)
    assert {name for name, _ in found} == {"message"}
    assert found[-1][1] == "[DONE]"
    pieces = [json.loads(data) for _, data in found[:-1]]
    assert all(piece.keys() == {"completion"} for piece in pieces)
    assert "".join(piece["completion"][0]["delta"] for piece in pieces) == text


def test_a_chat_completion_streams_openais_chunks_with_usage_under_the_endpoints_name(mine: Deployment) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    answer = mine.http.post(
        "/_inference/chat_completion/mine/_stream",
        json={
            "messages": [{"role": "user", "content": script(calls=[{"name": "now", "arguments": {}}])}],
            "max_completion_tokens": 300,
            "tools": [tool],
            "tool_choice": "auto",
            "stop": ["x"],
            "temperature": 0.1,
            "top_p": 0.9,
        },
    )
    found = events(answer.content)
    chunks = [json.loads(data) for _, data in found[:-1]]
    assert found[-1] == ("message", "[DONE]")
    assert {chunk["model"] for chunk in chunks} == {"mine"}
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-1]["usage"]["total_tokens"] > 0
    assert any("tool_calls" in choice["delta"] for chunk in chunks for choice in chunk["choices"])


def test_a_job_that_fails_is_no_status_the_client_would_repeat_and_pay_for_again(mine: Deployment) -> None:
    answer = mine.http.post("/_inference/completion/mine", json={"input": script(fail="It broke")})
    assert_is_elastics_error(answer, 500)
    streamed = mine.http.post("/_inference/completion/mine/_stream", json={"input": script(fail="It broke again")})
    name, data = events(streamed.content)[-1]
    assert name == "error"
    assert json.loads(data)["status"] == 500
    assert b"[DONE]" not in streamed.content


def test_a_timeout_bounds_the_wait(make_deployment: Any) -> None:
    deployment = make_deployment(running_s=30)
    deployment.http.put("/_inference/completion/mine", json=BODY)
    answer = deployment.http.post("/_inference/completion/mine", params={"timeout": "100ms"}, json={"input": "hi"})
    assert_is_elastics_error(answer, 408)
    bad = deployment.http.post("/_inference/completion/mine", params={"timeout": "soon"}, json={"input": "hi"})
    assert_is_elastics_error(bad, 400)


def test_an_endpoints_rate_limit_holds_for_all_its_callers_together(deployment: Deployment) -> None:
    deployment.http.put("/_inference/completion/mine", json=changed(rate_limit={"requests_per_minute": 3}))
    for key in (create(deployment), create(deployment)):
        answer = httpx.post(
            f"{deployment.url}/_inference/completion/mine",
            json={"input": "hi"},
            headers={"authorization": f"Bearer {key}"},
        )
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "3"
    assert deployment.chat({"model": "mine", "messages": [{"role": "user", "content": "hi"}]}).status_code == 200
    refused = deployment.http.post("/_inference/completion/mine", json={"input": "hi"})
    assert_is_elastics_error(refused, 429)
    frees_in = float(refused.headers["x-ratelimit-reset-requests"].removesuffix("s"))
    assert 0 < frees_in <= 60
    assert refused.headers["retry-after"] == str(math.ceil(max(frees_in, 1)))


def test_of_several_inputs_that_are_paid_in_part_the_client_repeats_none(deployment: Deployment) -> None:
    deployment.http.put("/_inference/completion/mine", json=changed(rate_limit={"requests_per_minute": 2}))
    refused = deployment.http.post("/_inference/completion/mine", json={"input": ["one", "two", "three"]})
    assert_is_elastics_error(refused, 500)
    assert "retry-after" not in refused.headers
    assert_is_elastics_error(deployment.http.post("/_inference/completion/mine", json={"input": "one"}), 429)


# ---------------------------------------------------------------- as a model


def test_an_endpoint_is_a_model_in_chat_completions_and_in_the_model_list(mine: Deployment) -> None:
    listed = mine.http.get("/v1/models").json()["data"]
    assert listed[-1]["id"] == "mine"
    assert listed[-1]["owned_by"] == "narrative"
    assert mine.http.get("/v1/models/mine").json()["id"] == "mine"
    request = {"model": "mine", "messages": [{"role": "user", "content": script(text="Here.")}]}
    answer = mine.chat(request)
    assert answer.json()["model"] == "mine"
    assert answer.json()["choices"][0]["message"]["content"] == "Here."
    assert answer.headers["x-proxy-model"] == "anthropic.claude-haiku-4.5"
    streamed = mine.chat({**request, "stream": True}).content
    assert streamed.count(b'"model":"mine"') == streamed.count(b'"object"') > 0
    assert [body["inference_config"]["temperature"] for body in mine.submissions()] == [0.3, 0.3]


# ---------------------------------------------------------------- what lasts, and what leaks


def test_a_restart_loses_nothing(make_deployment: Any, tmp_path: Path) -> None:
    environ = {"PROXY_ACCESS__FOLDER": str(tmp_path)}
    before = make_deployment(environ)
    before.http.put("/_inference/completion/mine", json=BODY)
    key = create(before, "--models", "mine")
    after = make_deployment(environ)
    assert after.http.get("/_inference/mine").json() == {"endpoints": [SHOWN]}
    headers = {"authorization": f"ApiKey {key}"}
    answer = httpx.post(f"{after.url}/_inference/completion/mine", json={"input": "hi"}, headers=headers)
    assert answer.status_code == 200


def test_another_secret_key_cannot_read_the_credentials_and_says_so(make_deployment: Any, tmp_path: Path) -> None:
    environ = {"PROXY_ACCESS__FOLDER": str(tmp_path)}
    make_deployment({**environ, "PROXY_SECRET_KEY": "one"}).http.put("/_inference/completion/mine", json=BODY)
    other = make_deployment({**environ, "PROXY_SECRET_KEY": "two"})
    refused = other.http.post("/_inference/completion/mine", json={"input": "hi"})
    assert "PROXY_SECRET_KEY" in assert_is_elastics_error(refused, 500)["reason"]


@pytest.fixture
def redis_url() -> Iterator[str]:
    from tests.redis_server import serve_redis

    with serve_redis() as url:
        yield url


def test_replicas_on_one_redis_share_endpoints(make_deployment: Any, redis_url: str) -> None:
    environ = {"PROXY_STATE__URL": redis_url, "PROXY_SECRET_KEY": "shared"}
    one, other = make_deployment(environ), make_deployment(environ)
    one.http.put("/_inference/completion/mine", json=BODY)
    assert other.http.post("/_inference/completion/mine", json={"input": "hi"}).status_code == 200
    assert other.http.put("/_inference/completion/mine", json=BODY).status_code == 400
    assert not (Path(one.environ["PROXY_ACCESS__FOLDER"]) / "records.sqlite3").exists()


def test_no_key_token_or_prompt_is_in_logs_errors_metrics_or_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    from proxy.logs import configure_logging

    configure_logging("json", "debug")
    try:
        with ExitStack() as stack:
            environ = {"PROXY_ACCESS__FOLDER": str(tmp_path), "PROXY_API_KEYS": "canary-static-key"}
            deployment = Deployment(stack, environ, {})
            made = create(deployment)
            seen = ""
            for key in ("canary-static-key", made, "canary-wrong-key", "np-canary-unknown-key"):
                headers = {"authorization": f"Bearer {key}"}
                put = changed(api_key="canary-endpoint-token")
                seen += httpx.put(f"{deployment.url}/_inference/completion/mine", json=put, headers=headers).text
                put = changed(api_key="invalid-canary-token")
                seen += httpx.put(f"{deployment.url}/_inference/completion/bad", json=put, headers=headers).text
                for path in (f"/v1/models/{key}", f"/nowhere/{key}", f"/_inference/{key}", f"/_inference/a/b/{key}"):
                    seen += httpx.get(f"{deployment.url}{path}", headers=headers).text
                mixed_up = {"model": key, "messages": [{"role": "user", "content": "hi"}]}
                seen += httpx.post(f"{deployment.url}/v1/chat/completions", json=mixed_up, headers=headers).text
                for text in ("canary-prompt", script(fail="no") + "canary-prompt"):
                    for path, body in (
                        ("/_inference/completion/mine", {"input": text}),
                        ("/v1/chat/completions", {"model": "mine", "messages": [{"role": "user", "content": text}]}),
                    ):
                        answer = httpx.post(f"{deployment.url}{path}", json=body, headers=headers)
                        seen += answer.text if answer.is_error else ""
            seen += httpx.get(f"{deployment.url}/metrics").text
    finally:
        configure_logging("json", "error")
        logging.getLogger().setLevel("ERROR")
    out, err = capfd.readouterr()
    files = "".join(file.read_bytes().decode("latin-1") for file in tmp_path.iterdir())
    everything = seen + out + err + files
    assert '"event": "request"' in everything
    assert "mine" in files
    for canary in ("canary", "narrative-token", made.removeprefix("np-")):
        assert canary not in everything, everything[max(everything.index(canary) - 300, 0) :][:600]
