"""What is sent to Narrative, byte for byte, and how often after failures."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from proxy.backends.narrative.client import ClientOptions, NarrativeClient
from proxy.backends.narrative.events import Retried
from proxy.backends.narrative.types import WebhookRequest
from proxy.errors import RateLimited, UpstreamError
from tests.faults.raw_upstream import answer, hang_up, raw_upstream
from tests.faults.test_upstream_faults import ACCEPTED, DONE, KEY, QUICK, request

PAGE = answer(200, {"records": []})
HOOK = answer(200, {"id": "hook-1"})
SUBSCRIPTION = WebhookRequest(url="https://proxy.example/hook", name="n", states=("completed",))
Calls = Callable[[NarrativeClient], Awaitable[Any]]

CALLS: dict[str, tuple[Calls, Any, str, str, bool]] = {
    "run": (lambda n: n.run_model_inference(request()), ACCEPTED, "POST", "/model-inference/run", True),
    "job": (lambda n: n.get_job("job-1"), DONE, "GET", "/jobs/job-1", False),
    "odd id": (lambda n: n.get_job("a:b.c"), answer(200, {"id": "a:b.c"}), "GET", "/jobs/a%3Ab.c", False),
    "list": (lambda n: n.list_jobs(), PAGE, "GET", "/jobs", False),
    "filtered list": (
        lambda n: n.list_jobs(
            type="model_inference",
            state="completed",
            data_plane_id="plane 1",
            per_page=501,
            offset=20,
            order_by="updated_at_desc",
        ),
        PAGE,
        "GET",
        "/jobs?type=model_inference&state=completed&data_plane_id=plane+1&per_page=500&offset=20&order_by=updated_at_desc",
        False,
    ),
    "subscribe": (lambda n: n.create_webhook(SUBSCRIPTION), HOOK, "POST", "/webhooks", True),
    "webhook": (lambda n: n.get_webhook("hook-1"), HOOK, "GET", "/webhooks/hook-1", False),
    "webhooks": (lambda n: n.list_webhooks(), answer(200, b"[]"), "GET", "/webhooks", False),
    "archive": (lambda n: n.archive_webhook("hook-1"), answer(200), "DELETE", "/webhooks/hook-1", False),
}


@pytest.mark.parametrize(("call", "reply", "method", "target", "has_body"), CALLS.values(), ids=CALLS)
async def test_every_call_has_its_method_path_and_headers(
    call: Calls, reply: Any, method: str, target: str, has_body: bool
) -> None:
    async with raw_upstream(reply) as upstream, NarrativeClient(KEY, environment=upstream.url + "/") as narrative:
        await call(narrative)
        await call(narrative.with_api_key("other-key"))
    for seen, key in zip(upstream.seen, (KEY, "other-key"), strict=True):
        assert (seen.method, seen.target) == (method, target)
        assert seen.headers["authorization"] == f"Bearer {key}"
        assert seen.headers["accept"] == "application/json"
        assert seen.headers.get("content-type") == ("application/json" if has_body else None)
        assert bool(seen.body) is has_body
        assert "cookie" not in seen.headers


async def test_the_body_of_a_subscription_leaves_out_what_is_not_filtered() -> None:
    async with raw_upstream(HOOK) as upstream, NarrativeClient(KEY, environment=upstream.url) as narrative:
        await narrative.create_webhook(SUBSCRIPTION)
        assert upstream.seen[0].json() == {
            "type": "webhook_subscription_jobs",
            "url": "https://proxy.example/hook",
            "name": "n",
            "states": ["completed"],
        }


async def test_a_rate_limit_without_retry_after_ends_after_five_submissions() -> None:
    async with (
        raw_upstream(answer(429)) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=QUICK) as n,
    ):
        with pytest.raises(RateLimited) as caught:
            await n.run_model_inference(request())
        assert len(upstream.seen) == 5
    assert caught.value.retry_after == 1.0
    assert not caught.value.job_may_exist


async def test_the_fifth_submission_may_be_the_one_that_is_taken() -> None:
    limited = [answer(429)] * 4
    async with (
        raw_upstream(*limited, ACCEPTED) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=QUICK) as narrative,
    ):
        assert (await narrative.run_model_inference(request())).id == "job-1"
        assert len(upstream.seen) == 5


@pytest.mark.parametrize("fault", [answer(429, headers={"Retry-After": "0"}), answer(503)])
async def test_other_refusals_are_retried_until_the_deadline(fault: Any) -> None:
    async with (
        raw_upstream(*[fault] * 12, ACCEPTED) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=QUICK) as narrative,
    ):
        assert (await narrative.run_model_inference(request())).id == "job-1"
        assert len(upstream.seen) == 13


async def test_a_submission_whose_second_attempt_is_lost_is_not_sent_a_third_time() -> None:
    async with (
        raw_upstream(answer(503), hang_up, ACCEPTED) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=QUICK) as narrative,
    ):
        with pytest.raises(UpstreamError) as caught:
            await narrative.run_model_inference(request())
        assert (caught.value.code, caught.value.job_may_exist) == ("narrative_submit_unknown", True)
        assert len(upstream.seen) == 2


async def test_nothing_is_sent_again_for_a_caller_that_left() -> None:
    async with (
        raw_upstream(answer(503)) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=QUICK) as narrative,
    ):
        with pytest.raises(UpstreamError):
            await narrative.enqueue(request(), abandoned=lambda: True)
        assert len(upstream.seen) == 1


async def test_nothing_is_sent_again_for_a_caller_that_leaves_during_the_pause() -> None:
    events: list[object] = []
    async with (
        raw_upstream(answer(503)) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=QUICK, observe=events.append) as narrative,
    ):
        with pytest.raises(UpstreamError):
            await narrative.enqueue(request(), abandoned=lambda: any(isinstance(event, Retried) for event in events))
        assert len(upstream.seen) == 1


async def test_pauses_between_attempts_follow_retry_after() -> None:
    options = ClientOptions(retry_timeout=30.0, first_backoff=0.001, max_backoff=0.001)
    events: list[object] = []
    async with (
        raw_upstream(answer(503, headers={"Retry-After": "0.5"}), answer(503), DONE) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=options, observe=events.append) as narrative,
    ):
        await narrative.get_job("job-1")
    first, second = (event for event in events if isinstance(event, Retried))
    assert first.pause == 0.5
    assert second.pause <= 0.001


async def test_calls_over_an_open_connection_make_no_tasks() -> None:
    loop, made = asyncio.get_running_loop(), []

    def counted(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(work)
        return asyncio.Task(work, loop=loop, **options)

    async with raw_upstream(DONE) as upstream, NarrativeClient(KEY, environment=upstream.url) as narrative:
        await narrative.get_job("job-1")
        loop.set_task_factory(counted)
        try:
            for _ in range(3):
                await narrative.get_job("job-1")
        finally:
            loop.set_task_factory(None)
        assert len(upstream.seen) == 4
    assert not made


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_with_the_key(status: int) -> None:
    async with raw_upstream(DONE) as elsewhere:
        away = answer(status, headers={"Location": f"{elsewhere.url}/jobs/job-1"})
        async with (
            raw_upstream(away) as upstream,
            NarrativeClient(KEY, environment=upstream.url, options=QUICK) as narrative,
        ):
            with pytest.raises(UpstreamError):
                await narrative.get_job("job-1")
        assert not elsewhere.seen
