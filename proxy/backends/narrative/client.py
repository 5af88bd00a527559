"""A typed client for Narrative's inference jobs.

A ladder of three rungs: one request (`transport.py`), faults named (`answers.py`), repeats (here). No layer above repeats
calls.

    async with NarrativeClient(key) as narrative:
        job = await narrative.run_model_inference(request)
        job = await narrative.get_job(job.id)

Source: shared contract `narrative.md`.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay, wait_random_exponential

from proxy.backends.narrative import answers, failures
from proxy.backends.narrative.events import Observer, Repeated, ignore
from proxy.backends.narrative.options import ClientOptions
from proxy.backends.narrative.schedule import Schedule, next_look
from proxy.backends.narrative.transport import Call, Operation, Transport
from proxy.backends.narrative.types import BASE_URLS, Job, JobPage, RunAccepted, RunRequest, Webhook, WebhookRequest
from proxy.errors import JobTimeout, ProxyError, UpstreamError

MAX_PER_PAGE: Final = 500
T = TypeVar("T")


class NarrativeClient:
    """Calls Narrative with one API key.

    Args:
        api_key: the bearer token.
        environment: `prod`, `dev` or a base URL.
        options: timeouts, pool and repeats.
        http: an HTTP client of your own; it is not closed here.
        observe: told of every request and repeat, for metrics; it must be quick and must not raise.

    Every call raises `ProxyError`s only: `UpstreamError` by code (`narrative_unauthorized`, `narrative_unavailable`,
    `narrative_rejected`, `narrative_job_lost`, `narrative_submit_unknown`), `PermissionDenied`, `RateLimited`, and for
    refused submissions what `failures.error_for` names. `answers.refusal_of(error)` gives Narrative's own words, where it
    spoke.
    """

    def __init__(
        self,
        api_key: str,
        *,
        environment: str = "prod",
        options: ClientOptions | None = None,
        http: httpx.AsyncClient | None = None,
        observe: Observer = ignore,
    ) -> None:
        base_url = BASE_URLS.get(environment, environment)
        self._set_up(api_key, Transport(base_url, options or ClientOptions(), http, observe), owner=True, repeats=True)

    def _set_up(self, api_key: str, transport: Transport, *, owner: bool, repeats: bool) -> None:
        if not api_key.isascii() or not api_key.isprintable():
            raise UpstreamError(
                "the Narrative API key holds characters that no header can carry", code="narrative_unauthorized"
            )
        self._api_key = api_key
        self._account = hashlib.sha256(f"{transport.base_url}\0{api_key}".encode()).hexdigest()[:32]
        self._transport = transport
        self._owner = owner
        self._repeats = repeats

    def _copy(self, api_key: str, *, repeats: bool) -> Self:
        copy = type(self).__new__(type(self))
        copy._set_up(api_key, self._transport, owner=False, repeats=repeats)
        return copy

    def with_api_key(self, api_key: str) -> Self:
        """The same client for another caller's token: a light copy that shares the connections and closes nothing."""
        return self._copy(api_key, repeats=self._repeats)

    def without_repeats(self) -> Self:
        """A light copy that tries each call once, for callers that have a schedule of their own."""
        return self._copy(self._api_key, repeats=False)

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
        """Seconds by which Narrative's clock is ahead of ours, to about a second; None before it told its time."""
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
        """Enqueue one inference. Repeats only where nothing can have been enqueued.

        Args:
            request: the body of `POST /model-inference/run`.
            deadline: loop time after which nothing is tried any more; None means `options.patience` from now.

        Returns:
            A pending job that knows its id.

        Raises:
            UpstreamError: `narrative_submit_unknown` when a job may exist but no id came back.
            JobTimeout: the deadline had passed before anything was sent.
        """
        call = Call(
            Operation.SUBMIT,
            "POST",
            "/model-inference/run",
            content=request.model_dump_json(exclude_none=True).encode(),
        )
        accepted = await self._call(call, _parse_accepted, deadline)
        return Job(id=accepted.job_id, type="model_inference", data_plane_id=request.data_plane_id)

    async def get_job(self, job_id: str, *, deadline: float | None = None) -> Job:
        """`GET /jobs/{job_id}`. Raises UpstreamError `narrative_job_lost` when Narrative does not know it."""
        call = Call(Operation.READ_JOB, "GET", f"/jobs/{quote(job_id, safe='')}")
        return await self._call(call, partial(_parse_job, job_id), deadline, job_id)

    async def wait_for(self, job: Job, *, timeout: float = 60.0) -> Job:  # noqa: ASYNC109  the deadline of many reads
        """The job once it has ended, whatever its end, read again and again. To run many jobs, use `Jobs`.

        Args:
            job: a job of `run_model_inference`, or one read earlier.
            timeout: seconds after which nobody waits any more.

        Raises:
            JobTimeout: it did not end in time; it goes on at Narrative and can be waited for again.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not job.ended:
            now = loop.time()
            pause = next_look(now - started, Schedule())
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
            The page with raw records; `read_records` turns them into jobs.
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
        return await self._call(Call(Operation.LIST_JOBS, "GET", "/jobs", params), _parse_page, deadline)

    async def create_webhook(self, request: WebhookRequest) -> Webhook:
        """`POST /webhooks`: subscribe. A repeat after a lost answer can leave a second subscription behind."""
        content = request.model_dump_json(exclude_none=True).encode()
        call = Call(Operation.WEBHOOKS, "POST", "/webhooks", content=content)
        return await self._call(call, partial(answers.parse_model, Webhook), None)

    async def get_webhook(self, webhook_id: str) -> Webhook:
        """`GET /webhooks/{id}`. Raises UpstreamError `narrative_webhook_lost` when there is none."""
        call = Call(Operation.WEBHOOKS, "GET", f"/webhooks/{quote(webhook_id, safe='')}")
        return await self._call(call, partial(answers.parse_model, Webhook), None)

    async def list_webhooks(self) -> list[Webhook]:
        """`GET /webhooks`: the subscriptions that can be read."""
        return await self._call(Call(Operation.WEBHOOKS, "GET", "/webhooks"), _parse_webhooks, None)

    async def archive_webhook(self, webhook_id: str) -> None:
        """`DELETE /webhooks/{id}`. Raises UpstreamError `narrative_webhook_lost` when there is none."""
        call = Call(Operation.WEBHOOKS, "DELETE", f"/webhooks/{quote(webhook_id, safe='')}")
        await self._call(call, _ignore_body, None)

    # ------------------------------------------------------------ repeats

    async def _call(
        self, call: Call, parse: Callable[[bytes], T], deadline: float | None, job_id: str | None = None
    ) -> T:
        options = self._transport.options
        loop = asyncio.get_running_loop()
        end = loop.time() + options.patience if deadline is None else deadline
        patience = end - loop.time()
        if patience <= 0:
            raise JobTimeout("the deadline passed before Narrative was asked", job_id=job_id)
        last: ProxyError | None = None

        async def once() -> T:
            nonlocal last
            if last is not None and loop.time() >= end:
                raise last  # woken too late for another try
            outcome = await self._transport.send(call, self._api_key, end)
            try:
                return answers.read(outcome, parse, call.operation, self._api_key, job_id)
            except ProxyError as error:
                last = error
                raise

        if not self._repeats:
            return await once()
        if call.operation is Operation.SUBMIT:
            patience = min(patience, options.submit_patience)
        retrying = AsyncRetrying(
            retry=retry_if_exception(_can_help),
            wait=_Pause(options),
            stop=stop_before_delay(patience),
            before_sleep=lambda state: self._transport.observe(
                Repeated(call.operation.name.lower(), state.upcoming_sleep)
            ),
            reraise=True,
        )
        return await retrying(once)


def read_records(page: JobPage) -> list[Job]:
    """The jobs of a page, without the records that cannot be read."""
    return [job for record in page.records if (job := read_record(record)) is not None]


def read_record(record: Mapping[str, Any]) -> Job | None:
    """One record of a page as a job, None when it cannot be read."""
    try:
        return Job.model_validate(record)
    except ValidationError:
        return None


class _Pause:
    """Exponential pause with jitter, never shorter than what Narrative asked for."""

    def __init__(self, options: ClientOptions) -> None:
        self._backoff = wait_random_exponential(multiplier=options.first_backoff, max=options.max_backoff)

    def __call__(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        refusal = answers.refusal_of(error) if error else None
        asked = refusal.retry_after if refusal else None
        return max(self._backoff(state), asked or 0.0)


def _can_help(error: BaseException) -> bool:
    return isinstance(error, ProxyError) and error.retry_after is not None


def _parse_accepted(body: bytes) -> RunAccepted:
    return answers.parse_model(RunAccepted, body)


def _parse_job(job_id: str, body: bytes) -> Job:
    job = answers.parse_model(Job, body)
    if job.id.casefold() != job_id.casefold():
        raise ValueError("another job than the one asked for")
    return job


def _parse_page(body: bytes) -> JobPage:
    page = answers.parse_json(body)
    if not isinstance(page, dict) or not isinstance(page.get("records"), list):
        raise ValueError("not a page of jobs")
    return JobPage.model_validate(
        {**page, "records": [record for record in page["records"] if isinstance(record, dict)]}
    )


def _parse_webhooks(body: bytes) -> list[Webhook]:
    """A list, or (assumed) a page of records like that of the jobs."""
    found = answers.parse_json(body)
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
