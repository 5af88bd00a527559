"""The sandbox as an ASGI app, and the server that runs it inside the caller's event loop."""

import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.sandbox.factory import JobFactory
from proxy.sandbox.faults import Faults, SandboxOperation, apply_fault
from proxy.sandbox.http import SandboxError, SandboxOptions, check_headers, dumps, parse, read_body
from proxy.sandbox.jobs import JobQuery, JobStore, RejectedCall
from proxy.sandbox.webhooks import WebhookDeliveries


def create_sandbox(options: SandboxOptions | None = None) -> Starlette:
    """An embedded Narrative, to be run by uvicorn. Its `state` has `store` (JobStore) and `faults` (Faults); its lifespan owns
    the task that delivers webhooks.
    """
    options = options or SandboxOptions()
    store, faults = JobStore(options), Faults()
    webhooks = WebhookDeliveries(options, store, faults)

    async def _on_http_exception(_: Request, error: Any) -> Response:
        return SandboxError(error.status_code, error.detail, headers=error.headers).response()

    app = Starlette(
        routes=_routes(options, store, faults, webhooks),
        lifespan=lambda _: webhooks.running(),
        exception_handlers={
            HTTPException: _on_http_exception,
            # The client left before its request was read, so nobody receives this.
            ClientDisconnect: lambda *_: Response(status_code=400),
        },
    )
    app.router.redirect_slashes = False
    app.state.store, app.state.faults = store, faults
    return app


def _routes(options: SandboxOptions, store: JobStore, faults: Faults, webhooks: WebhookDeliveries) -> list[Route]:
    factory = JobFactory(options, store)

    def _list_jobs(request: Request, _: bytes) -> object:
        return store.page(parse(JobQuery, dict(request.query_params)), lag=getattr(request.state, "lag_s", 0.0))

    def _list_subscriptions(_: Request, __: bytes) -> object:
        records = [subscription.model_dump(exclude_none=True) for subscription in webhooks.all()]
        return {"records": records, "current_page": 1, "total_pages": 1, "total_records": len(records)}

    def _get_subscription(request: Request, _: bytes) -> object:
        subscription = webhooks.get(request.path_params["id"])
        if request.method == "DELETE":
            subscription.status = "archived"
        return subscription.model_dump(exclude_none=True)

    def _route(
        operation: SandboxOperation, method: str, path: str, handler: Callable[[Request, bytes], object]
    ) -> Route:
        """`handler` answers a call, given with its body, with JSON: as bytes, or as a value."""

        async def _answer(request: Request) -> Response:
            store.calls[operation] += 1
            try:
                check_headers(request, options)
                content = handler(request, await read_body(request, options.max_body_bytes))
            except SandboxError as error:
                call = f"{method} {request.url.path}"
                store.refused.append(RejectedCall(call, error.status, error.error, error.description))
                return error.response()
            return Response(content if isinstance(content, bytes) else dumps(content), media_type="application/json")

        async def _endpoint(request: Request) -> Response:
            fault = faults.pick(operation, request.path_params.get("id"))
            return await (apply_fault(fault, faults, request, _answer) if fault else _answer(request))

        route = Route(path, _endpoint, methods=[method])
        route.methods = {method}  # a list of methods would let HEAD in where GET is
        return route

    routes = [
        _route("run", "POST", "/model-inference/run", lambda _, body: {options.id_name: factory.submit(body).id}),
        _route("list_jobs", "GET", "/jobs", _list_jobs),
        _route("get_job", "GET", "/jobs/{id}", lambda call, _: store.get(call.path_params["id"]).record(store.clock())),
        _route("webhooks", "POST", "/webhooks", lambda _, body: webhooks.create(body).model_dump(exclude_none=True)),
        _route("webhooks", "GET", "/webhooks", _list_subscriptions),
        _route("webhooks", "GET", "/webhooks/{id}", _get_subscription),
        _route("webhooks", "DELETE", "/webhooks/{id}", _get_subscription),
    ]
    return [route for route in routes if options.webhooks or not route.path.startswith("/webhooks")]


# ---------------------------------------------------------------- the server


class RunningSandbox(NamedTuple):
    """A sandbox that is serving: its base URL, such as `http://127.0.0.1:41234`, and its jobs and faults, for tests in the
    same process.
    """

    url: str
    store: JobStore
    faults: Faults


@contextlib.asynccontextmanager
async def serve_sandbox(
    options: SandboxOptions | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RunningSandbox]:
    """Serves a sandbox while the block runs; port 0 takes a free one. Raises OSError when the address is taken."""
    app = create_sandbox(options)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    config.load()
    family, shown = (socket.AF_INET6, f"[{host}]") if ":" in host else (socket.AF_INET, host)
    # With the protocol left to be guessed, asyncio would leave Nagle's algorithm on: 40 ms more for every response.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Without `Server.serve`, which would handle signals and notice its end by a clock that ticks ten times a second.
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        try:
            yield RunningSandbox(f"http://{shown}:{listener.getsockname()[1]}", app.state.store, app.state.faults)
        finally:
            app.state.faults.clear()
            await server.shutdown(sockets=[listener])
