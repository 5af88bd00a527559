"""The sandbox as an ASGI app: Narrative's endpoints over a store of jobs (contract narrative.md)."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from proxy.sandbox.deliveries import Deliveries
from proxy.sandbox.desk import Desk
from proxy.sandbox.faults import FaultList, Faults
from proxy.sandbox.gate import LAG, FaultGate
from proxy.sandbox.jsontext import dumps
from proxy.sandbox.listing import read_query
from proxy.sandbox.options import SandboxOptions
from proxy.sandbox.refusal import Refusal
from proxy.sandbox.store import JobStore, Refused
from proxy.sandbox.subscriptions import Subscriptions

Endpoint = Callable[[Request], Awaitable[Response]]


class _Sandbox(Starlette):
    """Starlette with the faults before everything else, where the server's own `send` is at hand."""

    def __init__(self, faults: Faults, **how: Any) -> None:
        super().__init__(**how)
        self._faults = faults
        self.router.redirect_slashes = False

    def build_middleware_stack(self) -> ASGIApp:
        return FaultGate(super().build_middleware_stack(), self._faults)


def create_sandbox(options: SandboxOptions | None = None) -> Starlette:
    """An embedded Narrative.

    Args:
        options: how it behaves; by default a job takes most of a second and nearly any token and data plane is good.

    Returns:
        The app, to be run by uvicorn. Its state holds `store` (JobStore), `faults` (Faults) and `deliveries`
        (Deliveries). Its lifespan owns the task that delivers webhooks.
    """
    options = options or SandboxOptions()
    store = JobStore(options)
    faults = Faults()
    subscriptions = Subscriptions(options)
    deliveries = Deliveries(options, store, subscriptions, faults)
    calls = _Calls(options, store, Desk(options, store))
    hooks = _Webhooks(subscriptions, deliveries)
    controls = _Controls(store, faults)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with deliveries.running():
            yield

    guarded = _guard(options, store)
    routes = [
        Route("/model-inference/run", guarded("run", calls.run), methods=["POST"]),
        Route("/jobs", guarded("list_jobs", calls.list_jobs), methods=["GET"]),
        Route("/jobs/{job_id}", guarded("get_job", calls.get_job), methods=["GET"]),
        Route("/sandbox/jobs/count", controls.count, methods=["GET"]),
        Route("/sandbox/faults", controls.set_faults, methods=["PUT"]),
        Route("/sandbox/faults", controls.show_faults, methods=["GET"]),
        Route("/sandbox/faults", controls.clear_faults, methods=["DELETE"]),
    ]
    if options.webhooks:
        routes += [
            Route("/webhooks", guarded("webhooks", hooks.create), methods=["POST"]),
            Route("/webhooks", guarded("webhooks", hooks.list_all), methods=["GET"]),
            Route("/webhooks/{webhook_id}", guarded("webhooks", hooks.get), methods=["GET"]),
            Route("/webhooks/{webhook_id}", guarded("webhooks", hooks.archive), methods=["DELETE"]),
        ]
    app = _Sandbox(
        faults,
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            Refusal: _render_refusal(store),
            HTTPException: _render_http_exception,
            ClientDisconnect: _render_nothing,
        },
    )
    app.state.store = store
    app.state.faults = faults
    app.state.deliveries = deliveries
    return app


def answer(content: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(content), status, media_type="application/json")


class _Calls:
    """The job and inference endpoints."""

    def __init__(self, options: SandboxOptions, store: JobStore, desk: Desk) -> None:
        self._options = options
        self._store = store
        self._desk = desk

    async def run(self, request: Request) -> Response:
        job = self._desk.submit(await request.body())
        return answer({self._options.id_name: job.id})

    async def get_job(self, request: Request) -> Response:
        job = self._store.get(request.path_params["job_id"])
        return answer(job.record(self._store.clock(), id_name=self._options.id_name))

    async def list_jobs(self, request: Request) -> Response:
        query = read_query(request.query_params)
        lag: float = request.scope.get(LAG, 0.0)
        now = self._store.clock() - lag
        page = self._store.page(query, lag=lag)
        records = [job.record(now, id_name=self._options.id_name) for job in page.jobs]
        return answer({"records": records, **page.counts(query)})


class _Controls:
    """What is no part of Narrative: for tests and benchmarks in other processes."""

    def __init__(self, store: JobStore, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    async def count(self, _: Request) -> Response:
        return answer(
            {
                "count": len(self._store),
                "enqueued": self._store.enqueued,
                "by_state": self._store.count_by_state(),
                "refused": len(self._store.refused),
                "calls": dict(self._store.calls),
            }
        )

    async def set_faults(self, request: Request) -> Response:
        try:
            wanted = FaultList.model_validate_json(await request.body())
        except ValidationError as fault:
            first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
            raise Refusal(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from fault
        self._faults.replace(wanted.faults, seed=wanted.seed)
        return await self.show_faults(request)

    async def show_faults(self, _: Request) -> Response:
        active = [fault.model_dump(exclude_defaults=True) for fault in self._faults.active()]
        return answer({"faults": active, "fired": dict(self._faults.fired)})

    async def clear_faults(self, request: Request) -> Response:
        self._faults.clear()
        return await self.show_faults(request)


class _Webhooks:
    """The webhook endpoints."""

    def __init__(self, subscriptions: Subscriptions, deliveries: Deliveries) -> None:
        self._subscriptions = subscriptions
        self._deliveries = deliveries

    async def create(self, request: Request) -> Response:
        subscription = self._subscriptions.create(await request.body())
        self._deliveries.subscribed()
        return answer(subscription.record())

    async def list_all(self, _: Request) -> Response:
        records = [subscription.record() for subscription in self._subscriptions.all()]
        return answer({"records": records, "current_page": 1, "total_pages": 1, "total_records": len(records)})

    async def get(self, request: Request) -> Response:
        return answer(self._subscriptions.get(request.path_params["webhook_id"]).record())

    async def archive(self, request: Request) -> Response:
        return answer(self._subscriptions.archive(request.path_params["webhook_id"]).record())


def _guard(options: SandboxOptions, store: JobStore) -> Callable[[str, Endpoint], Endpoint]:
    """Puts the count of calls and the check of the bearer token before an endpoint."""

    def guarded(operation: str, endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            store.calls[operation] += 1
            _check_token(request.headers.get("authorization", ""), options)
            return await endpoint(request)

        return checked

    return guarded


def _check_token(header: str, options: SandboxOptions) -> None:
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Refusal(401, "A bearer token is required")
    known = not token.startswith("invalid") if options.tokens is None else token in options.tokens
    if not known:
        raise Refusal(401, "The bearer token is not valid")
    if options.tokens is None and token.startswith("forbidden"):
        raise Refusal(403, "The token lacks the permission for this call")


def _render_refusal(store: JobStore) -> Callable[[Request, Exception], Response]:
    def render(request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)  # noqa: S101 - the only class that it is registered for
        call = f"{request.method} {request.url.path}"
        store.refused.append(Refused(call, refusal.status, refusal.error, refusal.description))
        # A scripted body may be text, which then goes out as it is.
        is_text = isinstance(refusal.body, str)
        body = refusal.body.encode() if is_text else dumps(refusal.body)
        response = Response(body, refusal.status, media_type="text/html" if is_text else "application/json")
        response.headers.update(refusal.headers)
        return response

    return render


def _render_http_exception(_: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)  # noqa: S101 - the only class that it is registered for
    refusal = Refusal(fault.status_code, fault.detail)
    response = answer(refusal.body, fault.status_code)
    response.headers.update(fault.headers or {})
    return response


def _render_nothing(_: Request, __: Exception) -> Response:
    """For a client that left before its request was read: nobody hears this."""
    return Response(status_code=400)
