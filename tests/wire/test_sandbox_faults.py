"""The sandbox's faults over real sockets: each is what it says, seen by a client that knows nothing of HTTP libraries."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn

from proxy.sandbox import Fault, RunningSandbox, SandboxOptions, create_sandbox, serve_sandbox
from tests.serving import serve
from tests.unit.sandbox.building import body, says
from tests.waiting import until
from tests.wire.test_sandbox import AT_ONCE, TOKEN, Listener, run, subscribe


@pytest.fixture
async def sandbox() -> AsyncIterator[RunningSandbox]:
    async with serve_sandbox(AT_ONCE) as running:
        yield running


@pytest.fixture
async def client(sandbox: RunningSandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sandbox.url, headers=TOKEN) as opened:
        yield opened


SUBMISSION = json.dumps(body()).encode()


async def raw(
    url: str, method: str = "POST", path: str = "/model-inference/run", content: bytes = SUBMISSION
) -> tuple[bytes, bool]:
    """Makes one call. Gives what arrived before the connection ended, and whether it was reset rather than closed."""
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    head = f"{method} {path} HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer t\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    arrived = b""
    try:
        while chunk := await asyncio.wait_for(reader.read(65536), 10):
            arrived += chunk
    except ConnectionResetError:
        return arrived, True
    finally:
        writer.close()
    return arrived, False


@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize("kind", ["close", "reset"])
async def test_a_connection_ends_without_an_answer_before_or_after_the_job_was_enqueued(
    sandbox: RunningSandbox, kind: Any, handled: bool
) -> None:
    sandbox.faults.add(Fault(kind=kind, operation="run", handled=handled, times=1))
    assert await raw(sandbox.url) == (b"", kind == "reset")
    assert len(sandbox.store) == int(handled)
    answer, _ = await raw(sandbox.url)
    assert answer.startswith(b"HTTP/1.1 200")


async def test_resets_work_under_any_uvicorn_and_parser() -> None:
    app = create_sandbox(AT_ONCE)
    app.state.faults.add(Fault(kind="reset", times=2))
    with serve(app) as url:
        assert await raw(url) == (b"", True)
        config = uvicorn.Config(app, http="h11", log_config=None, lifespan="off", port=0)
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        port = server.servers[0].sockets[0].getsockname()[1]
        assert await raw(f"http://127.0.0.1:{port}") == (b"", True)
        await server.shutdown()


async def test_a_library_takes_a_dropped_answer_for_an_error(
    client: httpx.AsyncClient, sandbox: RunningSandbox
) -> None:
    sandbox.faults.add(Fault(kind="close", operation="run", handled=True, every=2))
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append((await client.post("/model-inference/run", json=body())).status_code)
        except httpx.TransportError:
            outcomes.append(0)
    assert outcomes == [200, 0, 200, 0]
    assert sandbox.store.enqueued == 4
    assert sandbox.faults.fired == {"close": 2}


async def test_a_storm_of_429_passes_with_and_without_retry_after(
    client: httpx.AsyncClient, sandbox: RunningSandbox
) -> None:
    sandbox.faults.add(
        Fault(kind="status", status=429, times=1, headers={"Retry-After": "2"}),
        Fault(kind="status", status=429, times=1),
    )
    answers = [await client.post("/model-inference/run", json=body()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert [answer.headers.get("retry-after") for answer in answers] == ["2", None, None]
    assert answers[0].json()["error"] == "too_many_requests"
    assert len(sandbox.store) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(500, "application/json"), (502, "text/html; charset=utf-8"), (503, "application/json")]
)
@pytest.mark.parametrize("handled", [False, True])
async def test_server_errors_speak_json_or_a_gateways_html(
    client: httpx.AsyncClient, sandbox: RunningSandbox, status: int, kind: str, handled: bool
) -> None:
    sandbox.faults.add(Fault(kind="status", status=status, operation="run", handled=handled))
    answer = await client.post("/model-inference/run", json=body())
    assert (answer.status_code, answer.headers["content-type"]) == (status, kind)
    assert len(sandbox.store) == int(handled)


async def test_a_known_job_can_be_denied(client: httpx.AsyncClient, sandbox: RunningSandbox) -> None:
    job_id, other = await run(client), await run(client)
    sandbox.faults.add(Fault(kind="status", status=404, operation="get_job", job_id=job_id, times=1))
    assert (await client.get(f"/jobs/{other}")).status_code == 200
    assert [(await client.get(f"/jobs/{job_id}")).status_code for _ in range(2)] == [404, 200]


async def test_json_comes_truncated_in_a_whole_answer_or_as_garbage(
    client: httpx.AsyncClient, sandbox: RunningSandbox
) -> None:
    sandbox.faults.add(
        Fault(kind="truncated", times=1), Fault(kind="truncated", times=1, at_byte=0), Fault(kind="garbage", times=1)
    )
    for _ in range(3):
        answer = await client.post("/model-inference/run", json=body())
        assert answer.status_code == 200
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|codec"):
            answer.json()
    assert len(sandbox.store) == 3


async def test_a_slow_call_is_carried_out_late_and_a_slow_answer_was_before(
    client: httpx.AsyncClient, sandbox: RunningSandbox
) -> None:
    sandbox.faults.add(Fault(kind="slow", delay_s=0.01, times=1), Fault(kind="slow", delay_s=60, handled=True, times=1))
    assert (await client.post("/model-inference/run", json=body())).status_code == 200
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/model-inference/run", json=body(), timeout=0.2)
    assert len(sandbox.store) == 2


@pytest.mark.parametrize("handled", [False, True])
async def test_a_stuck_call_goes_on_when_the_faults_end(
    client: httpx.AsyncClient, sandbox: RunningSandbox, handled: bool
) -> None:
    sandbox.faults.add(Fault(kind="stuck", handled=handled))
    call = asyncio.create_task(client.post("/model-inference/run", json=body()))
    await until(lambda: sandbox.faults.fired)
    assert not call.done()
    sandbox.faults.clear()
    answer = await call
    assert answer.json()["job_id"] == sandbox.store.jobs()[0].id


@pytest.mark.parametrize("handled", [False, True])
async def test_a_stuck_call_ends_when_the_client_leaves(
    client: httpx.AsyncClient, sandbox: RunningSandbox, handled: bool
) -> None:
    sandbox.faults.add(Fault(kind="stuck", handled=handled, times=1))
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/model-inference/run", json=body(), timeout=0.2)
    assert len(sandbox.store) == int(handled)
    assert (await client.get("/jobs")).status_code == 200


async def test_lists_lag_while_reads_do_not(client: httpx.AsyncClient, sandbox: RunningSandbox) -> None:
    job_id = await run(client)
    sandbox.faults.add(Fault(kind="lag", operation="list_jobs", delay_s=3600))
    assert (await client.get("/jobs")).json()["total_records"] == 0
    assert (await client.get(f"/jobs/{job_id}")).json()["state"] == "completed"
    sandbox.faults.clear()
    assert (await client.get("/jobs")).json()["total_records"] == 1


async def test_lists_miss_results_and_records_and_repeat_themselves(
    client: httpx.AsyncClient, sandbox: RunningSandbox
) -> None:
    made = [await run(client) for _ in range(20)]
    sandbox.faults.add(
        Fault(kind="no_result", operation="list_jobs", times=1),
        Fault(kind="lost_records", operation="list_jobs", times=1),
        Fault(kind="repeated_records", operation="list_jobs", times=1),
    )
    bare, lossy, double = [(await client.get("/jobs")).json()["records"] for _ in range(3)]
    assert [record["result"] for record in bare] == [None] * 20
    assert 0 < len(lossy) < 20
    assert sorted(record["job_id"] for record in double) == sorted(made * 2)


async def test_records_are_patched_in_lists_and_single_reads(
    client: httpx.AsyncClient, sandbox: RunningSandbox
) -> None:
    job_id = await run(client)
    patch = {"created_at": "yesterday", "result": {"usage": {"prompt_tokens": 1.5}}, "new": {"a": [1]}}
    sandbox.faults.add(Fault(kind="patch", body=patch))
    single = (await client.get(f"/jobs/{job_id}")).json()
    [listed] = (await client.get("/jobs")).json()["records"]
    assert single == listed
    assert (single["created_at"], single["new"], single["job_id"]) == ("yesterday", {"a": [1]}, job_id)
    assert single["result"]["usage"]["prompt_tokens"] == 1.5
    assert single["result"]["usage"]["completion_tokens"] > 0
    assert single["result"]["structured_output"]
    assert (await client.post("/model-inference/run", json=body())).json().keys() == {"job_id"}
    assert (await client.get("/jobs/unknown")).status_code == 404


async def test_a_failed_job_of_any_text_and_a_withheld_result_reach_the_client(client: httpx.AsyncClient) -> None:
    failed = await run(client, says("user", '[[sandbox {"fail": [{"message": "Too many tokens, please wait"}]}]]'))
    record = (await client.get(f"/jobs/{failed}")).json()
    assert (record["state"], record["failures"]) == ("failed", [{"message": "Too many tokens, please wait"}])
    withheld = await run(client, says("user", '[[sandbox {"withhold": 2, "state": "COMPLETED"}]]'))
    [first, _] = (await client.get("/jobs")).json()["records"]
    second, third = [(await client.get(f"/jobs/{withheld}")).json() for _ in range(2)]
    assert [record["state"] for record in (first, second, third)] == ["COMPLETED"] * 3
    assert [record["result"] is None for record in (first, second, third)] == [True, True, False]


async def test_narrative_is_away_for_a_time(sandbox: RunningSandbox) -> None:
    sandbox.faults.add(Fault(kind="close", for_s=3600))
    for path in ("/jobs", "/jobs/x", "/webhooks"):
        assert await raw(sandbox.url, "GET", path, b"") == (b"", False)
    assert len(sandbox.store) == 0
    assert not sandbox.store.calls


async def deliveries(
    sandbox: RunningSandbox, client: httpx.AsyncClient, count: int, *faults: Fault
) -> list[tuple[dict[str, str], Any]]:
    """The first deliveries about the end of two jobs, which end one after the other."""
    listener = Listener()
    with serve(listener.app) as url:
        await subscribe(client, f"{url}/hook", states=["completed"])
        sandbox.faults.add(*faults)
        await run(client, says("user", "one"))
        await run(client, says("user", "two"))
        taken = [await asyncio.wait_for(listener.taken.get(), 10) for _ in range(count)]
    assert listener.taken.empty()
    return taken


def said(taken: list[tuple[dict[str, str], Any]]) -> list[str]:
    texts = [event["data"]["result"]["structured_output"]["content"] for _, event in taken]
    return [text.removeprefix("You said: ") for text in texts]


async def test_a_delivery_comes_twice_under_one_key(client: httpx.AsyncClient, sandbox: RunningSandbox) -> None:
    taken = await deliveries(sandbox, client, 3, Fault(kind="twice", times=1))
    assert sorted(said(taken)) == ["one", "one", "two"]
    assert len({headers["idempotency-key"] for headers, _ in taken}) == 2


async def test_a_delivery_comes_late(client: httpx.AsyncClient, sandbox: RunningSandbox) -> None:
    taken = await deliveries(sandbox, client, 2, Fault(kind="late", times=1, delay_s=0.5))
    assert said(taken) == ["two", "one"]


async def test_a_delivery_is_lost(client: httpx.AsyncClient, sandbox: RunningSandbox) -> None:
    assert said(await deliveries(sandbox, client, 1, Fault(kind="lost", times=1))) == ["two"]


async def test_a_faulty_sandbox_still_ends_promptly() -> None:
    async with httpx.AsyncClient(headers=TOKEN) as client, serve_sandbox(SandboxOptions()) as sandbox:
        sandbox.faults.add(Fault(kind="stuck"))
        call = asyncio.create_task(client.get(f"{sandbox.url}/jobs"))
        await until(lambda: sandbox.faults.fired)
        assert not call.done()
    # Its end frees what was stuck, so that nothing waits for a grace period.
    assert (await call).status_code == 200
