"""The sandbox over a real socket, as a client of Narrative meets it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.backends.narrative.types import parse_page, parse_record
from proxy.sandbox import RunningSandbox, SandboxOptions, serve_sandbox
from tests.records import job_of
from tests.serving import serve
from tests.unit.sandbox.building import body, says

AT_ONCE = SandboxOptions(pending_s=0, running_s=0)
TOKEN = {"Authorization": "Bearer some-token"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def sandbox() -> AsyncIterator[RunningSandbox]:
    async with serve_sandbox(AT_ONCE) as running:
        yield running


@pytest.fixture
async def client(sandbox: RunningSandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sandbox.url, headers=TOKEN) as opened:
        yield opened


async def run(client: httpx.AsyncClient, *messages: dict[str, Any], **more: Any) -> str:
    answer = await client.post("/model-inference/run", json=body(*messages, **more))
    assert answer.status_code == 200, answer.text
    return str(parse_record(answer.content).name)


async def test_a_job_is_submitted_and_read(client: httpx.AsyncClient, sandbox: RunningSandbox) -> None:
    job_id = await run(client, says("user", "Hi"), tags=["rid:1"])
    answer = await client.get(f"/jobs/{job_id}")
    job = job_of(answer.json())
    assert (job.state, job.tags) == ("completed", ("rid:1",))
    assert job.result is not None
    assert job.result.structured_output["content"].startswith("Hello!")
    assert sandbox.store.jobs()[0].body["tags"] == ["rid:1"]
    assert sandbox.store.calls == {"run": 1, "get_job": 1}


async def test_the_feed_of_ended_jobs_carries_results(client: httpx.AsyncClient) -> None:
    made = [await run(client, says("user", f"number {number}")) for number in range(3)]
    answer = await client.get(
        "/jobs", params={"type": "model_inference", "state": "completed", "order_by": "updated_at_desc", "per_page": 2}
    )
    page = parse_page(answer.content)
    records = page.jobs()
    assert [record.id for record in records] == [made[2], made[1]]
    assert [record.result.structured_output for record in records if record.result] == [
        {"content": "You said: number 2"},
        {"content": "You said: number 1"},
    ]
    body = answer.json()
    assert (body["current_page"], body["total_pages"], body["total_records"]) == (1, 2, 3)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Basic abc"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer invalid-token"}, 401),
        ({"Authorization": "Bearer forbidden-token"}, 403),
        ({"Authorization": "bearer anything"}, 200),
    ],
)
async def test_every_call_needs_a_good_token(sandbox: RunningSandbox, headers: dict[str, str], status: int) -> None:
    async with httpx.AsyncClient(base_url=sandbox.url, headers=headers) as client:
        answers = [
            await client.get("/jobs"),
            await client.get("/webhooks"),
            await client.post("/model-inference/run", json=body()),
        ]
    assert [answer.status_code for answer in answers] == [status] * 3
    assert status == 200 or all(set(answer.json()) == {"error", "error_description"} for answer in answers)


def rejected(answer: httpx.Response) -> int:
    """The status of an error response, which must have Narrative's shape."""
    assert answer.json().keys() == {"error", "error_description"}
    return answer.status_code


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer a b")],
        [("Authorization", "Bearer a"), ("Authorization", "Bearer a")],
        [("Authorization", "BearerToken")],
        [("Authorization", "")],
        [("X-Api-Key", "a")],
    ],
)
async def test_the_authorization_header_must_be_one_bearer_token(
    sandbox: RunningSandbox, headers: list[tuple[str, str]]
) -> None:
    async with httpx.AsyncClient(base_url=sandbox.url) as client:
        assert rejected(await client.get("/jobs", headers=headers)) == 401


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200),
        ("*/*", 200),
        ("application/*;q=0.5", 200),
        ("text/html, application/json;q=0.9", 200),
        ("text/html", 406),
        ("application/json;q=0", 406),
        ("application/xml, text/plain;q=0.5", 406),
    ],
)
async def test_the_client_must_accept_json(client: httpx.AsyncClient, accept: str, status: int) -> None:
    headers = {"Accept": accept}
    answers = [
        await client.get("/jobs", headers=headers),
        await client.get("/webhooks", headers=headers),
        await client.post("/model-inference/run", json=body(), headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [status] * 3
    assert status == 200 or [rejected(answer) for answer in answers] == [406] * 3


async def test_a_client_that_says_nothing_of_what_it_accepts_gets_json(client: httpx.AsyncClient) -> None:
    del client.headers["accept"]
    answer = await client.get("/jobs")
    assert "accept" not in answer.request.headers
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        (None, 415),
    ],
)
async def test_a_submission_must_be_sent_as_json(
    client: httpx.AsyncClient, sandbox: RunningSandbox, media_type: str | None, status: int
) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    answer = await client.post("/model-inference/run", content=orjson.dumps(body()), headers=headers)
    assert answer.status_code == status
    assert status == 200 or rejected(answer) == 415
    assert len(sandbox.store) == int(status == 200)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/jobs"),
        ("DELETE", "/jobs"),
        ("HEAD", "/jobs"),
        ("POST", "/jobs/00000000-0000-4000-8000-000000000000"),
        ("GET", "/model-inference/run"),
        ("PUT", "/model-inference/run"),
        ("PUT", "/webhooks"),
    ],
)
async def test_a_wrong_method_is_a_405(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"]
    assert method == "HEAD" or rejected(answer) == 405


@pytest.mark.parametrize(
    "path", ["/", "/job", "/sandbox/jobs/count", "/jobs/a/b", "/v1/jobs", "/model-inference", "//jobs", "/JOBS"]
)
async def test_a_wrong_path_is_a_404(sandbox: RunningSandbox, path: str) -> None:
    async with httpx.AsyncClient(headers=TOKEN) as client:
        assert rejected(await client.get(sandbox.url + path)) == 404


async def test_a_body_where_there_must_be_none_is_a_400(client: httpx.AsyncClient) -> None:
    assert rejected(await client.request("GET", "/jobs", content=b"{}")) == 400
    assert (await client.request("GET", "/jobs", content=b"")).status_code == 200


@pytest.mark.parametrize("spare", [-1, 0])
async def test_a_body_is_accepted_up_to_its_limit(spare: int) -> None:
    content = orjson.dumps(body())
    async with (
        serve_sandbox(SandboxOptions(max_body_bytes=len(content) + spare)) as sandbox,
        httpx.AsyncClient(base_url=sandbox.url, headers=TOKEN | JSON) as client,
    ):
        answer = await client.post("/model-inference/run", content=content)
    assert answer.status_code == (200 if spare == 0 else 413)
    assert spare == 0 or answer.json()["error_description"].endswith(f"{len(content) - 1} bytes")


async def test_large_inputs_come_back_whole_in_lists(client: httpx.AsyncClient) -> None:
    asked = body(says("user", "ü" * 80_000), tags=["rid:1"])
    made = [await run(client, asked["messages"][0], tags=["rid:1"]) for _ in range(20)]
    listed = (await client.get("/jobs", params={"per_page": 20, "order_by": "created_at_asc"})).json()["records"]
    assert [record["job_id"] for record in listed] == made
    assert all(record["input"] == asked for record in listed)
    assert [(await client.get(f"/jobs/{job_id}")).json() for job_id in made] == listed


async def test_only_listed_tokens_are_good_where_there_is_a_list() -> None:
    async with serve_sandbox(SandboxOptions(tokens=frozenset({"a"}))) as sandbox, httpx.AsyncClient() as client:
        statuses = [
            (await client.get(f"{sandbox.url}/jobs", headers={"Authorization": f"Bearer {token}"})).status_code
            for token in ("a", "b")
        ]
    assert statuses == [200, 401]


async def test_refusals_have_narratives_shape_and_are_remembered(
    client: httpx.AsyncClient, sandbox: RunningSandbox
) -> None:
    wrong = [
        await client.post("/model-inference/run", content=b"{", headers=JSON),
        await client.post("/model-inference/run", json=body(temperature=3)),
        await client.get("/jobs", params={"per_page": 1000}),
        await client.get("/jobs/00000000-0000-4000-8000-000000000000"),
    ]
    assert [answer.status_code for answer in wrong] == [400, 400, 400, 404]
    assert all(set(answer.json()) == {"error", "error_description"} for answer in wrong)
    assert [refused.status for refused in sandbox.store.refused] == [400, 400, 400, 404]
    assert sandbox.store.refused[1].description.startswith("inference_config.temperature")
    assert len(sandbox.store) == 0


async def test_unknown_routes_and_methods_have_the_same_shape(client: httpx.AsyncClient) -> None:
    answers = [await client.get("/nowhere"), await client.put("/jobs"), await client.get("/jobs/")]
    assert [answer.status_code for answer in answers] == [404, 405, 404]
    assert all(set(answer.json()) == {"error", "error_description"} for answer in answers)


async def test_a_scripted_rejection_reaches_the_client_as_written(client: httpx.AsyncClient) -> None:
    script = (
        '[[sandbox {"reject": {"status": 502, "body": "<html>Bad gateway</html>", "headers": {"Retry-After": "2"}}}]]'
    )
    answer = await client.post("/model-inference/run", json=body(says("user", script)))
    assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (502, "<html>Bad gateway</html>", "2")
    assert answer.headers["content-type"].startswith("text/html")


async def test_it_listens_where_it_is_told() -> None:
    async with serve_sandbox(AT_ONCE) as first:
        port = httpx.URL(first.url).port
        assert port
        with pytest.raises(OSError, match="in use"):
            async with serve_sandbox(AT_ONCE, port=port):
                pass
    async with serve_sandbox(AT_ONCE, port=port) as second:
        assert second.url == first.url


async def test_many_submissions_at_once_make_as_many_jobs(client: httpx.AsyncClient, sandbox: RunningSandbox) -> None:
    made = await asyncio.gather(*(run(client, tags=[f"rid:{number}"]) for number in range(100)))
    assert len(set(made)) == 100
    assert {job.body["tags"][0] for job in sandbox.store.jobs()} == {f"rid:{number}" for number in range(100)}


class Listener:
    """A server that takes deliveries and answers with what is left in `statuses`, then 204."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.taken: asyncio.Queue[tuple[dict[str, str], dict[str, Any]]] = asyncio.Queue()
        self.app = Starlette(routes=[Route("/hook", self.hook, methods=["POST"])])
        self._loop = asyncio.get_running_loop()

    async def hook(self, request: Request) -> Response:
        delivery = (dict(request.headers), await request.json())
        # The listener's server may run in a thread of its own.
        self._loop.call_soon_threadsafe(self.taken.put_nowait, delivery)
        return Response(status_code=self.statuses.pop(0) if self.statuses else 204)


async def subscribe(client: httpx.AsyncClient, url: str, **filters: Any) -> dict[str, Any]:
    answer = await client.post("/webhooks", json={"type": "webhook_subscription_jobs", "url": url, **filters})
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def test_an_end_is_delivered_with_the_secret_and_the_result(client: httpx.AsyncClient) -> None:
    listener = Listener()
    with serve(listener.app) as url:
        subscription = await subscribe(client, f"{url}/hook", states=["completed", "failed"])
        job_id = await run(client)
        headers, event = await asyncio.wait_for(listener.taken.get(), 10)
    assert headers["x-narrative-webhook-secret"] == subscription["secret"]
    assert headers["idempotency-key"]
    assert event["type"] == "job.completed"
    assert job_of(event["data"]).id == job_id
    assert event["data"]["result"]["structured_output"]["content"]


async def test_all_changes_are_delivered_in_order_to_who_takes_them_all() -> None:
    listener = Listener()
    options = SandboxOptions(pending_s=0.02, running_s=0.02)
    async with serve_sandbox(options) as sandbox, httpx.AsyncClient(base_url=sandbox.url, headers=TOKEN) as client:
        with serve(listener.app) as url:
            await subscribe(client, f"{url}/hook")
            await run(client)
            types = [(await asyncio.wait_for(listener.taken.get(), 10))[1]["type"] for _ in range(3)]
    assert sorted(types) == ["job.completed", "job.pending", "job.running"]


async def test_a_refused_delivery_is_tried_again_under_the_same_key() -> None:
    listener = Listener(500, 404)
    options = SandboxOptions(pending_s=0, running_s=0, webhook_retry_s=0.01)
    async with serve_sandbox(options) as sandbox, httpx.AsyncClient(base_url=sandbox.url, headers=TOKEN) as client:
        with serve(listener.app) as url:
            await subscribe(client, f"{url}/hook", job_types=["model-inference"])
            await run(client)
            taken = [await asyncio.wait_for(listener.taken.get(), 10) for _ in range(3)]
    assert len({headers["idempotency-key"] for headers, _ in taken}) == 1
    assert len({event["id"] for _, event in taken}) == 1


async def test_the_pause_before_each_further_try_doubles_until_the_tries_are_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    async def no_sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("proxy.sandbox.webhooks.sleep", no_sleep)
    listener = Listener(500, 404, 503, 500)
    options = SandboxOptions(pending_s=0, running_s=0, webhook_attempts=4, webhook_retry_s=3600)
    async with serve_sandbox(options) as sandbox, httpx.AsyncClient(base_url=sandbox.url, headers=TOKEN) as client:
        with serve(listener.app) as url:
            await subscribe(client, f"{url}/hook", states=["completed"])
            given_up = await run(client, says("user", "one"))
            taken = [await asyncio.wait_for(listener.taken.get(), 10) for _ in range(4)]
            delivered = await run(client, says("user", "two"))
            taken.append(await asyncio.wait_for(listener.taken.get(), 10))
    assert [event["data"]["job_id"] for _, event in taken] == [given_up] * 4 + [delivered]
    assert pauses == [3600, 7200, 14400]


async def test_a_subscription_covers_jobs_under_way_and_only_what_it_asks_for(
    client: httpx.AsyncClient, sandbox: RunningSandbox
) -> None:
    listener = Listener()
    stays = says("user", '[[sandbox {"state": "running"}]]')
    with serve(listener.app) as url:
        ignored, wanted = await run(client, stays), await run(client, stays)
        await subscribe(client, f"{url}/hook", job_ids=[wanted], states=["completed", "cancelled"])
        sandbox.store.finish(ignored)
        sandbox.store.finish(wanted, "cancelled")
        _, event = await asyncio.wait_for(listener.taken.get(), 10)
    assert (event["type"], event["data"]["job_id"]) == ("job.cancelled", wanted)
    assert listener.taken.empty()


async def test_an_archived_subscription_gets_nothing_more(client: httpx.AsyncClient) -> None:
    listener = Listener()
    with serve(listener.app) as url:
        archived = await subscribe(client, f"{url}/hook", name="old")
        kept = await subscribe(client, f"{url}/hook", name="new", states=["completed"])
        assert (await client.delete(f"/webhooks/{archived['id']}")).json()["status"] == "archived"
        await run(client)
        headers, _ = await asyncio.wait_for(listener.taken.get(), 10)
    assert headers["x-narrative-webhook-secret"] == kept["secret"]
    assert listener.taken.empty()
    assert (await client.get(f"/webhooks/{kept['id']}")).json()["status"] == "active"
    assert [each["name"] for each in (await client.get("/webhooks")).json()["records"]] == ["old", "new"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://example.com/hook"},
        {"url": "http://127.0.0.1.example.com/hook"},
        {"url": "ftp://127.0.0.1/hook"},
        {"url": "http://[::1"},
        {"url": "http://127.0.0.1/hook", "type": "other"},
        {"url": "http://127.0.0.1/hook", "events": []},
    ],
)
async def test_a_wrong_subscription_is_refused_and_nothing_is_fetched_abroad(
    client: httpx.AsyncClient, wrong: dict[str, Any]
) -> None:
    answer = await client.post("/webhooks", json={"type": "webhook_subscription_jobs", **wrong})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "error_description"}
    assert (await client.get("/webhooks/unknown")).status_code == 404


async def test_webhooks_can_be_switched_off() -> None:
    async with serve_sandbox(SandboxOptions(webhooks=False)) as sandbox, httpx.AsyncClient(headers=TOKEN) as client:
        assert (await client.get(f"{sandbox.url}/webhooks")).status_code == 404
