"""What is kept of a request for its log line and its trace, without a receiver."""

import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import structlog

from proxy import tracing
from proxy.logs import begin_request, current_request
from proxy.settings import TracingSettings
from proxy.tracing import JobSpan, Tracer, tracer_of

ON = TracingSettings(endpoint="http://127.0.0.1:9")


def test_nothing_is_imported_unless_an_endpoint_is_set() -> None:
    code = (
        "import sys; from proxy.app import create_app; from proxy.settings import Settings; create_app(Settings());"
        "sys.exit(any(name.startswith('opentelemetry.') and 'sdk' in name or 'google.protobuf' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_without_an_endpoint_there_is_no_tracer() -> None:
    assert tracer_of(TracingSettings()) is None


def test_without_the_extra_an_endpoint_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(tracer_of(ON), Tracer)

    def _missing(name: str) -> ModuleType | None:
        return None if name.startswith("opentelemetry.sdk") else find_spec(name)  # type: ignore[return-value]

    monkeypatch.setattr(tracing, "find_spec", _missing)
    with structlog.testing.capture_logs() as lines:
        assert tracer_of(ON) is None
    assert [line["log_level"] for line in lines] == ["warning"]
    assert "narrative-chat-proxy[otel]" in lines[0]["event"]


class Recording(Tracer):
    """A tracer whose spans of jobs are only noted."""

    def __init__(self) -> None:
        super().__init__(ON)
        self.sent: list[tuple[Any, ...]] = []

    def send(self, *arguments: Any) -> None:
        self.sent.append(arguments)


def test_a_span_is_made_once_and_ends_with_the_error_that_left_it() -> None:
    tracer = Recording()
    span = JobSpan(tracer, {})
    with pytest.raises(KeyError), span:
        raise KeyError
    span.end("later")
    ((ids, (started, ended), _, error, original),) = tracer.sent
    assert ids == span.ids
    assert started <= ended
    assert (error, original) == ("abandoned", "")


def test_a_job_without_a_request_has_a_trace_of_its_own() -> None:
    version, trace_id, span_id, flags, parent = JobSpan(Recording(), {}).ids.split("-")
    assert (version, len(trace_id), len(span_id), flags, parent) == ("00", 32, 16, "01", "")


# ---------------------------------------------------------------- the log line

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("header", "trace_id"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"00-{TRACE}-b7ad6b7169203331", ""),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", ""),
        ("a" * 100_000, ""),
        ("", ""),
    ],
)
def test_the_trace_of_the_client_is_logged_where_nobody_traces_here(header: str, trace_id: str) -> None:
    assert begin_request(header).trace_id == trace_id


def test_a_log_line_has_what_is_known_and_stages_in_milliseconds() -> None:
    request = begin_request()
    assert request.fields() == {}
    assert request.server_timing(1.0) == ""
    assert current_request() is request
    request.narrative, request.proxy = 1.5, 0.0021
    request.used(10, 20)
    request.key_id, request.repeat = "key", "adopted"
    assert request.fields() == {
        "key": "key", "repeat": "adopted", "input_tokens": 10, "output_tokens": 20,
        "queue_ms": 0.0, "narrative_ms": 1500.0, "proxy_ms": 2.1,
    }  # fmt: skip
    assert request.server_timing(1.75) == "narrative;dur=1500.0, proxy;dur=2.1, total;dur=1750.0"


def test_contents_are_written_as_the_conventions_have_them_whatever_they_are() -> None:
    from proxy.backends.narrative.types import RunMessage, TextBlock, ToolResultBlock, ToolUseBlock

    span = JobSpan(tracer := Recording(), {"gen_ai.request.model": "m"})
    tracer.contents = True
    call = ToolUseBlock(tool_use_id="1", name="f", input={"a": 2**70})
    result = ToolResultBlock(tool_use_id="1", content=(TextBlock(text="x" * 100_000),))
    span.asks([RunMessage(role="assistant", content=(call,)), RunMessage(role="user", content=(result,))])
    span.end(finish_reason="stop", result=SimpleNamespace(structured_output={"text": "\ud800"}))
    ((_, _, attributes, _, _),) = tracer.sent
    assert attributes["gen_ai.input.messages"].startswith(
        '[{"role": "assistant", "parts": [{"type": "tool_call", "id": "1"'
    )
    assert len(attributes["gen_ai.input.messages"]) == 64 * 1024
    assert '"finish_reason"' in attributes["gen_ai.output.messages"]
