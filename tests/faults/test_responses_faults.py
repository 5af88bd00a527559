"""The Responses API while replicas die and stores go away: nothing is paid twice, and every response ends."""

import asyncio
import json
import signal
from typing import Any

import httpx
import pytest

from proxy.sandbox import Fault
from tests.conftest import Deployment
from tests.faults.relay import relay_to
from tests.faults.test_replicas import RETRY_AFTER_S, a_client, site
from tests.redis_server import serve_redis
from tests.responses_folding import response_events
from tests.scripts import script
from tests.waiting import until

PATH = "/v1/responses"
TURN = {"client_metadata": {"turn_id": "turn-1"}}


def body(given: Any = "Hello!", **fields: Any) -> dict[str, Any]:
    return {"model": "claude-4-5-haiku", "input": given, **fields}


async def persistent(
    client: httpx.AsyncClient, urls: list[str], path: str, sent: dict[str, Any] | None = None, first: int = 0
) -> dict[str, Any]:
    """Ask the replicas in turn, as an SDK repeats, until one answers for good."""
    answers: list[httpx.Response | None] = []

    async def answered() -> bool:
        tries = len(answers)
        repeat = {"x-stainless-retry-count": str(tries)} if tries else {}
        url = f"{urls[(first + tries) % len(urls)]}{path}"
        try:
            answers.append(await client.request("POST" if sent else "GET", url, json=sent, headers=repeat))
        except httpx.TransportError:
            answers.append(None)
        return answers[-1] is not None and answers[-1].headers.get("x-should-retry") != "true"

    await until(answered, pause_s=RETRY_AFTER_S)
    assert answers[-1] is not None
    assert answers[-1].status_code == 200, answers[-1].text
    response: dict[str, Any] = answers[-1].json()
    return response


async def polled(client: httpx.AsyncClient, urls: list[str], id_: str, first: int) -> dict[str, Any]:
    response: dict[str, Any] = {}

    async def ended() -> bool:
        nonlocal response
        response = await persistent(client, urls, f"{PATH}/{id_}", first=first)
        return response["status"] not in ("queued", "in_progress")

    await until(ended, pause_s=RETRY_AFTER_S)
    return response


@pytest.mark.parametrize(
    ("signal_", "environ"),
    [(signal.SIGKILL, {}), (signal.SIGTERM, {"PROXY_SERVER__SHUTDOWN_GRACE_S": "0"})],
    ids=["killed", "stopped"],
)
async def test_background_responses_survive_a_replica(signal_: signal.Signals, environ: dict[str, str]) -> None:
    number = 40
    with site(1.0, **environ) as here:
        # Some submissions are on their way, taken by Narrative but not yet answered, when the replica dies.
        here.sandbox.state.faults.add(Fault(kind="slow", operation="run", handled=True, delay_s=1.5, every=4))
        async with a_client() as client:
            begun = [
                asyncio.create_task(
                    persistent(client, here.urls, PATH, body(f"Hello {n}!", background=True), first=n % 2)
                )
                for n in range(number)
            ]
            await here.submitted(number // 2)
            here.processes[0].send_signal(signal_)
            queued = await asyncio.gather(*begun)
            polls = [polled(client, here.urls, response["id"], n % 2) for n, response in enumerate(queued)]
            responses = await asyncio.gather(*polls)
        assert {response["status"] for response in responses} == {"completed"}, responses
        assert len({response["id"] for response in responses}) == number
        assert here.enqueued == number


async def test_a_background_stream_goes_on_at_another_replica() -> None:
    with site(1.5) as here:
        async with a_client() as client:
            queued = await persistent(client, here.urls, PATH, body(script(text="Done."), background=True))
            await here.submitted(1)
            live = asyncio.create_task(client.get(f"{here.urls[1]}{PATH}/{queued['id']}?stream=true&starting_after=1"))
            here.processes[0].send_signal(signal.SIGKILL)
            events = response_events((await live).content, first=2)
        assert events[0]["type"] == "response.in_progress"
        assert events[-1]["type"] == "response.completed"
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Done."
        assert here.enqueued == 1


@pytest.mark.parametrize("fields", [TURN, {}], ids=["Codex's turn", "without marks"])
async def test_a_stream_whose_replica_is_killed_costs_no_second_job(fields: dict[str, Any]) -> None:
    with site(2.0) as here:
        async with a_client() as client:
            begun = ""

            async def read_until_it_breaks() -> None:
                nonlocal begun
                async with client.stream("POST", f"{here.urls[0]}{PATH}", json=body(stream=True, **fields)) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: ") and not begun:
                            begun = json.loads(line.removeprefix("data: "))["response"]["id"]
                            await here.submitted(1)
                            here.processes[0].send_signal(signal.SIGKILL)

            with pytest.raises(httpx.TransportError):
                await read_until_it_breaks()
            retry = {} if fields else {"x-stainless-retry-count": "1"}
            again = await client.post(f"{here.urls[1]}{PATH}", json=body(stream=True, **fields), headers=retry)
            last = response_events(again.content)[-1]["response"]
        assert (last["status"], last["id"]) == ("completed", begun)
        assert here.enqueued == 1


async def test_what_one_replica_stored_another_one_continues() -> None:
    with site(0.0) as here:
        async with a_client() as client:
            first = (await client.post(f"{here.urls[0]}{PATH}", json=body(script(text="Blue.")))).json()
            asked = body("Why?", previous_response_id=first["id"])
            second = (await client.post(f"{here.urls[1]}{PATH}", json=asked)).json()
            assert second["status"] == "completed"
            assert (await client.get(f"{here.urls[1]}{PATH}/{first['id']}")).json() == first
            reference = [{"role": "user", "content": "Hi."}, {"type": "item_reference", "id": first["output"][0]["id"]}]
            assert (await client.post(f"{here.urls[1]}{PATH}", json=body(reference))).status_code == 200


async def test_without_the_store_only_what_needs_none_is_served(make_deployment: Any) -> None:
    with serve_redis() as url:
        async with relay_to(int(url.rsplit(":", 1)[1].partition("/")[0])) as relay:
            environ = {"PROXY_STATE__URL": f"redis://127.0.0.1:{relay.port}/0"}
            deployment: Deployment = await asyncio.to_thread(make_deployment, environ)
            async with a_client() as client:
                address = f"{deployment.url}{PATH}"
                first = (await client.post(address, json=body())).json()
                assert first["store"] is True
                relay.cut()
                for sent in (body(), body(), body(stream=True)):
                    answer = await client.post(address, json=sent)
                    streamed = sent.get("stream")
                    response = response_events(answer.content)[-1]["response"] if streamed else answer.json()
                    assert (response["status"], response["store"]) == ("completed", False)
                    assert "store: false" in answer.headers.get("x-proxy-adjusted", "")
                reference = [{"type": "item_reference", "id": first["output"][0]["id"]}]
                for sent in (body(previous_response_id=first["id"]), body(reference)):
                    refused = await client.post(address, json=sent)
                    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "state_unavailable")
                    assert refused.headers["x-should-retry"] == "true"
                assert (await client.get(f"{address}/{first['id']}")).status_code == 503
                assert (await client.post(address, json=body(background=True))).status_code >= 400
                relay.mend()

                async def stored() -> bool:
                    return bool((await client.post(address, json=body())).json()["store"])

                await until(stored)
                assert (await client.get(f"{address}/{first['id']}")).json() == first


async def test_a_response_that_ends_while_the_store_is_away_is_stored_when_it_is_back(make_deployment: Any) -> None:
    with serve_redis() as url:
        async with relay_to(int(url.rsplit(":", 1)[1].partition("/")[0])) as relay:
            environ = {"PROXY_STATE__URL": f"redis://127.0.0.1:{relay.port}/0"}
            deployment: Deployment = await asyncio.to_thread(lambda: make_deployment(environ, running_s=1.0))
            async with a_client() as client:
                address = f"{deployment.url}{PATH}"
                queued = (await client.post(address, json=body(background=True))).json()
                relay.cut()
                await until(lambda: deployment.in_flight() == 0)
                relay.mend()
                response = await polled(client, [deployment.url], queued["id"], 0)
            assert response["status"] == "completed"
            assert deployment.jobs_submitted() == 1
