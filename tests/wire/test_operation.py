"""What an operator relies on: quiet logs, and clients that cannot hold the server up."""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from proxy.settings import Settings
from tests.conftest import Deployment
from tests.scripts import script
from tests.waiting import until
from tests.wire.test_commands import running

CANARY = "canary-7f3a"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_nothing_of_a_prompt_an_answer_or_a_key_is_logged_even_at_debug_level(log_format: str) -> None:
    environ = {
        "PROXY_SERVER__LOG_LEVEL": "debug",
        "PROXY_SERVER__LOG_FORMAT": log_format,
        "PROXY_API_KEYS": f"key-{CANARY}",
    }
    with running("serve", "--sandbox", "--port", "0", **environ) as (url, process):
        headers = {"authorization": f"Bearer key-{CANARY}"}
        for text in (CANARY, script(text=CANARY), script(fail=f"bad {CANARY}"), script(output=[CANARY])):
            for stream in (False, True):
                body = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": text}], "stream": stream}
                httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)
        httpx.post(f"{url}/v1/chat/completions", headers={"authorization": f"Bearer wrong-{CANARY}"})
        httpx.post(f"{url}/v1/chat/completions", content=f'{{"model": "{CANARY}", '.encode(), headers=headers)
        for path in (f"/v1/key-{CANARY}/chat", f"/v1/models/key-{CANARY}", f"/_inference/key-{CANARY}/a/b/c"):
            answer = httpx.get(url + path, headers=headers)
            assert path.startswith("/v1/models") or CANARY not in answer.text
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert CANARY not in out + err
    assert err.count("/v1/chat/completions") == 10, "one line a request"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_client_cannot_write_to_the_operators_terminal(log_format: str) -> None:
    with running("serve", "--sandbox", "--port", "0", PROXY_SERVER__LOG_FORMAT=log_format) as (url, process):
        httpx.get(f"{url}/%1b%5b2J%0aforge%07")
        process.terminate()
        _, err = process.communicate(timeout=60)
    plain = re.sub("\x1b\\[[0-9;]*m", "", err)  # the renderer's own colours
    assert "forge" in plain
    assert "\nforge" not in plain
    assert not set(plain) & set("\x1b\x07")


def test_a_log_line_tells_what_happened_without_content() -> None:
    with running("serve", "--sandbox", "--port", "0", PROXY_SERVER__LOG_FORMAT="json") as (url, process):
        body = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "hi"}]}
        traced = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-request-id": "mine", **traced}, timeout=30)
        httpx.post(f"{url}/v1/chat/completions", json={**body, "model": "nope"}, timeout=30)
        httpx.get(f"{url}/v2/chat/completions")
        httpx.get(f"{url}/healthz")
        process.terminate()
        _, err = process.communicate(timeout=60)
    line, refused, unknown = (
        json.loads(line) for line in err.splitlines() if '"event": "request"' in line
    )  # no probes
    assert (refused["status"], refused["code"]) == (404, "model_not_found")
    assert (unknown["status"], unknown["code"]) == (404, "unknown_url")
    assert "code" not in line
    assert (line["request"], line["status"], line["model"]) == ("mine", 200, "anthropic.claude-haiku-4.5")
    assert line["ms"] >= 0
    assert re.fullmatch(r"[0-9a-f-]{36}", line["job"])
    assert (line["trace"], line["key"]) == ("1" * 32, "anonymous")
    assert min(line["input_tokens"], line["output_tokens"]) > 0
    assert line["ms"] >= line["narrative_ms"] > line["queue_ms"] >= 0
    assert line["proxy_ms"] > 0


async def test_lines_about_jobs_name_the_request_and_the_job() -> None:
    slow = {"PROXY_SERVER__LOG_FORMAT": "json", "PROXY_SANDBOX__RUNNING_S": "600"}
    with running("serve", "--sandbox", "--port", "0", **slow) as (url, process):
        body = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "hi"}]}
        async with httpx.AsyncClient() as client:
            headers = {"x-request-id": "mine"}
            call = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=body, headers=headers))
            await until(lambda: "\nproxy_jobs_in_flight 1.0" in httpx.get(f"{url}/metrics").text)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        await until(lambda: "\nproxy_jobs_in_flight 0.0" in httpx.get(f"{url}/metrics").text)
        process.terminate()
        _, err = process.communicate(timeout=60)
    (line,) = [json.loads(line) for line in err.splitlines() if "nobody waits for a job" in line]
    assert line["request"] == "mine"
    assert re.fullmatch(r"[0-9a-f-]{36}", line["job_id"])


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What is logged of HTTP, from the level info on."""
    events: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: events.append(record.msg["event"] if isinstance(record.msg, dict) else record.msg)  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("proxy.access", "proxy.api", "uvicorn")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel("INFO" if logger.name != "uvicorn" else "WARNING")
    yield events
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.parametrize("stream", [False, True])
def test_the_connection_of_a_client_that_stops_reading_is_closed(
    make_deployment: Any, logged: list[str], unbounded: dict[str, str], stream: bool
) -> None:
    deployment: Deployment = make_deployment({**unbounded, "PROXY_CHAT__SEND_TIMEOUT_S": "0.5"}, context_tokens=None)
    body = {
        "model": "claude-4-5-haiku", "stream": stream, "max_tokens": 10_000_000,
        "messages": [{"role": "user", "content": script(text="word " * 1_500_000)}],
    }  # fmt: skip
    payload = json.dumps(body).encode()
    host, port = deployment.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\nContent-Length: {len(payload)}\r\n\r\n"
        client.sendall(head.encode() + payload)
        client.settimeout(60)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        # Reading again only after the server gave up: what was on its way arrives, and then the end instead of the answer's.
        asyncio.run(until(lambda: "a client stopped reading its response" in logged))
        received = b""
        with suppress(ConnectionResetError):
            while piece := client.recv(1 << 20):
                received += piece
    assert len(received) < len(payload)
    assert b"[DONE]" not in received
    asyncio.run(until(lambda: "request" in logged))
    assert set(logged) <= {
        "a client stopped reading its response",
        "the client left before the end of its answer",
        "request",
    }


def test_idle_connections_are_kept_longer_than_a_load_balancer_keeps_them() -> None:
    assert Settings().server.keep_alive_s > 60
