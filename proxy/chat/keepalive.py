"""Plain answers that take long: blanks ahead of the JSON, so that nothing on the way takes the connection for idle.

The first blank settles the status, so a failure after it comes as an error object in a 200. What ends before it is answered as ever.
"""

import asyncio

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.chat.errors import error_answer
from proxy.errors import ProxyError
from proxy.serving.delivery import Delivery, whole_answer
from proxy.serving.jsonbytes import json_bytes
from proxy.serving.upstream import Answer
from proxy.serving.waiting import ClientGone, abandon
from proxy.wire.openai import ChatCompletion

log = structlog.get_logger(__name__)


async def kept_alive(request: Request, answer: Answer, every_s: float) -> Response:
    """The JSON response to an accepted request, with a blank ahead of it every so many seconds (0: none).

    Raises:
        ClientGone: the client left before the first blank.
        ProxyError: as `Answer.whole`, before the first blank.
    """
    whole = asyncio.create_task(whole_answer(request, answer))
    try:
        await asyncio.wait({whole}, timeout=every_s or None)
    except asyncio.CancelledError:
        abandon(whole)
        raise
    if whole.done():
        return Delivery(answer, json_bytes(whole.result()), answer.headers)
    return _KeptAlive(answer, whole, every_s)


class _KeptAlive(Response):
    """Blanks until the answer is there, then the answer. Closes it once it was sent, or could not be."""

    media_type = "application/json"

    def __init__(self, answer: Answer, whole: asyncio.Task[ChatCompletion], every_s: float) -> None:
        super().__init__(headers={**answer.headers, "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._answer = answer
        self._whole = whole
        self._every_s = every_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = False
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while not self._whole.done():
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
                await asyncio.wait({self._whole}, timeout=self._every_s)
            await send({"type": "http.response.body", "body": self._json(), "more_body": False})
            sent = self._whole.exception() is None
        except ClientGone:
            log.info("the client left before its answer")
        finally:
            abandon(self._whole)
            self._answer.close(delivered=sent)

    def _json(self) -> bytes:
        try:
            return json_bytes(self._whole.result())
        except ProxyError as error:
            log.warning("answer failed after its status was sent", code=error.code, job=error.job_id)
            return json_bytes(error_answer(error))
