"""`POST /v1/chat/completions`: the order of the stops on a request's way, and nothing else.

key → body → request → plan → submitted jobs │ ended jobs → completion → JSON or events
                               the point of no return
"""

from starlette.requests import Request
from starlette.responses import Response

from proxy.chat.jsonbytes import json_bytes
from proxy.chat.parsing import parse_chat_request
from proxy.chat.services import ChatServices
from proxy.chat.sse import event_stream
from proxy.chat.waiting import ClientGone, unless_gone
from proxy.errors import RequestTooLarge

CLIENT_GONE = 499
"""The status that is logged, and that nobody receives, when the client left before its answer."""


async def chat_completions(request: Request) -> Response:
    """Answer one chat completion, whole or streamed."""
    services: ChatServices = request.state.chat
    services.door.admit(request.headers)
    body = await read_body(request, services.settings.server.max_body_bytes)
    chat_request = parse_chat_request(body)
    try:
        answer = await unless_gone(
            request, services.upstream.accept(chat_request, services.door.caller(request.headers))
        )
        if chat_request.stream:
            return event_stream(answer, services.settings.chat)
        whole = await unless_gone(request, answer.whole())
    except ClientGone:
        return Response(status_code=CLIENT_GONE)
    return Response(json_bytes(whole), headers=answer.headers, media_type="application/json")


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
