"""A Responses request → the neutral request, and what its reply must look like. Source: contract `openai-responses.md`.

Items become messages one by one; `proxy.inference.history` pairs calls with results. What other servers leave in histories is never a
reason to refuse a request: it becomes a note that the model can read, or is dropped, and `x-proxy-adjusted` says so.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import TypeAdapter

from proxy.api.http.requests import canonical_digest
from proxy.api.openai.decode import past_arguments, reasoning_of_effort, tags_of
from proxy.api.openai.responses.tools import REPORTABLE, CalledTool, Tools, echoed_tool
from proxy.api.openai.responses.types import (
    CallOutputItem,
    ContentPart,
    CustomCallItem,
    FunctionCallItem,
    Item,
    ItemText,
    JsonText,
    MessageItem,
    OtherKind,
    ReasoningItem,
    ReferenceItem,
    ResponsesRequest,
    SchemaText,
    ToolsItem,
)
from proxy.api.openai.tools import CUSTOM_INPUT
from proxy.api.openai.types import RefusalPart
from proxy.errors import InvalidRequest, ResponseNotFound
from proxy.inference.jsontext import dump_json
from proxy.inference.request import (
    Block,
    JsonObject,
    JsonOutput,
    Media,
    Message,
    Reasoning,
    Request,
    Rules,
    Sampling,
    Text,
    ToolCall,
    ToolResult,
)

ENCRYPTED: Final = "reasoning.encrypted_content"
_LOGPROBS: Final = "message.output_text.logprobs"
_MAX_REPORTED: Final = 50
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
_STORED_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


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


@dataclass(frozen=True, slots=True)
class ResponseReply:
    """What the reply to one request must look like, beyond the neutral request.

    Attributes:
        echo: the fields of the response object that repeat the request.
        input: the items of this request, as they are stored.
        tools: by the neutral request's names.
        summary: the thinking trace is shown as the summary.
        encrypted: reasoning items carry the sealed trace.
    """

    echo: JsonObject
    input: tuple[JsonObject, ...] = ()
    tools: Mapping[str, CalledTool] = field(default_factory=dict)
    stream: bool = False
    background: bool = False
    store: bool = True
    summary: bool = False
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class Decoding:
    """What decoding depends on beside the request.

    Attributes:
        unseal: opens what this server sealed; None for anything else.
        stores: responses are stored at the moment.
    """

    rules: Rules
    unseal: Callable[[str], str | None] = lambda _: None
    stores: bool = True


def decode(
    body: ResponsesRequest, raw: JsonObject, body_bytes: int, using: Decoding, known: Known = NOTHING
) -> tuple[Request, ResponseReply]:
    """Decode a request.

    Args:
        raw: the JSON object that `body` was read from.
        body_bytes: size of the request body.

    Raises:
        InvalidRequest: something in the request cannot be expressed; `param` is its path.
    """
    _check(body, using)
    items = list(_items(body, known))
    tools = Tools()
    tools.add_all(body.tools or (), "tools", unique=True)
    for path, item in items:
        if isinstance(item, ToolsItem) and item.tools:
            tools.add_all(item.tools, f"{path}.tools", unique=False)
    conversation = _Messages(using, tools)
    if body.instructions:
        conversation.add("system", (Text(body.instructions, "instructions"),), "instructions")
    if isinstance(body.input, str):
        conversation.add_items(items)
        conversation.add("user", (Text(body.input, "input"),), "input[0]")
    else:
        conversation.add_items(items)
    if not conversation.messages:
        raise InvalidRequest("`input` holds nothing that a model can read; expected a message.", param="input")
    adjusted = conversation.adjusted
    if body.temperature is not None and body.temperature > 1:
        adjusted["temperature: lowered to 1"] = None
    store = body.store is not False
    if store and not using.stores:
        store = False
        adjusted["store: false, as no responses are stored at the moment"] = None
    reasoning = _reasoning(body, using.rules)
    request = Request(
        model=body.model,
        messages=tuple(conversation.messages),
        tools=tuple(tools.offered),
        tool_choice=tools.choice(body),
        output=_output(body),
        reasoning=reasoning,
        sampling=Sampling(None if body.temperature is None else min(body.temperature, 1.0), body.top_p),
        max_tokens=body.max_output_tokens,
        user=body.user,
        tags=_tags(body) if body.user or body.safety_identifier or body.metadata else (),
        body_bytes=body_bytes + known.bytes,
        ignored=_ignored(body, tools.hosted),
        adjusted=tuple(adjusted)[:_MAX_REPORTED],
    )
    reply = ResponseReply(
        echo=_echo(body, raw, store),
        input=tuple(_stored_input(raw.get("input"), known)) if store else (),
        tools=tools.called,
        stream=bool(body.stream),
        background=bool(body.background),
        store=store,
        summary=reasoning is not None and _summary(body) is not None,
        encrypted=reasoning is not None and ENCRYPTED in (body.include or ()),
    )
    return request, reply


def references(body: ResponsesRequest) -> list[str]:
    """The ids that item references of a request name."""
    items = body.input if isinstance(body.input, list) else ()
    return [item.id for item in items if isinstance(item, ReferenceItem)]


def body_digest(raw: JsonObject) -> str:
    """Equal for request bodies that ask for the same answer: without how it is sent, and without fields that are null."""
    sent_how = ("stream", "stream_options")
    return canonical_digest({name: value for name, value in raw.items() if value is not None and name not in sent_how})


def turn_of(raw: JsonObject) -> str | None:
    """What marks a turn of Codex, within which no two requests that differ in purpose are equal; None where the client names none."""
    match raw.get("client_metadata"):
        case {"turn_id": str(turn)} if turn:
            return turn
    return None


def _check(body: ResponsesRequest, using: Decoding) -> None:
    for name, value in (("conversation", body.conversation), ("prompt", body.prompt)):
        if value is not None:
            raise InvalidRequest(f"`{name}` is not supported.", param=name, code="unsupported_parameter")
    if body.background and (body.store is False or not using.stores):
        raise InvalidRequest(
            "`background` needs a response that is stored, and this one would not be.", param="background"
        )
    if body.input is None and body.previous_response_id is None:
        raise InvalidRequest("Invalid `input`: the field is required.", param="input")


def _items(body: ResponsesRequest, known: Known) -> Iterator[tuple[str, Item]]:
    """The items with their paths, those of earlier responses first; references are replaced."""
    if known.history:
        for item in _STORED_ITEMS.validate_python(known.history):
            yield "previous_response_id", item
    stored = _STORED_ITEMS.validate_python(list(known.items.values())) if known.items else []
    by_id = dict(zip(known.items, stored, strict=True))
    for index, item in enumerate(body.input if isinstance(body.input, list) else ()):
        path = f"input[{index}]"
        if isinstance(item, ReferenceItem) and item.id in by_id:
            yield path, by_id[item.id]
        elif isinstance(item, ReferenceItem) and not item.id.startswith("rs_"):
            raise ResponseNotFound(f"`{path}.id`: no stored item has the id {item.id[:100]!r}.", param=f"{path}.id")
        else:
            yield path, item


def _stored_input(given: object, known: Known) -> Iterator[JsonObject]:
    if isinstance(given, str):
        yield {"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}
    elif isinstance(given, list):
        for item in given:
            stored = known.items.get(item["id"]) if isinstance(item.get("id"), str) and "role" not in item else None
            yield stored or item


# ---------------------------------------------------------------- items


class _Messages:
    """Makes messages of items.

    Attributes:
        adjusted: what was changed, as sentences for the caller.
    """

    def __init__(self, using: Decoding, tools: "Tools") -> None:
        self.messages: list[Message] = []
        self.adjusted: dict[str, None] = {}
        self._unseal = using.unseal
        self._tools = tools

    def add(self, role: Any, content: Iterable[Block], path: str) -> None:
        """Add a message."""
        self.messages.append(Message(role, tuple(content), path))

    def add_items(self, items: Sequence[tuple[str, Item]]) -> None:
        """Add what items say. Media is refused in the last turn only, and only the running tool loop shows earlier reasoning."""
        last_answer = last_question = -1
        for number, (_, item) in enumerate(items):
            if isinstance(item, MessageItem) and item.role == "user":
                last_question = number
            elif not isinstance(item, MessageItem | ToolsItem) or (item.type == "message" and item.role == "assistant"):
                last_answer = number
        for number, (path, item) in enumerate(items):
            self._add_item(item, path, last_turn=number > last_answer, running=number > last_question)

    def _add_item(self, item: Item, path: str, *, last_turn: bool, running: bool) -> None:
        match item:
            case MessageItem():
                media = item.role == "user" and last_turn
                self.add(item.role, self._content(item.content, f"{path}.content", media), path)
            case FunctionCallItem():
                arguments = past_arguments(item.arguments)
                if not isinstance(arguments, dict):
                    self.adjusted["input: past arguments that are no JSON object were wrapped"] = None
                    arguments = {"_": arguments}
                name = self._tools.name(item.namespace, item.name)
                self.add("assistant", (ToolCall(item.call_id, name, arguments, path),), path)
            case CustomCallItem():
                name = self._tools.name(item.namespace, item.name)
                self.add("assistant", (ToolCall(item.call_id, name, {CUSTOM_INPUT: item.input or ""}, path),), path)
            case CallOutputItem():
                self._add_result(item.call_id, self._content(item.output, f"{path}.output", media=False), path)
            case ReasoningItem():
                text = self._unseal(item.encrypted_content) if isinstance(item.encrypted_content, str) else None
                if text and running:
                    self.add("assistant", (Text(f"[What you thought before you went on]\n{text}", path),), path)
            case ToolsItem(type="tool_search_output"):
                names = [tool.name for tool in item.tools or () if not isinstance(tool, OtherKind)]
                self.add("user", (Text(f"[{item.type} {dump_json({'tools': names})}]", path),), path)
            case ReferenceItem():
                self.adjusted["input: a reference to unknown reasoning was left out"] = None
            case OtherKind():
                self._add_other(item, path)

    def _add_result(self, call_id: str, content: Iterable[Block], path: str) -> None:
        kept = tuple(block for block in content if isinstance(block, Text))
        self.add("user", (ToolResult(call_id, kept, path=path),), path)

    def _add_other(self, item: OtherKind, path: str) -> None:
        extra = item.model_extra or {}
        if _NOTED.match(item.type):
            noted = {name: _without_media(extra[name]) for name in _NOTED_FIELDS if extra.get(name) is not None}
            role = "user" if item.type.endswith("_output") else "assistant"
            self.add(role, (Text(f"[{item.type} {dump_json(noted)[:_MAX_NOTE]}]", path),), path)
            self.adjusted[f"input: items of type {item.type[:40]} were kept as text"] = None
            return
        match extra:
            case {"call_id": str(call_id), "output": output} if call_id and output is not None:
                text = output if isinstance(output, str) else dump_json(_without_media(output))
                self._add_result(call_id, (Text(text, f"{path}.output"),), path)
            case {"encrypted_content": str(sealed)} if item.type == "compaction" and (summary := self._unseal(sealed)):
                self.add("user", (Text(summary, path),), path)
            case _:
                shown = item.type if REPORTABLE.match(item.type) else "an unknown type"
                self.adjusted[f"input: items of type {shown} were left out"] = None

    def _content(self, content: str | list[ContentPart] | None, path: str, media: bool) -> Iterator[Text | Media]:
        """Args: media: leave it to be refused, else a placeholder stands in."""
        if isinstance(content, str):
            yield Text(content, path)
            return
        for index, part in enumerate(content or ()):
            where = f"{path}[{index}]"
            match part:
                case ItemText():
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


# ---------------------------------------------------------------- parameters


def _output(body: ResponsesRequest) -> JsonOutput | None:
    match body.text.format if body.text else None:
        case SchemaText(schema_=None):
            path = "text.format.schema"
            raise InvalidRequest(f"Invalid `{path}`: expected an object.", param=path, code="invalid_json_schema")
        case SchemaText() as wanted:
            return JsonOutput(wanted.schema_, strict=bool(wanted.strict), path="text.format.schema")
        case JsonText():
            return JsonOutput(strict=True, path="text.format")
        case _:
            return None


def _summary(body: ResponsesRequest) -> str | None:
    return (body.reasoning.summary or body.reasoning.generate_summary) if body.reasoning else None


def _reasoning(body: ResponsesRequest, rules: Rules) -> Reasoning | None:
    """None without an effort: then the model does not think."""
    if body.reasoning is None or body.reasoning.effort is None:
        return None
    wanted = reasoning_of_effort(body.reasoning.effort, "reasoning.effort", rules)
    shown = _summary(body) is not None or ENCRYPTED in (body.include or ())
    return wanted and replace(wanted, shown=shown)


def _tags(body: ResponsesRequest) -> tuple[str, ...]:
    tags = tags_of(body.user, body.metadata)
    return (f"safety_identifier:{body.safety_identifier}", *tags) if body.safety_identifier else tags


def _ignored(body: ResponsesRequest, hosted: Iterable[str]) -> tuple[str, ...]:
    """Names of the fields that were sent, are not null, and have no effect; some of them where there are many."""
    names = [name for name, value in (body.model_extra or {}).items() if value is not None]
    for prefix, part in (("text", body.text), ("reasoning", body.reasoning)):
        names += [
            f"{prefix}.{name}" for name, value in ((part and part.model_extra) or {}).items() if value is not None
        ]
    if body.text and body.text.verbosity:
        names.append("text.verbosity")
    if body.truncation == "auto":
        names.append("truncation")
    if _LOGPROBS in (body.include or ()):
        names.append(_LOGPROBS)
    names += [f"tools.{kind}" for kind in hosted]
    return tuple([name for name in names if REPORTABLE.match(name)][:_MAX_REPORTED])


def _echo(body: ResponsesRequest, raw: JsonObject, store: bool) -> JsonObject:
    """The members of the response object that repeat the request, with OpenAI's defaults."""
    text: JsonObject = {"format": {"type": "text"}}
    if isinstance(raw.get("text"), dict):
        text |= {name: value for name, value in raw["text"].items() if value is not None}
    return {
        "background": bool(body.background),
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls if isinstance(body.max_tool_calls, int) else None,
        "metadata": body.metadata or {},
        "model": body.model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key if isinstance(body.prompt_cache_key, str) else None,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": _summary(body)},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": store,
        "temperature": 1.0 if body.temperature is None else min(body.temperature, 1.0),
        "text": text,
        "tool_choice": raw.get("tool_choice") or "auto",
        "tools": [echoed_tool(tool) for tool in raw.get("tools") or ()],
        "top_logprobs": 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "user": body.user,
    }
