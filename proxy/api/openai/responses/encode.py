"""Results → the response object and its items, and how stored items are listed. Source: contract `openai-responses.md`, Response.

Its stream is encoded by `stream.py`. An `id_` is the hexadecimal part of a response's id; times are seconds since 1970 (UTC).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from proxy.api.openai.encode import custom_input
from proxy.api.openai.responses.decode import ResponseReply
from proxy.errors import ContextLengthExceeded, InvalidRequest, ProxyError, RateLimited
from proxy.inference.jsontext import dump_json
from proxy.inference.request import JsonObject, ToolCall
from proxy.inference.result import Choice, FinishReason, Result, Usage

Seal = Callable[[str], str]
"""Seals a reasoning trace so that the client can carry it, always to the same text."""
ITEM_ID: Final = re.compile(r"\A[a-z]{2,4}_([0-9a-f]{32})(i?)(\d{1,6})\Z")
"""An item's id: the hexadecimal part of its response's, `i` for items of the input, its index."""
FINAL: Final = frozenset({"completed", "incomplete", "failed", "cancelled"})
_ITEM_PREFIX: Final = {
    "reasoning": "rs",
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
_MAX_MESSAGE: Final = 2_000
_NO_ECHO: Final[JsonObject] = {
    "tools": [],
    "tool_choice": "auto",
    "text": {"format": {"type": "text"}},
    **dict.fromkeys(("instructions", "max_tool_calls", "prompt_cache_key", "safety_identifier", "user")),
}
_INCOMPLETE: Final[Mapping[str, str]] = {"length": "max_output_tokens", "content_filter": "content_filter"}


# ---------------------------------------------------------------- the response object


def response_object(id_: str, created: int, reply: ResponseReply, status: str, **fields: Any) -> JsonObject:
    """A response, given with the hexadecimal part of its id and when it began, without output, usage or end, but for what `fields` say."""
    return {
        "id": f"resp_{id_}",
        "object": "response",
        "created_at": created,
        "completed_at": None,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
        **reply.echo,
        **fields,
    }


def finished(id_: str, result: Result, reply: ResponseReply, seal: Seal, now: int) -> JsonObject:
    """The whole response of a result. `now`: when it was finished."""
    choice = result.choices[0]
    end = end_fields(choice.finish_reason, result.usage, now)
    output = list(_output(id_, choice, reply, seal))
    return response_object(id_, result.created, reply, **end, output=output)


def failed(response: JsonObject, error: ProxyError) -> JsonObject:
    """A response that ended with an error."""
    return {**response, "status": "failed", "output": [], "usage": None, "error": _error(error)}


def end_fields(finish: FinishReason, usage: Usage, now: int) -> JsonObject:
    """The fields that say how a response ended."""
    reason = _INCOMPLETE.get(finish)
    return {
        "status": "incomplete" if reason else "completed",
        "completed_at": None if reason else now,
        "incomplete_details": {"reason": reason} if reason else None,
        "usage": {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.total_tokens,
        },
    }


def _error(error: ProxyError) -> JsonObject:
    """Codex ends its turn at `context_length_exceeded` and `invalid_prompt`, and repeats a request after other codes."""
    message, wait_s = error.message[:_MAX_MESSAGE], error.retry_after
    match error:
        case ContextLengthExceeded():
            code = "context_length_exceeded"
        case RateLimited():
            code = "rate_limit_exceeded"
            # Codex waits for as long as the message says, and reads these words.
            message = message if wait_s is None else f"{message.removesuffix('.')}; please try again in {wait_s:.1f}s."
        case InvalidRequest():
            code, message = "invalid_prompt", f"{error.code}: {message}" if error.code else message
        case _:
            code, message = "server_error", f"{error.code}: {message}" if error.code else message
    return {"code": code, "message": message}


def without_echo(response: JsonObject) -> JsonObject:
    """A response without what may be large of the request that it repeats."""
    return {**response, **_NO_ECHO}


# ---------------------------------------------------------------- items


def _output(id_: str, choice: Choice, reply: ResponseReply, seal: Seal) -> Iterator[JsonObject]:
    index = 0
    if choice.reasoning and (reply.summary or reply.encrypted):
        yield reasoning_item(f"rs_{id_}0", choice.reasoning, reply, seal)
        index = 1
    text = choice.text or ""
    if text.strip() or not choice.tool_calls:
        last = not choice.tool_calls
        yield message_item(f"msg_{id_}{index}", text, choice.finish_reason if last else "stop")
        index += 1
    for number, call in enumerate(choice.tool_calls):
        yield call_item(id_, index + number, call, reply)


def reasoning_item(id_: str, text: str, reply: ResponseReply, seal: Seal) -> JsonObject:
    """The item of a thinking trace, which it shows as its summary, carries sealed, or both, as the reply wants."""
    summary = [{"type": "summary_text", "text": text}] if reply.summary else []
    item: JsonObject = {"id": id_, "type": "reasoning", "summary": summary}
    return {**item, "encrypted_content": seal(text)} if reply.encrypted else item


def message_item(id_: str, text: str, finish: FinishReason) -> JsonObject:
    """The item of a text, incomplete if the finish reason says so."""
    return {
        "id": id_,
        "type": "message",
        "status": "incomplete" if finish in _INCOMPLETE else "completed",
        "role": "assistant",
        "content": [text_part(text)],
    }


def text_part(text: str) -> JsonObject:
    """The content of a message: its only part."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(id_: str, index: int, call: ToolCall, reply: ResponseReply) -> JsonObject:
    """The item of that index in the output for a tool call, with the name and the shape that the request gave the tool."""
    tool = reply.tools.get(call.name)
    item: JsonObject = {
        "status": "completed",
        "call_id": call.id if "_" in call.id else f"call_{call.id}",
        "name": tool.name if tool else call.name,
    }
    if tool and tool.namespace is not None:
        item["namespace"] = tool.namespace
    if tool and tool.custom:
        return {"id": f"ctc_{id_}{index}", "type": "custom_tool_call", **item, "input": custom_input(call.arguments)}
    return {"id": f"fc_{id_}{index}", "type": "function_call", **item, "arguments": dump_json(call.arguments)}


# ---------------------------------------------------------------- stored items


def input_item(id_: str, index: int, item: JsonObject) -> JsonObject:
    """The item of that index in the input as it is listed: with an id and a status, and a message with its content in parts."""
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    shown = {**item, "id": item.get("id") or f"{_ITEM_PREFIX.get(kind, 'item')}_{id_}i{index}", "type": kind}
    if kind in _ITEM_PREFIX and kind != "reasoning":
        shown["status"] = item.get("status") or "completed"
    if kind == "message":
        content = item.get("content") or ()
        shown["content"] = [
            {**text_part(part["text"]), **part, "type": "output_text"}
            if item["role"] == "assistant" and isinstance(part.get("text"), str)
            else {"type": "input_text", **part}
            for part in ([{"text": content}] if isinstance(content, str) else content)
        ]
    return shown
