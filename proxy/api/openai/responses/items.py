"""The items of a Responses request → neutral messages. Source: contract `openai-responses.md`, Items.

Items become messages one by one; `proxy.inference.history` pairs calls with results. What other servers leave in histories is never a
reason to refuse a request: it becomes a note that the model can read, or is dropped, and `x-proxy-adjusted` says so.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter

from proxy.api.http.requests import REPORTABLE
from proxy.api.openai.decode import past_arguments
from proxy.api.openai.responses import types as wire
from proxy.api.openai.responses.tools import Tools
from proxy.api.openai.tools import CUSTOM_INPUT
from proxy.api.openai.types import RefusalPart
from proxy.errors import ResponseNotFound
from proxy.inference.jsontext import dump_json
from proxy.inference.request import Block, JsonObject, Media, Message, Text, ToolCall, ToolResult

Unseal = Callable[[str], str | None]
"""Opens what this server sealed; None for anything else."""
_NOTED: Final = re.compile(
    r"(web_search|file_search|tool_search|image_generation|code_interpreter)_call\Z|mcp_|program(_output)?\Z"
    r"|((computer|local_shell|shell|apply_patch)_call|tool_search)(_output)?\Z"
)
"""Types of items that become notes."""
_NOTED_FIELDS: Final = (
    *("name", "arguments", "action", "actions", "operation", "query", "queries", "code", "input"),
    *("output", "outputs", "results", "error"),
)
_MAX_NOTE: Final = 100_000
_STORED_ITEMS: TypeAdapter[list[wire.Item]] = TypeAdapter(list[wire.Item])


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored of the responses that a request continues or refers to.

    Attributes:
        history: the items of the earlier responses, oldest first.
        items: id → item, of those that item references name and that are stored.
        bytes: their size, about.
    """

    history: Sequence[JsonObject] = ()
    items: Mapping[str, JsonObject] = field(default_factory=dict)
    bytes: int = 0


NOTHING: Final = Known()


def references(body: wire.ResponsesRequest) -> list[str]:
    """The ids that item references of a request name."""
    items = body.input if isinstance(body.input, list) else ()
    return [item.id for item in items if isinstance(item, wire.ReferenceItem)]


def items_of(body: wire.ResponsesRequest, known: Known) -> Iterator[tuple[str, wire.Item]]:
    """The items with their paths, those of earlier responses first; references are replaced.

    Raises:
        ResponseNotFound: an item is referred to that is not stored.
    """
    for item in _STORED_ITEMS.validate_python(known.history):
        yield "previous_response_id", item
    by_id = dict(zip(known.items, _STORED_ITEMS.validate_python([*known.items.values()]), strict=True))
    for index, item in enumerate(body.input if isinstance(body.input, list) else ()):
        path = f"input[{index}]"
        if isinstance(item, wire.ReferenceItem) and item.id in by_id:
            yield path, by_id[item.id]
        elif isinstance(item, wire.ReferenceItem) and not item.id.startswith("rs_"):
            raise ResponseNotFound(f"`{path}.id`: no stored item has the id {item.id[:100]!r}.", param=f"{path}.id")
        else:
            yield path, item


def stored_input(given: object, known: Known) -> Iterator[JsonObject]:
    """The items of a request as they are stored: a text as a message, references replaced. `given`: the field `input`, as it was sent."""
    if isinstance(given, str):
        yield {"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}
    elif isinstance(given, list):
        for item in given:
            stored = known.items.get(item["id"]) if isinstance(item.get("id"), str) and "role" not in item else None
            yield stored or item


class ItemMessages:
    """Makes messages of items. `tools`: all that the request names, those of its items too.

    Attributes:
        adjusted: what was changed, as sentences for the caller.
    """

    def __init__(self, unseal: Unseal, tools: Tools) -> None:
        self.messages: list[Message] = []
        self.adjusted: dict[str, None] = {}
        self._unseal = unseal
        self._tools = tools

    def add(self, role: Any, content: Iterable[Block], path: str) -> None:
        """Add a message."""
        self.messages.append(Message(role, tuple(content), path))

    def add_items(self, items: Sequence[tuple[str, wire.Item]]) -> None:
        """Add what items say. Media is refused in the last turn only, and only the running tool loop shows earlier reasoning."""
        last_answer = last_question = -1
        for number, (_, item) in enumerate(items):
            if isinstance(item, wire.MessageItem) and item.role == "user":
                last_question = number
            elif not isinstance(item, wire.MessageItem | wire.ToolsItem) or (
                item.type == "message" and item.role == "assistant"
            ):
                last_answer = number
        for number, (path, item) in enumerate(items):
            self._add_item(item, path, last_turn=number > last_answer, running=number > last_question)

    def _add_item(self, item: wire.Item, path: str, *, last_turn: bool, running: bool) -> None:
        match item:
            case wire.MessageItem():
                media = item.role == "user" and last_turn
                self.add(item.role, self._content(item.content, f"{path}.content", media), path)
            case wire.FunctionCallItem() | wire.CustomCallItem():
                given = {CUSTOM_INPUT: item.input or ""} if isinstance(item, wire.CustomCallItem) else item.arguments
                arguments = past_arguments(given)
                if not isinstance(arguments, dict):
                    self.adjusted["input: past arguments that are no JSON object were wrapped"] = None
                    arguments = {"_": arguments}
                name = self._tools.name(item.namespace, item.name)
                self.add("assistant", (ToolCall(item.call_id, name, arguments, path),), path)
            case wire.CallOutputItem():
                self._add_result(item.call_id, self._content(item.output, f"{path}.output", media=False), path)
            case wire.ReasoningItem():
                text = self._unseal(item.encrypted_content) if isinstance(item.encrypted_content, str) else None
                if text and running:
                    self.add("assistant", (Text(f"[What you thought before you went on]\n{text}", path),), path)
            case wire.ToolsItem(type="tool_search_output"):
                names = [tool.name for tool in item.tools or () if not isinstance(tool, wire.OtherKind)]
                self.add("user", (Text(f"[{item.type} {dump_json({'tools': names})}]", path),), path)
            case wire.ReferenceItem():
                self.adjusted["input: a reference to unknown reasoning was left out"] = None
            case wire.OtherKind(type=kind, model_extra=dict(extra)) if _NOTED.match(kind):
                noted = {name: _without_media(extra[name]) for name in _NOTED_FIELDS if extra.get(name) is not None}
                role = "user" if kind.endswith("_output") else "assistant"
                self.add(role, (Text(f"[{kind} {dump_json(noted)[:_MAX_NOTE]}]", path),), path)
                self.adjusted[f"input: items of type {kind[:40]} were kept as text"] = None
            case wire.OtherKind(model_extra={"call_id": str(id_), "output": output}) if id_ and output is not None:
                text = output if isinstance(output, str) else dump_json(_without_media(output))
                self._add_result(id_, (Text(text, f"{path}.output"),), path)
            case wire.OtherKind(type="compaction", model_extra={"encrypted_content": str(sealed)}) if (
                summary := self._unseal(sealed)
            ):
                self.add("user", (Text(summary, path),), path)
            case wire.OtherKind(type=kind):
                shown = kind if REPORTABLE.match(kind) else "an unknown type"
                self.adjusted[f"input: items of type {shown} were left out"] = None

    def _add_result(self, call_id: str, content: Iterable[Block], path: str) -> None:
        kept = tuple(block for block in content if isinstance(block, Text))
        self.add("user", (ToolResult(call_id, kept, path=path),), path)

    def _content(self, content: str | list[wire.ContentPart] | None, path: str, media: bool) -> Iterator[Text | Media]:
        """Args: media: leave it to be refused, else a placeholder stands in."""
        if isinstance(content, str):
            yield Text(content, path)
            return
        for index, part in enumerate(content or ()):
            where = f"{path}[{index}]"
            match part:
                case wire.ItemText():
                    yield Text(part.text, where)
                case RefusalPart():
                    yield Text(part.refusal, where)
                case _ if media:
                    yield Media(part.type, where)
                case _:
                    self.adjusted[f"input: content of type {part.type[:40]} was replaced by a placeholder"] = None
                    yield Text(f"[{part.type[:40]} left out: this model reads text only]", where)


def _without_media(value: Any) -> Any:
    """A value for a note: without images, which are large and unreadable as text."""
    if isinstance(value, dict):
        return {name: _without_media(item) for name, item in value.items() if name not in ("image_url", "file_data")}
    return [_without_media(item) for item in value] if isinstance(value, list) else value
