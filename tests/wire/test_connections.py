"""Connections that clients open and make no use of: each is closed in time, and they keep nobody out."""

import json
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from tests.conftest import Deployment
from tests.processes import running
from tests.scripts import script

HELLO = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "Hello!"}]}
FIRST_LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
HEAD = FIRST_LINE + b"Host: localhost\r\nAuthorization: Bearer test-key\r\n"


@contextmanager
def connected(url: str, sent: bytes = b"") -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(sent)
        yield client


def received(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    answer = b""
    while piece := client.recv(1 << 20):
        answer += piece
    return answer


@pytest.mark.parametrize("sent", [b"", FIRST_LINE, HEAD])
def test_a_connection_without_whole_headers_is_closed_in_time(make_deployment: Any, sent: bytes) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__HEADER_TIMEOUT_S": "0.2"})
    with connected(deployment.url, sent) as client:
        assert received(client).startswith(b"HTTP/1.1 408 ")


def test_a_second_request_without_whole_headers_is_closed_in_time_too(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__HEADER_TIMEOUT_S": "0.2"})
    with connected(deployment.url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as client:
        assert client.recv(1 << 20).startswith(b"HTTP/1.1 200 ")
        client.sendall(FIRST_LINE)
        assert b"HTTP/1.1 408 " in received(client)


def test_a_body_that_does_not_come_is_closed_in_time_and_no_fault_of_the_server(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__BODY_TIMEOUT_S": "0.2"})
    with connected(deployment.url, HEAD + b"Content-Length: 100\r\n\r\n{") as client:
        assert received(client).startswith(b"HTTP/1.1 408 ")
    metrics = httpx.get(f"{deployment.url}/metrics").text
    assert 'status="499"' in metrics
    assert 'status="500"' not in metrics


def test_a_body_that_comes_in_parts_is_read(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__HEADER_TIMEOUT_S": "0.2"})
    body = json.dumps(HELLO).encode()
    with connected(deployment.url, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)) as client:
        for position in range(len(body)):
            client.sendall(body[position : position + 1])
        assert received(client).startswith(b"HTTP/1.1 200 ")


def test_requests_that_are_sent_at_once_are_answered_one_after_the_other(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__HEADER_TIMEOUT_S": "0.2"})
    first = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(deployment.url, first * 3 + first.replace(b"Host", b"Connection: close\r\nHost")) as client:
        assert received(client).count(b"HTTP/1.1 200 ") == 4


def test_a_long_job_outlasts_the_timeouts_of_requests(make_deployment: Any) -> None:
    environ = {"PROXY_SERVER__HEADER_TIMEOUT_S": "0.1", "PROXY_SERVER__BODY_TIMEOUT_S": "0.1"}
    deployment: Deployment = make_deployment(environ, running_s=0.5)
    assert deployment.chat(HELLO).status_code == 200


def test_at_the_limit_the_connection_that_waited_longest_is_closed_for_a_new_one(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__MAX_CONNECTIONS": "2"})
    with connected(deployment.url, FIRST_LINE) as first, connected(deployment.url, FIRST_LINE) as second:
        assert httpx.get(f"{deployment.url}/healthz").status_code == 200
        assert received(first) == b""
        second.sendall(b"Host: x\r\nContent-Length: 2\r\n\r\n{}")
        assert second.recv(1 << 20).startswith(b"HTTP/1.1 401 ")


def test_at_the_limit_requests_under_way_go_on_and_a_new_connection_is_refused(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_SERVER__MAX_CONNECTIONS": "1"})
    body = json.dumps({**HELLO, "stream": True, "messages": [{"role": "user", "content": script(state="running")}]})
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body.encode()
    with connected(deployment.url, request) as first:
        assert first.recv(1 << 20).startswith(b"HTTP/1.1 200 ")
        with connected(deployment.url) as second:
            assert received(second).startswith(b"HTTP/1.1 503 ")
        assert deployment.in_flight() == 1


@pytest.mark.parametrize("sent", [b"", FIRST_LINE, HEAD + b"Content-Length: 100\r\n\r\n{"])
def test_more_stuck_connections_than_descriptors_do_not_keep_a_request_out(sent: bytes) -> None:
    """Measured before: 1,200 partial requests at 1,024 descriptors were a total outage."""
    quiet = {"PROXY_SERVER__LOG_LEVEL": "error"}  # nobody reads its log, and a full pipe would block it
    with (
        running("serve", "--sandbox", "--port", "0", descriptors=(256, 256), **quiet) as (url, _),
        ExitStack() as stack,
    ):
        for _ in range(400):
            stack.enter_context(connected(url, sent))
        assert httpx.post(f"{url}/v1/chat/completions", json=HELLO, timeout=60).status_code == 200


def test_the_limit_of_open_files_is_raised_at_start() -> None:
    with running("serve", "--sandbox", "--port", "0", descriptors=(256, 2048)) as (_, process):
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (2048, 2048)
