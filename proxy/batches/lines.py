"""The lines of batches: what an API makes of one, what is wrong with a file of them, and by what names their submissions are known."""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog

from proxy.access.authentication import Caller
from proxy.batches.files import FileStore, Vault
from proxy.batches.records import Batch, BatchRecords
from proxy.errors import IdempotencyConflict, InvalidRequest, JobTimeout, Overloaded, ProxyError, RateLimited
from proxy.inference.backend import Backend
from proxy.inference.request import JsonObject, Request
from proxy.inference.result import Result
from proxy.settings import BatchSettings
from proxy.storage import Ledger

MAX_ID: Final = 512
"""Characters of a `custom_id`."""
MAX_ERRORS: Final = 100
_LONGEST_PAUSE_S: Final = 30.0
_LASTING: Final = frozenset({"narrative_submit_unknown", "narrative_unavailable", "narrative_unauthorized"})
"""Codes of refusals that end, and of outcomes that a repeat learns."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a batch: its number from 1 on, the client's name for it, and an id that is the same for everyone who works on it."""

    number: int
    custom_id: str
    id: UUID


@dataclass(frozen=True, slots=True)
class LineRequest:
    """What an API makes of the body of a line: the request, and how the body of its answer is written (which may store it)."""

    request: Request
    answer: Callable[[Result], Awaitable[bytes]]


class LineApi(Protocol):
    """How an API reads the lines of batches and writes their rows, each one line of JSON without its end."""

    @property
    def one_file(self) -> bool:
        """Whether the output file also holds the rows of errors and of lines that were not begun."""

    async def decode(self, body: JsonObject, size: int, caller: Caller, line: Line) -> LineRequest:
        """The request. Raises ProxyError."""

    def answered(self, line: Line, body: bytes) -> bytes:
        """The row of an answer."""

    def failed(self, line: Line, error: ProxyError) -> bytes:
        """The row of a request that failed."""

    def unsent(self, line: Line, *, cancelled: bool) -> bytes | None:
        """The row of a line that was not begun before the batch was cancelled, or else expired; None is none."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What the engine works with.

    Attributes:
        backend: serves the requests of lines; its records are in `lines`.
        lines: where the submissions of lines are recorded.
        apis: by the endpoint.
        parse: the JSON object of a line. Raises InvalidRequest.
        max_line_bytes: of a line.
        room: whether a line may begin now: no other request waits.
        current: a caller with what its key now permits; None where that was revoked.
        clock: seconds since 1970.
    """

    settings: BatchSettings
    files: FileStore
    records: BatchRecords
    vault: Vault
    backend: Backend
    lines: Ledger
    apis: Mapping[str, LineApi]
    parse: Callable[[bytes], JsonObject]
    max_line_bytes: int
    room: Callable[[], bool]
    current: Callable[[Caller], Awaitable[Caller | None]]
    clock: Callable[[], float] = time.time

    def input_lines(self, batch: Batch) -> AsyncIterator[list[tuple[int, bytes | None]]]:
        """The lines of a batch's file, as `FileStore.lines` gives them. Its own record may have expired."""
        return self.files.lines(batch.input_file_id, batch.input_pieces, self.max_line_bytes)


def cancelled_at(batch: Batch, now: int) -> Batch:
    """A batch that is to be cancelled."""
    return batch if batch.cancelling_at else replace(batch, status="cancelling", cancelling_at=now)


def record_name(line: Line) -> str:
    """The name of the record of a line's submissions."""
    return f"line:{line.id}"


def line_of(batch: Batch, number: int, value: JsonObject) -> Line:
    """A line of a batch, given with its JSON."""
    custom_id: str = value["custom_id"]
    return Line(number, custom_id, uuid5(uuid5(NAMESPACE_URL, batch.id), custom_id))


def may_be_repeated(error: ProxyError) -> bool:
    """Whether a line's request is made again: nothing was begun, or its job runs on and is found by its record."""
    passing = isinstance(error, Overloaded | RateLimited | JobTimeout | IdempotencyConflict)
    return passing or error.retry_after is not None or error.code in _LASTING


class Pace:
    """How many lines of one batch are worked on at a time: `width`, more with each answer, half as many after a refusal."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self.width = float(min(8, most))
        self._slowed_at = -math.inf

    def answered(self) -> None:
        """A line was answered."""
        self.width = min(self.width + 1.0, self._most)

    def pause(self, error: ProxyError, tries: int) -> float:
        """Seconds until a line that was refused so many times is tried again. Refusals within a second count as one."""
        now = self._clock()
        if not error.job_may_exist and now >= self._slowed_at + 1.0:
            self._slowed_at = now
            self.width = max(self.width / 2, 1.0)
        backoff = min(0.5 * 2.0 ** min(tries - 1, 10), _LONGEST_PAUSE_S)
        return max(min(error.retry_after or 0.0, _LONGEST_PAUSE_S), backoff * random.uniform(0.5, 1.0))  # noqa: S311


def problem(code: str, message: str, line: int | None = None, param: str | None = None) -> JsonObject:
    """What is wrong with the file of a batch, as its record has it."""
    return {"code": code, "line": line, "message": message, "param": param}


async def check_lines(options: BatchOptions, batch: Batch) -> tuple[list[JsonObject], int]:
    """What is wrong with the lines of a batch, at most 100 errors, and how many lines there are."""
    errors: list[JsonObject] = []
    seen: set[str] = set()
    total = 0

    def check(lines: list[tuple[int, bytes | None]]) -> None:
        nonlocal total
        for number, text in lines:
            total += 1
            if total > options.settings.max_lines or len(errors) >= MAX_ERRORS:
                return
            if fault := _fault(number, text, batch.endpoint, seen, options):
                errors.append(fault)

    async for lines in options.input_lines(batch):
        await asyncio.to_thread(check, lines)
        if total > options.settings.max_lines:
            return [problem("too_many_tasks", f"The file has more than {options.settings.max_lines} lines.")], total
        if len(errors) >= MAX_ERRORS:
            break
    if not total:
        errors.append(problem("empty_file", "The file has no line."))
    return errors, total


def _fault(number: int, text: bytes | None, endpoint: str, seen: set[str], options: BatchOptions) -> JsonObject | None:
    """What is wrong with a line."""
    if text is None:
        return problem("invalid_request", f"The line has more than {options.max_line_bytes} bytes.", number)
    try:
        value = options.parse(text)
    except InvalidRequest as error:
        return problem("invalid_json_line", error.message.replace("request body", "line"), number)
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID:
        message = f"`custom_id`: expected a text of 1 to {MAX_ID} characters."
        return problem("invalid_request", message, number, "custom_id")
    if custom_id in seen:
        message = f"A line before has the `custom_id` {custom_id[:100]!r}."
        return problem("duplicate_custom_id", message, number, "custom_id")
    seen.add(custom_id)
    if value.get("method") != "POST":
        return problem("invalid_request", "`method`: expected 'POST'.", number, "method")
    if value.get("url") != endpoint:
        return problem("url_mismatch", f"`url`: expected {endpoint!r}, the batch's endpoint.", number, "url")
    if not isinstance(value.get("body"), dict):
        return problem("invalid_request", "`body`: expected an object.", number, "body")
    return None
