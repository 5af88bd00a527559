"""A chat completion → the chunks of its stream. Folding them back gives the completion.

Each of `role`, a call's `id`, `type` and `name` is sent exactly once, since clients join the strings of a stream.
Source: contract `heroku-chat.md`, section Stream.
"""

from collections.abc import Iterator

from proxy.inference.pieces import pieces
from proxy.translate.reply import Stamp
from proxy.wire import openai as chat


def opening_chunks(stamp: Stamp, choices: int, *, include_usage: bool) -> Iterator[chat.Chunk]:
    """The first chunk of every choice, sent as soon as the jobs are accepted."""
    for index in range(choices):
        yield _chunk(stamp, index, {"role": "assistant", "content": ""}, include_usage=include_usage)


def heartbeat_after(chunk: chat.Chunk) -> chat.Chunk:
    """A chunk of the same stream that says nothing, for clients whose watchdogs count only data."""
    return {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": None, "logprobs": None}]}


def closing_chunks(completion: chat.ChatCompletion, *, include_usage: bool) -> Iterator[chat.Chunk]:
    """All chunks after the opening ones."""
    stamp = Stamp(completion["id"], completion["created"], completion["model"], completion["system_fingerprint"])
    for choice in completion["choices"]:
        for delta in _deltas(choice["message"]):
            yield _chunk(stamp, choice["index"], delta, include_usage=include_usage)
        yield _chunk(stamp, choice["index"], {}, include_usage=include_usage, finish=choice["finish_reason"])
    if include_usage:
        yield {**_envelope(stamp), "choices": [], "usage": completion["usage"]}


def _deltas(message: chat.MessageOut) -> Iterator[chat.Delta]:
    reasoning = message.get("reasoning_content")
    for piece in pieces(reasoning or ""):
        delta: chat.Delta = {"reasoning_content": piece}
        if "reasoning" in message:
            delta["reasoning"] = {"thinking": piece}
        yield delta
    for piece in pieces(message["content"] or ""):
        yield {"content": piece}
    for index, call in enumerate(message.get("tool_calls", ())):
        opening: chat.FunctionDelta = {"name": call["function"]["name"], "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": call["id"], "type": "function", "function": opening}]}
        for piece in pieces(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
    if function := message.get("function_call"):
        yield {"function_call": {"name": function["name"], "arguments": ""}}
        for piece in pieces(function["arguments"]):
            yield {"function_call": {"arguments": piece}}


def _chunk(
    stamp: Stamp, index: int, delta: chat.Delta, *, include_usage: bool, finish: chat.FinishReason | None = None
) -> chat.Chunk:
    chunk = _envelope(stamp)
    chunk["choices"] = [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}]
    if include_usage:
        chunk["usage"] = None
    return chunk


def _envelope(stamp: Stamp) -> chat.Chunk:
    return {
        "id": stamp.id,
        "object": "chat.completion.chunk",
        "created": stamp.created,
        "model": stamp.model,
        "system_fingerprint": stamp.fingerprint,
        "choices": [],
    }
