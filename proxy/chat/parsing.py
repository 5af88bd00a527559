"""Bytes of a request body → a chat request, or a 400 that names the field and what was expected."""

from proxy.serving.bodies import parse_body
from proxy.wire.openai import ChatRequest


def parse_chat_request(body: bytes) -> ChatRequest:
    """Read the body of `POST /v1/chat/completions`.

    Raises:
        InvalidRequest: it is not UTF-8, not JSON, or a field is not what it should be; `param` is the first such field's path.
    """
    return parse_body(ChatRequest, body)
