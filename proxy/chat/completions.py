"""`POST /v1/chat/completions`: the order of the stops on a request's way, and nothing else.

key → body → request → terms → upstream accepts │ completion → JSON
                                                │ chunks → events
                                      the point of no return
"""

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.http.bodies import read_model
from proxy.api.http.completions import stream_response, whole_response
from proxy.api.http.headers import heartbeat_interval, terms_of
from proxy.api.http.json_text import json_bytes
from proxy.api.http.responses import unless_disconnected
from proxy.chat.errors import error_answer
from proxy.chat.services import ChatServices
from proxy.chat.sse import OPENAI_ENCODING
from proxy.errors import ProxyError
from proxy.wire.openai import ChatRequest


async def chat_completions(request: Request) -> Response:
    """Answer one chat completion, whole or streamed."""
    services: ChatServices = request.state.chat
    caller = await services.authenticator.authenticate(request.headers)
    server, settings = services.settings.server, services.settings.chat
    chat_request = await read_model(
        request, ChatRequest, max_bytes=server.max_body_bytes, max_values=server.max_body_values
    )
    heartbeat_s = settings.heartbeat_s if chat_request.stream else settings.keepalive_json_s
    terms = terms_of(request.headers, heartbeat_s=heartbeat_interval(request.headers, heartbeat_s))
    answer = await unless_disconnected(request.receive, services.upstream.accept(chat_request, caller, terms))
    if chat_request.stream:
        return stream_response(answer, request.headers, settings, OPENAI_ENCODING)
    return await whole_response(request, answer, settings.keepalive_json_s, _error)


def _error(error: ProxyError) -> bytes:
    return json_bytes(error_answer(error))
