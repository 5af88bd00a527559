"""A typed client for Narrative's inference jobs. It is the one layer that retries calls.

    async with NarrativeClient(key) as narrative:
        job = await narrative.run_model_inference(request)
        job = await narrative.get_job(job.id)

Source: shared contract `narrative.md`.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from proxy.backends.narrative import answers, failures
from proxy.backends.narrative.answers import UnreadableRecord
from proxy.backends.narrative.events import Observer, Retried, ignore
from proxy.backends.narrative.records import JobPage, parse_json, parse_model, parse_page, parse_record
from proxy.backends.narrative.transport import Call, ClientOptions, Operation, Transport
from proxy.backends.narrative.types import BASE_URLS, Job, RunAccepted, RunRequest, Webhook, WebhookRequest
from proxy.errors import JobTimeout, ProxyError, RateLimited, UpstreamError

MAX_PER_PAGE: Final = 500
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
"""Between two reads of a job by `wait_for`, in seconds; in between, half the job's age."""
T = TypeVar("T")


class NarrativeClient:
    """Calls Narrative with one API key.

    Args:
        api_key: the bearer token.
        environment: `prod`, `dev` or a base URL.
        options: timeouts, pool and retries.
        transport: sends the requests, in place of one made from the arguments before; it is closed with the client.
        observe: called with an event for every request and retry, for metrics; it must be quick and must not raise.

    Every call raises `ProxyError`s only: `UpstreamError` by code (`narrative_unauthorized`, `narrative_unavailable`,
    `narrative_rejected`, `narrative_job_lost`, `narrative_record_unreadable`, `narrative_submit_unknown`),
    `PermissionDenied`, `RateLimited`, and for refused submissions what `failures.error_for` names.
    `answers.refusal_of(error)` gives Narrative's own words where it gave some.
    """

    def __init__(
        self,
        api_key: str,
        *,
        environment: str = "prod",
        options: ClientOptions | None = None,
        transport: Transport | None = None,
        observe: Observer = ignore,
    ) -> None:
        transport = transport or Transport(BASE_URLS.get(environment, environment), options, observe)
        self._set_up(api_key, transport, owner=True, retries=True)

    def _set_up(self, api_key: str, transport: Transport, *, owner: bool, retries: bool) -> None:
        if not api_key.isascii() or not api_key.isprintable():
            raise UpstreamError(
                "the Narrative API key holds characters that no header can carry", code="narrative_unauthorized"
            )
        self._api_key = api_key
        self._account = hashlib.sha256(f"{transport.base_url}\0{api_key}".encode()).hexdigest()[:32]
        self._transport = transport
        self._owner = owner
        self._retries = retries
        self._submissions: set[asyncio.Task[Job]] = set()

    def _copy(self, api_key: str, *, retries: bool) -> Self:
        copy = type(self).__new__(type(self))
        copy._set_up(api_key, self._transport, owner=False, retries=retries)
        return copy

    def with_api_key(self, api_key: str) -> Self:
        """The same client for another caller's token: a light copy that shares the connections and closes nothing."""
        return self._copy(api_key, retries=self._retries)

    def without_retries(self) -> Self:
        """A light copy that tries each call once, for callers that have a schedule of their own."""
        return self._copy(self._api_key, retries=False)

    @property
    def account(self) -> str:
        """A digest of base URL and API key: calls with the same account share Narrative's limits."""
        return self._account

    @property
    def base_url(self) -> str:
        return self._transport.base_url

    def redact(self, text: str) -> str:
        """A text of Narrative's as one short line without the API key."""
        return failures.clean(text, self._api_key)

    @property
    def clock_ahead(self) -> float | None:
        """Seconds by which Narrative's clock is ahead of ours, to about a second; None before it showed its time."""
        return self._transport.clock_ahead

    def __repr__(self) -> str:
        return f"NarrativeClient({self.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish or cancel requests on their way and close the connections. A light copy closes nothing."""
        if self._owner:
            await self._transport.aclose()

    # ------------------------------------------------------------ calls

    async def run_model_inference(self, request: RunRequest, *, deadline: float | None = None) -> Job:
        """Enqueue one inference. It is retried only where nothing can have been enqueued.

        A caller that is cancelled leaves the submission to finish by itself: cancelled in the middle, it would have an unknown
        outcome.

        Args:
            request: the body of `POST /model-inference/run`.
            deadline: loop time after which nothing is tried any more; None means `options.patience` from now.

        Returns:
            A pending job that knows its id.

        Raises:
            UpstreamError: `narrative_submit_unknown` when a job may exist but no id came back.
            JobTimeout: the deadline had passed before anything was sent.
        """
        task = asyncio.create_task(self.enqueue(request, deadline=deadline))
        self._submissions.add(task)
        task.add_done_callback(self._submissions.discard)
        return await asyncio.shield(task)

    async def enqueue(
        self, request: RunRequest, *, deadline: float | None = None, abandoned: Callable[[], bool] = lambda: False
    ) -> Job:
        """`run_model_inference` for a caller that is never cancelled. Nothing is sent again once `abandoned()` is true."""
        content = request.model_dump_json(exclude_none=True).encode()
        call = Call(Operation.SUBMIT, "POST", "/model-inference/run", content=content)
        accepted = await self._call(call, partial(parse_model, RunAccepted), deadline, abandoned=abandoned)
        return Job(id=accepted.job_id, type="model_inference", data_plane_id=request.data_plane_id)

    async def get_job(self, job_id: str, *, deadline: float | None = None) -> Job:
        """`GET /jobs/{job_id}`. Raises UpstreamError `narrative_job_lost` when Narrative does not know it."""
        call = Call(Operation.READ_JOB, "GET", f"/jobs/{quote(job_id, safe='')}")
        return await self._call(call, partial(_parse_job, job_id), deadline, job_id)

    async def wait_for(self, job: Job, *, timeout: float = 60.0) -> Job:  # noqa: ASYNC109  the deadline of many reads
        """The job once it has ended, whatever its end; it is read again and again. To run many jobs, use `Jobs`.

        Args:
            job: a job of `run_model_inference`, or one read earlier.
            timeout: seconds to wait at most.

        Raises:
            JobTimeout: it did not end in time; it goes on at Narrative and can be waited for again.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not job.ended:
            now = loop.time()
            pause = min(max(_FIRST_PAUSE, 0.5 * (now - started)), _LONGEST_PAUSE)
            if now + pause >= started + timeout:
                raise JobTimeout(f"Job {job.id} did not end in time", job_id=job.id)
            await asyncio.sleep(pause)
            job = await self.get_job(job.id, deadline=started + timeout)
        return job

    async def list_jobs(  # noqa: PLR0913  one argument a query parameter
        self,
        *,
        type: str | None = None,
        state: str | None = None,
        data_plane_id: str | None = None,
        per_page: int | None = None,
        offset: int | None = None,
        order_by: str | None = None,
        deadline: float | None = None,
    ) -> JobPage:
        """`GET /jobs`: one page of the company's jobs, newest created first by default.

        Args:
            per_page: at most 500.
            offset: records to skip.
            order_by: `created_at_asc`, `created_at_desc`, `updated_at_asc` or `updated_at_desc`.

        Returns:
            The page with its records undecoded; `read_records` turns them into jobs.
        """
        query = {
            "type": type,
            "state": state,
            "data_plane_id": data_plane_id,
            "per_page": None if per_page is None else min(per_page, MAX_PER_PAGE),
            "offset": offset,
            "order_by": order_by,
        }
        params: dict[str, str | int] = {name: value for name, value in query.items() if value is not None}
        return await self._call(Call(Operation.LIST_JOBS, "GET", "/jobs", params), parse_page, deadline)

    async def create_webhook(self, request: WebhookRequest) -> Webhook:
        """`POST /webhooks`: subscribe. A repeat after a lost answer can leave a second subscription behind."""
        content = request.model_dump_json(exclude_none=True).encode()
        call = Call(Operation.WEBHOOKS, "POST", "/webhooks", content=content)
        return await self._call(call, partial(parse_model, Webhook), None)

    async def get_webhook(self, webhook_id: str) -> Webhook:
        """`GET /webhooks/{id}`. Raises UpstreamError `narrative_webhook_lost` when there is none."""
        call = Call(Operation.WEBHOOKS, "GET", f"/webhooks/{quote(webhook_id, safe='')}")
        return await self._call(call, partial(parse_model, Webhook), None)

    async def list_webhooks(self) -> list[Webhook]:
        """`GET /webhooks`: the subscriptions that can be read."""
        return await self._call(Call(Operation.WEBHOOKS, "GET", "/webhooks"), _parse_webhooks, None)

    async def archive_webhook(self, webhook_id: str) -> None:
        """`DELETE /webhooks/{id}`. Raises UpstreamError `narrative_webhook_lost` when there is none."""
        call = Call(Operation.WEBHOOKS, "DELETE", f"/webhooks/{quote(webhook_id, safe='')}")
        await self._call(call, _ignore_body, None)

    # ------------------------------------------------------------ retries

    async def _call(
        self,
        call: Call,
        parse: Callable[[bytes], T],
        deadline: float | None,
        job_id: str | None = None,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> T:
        options = self._transport.options
        loop = asyncio.get_running_loop()
        started = loop.time()
        end = started + options.patience if deadline is None else deadline
        if end <= started:
            raise JobTimeout("the deadline passed before Narrative was asked", job_id=job_id)
        retry_until = end
        if call.operation is Operation.SUBMIT:
            retry_until = min(end, started + options.submit_patience)
        attempt = rate_limited = 0
        while True:
            outcome = await self._transport.send(call, self._api_key, end)
            try:
                return answers.read(outcome, parse, call.operation, self._api_key, job_id)
            except ProxyError as error:
                refusal = answers.refusal_of(error)
                asked = refusal.retry_after if refusal else None
                rate_limited += isinstance(error, RateLimited) and asked is None
                pause = max(_backoff(attempt, options), asked or 0.0)
                attempt += 1
                exhausted = call.operation is Operation.SUBMIT and rate_limited >= options.max_rate_limited
                too_late = loop.time() + pause >= retry_until
                if not self._retries or error.retry_after is None or exhausted or too_late or abandoned():
                    raise
            self._transport.observe(Retried(call.operation.name.lower(), pause))
            await asyncio.sleep(pause)
            if abandoned() or loop.time() >= retry_until:
                return answers.read(outcome, parse, call.operation, self._api_key, job_id)  # raises again


def _backoff(attempt: int, options: ClientOptions) -> float:
    """A random part of an exponentially growing pause, in seconds."""
    return random.uniform(0.0, min(options.first_backoff * 2.0**attempt, options.max_backoff))  # noqa: S311  jitter


def _parse_job(job_id: str, body: bytes) -> Job:
    job = parse_record(body).job()
    if job is None or job.id.casefold() != job_id.casefold():
        raise UnreadableRecord("not the record of that job")
    return job


def _parse_webhooks(body: bytes) -> list[Webhook]:
    """A list, or (assumed) a page of records like that of the jobs."""
    found = parse_json(body)
    records = found.get("records") if isinstance(found, dict) else found
    if not isinstance(records, list):
        raise ValueError("not a list of webhooks")
    return [webhook for record in records if (webhook := _read_webhook(record)) is not None]


def _read_webhook(record: Any) -> Webhook | None:
    try:
        return Webhook.model_validate(record)
    except ValidationError:
        return None


def _ignore_body(_: bytes) -> None:
    return None
