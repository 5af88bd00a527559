"""OpenAI's own library as judge: its types for every answer and chunk, its stream helper for folding chunks back."""

from collections.abc import Iterable
from typing import Any

from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk


def assert_completion_is_openais(value: Any) -> None:
    """It has exactly the types of OpenAI's `ChatCompletion`, checked strictly."""
    ChatCompletion.model_validate(value, strict=True)


def fold(chunks: Iterable[Any]) -> dict[str, Any]:
    """The completion that OpenAI's stream helper makes of chunks, in the shape of the plain answer."""
    state = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk, strict=True))
    folded = _said(state.current_completion_snapshot.model_dump(), keep=("usage",))
    for choice in folded["choices"]:
        message = choice["message"] = _said(choice["message"], keep=("content", "refusal"))
        calls = message.get("tool_calls", [])
        message.pop("parsed", None)
        if calls:
            message["tool_calls"] = [
                {"id": call["id"], "type": call["type"], "function": _function(call["function"])} for call in calls
            ]
        if calls or "function_call" in message:
            message["content"] = message["content"] or None  # the opening chunk's empty string
        choice["logprobs"] = None
    if folded["usage"]:
        folded["usage"] = _said(folded["usage"])
    return folded


def _said(value: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """Without the fields that the library adds as null."""
    return {name: item for name, item in value.items() if item is not None or name in keep}


def _function(function: dict[str, Any]) -> dict[str, Any]:
    return {"name": function["name"], "arguments": function["arguments"]}
