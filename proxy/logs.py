"""Logging: structured lines, readable on a terminal and JSON otherwise; nothing of prompts, answers or keys."""

import io
import logging
import re
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

_CHATTY = ("httpx", "httpcore", "httpx2", "httpcore2", "anthropic", "aiohttp", "asyncio", "uvicorn")
"""Libraries that log every poll at info, every chunk at debug, or say again what the banner says."""


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
    renderers: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if console:
        # Plain tracebacks: prettier ones show local variables, and with them prompts and keys.
        renderers = [_escape, structlog.dev.ConsoleRenderer(exception_formatter=_traceback)]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
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
_CONTROLS_IN_TRACEBACKS = re.compile(_CONTROLS.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))


def _escape(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escape control characters in texts: a client must not write to the operator's terminal."""
    return {key: _escaped(_CONTROLS, value) if isinstance(value, str) else value for key, value in event.items()}


def _traceback(sink: TextIO, exc_info: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    sink.write(_escaped(_CONTROLS_IN_TRACEBACKS, text.getvalue()))


def _escaped(controls: re.Pattern[str], text: str) -> str:
    return controls.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
