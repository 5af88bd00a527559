"""`POST /v1/chat/completions`: the order of the stops on a request's way, and nothing else.

key → body → request → terms → upstream accepts │ completion → JSON
                                                │ chunks → events
                                      the point of no return
"""

from starlette.requests import Request
from starlette.responses import Response

from proxy.chat.keepalive import kept_alive
from proxy.chat.parsing import parse_chat_request
from proxy.chat.services import ChatServices
from proxy.chat.sse import OPENAI_VOICE
from proxy.serving.bodies import read_body
from proxy.serving.sse import event_stream
from proxy.serving.terms import terms_of
from proxy.serving.waiting import ClientGone, unless_gone

CLIENT_GONE = 499
"""The status that is logged, and that nobody receives, when the client left before its answer."""


async def chat_completions(request: Request) -> Response:
    """Answer one chat completion, whole or streamed."""
    services: ChatServices = request.state.chat
    caller = await services.door.admit(request.headers)
    body = await read_body(request, services.settings.server.max_body_bytes)
    chat_request = parse_chat_request(body)
    settings = services.settings.chat
    heartbeat_s = settings.heartbeat_s if chat_request.stream else settings.keepalive_json_s
    terms = terms_of(request.headers, stream=heartbeat_s > 0, heartbeat_s=heartbeat_s)
    try:
        answer = await unless_gone(request, services.upstream.accept(chat_request, caller, terms))
        if chat_request.stream:
            return event_stream(answer, settings, OPENAI_VOICE)
        return await kept_alive(request, answer, settings.keepalive_json_s)
    except ClientGone:
        return Response(status_code=CLIENT_GONE)
