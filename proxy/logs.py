"""Logging: structured lines, readable on a terminal and JSON otherwise; nothing of prompts, answers or keys. And what is learnt of each
request while it is served, for the line at its end."""

import logging
import re
import sys
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

STAGES: Final = ("queue", "narrative", "proxy")
"""Where the time of a request goes; see `proxy_stage_seconds` in docs/operations.md."""
_CHATTY = (
    "httpx",
    "httpcore",
    "httpx2",
    "httpcore2",
    "anthropic",
    "aiohttp",
    "asyncio",
    "uvicorn",
    "opentelemetry",
    "urllib3",
)
"""Libraries that log every poll at info, every chunk at debug, or say again what the banner says."""
_EXTRAS = ("job_id", "request", "slot", "attempt", "webhook_id")
"""What our lines by `logging` say beside their message; other libraries' extras are for themselves."""


@dataclass(slots=True)
class RequestRecord:
    """One request, without its content. The middleware creates it, and later stages add what they learn.

    Attributes:
        at: when it arrived, in seconds since 1970.
        owner: digest of its credentials.
        route: as it is written in the code, never what the client wrote; "" until the response begins, as are the three below.
        model: the backend's id of the model; "" where none is known.
        jobs: ids of the jobs that were submitted for it.
        ms: how long it took; None while it is under way.
        trace_id: 32 hexadecimal digits; "" where neither the client nor this server traces.
        key_id: id of the caller's key, which reveals nothing of it.
        code: of the error that it was answered with before its first byte; "" where there is none.
        repeat: how it repeats an earlier request (`proxy.inference.idempotency`); "" where it does not.
        queue, narrative, proxy: seconds by stage.
        span: its server span while it has one; see `proxy.tracing`.
    """

    at: float = 0.0
    method: str = ""
    owner: str = ""
    request_id: str = ""
    route: str = ""
    status: int = 0
    model: str = ""
    jobs: tuple[str, ...] = ()
    ms: float | None = None
    trace_id: str = ""
    key_id: str = ""
    code: str = ""
    repeat: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    queue: float = 0.0
    narrative: float = 0.0
    proxy: float = 0.0
    span: Any = None

    def used(self, input_tokens: int, output_tokens: int) -> None:
        """The tokens of its answer."""
        self.input_tokens, self.output_tokens = input_tokens, output_tokens

    def fields(self) -> dict[str, str | int]:
        """What is known, as a log line has it: stages in milliseconds, nothing that is empty."""
        found: dict[str, str | int] = {}
        for name, value in (
            ("model", self.model),
            ("job", ", ".join(self.jobs)),
            ("status", self.status),
            ("trace", self.trace_id),
            ("key", self.key_id),
            ("code", self.code),
            ("repeat", self.repeat),
        ):
            if value:
                found[name] = value
        if self.input_tokens or self.output_tokens:
            found["input_tokens"], found["output_tokens"] = self.input_tokens, self.output_tokens
        for stage in STAGES if self.proxy else ():
            found[f"{stage}_ms"] = round(getattr(self, stage) * 1000, 1)
        return found

    def server_timing(self, total: float) -> str:
        """The header `Server-Timing`: the stages that are known and the total, in milliseconds; "" before the first stage."""
        known = ""
        for stage in STAGES:
            if seconds := getattr(self, stage):
                known += f"{stage};dur={seconds * 1000:.1f}, "
        return f"{known}total;dur={total * 1000:.1f}" if known else ""


_TRACEPARENT: Final = re.compile(r"\A[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")
_current: Final[ContextVar[RequestRecord | None]] = ContextVar("request", default=None)


def begin_request(traceparent: str = "", method: str = "", owner: str = "", request_id: str = "") -> RequestRecord:
    """The record of a request that arrives, for the current context and those that are made of it. `traceparent` is the client's header."""
    traced = _TRACEPARENT.match(traceparent)
    begun = RequestRecord(time.time(), method, owner, request_id, trace_id=traced[1] if traced else "")
    _current.set(begun)
    return begun


def current_request() -> RequestRecord:
    """That of the current request; one that nobody reads where there is none."""
    return _current.get() or RequestRecord()


def configure_logging(log_format: Literal["auto", "console", "json"], level: str) -> None:
    """Send every log line, ours and the libraries', through one renderer to standard error."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
        structlog.processors.StackInfoRenderer(),
    ]
    # Plain tracebacks: prettier ones show local variables, and with them prompts and keys.
    renderers: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if console:
        plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        renderers[1:] = [_escape, plain]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(_EXTRAS)],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


# What moves a terminal's cursor, changes its colours, starts a line or reorders text.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _escape(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escape control characters in texts, line breaks of tracebacks aside: a client must not write to the operator's terminal."""
    return {key: _escaped(key, value) if isinstance(value, str) else value for key, value in event.items()}


def _escaped(key: str, text: str) -> str:
    lines = text.split("\n") if key == "exception" else [text]
    return "\n".join(_CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), line) for line in lines)
