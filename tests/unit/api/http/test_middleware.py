"""The middleware without a server: what it records, how it reads targets, which parts of paths it shows."""

from collections import deque
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from proxy.api.http.middleware import HttpMiddleware, HttpOptions, normalize_target, shown_path
from proxy.console.routes import seen_by
from proxy.errors import InvalidRequest, ModelNotFound
from proxy.lifecycle import Lifecycle
from proxy.logs import RequestRecord
from proxy.metrics import Metrics


def middleware(app: Any, recent: deque[RequestRecord], lifecycle: Lifecycle | None = None) -> HttpMiddleware:
    options = HttpOptions(
        lifecycle or Lifecycle(1.0), Metrics(), ("*",), (), render_error=lambda scope, error: Response(status_code=error.status),
        records=recent,
    )  # fmt: skip
    return HttpMiddleware(app, options)


def scope_of(path: str, method: str = "POST", headers: tuple[tuple[bytes, bytes], ...] = ()) -> Scope:
    return {
        "type": "http", "path": path, "raw_path": path.encode(), "method": method, "headers": list(headers),
    }  # fmt: skip


async def nothing(*_: Any) -> Any:
    return None


async def record(path: str, method: str = "POST", headers: dict[str, str] | None = None) -> list[RequestRecord]:
    recent: deque[RequestRecord] = deque()
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = type("Route", (), {"path": "/written/{in_code}"})()
        raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        sent.append(message)

    await middleware(app, recent)(scope_of(path, method), nothing, send)
    assert len(sent) == 2
    return seen_by(recent, None)


async def test_what_is_recorded_is_the_route_and_never_what_the_client_wrote() -> None:
    (found,) = await record(
        "/v1/chat/completions/secret-word", headers={"x-narrative-job-id": "one, two", "x-proxy-model": "m"}
    )
    assert (found.route, found.status, found.model, found.jobs) == ("/written/{in_code}", 200, "m", ("one", "two"))
    assert found.ms is not None
    assert "secret-word" not in str(found)


async def test_the_consoles_own_requests_and_probes_are_not_recorded() -> None:
    for path in ("/console/", "/console/api/recent", "/metrics", "/healthz", "/readyz"):
        assert await record(path, "GET") == []
    assert await record("/v1/chat/completions", "OPTIONS") == []


async def test_a_request_is_recorded_while_it_is_under_way() -> None:
    recent: deque[RequestRecord] = deque()
    seen: list[RequestRecord] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(seen_by(recent, None))
        assert [each.ms for each in seen] == [None]

    await middleware(app, recent)(scope_of("/v1", "GET"), nothing, nothing)
    assert seen[0].ms is not None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelNotFound("m"), "model_not_found"),
        (InvalidRequest("m"), "invalid_request_error"),
        (ValueError("m"), "internal_error"),
    ],
)
async def test_the_log_line_has_the_code_of_an_error_that_the_middleware_renders(error: Exception, code: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    with capture_logs() as lines:
        await middleware(app, deque())(scope_of("/v1"), nothing, nothing)
    assert lines[-1]["event"] == "request"
    assert lines[-1]["code"] == code


async def test_the_log_line_of_a_request_that_is_refused_while_draining_has_the_code_or_type() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the request was not refused")

    refusing = middleware(app, deque(), lifecycle := Lifecycle(1.0))
    lifecycle.draining = True
    with capture_logs() as lines:
        await refusing(scope_of("/v1"), nothing, nothing)
    assert (lines[-1]["status"], lines[-1]["code"]) == (503, "overloaded_error")
    assert lifecycle.in_flight == 0


@pytest.mark.parametrize(
    ("given", "kept"),
    [("mine", True), ("a" * 128, True), ("a" * 129, False), ("", False), ("a b", False), ("a\x1b", False)],
)
async def test_a_valid_request_id_of_the_client_is_kept(given: str, kept: bool) -> None:
    recent: deque[RequestRecord] = deque()
    scope = scope_of("/v1", headers=((b"x-request-id", given.encode()),))
    await middleware(nothing, recent)(scope, nothing, nothing)
    assert (seen_by(recent, None)[0].request_id == given) is kept


@pytest.mark.parametrize("started", [False, True])
async def test_an_unforeseen_error_is_a_500_unless_the_response_has_begun(started: bool) -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("a bug")

    async def send(message: Message) -> None:
        sent.append(message)

    recent: deque[RequestRecord] = deque()
    await middleware(app, recent)(scope_of("/v1", "GET"), nothing, send)
    assert [message["status"] for message in sent if "status" in message] == ([200] if started else [500])
    assert seen_by(recent, None)[0].status == (200 if started else 500)


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("/v1/models", "/v1/models", "client.example"),
        ("//v1///models", "/v1/models", "client.example"),
        ("http://proxy.example/v1/models", "/v1/models", "proxy.example"),
        ("HTTPS://proxy.example:81//v1/models/a%20b", "/v1/models/a b", "proxy.example:81"),
        ("http://proxy.example", "/", "proxy.example"),
        ("*", "*", "client.example"),
        ("/v1/models/http://x", "/v1/models/http:/x", "client.example"),
    ],
)
def test_targets_are_read_as_clients_mean_them(target: str, path: str, host: str) -> None:
    scope = scope_of(target, headers=((b"host", b"client.example"), (b"accept", b"*/*")))
    normalize_target(scope)
    assert scope["path"] == path
    assert dict(scope["headers"]) == {b"host": host.encode(), b"accept": b"*/*"}


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/sk-12345678", "/v1/sk-12345678"),
        ("/v1/sk-123456789", "/v1/…"),
        ("/" + "a/" * 1000, "/" + "a/" * 99 + "a"),
    ],
)
def test_parts_of_paths_that_could_be_keys_are_not_shown(path: str, shown: str) -> None:
    assert shown_path(path) == shown
