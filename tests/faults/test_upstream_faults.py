"""What the client makes of an upstream that misbehaves on the wire."""

import asyncio
import socket

import pytest

from proxy.backends.narrative.client import ClientOptions, NarrativeClient
from proxy.backends.narrative.failures import MAX_WORDS, refusal_of
from proxy.backends.narrative.types import InferenceConfig, RunMessage, RunRequest, TextBlock
from proxy.errors import InvalidRequest, ModelNotFound, PermissionDenied, RateLimited, UpstreamError
from tests.faults.raw_upstream import RawUpstream, Reply, answer, garbage, hang_up, raw_upstream, reset, silence
from tests.waiting import until

KEY = "secret-key-123"
QUICK = ClientOptions(read_timeout=0.2, total_timeout=0.4, retry_timeout=5.0, first_backoff=0.001, max_backoff=0.002)
ACCEPTED = answer(200, {"job_id": "job-1"})
DONE = answer(200, {"job_id": "job-1", "state": "completed", "result": {"structured_output": {"text": "hi"}}})
HTML = answer(502, b"<html><body>Bad Gateway</body></html>", headers={"Content-Type": "text/html"})


def request() -> RunRequest:
    return RunRequest(
        data_plane_id="plane",
        model="anthropic.claude-haiku-4.5",
        messages=(RunMessage(role="user", content=(TextBlock(text="hello"),)),),
        inference_config=InferenceConfig(output_format_schema={"type": "object", "default": None}),
        tags=("rid:1",),
    )


def client(upstream: RawUpstream, options: ClientOptions = QUICK) -> NarrativeClient:
    return NarrativeClient(KEY, environment=upstream.url, options=options)


@pytest.mark.parametrize(
    "fault",
    [
        hang_up,
        reset,
        HTML,
        answer(500),
        answer(504),
        answer(200, {"job_id": "job-1"}, cut=5),
        answer(200, b"{}"),
        answer(200, b'{"job_id": ""}'),
        answer(200, b"<html>"),
        garbage(b"\x00\x01 not http\r\n\r\n"),
        garbage(b"HTTP/1.1 2"),
        silence,
    ],
)
async def test_a_submission_whose_outcome_is_unknown_is_never_repeated(fault: Reply) -> None:
    async with raw_upstream(fault, ACCEPTED) as upstream, client(upstream) as narrative:
        with pytest.raises(UpstreamError) as caught:
            await narrative.run_model_inference(request())
        assert caught.value.code == "narrative_submit_unknown"
        assert caught.value.retry_after is None
        assert len(upstream.seen) == 1


async def test_a_submission_on_a_kept_connection_that_was_just_closed_is_not_repeated() -> None:
    async with raw_upstream(ACCEPTED, hang_up, ACCEPTED) as upstream, client(upstream) as narrative:
        await narrative.run_model_inference(request())
        with pytest.raises(UpstreamError) as caught:
            await narrative.run_model_inference(request())
        assert caught.value.code == "narrative_submit_unknown"
        assert len(upstream.seen) == 2


@pytest.mark.parametrize("fault", [answer(429), answer(429, headers={"Retry-After": "0"}), answer(503)])
async def test_a_submission_that_was_surely_not_taken_is_repeated(fault: Reply) -> None:
    async with raw_upstream(fault, ACCEPTED) as upstream, client(upstream) as narrative:
        assert (await narrative.run_model_inference(request())).id == "job-1"
        assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    "fault",
    [
        hang_up,
        reset,
        silence,
        HTML,
        answer(429),
        answer(500),
        answer(503),
        answer(200, b"{"),
        answer(200, {"job_id": "another", "state": "completed"}),
        answer(200, {"job_id": "job-1", "state": "completed"}, cut=7),
        garbage(b"nonsense\r\n\r\n"),
    ],
)
async def test_a_read_is_repeated_after_any_passing_fault(fault: Reply) -> None:
    async with raw_upstream(fault, DONE) as upstream, client(upstream) as narrative:
        job = await narrative.get_job("job-1")
        assert job.ended
        assert job.result is not None
        assert job.result.structured_output == {"text": "hi"}


async def test_repeats_end_with_the_deadline_and_the_last_fault() -> None:
    async with raw_upstream(answer(503, headers={"Retry-After": "7"})) as upstream, client(upstream) as narrative:
        with pytest.raises(UpstreamError) as caught:
            await narrative.run_model_inference(request())
        assert caught.value.code == "narrative_unavailable"
        assert caught.value.retry_after == 7
        assert len(upstream.seen) == 1, "a pause that would pass the deadline is not begun"


async def test_no_listener_means_nothing_was_enqueued() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with NarrativeClient(KEY, environment=url, options=QUICK) as narrative:
            with pytest.raises(UpstreamError) as caught:
                await narrative.without_retries().run_model_inference(request())
    assert caught.value.code == "narrative_unavailable"
    assert caught.value.retry_after is not None


async def test_a_rate_limit_without_retry_after_names_one_all_the_same() -> None:
    async with raw_upstream(answer(429)) as upstream, client(upstream) as narrative:
        with pytest.raises(RateLimited) as caught:
            await narrative.without_retries().run_model_inference(request())
    assert caught.value.retry_after == 1.0


async def test_redirects_are_not_followed() -> None:
    async with raw_upstream(answer(307, headers={"Location": "/elsewhere"})) as upstream, client(upstream) as narrative:
        with pytest.raises(UpstreamError) as caught:
            await narrative.run_model_inference(request())
        assert caught.value.code == "narrative_rejected"
        assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("status", "error", "kind", "code"),
    [
        (400, "Invalid schema", InvalidRequest, "invalid_json_schema"),
        (400, "Something else", UpstreamError, "narrative_rejected"),
        (401, "Unauthorized", UpstreamError, "narrative_unauthorized"),
        (403, "Forbidden", PermissionDenied, None),
        (404, "data plane not found", PermissionDenied, None),
        (404, "model not available", ModelNotFound, "model_not_found"),
    ],
)
async def test_a_refused_submission_keeps_narratives_words_and_invites_no_repeat(
    status: int, error: str, kind: type[Exception], code: str | None
) -> None:
    fault = answer(status, {"error": error, "error_description": "because"})
    async with raw_upstream(fault) as upstream, client(upstream) as narrative:
        with pytest.raises(kind) as caught:
            await narrative.run_model_inference(request())
        assert isinstance(caught.value, InvalidRequest | UpstreamError | PermissionDenied)
        assert caught.value.code == code
        assert caught.value.retry_after is None
        refusal = refusal_of(caught.value)
        assert refusal is not None
        assert (refusal.status, refusal.words) == (status, f"{error}: because")
        assert len(upstream.seen) == 1


async def test_a_job_that_narrative_does_not_know_is_lost() -> None:
    fault = answer(404, {"error": "not_found"})
    async with raw_upstream(fault) as upstream, client(upstream) as narrative:
        with pytest.raises(UpstreamError) as caught:
            await narrative.get_job("job-1")
    assert caught.value.code == "narrative_job_lost"
    assert caught.value.job_id == "job-1"


@pytest.mark.parametrize(
    "body",
    [
        b"<html><script>x</script></html>",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b'"words"',
        b'{"error": {"a": 1}}',
    ],
)
async def test_foreign_error_bodies_never_reach_a_message(body: bytes) -> None:
    async with raw_upstream(answer(400, body)) as upstream, client(upstream) as narrative:
        with pytest.raises(UpstreamError) as caught:
            await narrative.run_model_inference(request())
    assert caught.value.message == "Narrative refused the request: no reason was given"


async def test_words_are_bounded_on_one_line_and_without_the_key() -> None:
    fault = answer(400, {"error": f"bad\r\n{KEY}", "error_description": "x" * 10_000})
    async with raw_upstream(fault) as upstream, client(upstream) as narrative:
        with pytest.raises(UpstreamError) as caught:
            await narrative.run_model_inference(request())
    assert KEY not in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) <= MAX_WORDS + 50


async def test_an_answer_longer_than_allowed_is_not_read_to_its_end() -> None:
    options = ClientOptions(max_answer_bytes=1000)
    async with raw_upstream(answer(200, b"x" * 1_000_000)) as upstream, client(upstream, options) as narrative:
        with pytest.raises(UpstreamError) as caught:
            await narrative.without_retries().get_job("job-1")
    assert caught.value.code == "narrative_unavailable"


async def test_an_answer_that_trickles_in_for_ever_is_given_up() -> None:
    trickled = asyncio.Event()

    async def trickle(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.01)  # slow on purpose: each read of the client succeeds, and the answer never ends
        trickled.set()

    async with raw_upstream(trickle, DONE) as upstream, client(upstream) as narrative:
        assert (await narrative.get_job("job-1")).ended
        await asyncio.wait_for(trickled.wait(), 5)


async def test_a_cancelled_caller_does_not_cancel_the_call_in_flight() -> None:
    """Trap: a cancelled HTTP call under contention can lose its pool slot for good."""
    arrived, go_on, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(seen: object, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await go_on.wait()
        await ACCEPTED(seen, writer)  # type: ignore[arg-type]
        await writer.drain()
        finished.set()

    patient = ClientOptions(max_connections=1)
    async with raw_upstream(slow, DONE) as upstream, client(upstream, patient) as narrative:
        task = asyncio.create_task(narrative.run_model_inference(request()))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await finished.wait()
        assert (await narrative.get_job("job-1")).ended, "the only connection came back to the pool"


async def test_closing_the_client_ends_calls_in_flight() -> None:
    options = ClientOptions(read_timeout=60, total_timeout=60)
    async with raw_upstream(silence) as upstream:
        narrative = client(upstream, options)
        call = asyncio.create_task(narrative.without_retries().get_job("job-1"))
        await until(lambda: upstream.seen)
        await narrative.aclose()
        with pytest.raises(UpstreamError):
            await call


async def test_cookies_of_one_caller_are_not_sent_for_another() -> None:
    cookie = answer(200, {"job_id": "job-1"}, headers={"Set-Cookie": "session=1; Path=/"})
    async with raw_upstream(cookie) as upstream, client(upstream) as narrative:
        await narrative.get_job("job-1")
        await narrative.with_api_key("other").get_job("job-1")
    assert [seen.headers["authorization"] for seen in upstream.seen] == [f"Bearer {KEY}", "Bearer other"]
    assert all("cookie" not in seen.headers for seen in upstream.seen)


async def test_a_result_with_half_a_surrogate_pair_is_still_read() -> None:
    body = b'{"id": "job-1", "state": "completed", "result": {"structured_output": {"text": "a\\ud800b"}}}'
    async with raw_upstream(answer(200, body)) as upstream, client(upstream) as narrative:
        job = await narrative.get_job("job-1")
    assert job.result is not None
    assert job.result.structured_output == {"text": "a\ufffdb"}


async def test_nulls_inside_schemas_and_arguments_are_sent() -> None:
    async with raw_upstream(ACCEPTED) as upstream, client(upstream) as narrative:
        await narrative.run_model_inference(request())
        body = upstream.seen[0].json()
    assert body["inference_config"] == {"output_format_schema": {"type": "object", "default": None}}
    assert body["tags"] == ["rid:1"]


async def test_many_calls_share_a_bounded_pool() -> None:
    """Trap: one poller per request exhausts pool and rate limit."""
    options = ClientOptions(max_connections=4, pool_timeout=30)
    async with raw_upstream(DONE) as upstream, client(upstream, options) as narrative:
        await asyncio.gather(*(narrative.get_job("job-1") for _ in range(200)))
        assert len(upstream.seen) == 200
        assert 1 <= upstream.most_connected <= 4


def torn(content: bytes, at: int) -> Reply:
    """An HTTP answer of which only the first `at` bytes come before the connection is reset."""

    async def reply(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(content[:at])
        await writer.drain()
        writer.transport.abort()

    return reply


WHOLE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{"job_id":"job-1"}'


@pytest.mark.parametrize("at", range(0, len(WHOLE), 4))
async def test_a_submission_reset_at_any_byte_is_never_repeated(at: int) -> None:
    async with raw_upstream(torn(WHOLE, at), ACCEPTED) as upstream, client(upstream) as narrative:
        with pytest.raises(UpstreamError) as caught:
            await narrative.run_model_inference(request())
        assert caught.value.code == "narrative_submit_unknown"
        assert len(upstream.seen) == 1


@pytest.mark.parametrize("at", range(0, len(WHOLE), 4))
async def test_a_read_reset_at_any_byte_is_repeated(at: int) -> None:
    async with raw_upstream(torn(WHOLE, at), DONE) as upstream, client(upstream) as narrative:
        assert (await narrative.get_job("job-1")).ended
