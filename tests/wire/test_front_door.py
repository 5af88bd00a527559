"""Health, models and browsers: what is asked for before any chat."""

import socket
import zlib
from typing import Any

import httpx
import pytest

from tests.conftest import Deployment

HELLO = b'{"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "Hello!"}]}'


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_routes_need_no_key_and_call_nobody(deployment: Deployment, path: str) -> None:
    before = sum(deployment.sandbox.state.store.calls.values())
    answer = httpx.get(deployment.url + path)
    assert answer.status_code == 200
    assert answer.json()["status"]
    assert sum(deployment.sandbox.state.store.calls.values()) == before


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/", "/models/"])
def test_the_model_list_is_well_formed(deployment: Deployment, path: str) -> None:
    listed = deployment.http.get(path).json()
    assert listed["object"] == "list"
    assert len(listed["data"]) == 8
    assert all(model.keys() == {"id", "object", "created", "owned_by"} for model in listed["data"])


@pytest.mark.parametrize("name", ["claude-4-5-haiku", "anthropic.claude-haiku-4.5", "openai/gpt-4.1"])
def test_one_model_is_shown_under_the_name_that_was_asked_for(deployment: Deployment, name: str) -> None:
    assert deployment.http.get(f"/v1/models/{name}").json()["id"] == name


def test_a_browser_may_send_any_header_of_any_sdk(deployment: Deployment) -> None:
    wanted = "authorization,content-type,x-stainless-os,x-stainless-retry-count"
    answer = httpx.options(
        f"{deployment.url}/v1/chat/completions",
        headers={
            "origin": "https://app.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": wanted,
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert set(wanted.split(",")) <= {
        name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")
    }


def test_a_browser_may_read_our_headers_even_of_errors(deployment: Deployment) -> None:
    answer = httpx.post(f"{deployment.url}/v1/chat/completions", headers={"origin": "https://app.example"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:8080", 200),
        ("http://[::1]:8080", 200),
        ("http://app.localhost", 200),
        ("https://named.example", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_where_no_key_is_needed_pages_of_elsewhere_may_not_call(
    make_deployment: Any, origin: str | None, status: int
) -> None:
    deployment = make_deployment({"PROXY_API_KEYS": "", "PROXY_SERVER__CORS_ORIGINS": "*,https://named.example"})
    headers = {"content-type": "text/plain", **({"origin": origin} if origin else {})}
    body = b'{"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "Hello!"}]}'
    answer = httpx.post(f"{deployment.url}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == status
    assert deployment.jobs_submitted() == (status == 200)
    made = httpx.put(f"{deployment.url}/_inference/completion/x", json={}, headers=headers)
    assert (made.status_code == 403) is (status == 403)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("app.localhost:8080", 200),
        ("named.example", 200),
        ("named.example:8080", 200),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example@localhost", 403),
        ("evil.example#localhost", 403),
    ],
)
def test_where_no_key_is_needed_only_known_hosts_are_served(make_deployment: Any, host: str, status: int) -> None:
    """A page whose own name resolves to this machine sends no origin (DNS rebinding)."""
    deployment = make_deployment({"PROXY_API_KEYS": "", "PROXY_SERVER__ALLOWED_HOSTS": "named.example"})
    answer = httpx.post(f"{deployment.url}/v1/chat/completions", content=HELLO, headers={"host": host})
    assert answer.status_code == status, answer.text
    assert deployment.jobs_submitted() == (status == 200)
    assert httpx.get(f"{deployment.url}/console/api/recent", headers={"host": host}).status_code == status


def test_with_a_key_any_host_is_served(deployment: Deployment) -> None:
    assert deployment.http.get("/v1/models", headers={"host": "any.example"}).status_code == 200


def test_pages_of_everywhere_may_call_with_a_key(deployment: Deployment) -> None:
    answer = deployment.chat(
        {"messages": [{"role": "user", "content": "Hello!"}]}, headers={"origin": "https://app.example"}
    )
    assert answer.status_code == 200


def test_an_offered_upgrade_is_ignored(deployment: Deployment) -> None:
    """Java's HTTP client offers HTTP/2 with its first request."""
    headers = {
        "connection": "Upgrade, HTTP2-Settings",
        "upgrade": "h2c",
        "http2-settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    }
    answer = deployment.chat({"messages": [{"role": "user", "content": "Hello!"}]}, headers=headers)
    assert answer.status_code == 200, answer.text


def compressed(coding: str, body: bytes) -> bytes:
    bits = {"gzip": 31, "deflate": 15, "raw": -15}[coding]
    deflater = zlib.compressobj(wbits=bits)
    return deflater.compress(body) + deflater.flush()


@pytest.mark.parametrize(
    ("coding", "header"), [("gzip", "gzip"), ("gzip", "X-Gzip"), ("deflate", "deflate"), ("raw", "deflate")]
)
def test_compressed_bodies_are_read(deployment: Deployment, coding: str, header: str) -> None:
    headers = {"content-encoding": header, "content-type": "application/json"}
    answer = deployment.http.post("/v1/chat/completions", content=compressed(coding, HELLO), headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("br", HELLO),
        ("gzip, gzip", compressed("gzip", compressed("gzip", HELLO))),
        ("gzip", HELLO),
        ("gzip", b""),
        ("deflate", b"\x78"),
        ("gzip", compressed("gzip", HELLO)[:-1]),
        ("gzip", compressed("gzip", HELLO) + b"more"),
    ],
)
def test_what_is_not_compressed_as_its_header_says_is_refused(deployment: Deployment, header: str, body: bytes) -> None:
    answer = deployment.http.post("/v1/chat/completions", content=body, headers={"content-encoding": header})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "Content-Encoding"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw"])
@pytest.mark.parametrize(("size", "status"), [(2000, 200), (2001, 413), (64 << 20, 413)])
def test_a_body_is_bounded_after_its_decompression(make_deployment: Any, coding: str, size: int, status: int) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__MAX_BODY_BYTES": "2000"})
    body = compressed(coding, HELLO.ljust(size))
    headers = {"content-encoding": coding.replace("raw", "deflate")}
    answer = deployment.http.post(
        "/v1/chat/completions", content=body[: 2000 if size > 2001 else None], headers=headers
    )
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(("values", "status"), [(1000, 200), (1001, 400)])
def test_the_values_of_a_body_are_counted(make_deployment: Any, values: int, status: int) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__MAX_BODY_VALUES": "1000"})
    # Commas and opening brackets, those in strings aside: 6 beside the items of the list.
    body = HELLO[:-1] + b', "x": [' + b",".join([b'"[,{"'] * (values - 6)) + b"]}"
    answer = deployment.http.post("/v1/chat/completions", content=body)
    assert answer.status_code == status, answer.text
    assert status == 200 or "max_body_values" in answer.json()["error"]["message"]


@pytest.mark.parametrize("target", ["//v1/chat//completions", "http://any.example/v1/chat/completions"])
def test_unusual_targets_are_understood(deployment: Deployment, target: str) -> None:
    host, port = deployment.url.removeprefix("http://").split(":")
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\nConnection: close\r\nContent-Length: {len(HELLO)}"
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(head.encode() + b"\r\n\r\n" + HELLO)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("origin", "allowed"), [("https://good.example", True), ("https://bad.example", False)])
def test_private_network_preflights_are_answered_for_allowed_origins(
    make_deployment: Any, origin: str, allowed: bool
) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__CORS_ORIGINS": "https://good.example"})
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-private-network": "true",
    }
    answer = httpx.options(f"{deployment.url}/v1/chat/completions", headers=headers)
    assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
    assert answer.status_code == (200 if allowed else 400)
    assert not allowed or answer.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize("path", ["/metrics", "//metrics"])
def test_metrics_are_not_for_pages(deployment: Deployment, path: str) -> None:
    answer = httpx.get(deployment.url + path, headers={"origin": "https://app.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_origins_can_be_limited(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_SERVER__CORS_ORIGINS": "https://good.example"})
    for origin, allowed in (("https://good.example", True), ("https://bad.example", False)):
        answer = deployment.http.get("/v1/models", headers={"origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
