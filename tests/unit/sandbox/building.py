"""Submissions for the sandbox's tests, as plain JSON."""

from typing import Any

import orjson

from proxy.sandbox import SANDBOX_DATA_PLANE, JobStore, SandboxOptions
from proxy.sandbox.factory import JobFactory
from proxy.sandbox.jobs import JobQuery, SandboxJob
from proxy.sandbox.submission import SandboxTurn

CONTENT: dict[str, Any] = {
    "type": "object",
    "properties": {"content": {"type": "string"}},
    "required": ["content"],
    "additionalProperties": False,
}

WEATHER: dict[str, Any] = {
    "type": "object",
    "description": "Current weather in a city",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
    "required": ["city"],
    "additionalProperties": False,
}
CLOCK: dict[str, Any] = {
    "type": "object",
    "description": "Local time somewhere",
    "properties": {"timezone": {"type": "string"}},
    "required": ["timezone"],
}
TOOLS: dict[str, Any] = {"get_weather": WEATHER, "get_time": CLOCK}


def offering(items: dict[str, Any], **limits: int) -> dict[str, Any]:
    """An output schema with free text beside calls."""
    return {
        "type": "object",
        "properties": {"content": {"type": "string"}, "tool_calls": {"type": "array", "items": items, **limits}},
        "required": ["content", "tool_calls"],
        "additionalProperties": False,
    }


def keyed(tools: dict[str, Any] = TOOLS, **limits: int) -> dict[str, Any]:
    return offering({"type": "object", "properties": tools, "additionalProperties": False}, **limits)


def tagged(tools: dict[str, Any] = TOOLS, **limits: int) -> dict[str, Any]:
    branches = [
        {
            "type": "object",
            "properties": {"name": {"type": "string", "enum": [name]}, "arguments": arguments},
            "required": ["name", "arguments"],
        }
        for name, arguments in tools.items()
    ]
    return offering({"anyOf": branches}, **limits)


def as_text(tools: dict[str, Any] = TOOLS, **limits: int) -> dict[str, Any]:
    properties = {"name": {"type": "string", "enum": list(tools)}, "arguments": {"type": "string"}}
    return offering({"type": "object", "properties": properties, "required": ["name", "arguments"]}, **limits)


def says(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def calls(*names: str, text: str | None = None) -> dict[str, Any]:
    """An assistant turn that calls tools; the ids are `id-<name>`."""
    blocks = [{"type": "tool_use", "tool_use_id": f"id-{name}", "name": name, "input": {}} for name in names]
    return {"role": "assistant", "content": [*([{"type": "text", "text": text}] if text else []), *blocks]}


def results(text: str | None = None, **texts: str) -> dict[str, Any]:
    """A user turn with the results of tools by name."""
    blocks: list[dict[str, Any]] = [
        {"type": "tool_result", "tool_use_id": f"id-{name}", "content": [{"type": "text", "text": said}]}
        for name, said in texts.items()
    ]
    return {"role": "user", "content": [*blocks, *([{"type": "text", "text": text}] if text else [])]}


def turns(*messages: dict[str, Any]) -> list[SandboxTurn]:
    return [SandboxTurn.model_validate(message) for message in messages]


def body(*messages: dict[str, Any], schema: dict[str, Any] = CONTENT, **more: Any) -> dict[str, Any]:
    """A submission; `more` goes into `inference_config`, but for fields of the body itself."""
    top: dict[str, Any] = {
        name: more.pop(name) for name in ("data_plane_id", "model", "tags", "stream") if name in more
    }
    return {
        "data_plane_id": SANDBOX_DATA_PLANE,
        "model": "anthropic.claude-haiku-4.5",
        "messages": list(messages or [says("user", "Hi")]),
        "inference_config": {"output_format_schema": schema, **more},
        **top,
    }


class StoppedSandbox:
    """A store and what fills it, with a clock that stands still until it is moved."""

    def __init__(self, **options: Any) -> None:
        self.now = 1_700_000_000.0
        self.options = SandboxOptions(**{"pending_s": 1, "running_s": 2, **options})
        self.store = JobStore(self.options, clock=lambda: self.now)
        self.factory = JobFactory(self.options, self.store)

    def submit(self, *messages: dict[str, Any], **more: Any) -> SandboxJob:
        return self.factory.submit(orjson.dumps(body(*messages, **more)))

    def output(self, *messages: dict[str, Any], **more: Any) -> Any:
        """The structured output of a job, without waiting for it."""
        result = self.submit(*messages, **more).result_json
        assert result is not None
        return orjson.loads(result)["structured_output"]

    def listed(self, query: JobQuery) -> list[str]:
        """The ids of the jobs on a page."""
        return [record["job_id"] for record in orjson.loads(self.store.page(query))["records"]]

    def ended(self, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The record of a job after its end."""
        job = self.submit(*messages, **more)
        record: dict[str, Any] = orjson.loads(job.record(job.ended_at))
        return record
