"""A small, strict Messages API on a real socket: refuses what Anthropic refuses, and answers what the last user text tells it to.

`[[messages {…}]]` in the last user turn directs it; without one it answers with a greeting.

    {"text": "…"}                       the answer's text
    {"thinking": "…"}                   a thinking block before it
    {"calls": [{"name", "input"}]}      tool calls after it
    {"stop_reason": "…"}                how it ends
    {"cut": true}                       the last call's arguments end in the middle
    {"status": 529, "type": "…"}        refused with that status
    {"broken": true}                    an error event in the middle of the stream
    {"hold": true}                      after the first piece of text, wait for `state.release`

Everything it was sent is in `state.requests`.
"""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "sk-ant-a-good-key"
MODEL = "claude-test"
_DIRECTIVE = re.compile(r"\[\[messages (\{.*\})\]\]", re.DOTALL)
_FIELDS = {
    "model", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "temperature", "top_p", "top_k",
    "stop_sequences", "metadata", "output_config", "stream",
}  # fmt: skip


class Refusal(Exception):
    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


def directive(**what: Any) -> str:
    return f"[[messages {json.dumps(what)}]]"


def messages_api() -> Starlette:
    app = Starlette(routes=[Route("/v1/messages", _messages, methods=["POST"])])
    app.state.requests = []
    app.state.release = threading.Event()
    return app


async def _messages(request: Request) -> Response:
    try:
        # Older versions of the SDK send the key as `x-api-key`.
        if KEY not in (
            request.headers.get("x-api-key"),
            request.headers.get("authorization", "").removeprefix("Bearer "),
        ):
            raise Refusal(401, "authentication_error", "invalid x-api-key")
        if request.headers.get("anthropic-version") != "2023-06-01":
            raise Refusal(400, "invalid_request_error", "anthropic-version: header is required")
        body = await request.json()
        request.app.state.requests.append(body)
        check(_in_blocks(body))
        directives = _directives(_in_blocks(body))
        if "status" in directives:
            raise Refusal(
                directives["status"],
                directives.get("type", "api_error"),
                directives.get("message", "as the request asks"),
            )
    except Refusal as error:
        return JSONResponse(_error(error.kind, error.message), error.status, headers={"retry-after": "7"})
    message = _message(body, directives)
    if not body.get("stream"):
        return JSONResponse(message)
    return StreamingResponse(_stream(message, directives, request.app.state.release), media_type="text/event-stream")


def _in_blocks(body: dict[str, Any]) -> dict[str, Any]:
    """The body with every turn's content as a list of blocks."""
    turns = [
        {**turn, "content": [{"type": "text", "text": turn["content"]}]} if isinstance(turn["content"], str) else turn
        for turn in body.get("messages", [])
    ]
    return {**body, "messages": turns}


def check(body: dict[str, Any]) -> None:
    """Raises Refusal: Anthropic would not take this."""

    def expect(holds: object, message: str) -> None:
        if not holds:
            raise Refusal(400, "invalid_request_error", message)

    for name in ("model", "max_tokens", "messages"):
        expect(name in body, f"{name}: Field required")
    expect(body.keys() <= _FIELDS, f"{sorted(body.keys() - _FIELDS)}: Extra inputs are not permitted")
    if body["model"] != MODEL:
        raise Refusal(404, "not_found_error", f"model: {body['model']}")
    expect(isinstance(body["max_tokens"], int) and body["max_tokens"] > 0, "max_tokens: must be positive")
    expect(0 <= body.get("temperature", 0) <= 1, "temperature: range: 0..1")
    expect("temperature" not in body or "top_p" not in body, "temperature and top_p cannot both be specified")
    expect(all(text.strip() for text in body.get("stop_sequences", [])), "stop_sequences: must contain non-whitespace")
    expect(not isinstance(body.get("system"), str) or body["system"].strip(), "system: must be non-empty")
    names = [tool["name"] for tool in body.get("tools", [])]
    for tool in body.get("tools", []):
        expect(re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool["name"]), "tools.name: pattern")
        expect(tool["input_schema"].get("type") == "object", "tools.input_schema.type: Input should be 'object'")
    expect(len(set(names)) == len(names), "tools: Tool names must be unique.")
    choice = body.get("tool_choice", {"type": "auto"})
    expect("tools" in body or "tool_choice" not in body, "tool_choice may only be specified while providing tools")
    expect(choice["type"] in ("auto", "any", "none", "tool"), "tool_choice.type")
    expect(choice["type"] != "tool" or choice["name"] in names, "tool_choice.name: not found in tools")
    expect(choice["type"] != "none" or "disable_parallel_tool_use" not in choice, "tool_choice.none: extra inputs")
    _check_turns(body, expect)
    if thinking := body.get("thinking"):
        expect(thinking["budget_tokens"] >= 1024, "thinking.budget_tokens: >= 1024")
        expect(thinking["budget_tokens"] < body["max_tokens"], "max_tokens must be greater than thinking.budget_tokens")
        expect(body.get("temperature", 1) == 1, "temperature may only be set to 1 when thinking is enabled")
        expect("top_k" not in body, "top_k must be unset when thinking is enabled")
        expect(body.get("top_p", 1) >= 0.95, "top_p must be greater than or equal to 0.95")
        expect(choice["type"] in ("auto", "none"), "Thinking may not be enabled when tool_choice forces tool use.")
        expect(body["messages"][-1]["content"][0]["type"] != "tool_result", "Expected `thinking`, but found `tool_use`")


def _check_turns(body: dict[str, Any], expect: Any) -> None:
    waiting: list[str] = []
    previous = "assistant"
    for turn in body["messages"]:
        expect(turn["role"] != previous, "messages: roles must alternate")
        expect(turn["role"] in ("user", "assistant"), "messages.role")
        previous = turn["role"]
        expect(turn["content"], "messages: content must be non-empty")
        results = [block["tool_use_id"] for block in turn["content"] if block["type"] == "tool_result"]
        expect(results == waiting, "`tool_use` ids were found without `tool_result` blocks immediately after")
        waiting = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
        for block in turn["content"]:
            expect(block["type"] in ("text", "tool_use", "tool_result"), "messages.content.type")
            expect(block["type"] != "text" or block["text"].strip(), "text content blocks must contain non-whitespace")
            expect(block["type"] == "text" or "tools" in body, "Requests which include tool blocks must define tools")
    expect(previous == "user", "This model does not support assistant message prefill.")


def _directives(body: dict[str, Any]) -> dict[str, Any]:
    texts = [block.get("text", "") for block in body["messages"][-1]["content"]]
    found = _DIRECTIVE.search("\n".join(texts))
    return dict(json.loads(found[1])) if found else {}


def _message(body: dict[str, Any], directives: dict[str, Any]) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if "thinking" in directives and "thinking" in body:
        content.append({"type": "thinking", "thinking": directives["thinking"], "signature": "signed"})
    calls = directives.get("calls", [])
    if text := directives.get("text", "" if calls else "Hello, how can I help?"):
        content.append({"type": "text", "text": text})
    for number, call in enumerate(calls):
        content.append({"type": "tool_use", "id": f"toolu_{number}", "name": call["name"], "input": call["input"]})
    return {
        "id": "msg_0123",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": directives.get("stop_reason", "tool_use" if calls else "end_turn"),
        "stop_sequence": None,
        "usage": {
            "input_tokens": 20,
            "cache_creation_input_tokens": 3,
            "cache_read_input_tokens": 2,
            "output_tokens": 11,
        },
    }


async def _stream(
    message: dict[str, Any], directives: dict[str, Any], release: threading.Event
) -> AsyncIterator[bytes]:
    start = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    yield _event("message_start", message=start)
    yield _event("ping")
    for index, block in enumerate(message["content"]):
        opened, deltas = _pieces(block, cut=bool(directives.get("cut")) and index == len(message["content"]) - 1)
        yield _event("content_block_start", index=index, content_block=opened)
        for number, delta in enumerate(deltas):
            yield _event("content_block_delta", index=index, delta=delta)
            if directives.get("broken"):
                yield b"event: error\ndata: " + json.dumps(_error("overloaded_error", "Overloaded")).encode() + b"\n\n"
                return
            if directives.get("hold") and number == 0:
                assert await asyncio.to_thread(release.wait, 30)
        yield _event("content_block_stop", index=index)
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=delta, usage={"output_tokens": message["usage"]["output_tokens"]})
    yield _event("message_stop")


def _pieces(block: dict[str, Any], *, cut: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "text":
            texts = list(_split(block["text"]))
            return {**block, "text": ""}, [{"type": "text_delta", "text": text} for text in texts]
        case "thinking":
            thoughts = [{"type": "thinking_delta", "thinking": text} for text in _split(block["thinking"])]
            return {**block, "thinking": ""}, [*thoughts, {"type": "signature_delta", "signature": "signed"}]
        case _:
            written = json.dumps(block["input"]) if block["input"] else ""
            pieces = list(_split(written[:-2] if cut else written))
            return {**block, "input": {}}, [
                {"type": "input_json_delta", "partial_json": text} for text in ["", *pieces]
            ]


def _split(text: str) -> Iterator[str]:
    for start in range(0, len(text), 7):
        yield text[start : start + 7]


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}
