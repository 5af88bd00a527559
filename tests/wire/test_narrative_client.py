"""The client on its own, against the sandbox."""

import uuid
from dataclasses import replace

import pytest
from pydantic import BaseModel

from proxy.backends.narrative.client import ClientOptions, NarrativeClient
from proxy.backends.narrative.failures import refusal_of
from proxy.backends.narrative.types import (
    InferenceConfig,
    RunMessage,
    RunRequest,
    TextBlock,
    WebhookRequest,
)
from proxy.errors import JobTimeout, PermissionDenied, UpstreamError
from proxy.sandbox import SANDBOX_DATA_PLANE, SandboxOptions, serve_sandbox
from tests.records import record_of
from tests.scripts import script

QUICK = SandboxOptions(pending_s=0.01, running_s=0.05)


class Weather(BaseModel):
    city: str
    degrees: int


def request(**directive: object) -> RunRequest:
    schema = Weather.model_json_schema()
    return RunRequest(
        data_plane_id=SANDBOX_DATA_PLANE,
        model="anthropic.claude-haiku-4.5",
        messages=(RunMessage(role="user", content=(TextBlock(text=f"How warm is it? {script(**directive)}"),)),),
        inference_config=InferenceConfig(output_format_schema=schema),
        tags=(f"rid:{uuid.uuid4()}",),
    )


async def test_run_wait_and_read_the_result_as_a_model() -> None:
    async with serve_sandbox(QUICK) as sandbox, NarrativeClient("key", environment=sandbox.url) as narrative:
        job = await narrative.run_model_inference(request(output={"city": "Oslo", "degrees": 7}))
        assert not job.ended
        job = await narrative.wait_for(job, timeout=30)
        assert job.result_as(Weather) == Weather(city="Oslo", degrees=7)
        assert job.result is not None
        assert job.result.usage.total_tokens > 0


async def test_a_result_that_is_not_of_the_form_is_a_value_error() -> None:
    async with serve_sandbox(QUICK) as sandbox, NarrativeClient("key", environment=sandbox.url) as narrative:
        job = await narrative.run_model_inference(request(output={"city": "Oslo"}))
        with pytest.raises(ValueError, match="no result"):
            job.result_as(Weather)
        job = await narrative.wait_for(job)
        with pytest.raises(ValueError, match="degrees"):
            job.result_as(Weather)


async def test_a_wait_that_is_too_short_names_the_job() -> None:
    async with serve_sandbox(QUICK) as sandbox, NarrativeClient("key", environment=sandbox.url) as narrative:
        job = await narrative.run_model_inference(request(delay=30))
        with pytest.raises(JobTimeout, match=job.id):
            await narrative.wait_for(job, timeout=0.05)


async def test_jobs_are_listed_and_read_as_far_as_they_can_be_read() -> None:
    async with serve_sandbox(QUICK) as sandbox, NarrativeClient("key", environment=sandbox.url) as narrative:
        sent = [await narrative.run_model_inference(request(delay=0)) for _ in range(5)]
        for job in sent:
            await narrative.wait_for(job)
        page = await narrative.list_jobs(
            type="model_inference",
            state="completed",
            data_plane_id=SANDBOX_DATA_PLANE,
            per_page=3,
            offset=1,
            order_by="created_at_desc",
        )
        assert page.total_records == 5
        assert [job.id for job in page.jobs()] == [job.id for job in sent[-2::-1]][:3]
        odd = replace(page, records=(record_of({"state": 7}), *page.records))
        assert len(odd.jobs()) == 3


async def test_both_spellings_of_an_id_are_read() -> None:
    async with (
        serve_sandbox(SandboxOptions(pending_s=0, running_s=0, id_name="id")) as sandbox,
        NarrativeClient("key", environment=sandbox.url) as narrative,
    ):
        job = await narrative.run_model_inference(request())
        assert (await narrative.get_job(job.id)).id == job.id


async def test_a_refusal_carries_narratives_status_and_words() -> None:
    async with serve_sandbox(QUICK) as sandbox, NarrativeClient("key", environment=sandbox.url) as narrative:
        with pytest.raises(UpstreamError) as caught:
            await narrative.run_model_inference(request(reject={"status": 400, "body": {"error": "No luck"}}))
        refusal = refusal_of(caught.value)
        assert refusal is not None
        assert (refusal.status, refusal.words) == (400, "No luck")


async def test_keys_that_are_unknown_or_may_nothing_are_named_and_never_shown() -> None:
    async with serve_sandbox(QUICK) as sandbox, NarrativeClient("invalid-key", environment=sandbox.url) as narrative:
        with pytest.raises(UpstreamError) as unknown:
            await narrative.run_model_inference(request())
        assert unknown.value.code == "narrative_unauthorized"
        with pytest.raises(PermissionDenied):
            await narrative.with_api_key("forbidden-key").run_model_inference(request())
        assert "invalid-key" not in f"{unknown.value.message} {narrative!r}"


@pytest.mark.parametrize("key", ["line\nbreak", "snow\u2603man"])
async def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_sent(key: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        NarrativeClient(key)
    assert caught.value.code == "narrative_unauthorized"
    assert key not in caught.value.message


async def test_a_light_copy_shares_the_connections_and_closes_nothing() -> None:
    async with serve_sandbox(QUICK) as sandbox, NarrativeClient("one", environment=sandbox.url) as narrative:
        async with narrative.with_api_key("two") as copy:
            job = await copy.run_model_inference(request())
        assert copy.account != narrative.account
        assert (await narrative.get_job(job.id)).id == job.id


async def test_a_closed_client_says_so() -> None:
    async with serve_sandbox(QUICK) as sandbox:
        async with NarrativeClient(
            "key", environment=sandbox.url, options=ClientOptions(retry_timeout=0.01)
        ) as narrative:
            pass
        with pytest.raises(UpstreamError, match="closed") as caught:
            await narrative.run_model_inference(request())
        assert caught.value.code == "narrative_unavailable"


async def test_webhooks_are_created_listed_read_and_archived() -> None:
    async with serve_sandbox(QUICK) as sandbox, NarrativeClient("key", environment=sandbox.url) as narrative:
        body = WebhookRequest(url="http://127.0.0.1:9/", name="mine", job_types=("model_inference",))
        webhook = await narrative.create_webhook(body)
        assert webhook.secret
        assert webhook.secret not in repr(webhook)
        assert [hook.id for hook in await narrative.list_webhooks()] == [webhook.id]
        await narrative.archive_webhook(webhook.id)
        with pytest.raises(UpstreamError) as caught:
            await narrative.get_webhook("00000000-0000-4000-8000-000000000000")
        assert caught.value.code == "narrative_webhook_lost"
