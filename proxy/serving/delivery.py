"""The plain answer's way out: who was sent it whole, and who left before."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.serving.upstream import Answer
from proxy.serving.waiting import unless_gone
from proxy.wire.openai import ChatCompletion


async def whole_answer(request: Request, answer: Answer) -> ChatCompletion:
    """The completion of an accepted request. The answer is closed when it cannot be delivered.

    Raises:
        ClientGone: the client left.
        ProxyError: as `Answer.whole`.
    """
    try:
        return await unless_gone(request, answer.whole())
    except BaseException:
        answer.close(delivered=False)
        raise


class Delivery(Response):
    """A JSON response that closes its answer once it was sent, or could not be."""

    def __init__(self, answer: Answer, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(body, headers=headers, media_type="application/json")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = False
        try:
            await super().__call__(scope, receive, send)
            sent = True
        finally:
            self._answer.close(delivered=sent)
