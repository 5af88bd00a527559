"""`POST /v1/chat/completions`: the order of the stops on a request's way, and nothing else.

key → body → request → plan → submitted jobs │ ended jobs → completion → JSON or events
                               the point of no return
"""

import time
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from proxy.chat.answering import Answering
from proxy.chat.jsonbytes import json_bytes
from proxy.chat.parsing import parse_chat_request
from proxy.chat.services import ChatServices
from proxy.chat.sse import event_stream
from proxy.chat.waiting import ClientGone, unless_gone
from proxy.errors import RequestTooLarge
from proxy.translate.reply import completion, stamp_of

CLIENT_GONE = 499
"""The status that is logged, and that nobody receives, when the client left before its answer."""


async def chat_completions(request: Request) -> Response:
    """Answer one chat completion, whole or streamed."""
    services: ChatServices = request.state.chat
    services.door.admit(request.headers)
    body = await read_body(request, services.settings.server.max_body_bytes)
    chat_request = parse_chat_request(body)
    answering = Answering(services, chat_request, services.door.caller(request.headers))
    try:
        await unless_gone(request, answering.submit())
        plan, job_id = answering.plan, answering.jobs[0].id
        stamp = stamp_of(plan, job_id, created=int(time.time()), upstream_url=services.narrative.base_url)
        if plan.stream:
            return event_stream(answering, stamp, services.settings.chat, _headers(answering))
        endings = await unless_gone(request, answering.endings())
    except ClientGone:
        return Response(status_code=CLIENT_GONE, headers=_job_header(answering))
    if created_at := endings[0].job.created_at:
        stamp = replace(stamp, created=int(created_at.timestamp()))
    whole = completion(plan, stamp, endings)
    return Response(json_bytes(whole), headers=_headers(answering), media_type="application/json")


async def read_body(request: Request, most: int) -> bytes:
    """The whole body.

    Raises:
        RequestTooLarge: it is longer than `most` bytes; refused while reading.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise RequestTooLarge(f"The request body is larger than {most} bytes.")
    return bytes(body)


def _headers(answering: Answering) -> dict[str, str]:
    plan = answering.plan
    headers = {"x-proxy-model": plan.narrative_model, **_job_header(answering)}
    if plan.ignored:
        headers["x-proxy-ignored"] = ", ".join(plan.ignored)
    if plan.adjusted:
        headers["x-proxy-adjusted"] = ", ".join(plan.adjusted)
    return headers


def _job_header(answering: Answering) -> dict[str, str]:
    return {"x-narrative-job-id": ", ".join(job.id for job in answering.jobs)} if answering.jobs else {}
