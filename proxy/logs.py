"""Logging: structured lines, readable on a terminal and JSON otherwise; nothing of prompts, answers or keys."""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import Processor

_CHATTY = ("httpx", "httpcore", "httpx2", "httpcore2", "anthropic", "aiohttp", "sse_starlette", "asyncio", "uvicorn")
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
        renderers = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
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
