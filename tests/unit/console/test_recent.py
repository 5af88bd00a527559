"""The list of the last requests: bounded, without content, each caller's own."""

import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from proxy.console.recent import Entry, RecentRequests, RecordRequests, owner_of


def entry(owner: str = "a", jobs: tuple[str, ...] = ()) -> Entry:
    return Entry(at=time.time(), method="POST", owner=owner, jobs=jobs)


def test_only_the_last_requests_are_kept_the_newest_first() -> None:
    recent = RecentRequests(most=2)
    first, second, third = entry(), entry(), entry()
    for each in (first, second, third):
        recent.add(each)
    found = recent.seen_by(None)
    assert len(found) == 2
    assert found[0] is third
    assert found[1] is second


def test_a_caller_sees_its_own_requests_and_jobs_only() -> None:
    recent = RecentRequests()
    recent.add(entry("a", ("job-a",)))
    recent.add(entry("b", ("job-b",)))
    assert [each.owner for each in recent.seen_by("a")] == ["a"]
    assert recent.has_job("job-a", "a")
    assert not recent.has_job("job-b", "a")
    assert recent.has_job("job-b", None)


def test_jobs_are_forgotten_with_their_requests() -> None:
    recent = RecentRequests(most=1)
    recent.add(entry(jobs=("old",)))
    recent.add(entry())
    assert not recent.has_job("old", None)


def test_an_owner_tells_keys_apart_and_does_not_tell_them() -> None:
    one, other = (owner_of(Headers({"authorization": f"Bearer {key}"})) for key in ("secret-1", "secret-2"))
    assert one != other
    assert "secret" not in one + other


async def record(
    path: str, method: str = "POST", status: int = 200, headers: dict[str, str] | None = None
) -> list[Entry]:
    recent = RecentRequests()
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = type("Route", (), {"path": "/written/{in_code}"})()
        raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the body is not the list's business")

    scope = {"type": "http", "path": path, "method": method, "headers": []}
    await RecordRequests(app, recent)(scope, receive, send)
    assert len(sent) == 2
    return recent.seen_by(None)


async def test_what_is_noted_is_the_route_and_never_what_the_client_wrote() -> None:
    (found,) = await record(
        "/v1/chat/completions/secret-word", headers={"x-narrative-job-id": "one, two", "x-proxy-model": "m"}
    )
    assert (found.route, found.status, found.model, found.jobs) == ("/written/{in_code}", 200, "m", ("one", "two"))
    assert found.ms is not None
    assert "secret-word" not in str(found)


async def test_the_consoles_own_requests_and_those_of_machines_are_left_out() -> None:
    for path in ("/console/", "/console/api/recent", "/metrics", "/healthz", "/readyz"):
        assert await record(path, "GET") == []
    assert await record("/v1/chat/completions", "OPTIONS") == []


async def test_a_request_is_there_while_it_is_under_way() -> None:
    recent = RecentRequests()
    seen: list[Entry] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(recent.seen_by(None))
        assert [each.ms for each in seen] == [None]

    async def nothing(*_: Any) -> Any:
        return None

    await RecordRequests(app, recent)({"type": "http", "path": "/v1", "method": "GET", "headers": []}, nothing, nothing)
    assert seen[0].ms is not None
