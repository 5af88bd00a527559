"""Bad input over the wire: always the contract's error shape, never a 500, never a job."""

from typing import Any

import pytest

from proxy.app import create_app
from proxy.settings import load_settings
from tests.conftest import Deployment
from tests.scripts import script
from tests.serving import serve

HI = [{"role": "user", "content": "hi"}]


def assert_error(answer: Any, status: int, kind: str, code: str | None = None, param: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert (error["type"], error["code"], error["param"]) == (kind, code, param)
    assert answer.headers["x-should-retry"] in ("true", "false")
    assert answer.headers["x-request-id"]


@pytest.fixture
def no_job(deployment: Deployment) -> Any:
    before = deployment.jobs_submitted()
    yield
    assert deployment.jobs_submitted() == before


TOOL = {"type": "function", "function": {"name": "t", "parameters": {"type": "object"}}}


@pytest.mark.usefixtures("no_job")
@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]}, "messages[0].content[0].type", "unsupported_content"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name", None),
        ({"tools": [{"type": "function", "function": {"name": f"t{i}"}} for i in range(10_000)]}, "tools", None),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name", None),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name", None),
        ({"n": 9}, "n", None),
        ({"reasoning_effort": "huge"}, "reasoning_effort", None),
        ({"temperature": -1}, "temperature", None),
        ({"extended_thinking": {"enabled": True, "budget_tokens": 5}}, "extended_thinking.budget_tokens", None),
        ({"tools": [{"type": "function", "function": {"name": "t", "parameters": {"type": "objekt"}}}]}, "tools[0].function.parameters.type", "invalid_json_schema"),
        ({"tools": [{"type": "function", "function": {"name": "t", "parameters": {"$ref": "http://127.0.0.1:1/x.json"}}}]}, "tools[0].function.parameters.$ref", "invalid_json_schema"),
        ({"tools": [{"type": "function", "function": {"name": "t", "parameters": {"$ref": "#/$defs/absent"}}}]}, "tools[0].function.parameters.$ref", "invalid_json_schema"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_a_400_with_the_exact_param(
    deployment: Deployment, fields: dict, param: str, code: str | None
) -> None:
    for stream in (False, True):
        answer = deployment.chat({"messages": HI, "stream": stream, **fields})
        assert_error(answer, 400, "invalid_request_error", code, param)
        assert answer.headers["x-should-retry"] == "false"


@pytest.mark.usefixtures("no_job")
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"NaN", b"\xff", b'{"model":"m","messages":' + b"[" * 50_000, b'{"n":1' + b"0" * 9_000 + b"}"],
)
def test_a_body_that_is_no_json_object_is_a_400(deployment: Deployment, body: bytes) -> None:
    answer = deployment.http.post("/v1/chat/completions", content=body)
    assert_error(answer, 400, "invalid_request_error")


@pytest.mark.usefixtures("no_job")
def test_an_oversized_body_is_refused_while_reading(make_deployment: Any) -> None:
    small = make_deployment({"PROXY_SERVER__MAX_BODY_BYTES": "5000"})

    def endless() -> Any:
        for _ in range(10_000):
            yield b" " * 1000

    assert_error(
        small.http.post("/v1/chat/completions", content=b" " * 6000), 413, "invalid_request_error", "request_too_large"
    )
    assert_error(
        small.http.post("/v1/chat/completions", content=endless()), 413, "invalid_request_error", "request_too_large"
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/chat/completions/x", 404, "unknown_url"),
    ],
)
def test_unknown_urls_and_methods_name_the_right_one(
    deployment: Deployment, method: str, path: str, status: int, code: str
) -> None:
    answer = deployment.http.request(method, path)
    assert_error(answer, status, "invalid_request_error", code)
    assert "/v1/chat/completions" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/chat/completions", "/v1/chat/completions/", "/chat/completions/"]
)
def test_both_forms_of_every_path_are_served_without_redirects(deployment: Deployment, path: str) -> None:
    answer = deployment.http.post(path, json={"model": "claude-4-5-haiku", "messages": HI})
    assert answer.status_code == 200
    assert not answer.history


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic dGVzdC1rZXk=", "test-key"])
def test_without_a_known_key_every_call_is_a_401(deployment: Deployment, header: str | None) -> None:
    headers = {"authorization": header} if header else {"authorization": ""}
    for answer in (
        deployment.http.post("/v1/chat/completions", json={"model": "m"}, headers=headers),
        deployment.http.get("/v1/models", headers=headers),
    ):
        assert_error(answer, 401, "authentication_error", "invalid_api_key")


def test_upstream_rate_limits_reach_the_client_with_retry_after(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_JOBS__DEADLINE_S": "1"})
    text = script(reject={"status": 429, "headers": {"Retry-After": "7"}})
    answer = deployment.chat({"messages": [{"role": "user", "content": text}]})
    assert_error(answer, 429, "rate_limit_error", "rate_limit_exceeded")
    assert answer.headers["x-should-retry"] == "true"
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_a_job_that_does_not_end_in_time_is_a_504_with_its_id(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_JOBS__DEADLINE_S": "0.5"})
    answer = deployment.chat({"messages": [{"role": "user", "content": script(state="running")}]})
    assert_error(answer, 504, "timeout_error", "job_timeout")
    assert answer.headers["x-narrative-job-id"] in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "true"  # the repeat takes the job up
    assert answer.headers["retry-after"] == "1"


def test_a_job_in_an_unknown_state_is_not_ended(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_JOBS__DEADLINE_S": "0.5"})
    answer = deployment.chat({"messages": [{"role": "user", "content": script(state="pondering")}]})
    assert_error(answer, 504, "timeout_error", "job_timeout")


def test_an_upstream_that_is_not_there_is_a_502_that_invites_a_repeat(make_deployment: Any) -> None:
    settings = {"NARRATIVE_ENVIRONMENT": "http://127.0.0.1:1", "PROXY_JOBS__DEADLINE_S": "1"}
    answer = make_deployment(settings).chat({"messages": HI})
    assert_error(answer, 502, "upstream_error", "narrative_unavailable")
    assert answer.headers["x-should-retry"] == "true"


def test_no_secret_or_stack_trace_in_an_error(deployment: Deployment) -> None:
    answer = deployment.chat({"messages": [{"role": "user", "content": script(fail="boom")}]})
    assert "narrative-token" not in answer.text
    assert "Traceback" not in answer.text


def test_a_key_that_narrative_does_not_take_is_not_the_clients_fault(make_deployment: Any) -> None:
    answer = make_deployment({"NARRATIVE_API_KEY": "invalid-token"}).chat({"messages": HI})
    assert_error(answer, 502, "upstream_error", "narrative_unauthorized")


@pytest.fixture
def passing_through(deployment: Deployment) -> Any:
    """A proxy without a token of its own."""
    settings = load_settings({"NARRATIVE_ENVIRONMENT": deployment.sandbox_url})
    with serve(create_app(settings)) as url:
        yield url


PLANE = "fef9904e-d263-4930-85f7-1e28cce40f89"


def test_a_clients_own_token_and_data_plane_are_passed_through(deployment: Deployment, passing_through: str) -> None:
    headers = {"authorization": "Bearer my-own-token", "openai-project": PLANE}
    body = {"model": "claude-4-5-haiku", "messages": HI}
    answer = deployment.http.post(f"{passing_through}/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    job = deployment.submissions()[-1]
    assert job["data_plane_id"] == PLANE


def test_without_a_data_plane_the_header_is_named(deployment: Deployment, passing_through: str) -> None:
    body = {"model": "claude-4-5-haiku", "messages": HI}
    answer = deployment.http.post(
        f"{passing_through}/v1/chat/completions", json=body, headers={"authorization": "Bearer my-own-token"}
    )
    assert_error(answer, 400, "invalid_request_error", "missing_data_plane", "OpenAI-Project")


def test_a_clients_own_token_that_narrative_does_not_take_is_a_401(
    deployment: Deployment, passing_through: str
) -> None:
    headers = {"authorization": "Bearer invalid-token", "openai-project": PLANE}
    body = {"model": "claude-4-5-haiku", "messages": HI}
    answer = deployment.http.post(f"{passing_through}/v1/chat/completions", json=body, headers=headers)
    assert_error(answer, 401, "authentication_error", "invalid_api_key")


def test_ignored_fields_are_accepted_and_named(deployment: Deployment) -> None:
    body = {
        "messages": HI,
        "seed": 1,
        "logit_bias": {},
        "user": "u",
        "logprobs": None,
        "frequency_penalty": 0.1,
        "my_field": 1,
    }
    answer = deployment.chat(body)
    assert answer.status_code == 200
    assert set(answer.headers["x-proxy-ignored"].split(", ")) == {"seed", "logit_bias", "frequency_penalty", "my_field"}
    assert "user:u" in deployment.submissions()[-1]["tags"]


def test_adjusted_fields_are_named(deployment: Deployment) -> None:
    answer = deployment.chat({"messages": [*HI, {"role": "assistant", "content": "x"}], "temperature": 1.7})
    assert answer.headers["x-proxy-adjusted"] == "temperature: lowered to 1, messages: a user turn was added at the end"


def test_a_field_name_cannot_break_a_header(deployment: Deployment) -> None:
    answer = deployment.chat({"messages": HI, "evil\r\nset-cookie: x": 1, "ü": 2})
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers


def test_the_answer_names_its_models_jobs_and_time(deployment: Deployment) -> None:
    answer = deployment.chat({"messages": HI}, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-proxy-model"] == "anthropic.claude-haiku-4.5"
    assert answer.json()["model"] == "claude-4-5-haiku"
    assert answer.headers["x-request-id"] == "mine-1"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert answer.json()["id"] == "chatcmpl-" + answer.headers["x-narrative-job-id"].replace("-", "")


def test_a_request_id_that_is_not_sane_is_replaced(deployment: Deployment) -> None:
    answer = deployment.chat({"messages": HI}, headers={"x-request-id": "<script>" + "x" * 500})
    assert answer.headers["x-request-id"].startswith("req_")


def test_huge_integers_in_a_schema_are_taken(deployment: Deployment) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 10**30}}}
    tool = {"type": "function", "function": {"name": "t", "parameters": schema}}
    assert deployment.chat({"messages": HI, "tools": [tool]}).status_code == 200
