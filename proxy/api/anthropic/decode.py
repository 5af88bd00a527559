"""A Messages request → the neutral request, and what its reply must look like. Source: contract `anthropic-messages.md`, Request to Tools.

Paths are in the neutral spelling, `messages[2].content[0]`; errors are rendered with the API's dots. The body goes along as it came, for a
backend of the same wire format: what only that can carry makes a request that others refuse.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from proxy.api.anthropic import types as wire
from proxy.api.anthropic.tools import decode_tool_choice, decode_tools, invalid
from proxy.api.http.requests import reportable, request_digest
from proxy.errors import InvalidRequest
from proxy.inference.jsontext import dump_json
from proxy.inference.request import (
    MAX_STOPS,
    Block,
    JsonOutput,
    Media,
    Message,
    Native,
    Reasoning,
    Request,
    Rules,
    Sampling,
    Text,
    ToolCall,
    ToolResult,
)

WIRE: Final = "anthropic"
"""The name of this API's wire format."""
_BILLING: Final = "x-anthropic-billing-header:"
"""Begins a system block that differs between requests that are otherwise equal."""
_MIN_BUDGET: Final = 1024
_MAX_USER: Final = 128
_SILENT: Final = frozenset({"cache_control", *wire.MessagesRequest.model_fields})
"""Fields that are not reported as ignored."""
_SERVER_BLOCK: Final = re.compile(
    r"server_tool_use|mcp_tool_use|mcp_tool_listing|container_upload|fallback|\w+_tool_result"
)
_ASCII_PER_TOKEN: Final = 3.5
_OTHERS_PER_TOKEN: Final = 1.5


@dataclass(frozen=True, slots=True)
class MessagesReply:
    """What the reply to one request must look like, beyond the neutral request.

    Attributes:
        model: the name the client asked for; echoed.
        input_tokens: an estimate, for what is sent before the usage is known.
        thinking_shown: the thinking is sent, and not only that there was some.
    """

    model: str
    stream: bool = False
    input_tokens: int = 1
    thinking_shown: bool = True


def decode(
    body: wire.MessagesRequest, raw: dict[str, Any], rules: Rules, body_bytes: int
) -> tuple[Request, MessagesReply]:
    """Decode a request, given as a model and, `raw`, as it came.

    What is wrong with it beyond the shape of its fields becomes its `refusal`: a backend that sends the body as it is leaves that to its
    upstream.
    """
    request = Request(
        model=body.model,
        messages=(),
        max_tokens=body.max_tokens,
        sampling=Sampling(body.temperature, body.top_p, body.top_k or None),
        body_bytes=body_bytes,
        needs_reply=True,
        native=Native(WIRE, raw),
    )
    try:
        request = _decoded(body, raw, rules, request)
    except InvalidRequest as refusal:
        request = replace(request, refusal=refusal)
    shown = body.thinking is None or body.thinking.display != "omitted"
    return request, MessagesReply(body.model, bool(body.stream), count_tokens(request), shown)


def body_digest(body: dict[str, Any]) -> str:
    """See `request_digest`; also without what differs by request."""
    if isinstance(body.get("system"), list):
        body = {**body, "system": [block for block in body["system"] if not _is_billing(block.get("text"))]}
    return request_digest(body)


def count_tokens(request: Request) -> int:
    """An estimate of a request's input tokens, 1 at least."""
    if request.refusal is not None:
        return max(request.body_bytes // 4, 1)
    tokens = 4.0 * len(request.messages) + 8.0 * len(request.tools)
    for text in _all_texts(request):
        ascii_bytes = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
        others = 0 if text.isascii() else len(text.encode("utf-8", "replace")) - ascii_bytes
        tokens += ascii_bytes / _ASCII_PER_TOKEN + others / _OTHERS_PER_TOKEN
    return max(int(tokens), 1)


def _all_texts(request: Request) -> Iterator[str]:
    """What an estimate counts: texts, names, and schemas and inputs as compact JSON."""
    for message in request.messages:
        for block in message.content:
            match block:
                case Text():
                    yield block.text
                case ToolCall():
                    yield block.name
                    yield dump_json(block.arguments)
                case ToolResult():
                    yield from (text.text for text in block.content if isinstance(text, Text))
    for tool in request.tools:
        yield tool.name
        yield tool.description
        yield dump_json(tool.parameters)
    if request.output is not None:
        yield dump_json(request.output.schema)


def _decoded(body: wire.MessagesRequest, raw: dict[str, Any], rules: Rules, request: Request) -> Request:
    """A request with everything that other backends need. Raises InvalidRequest: one of them cannot serve it."""
    for name, value in (("mcp_servers", body.mcp_servers), ("container", body.container)):
        if value:
            raise invalid(name, "it would run on Anthropic's side, and cannot run here")
    conversation = _Conversation()
    given = [body.system] if isinstance(body.system, str) else [block.text for block in body.system or ()]
    system = tuple(Text(text, "system") for text in given if text.strip() and not _is_billing(text))
    messages = [Message("system", system, "system")] if system else []
    messages += conversation.decode(body.messages)
    tools, dropped = decode_tools(conversation.changed(body.tools or ()), frozenset(conversation.loaded))
    choice = decode_tool_choice(body.tool_choice, frozenset(tool.name for tool in tools))
    stops = body.stop_sequences or ()
    if len(stops) > MAX_STOPS:
        raise invalid("stop_sequences", f"expected {MAX_STOPS} at most")
    for index, text in enumerate(stops):
        if not text.strip():
            raise invalid(f"stop_sequences[{index}]", "expected text that is not blank")
    reasoning, max_tokens, taken = _reasoning(body, rules)
    output = (body.output_config and body.output_config.format) or body.output_format
    path = "output_config.format" if body.output_config and body.output_config.format else "output_format"
    user = body.metadata.user_id if body.metadata else None
    if user and (len(user) > _MAX_USER or user.lstrip().startswith("{")):  # it holds more than a name
        user = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return replace(
        request,
        messages=tuple(messages),
        tools=tools,
        tool_choice=choice,
        output=JsonOutput(output.schema_, bool(output.strict), f"{path}.schema") if output else None,
        reasoning=reasoning,
        sampling=replace(request.sampling, stop=tuple(dict.fromkeys(stops))),
        max_tokens=max_tokens,
        user=user or None,
        tags=(f"user:{user}",) if user else (),
        ignored=reportable(name for name, value in raw.items() if value is not None and name not in _SILENT),
        adjusted=(*dropped, *taken, *conversation.adjusted),
    )


def _reasoning(body: wire.MessagesRequest, rules: Rules) -> tuple[Reasoning | None, int, tuple[str, ...]]:
    """The reasoning wanted, what it leaves of `max_tokens` for the reply, and what was changed, as sentences."""
    match body.thinking:
        case None | wire.Thinking(type="disabled"):
            return None, body.max_tokens, ()
        case wire.Thinking(type="enabled", budget_tokens=budget):
            if budget is None or not _MIN_BUDGET <= budget < body.max_tokens:
                expected = f"expected {_MIN_BUDGET} at least, and less than `max_tokens`"
                raise invalid("thinking.budget_tokens", expected)
            return Reasoning(budget), body.max_tokens - budget, ()
    effort, adjusted = (body.output_config and body.output_config.effort) or "high", list[str]()
    if effort not in rules.efforts:
        effort, adjusted = "high", ["output_config.effort: unknown, taken as high"]
    budget = min(rules.efforts.get(effort, _MIN_BUDGET), body.max_tokens // 2)
    if budget < _MIN_BUDGET:
        return None, body.max_tokens, (*adjusted, "thinking: off, since `max_tokens` leaves no room for it")
    return Reasoning(budget), body.max_tokens - budget, tuple(adjusted)


# ---------------------------------------------------------------- messages


def _is_billing(text: object) -> bool:
    return isinstance(text, str) and text.startswith(_BILLING)


@dataclass(slots=True)
class _Conversation:
    """Decodes the turns, and what they say of tools.

    Attributes:
        loaded: names of the tools that the turns refer to.
        adjusted: what was changed, as sentences, each once.
    """

    loaded: set[str] = field(default_factory=set)
    adjusted: dict[str, None] = field(default_factory=dict)
    _added: dict[str, tuple[str, wire.ToolSpec]] = field(default_factory=dict)
    _removed: set[str] = field(default_factory=set)

    def decode(self, messages: list[wire.InputMessage]) -> Iterator[Message]:
        """The neutral messages; turns that hold nothing for the model are left out. Raises InvalidRequest."""
        last_user = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
        for index, message in enumerate(messages):
            path = f"messages[{index}]"
            if message.content is None and message.role != "system":
                raise invalid(f"{path}.content", "the field is required")
            blocks = tuple(self._blocks(message.content, f"{path}.content"))
            cleared = message.clear_at == "next_user_message" and index < last_user
            if message.role == "user" or (blocks and not (message.role == "system" and cleared)):
                yield Message(message.role, blocks, path)

    def changed(self, given: Sequence[wire.ToolSpec]) -> list[tuple[str, wire.ToolSpec]]:
        """The tools on offer, each with its path, after the changes that the turns make."""
        tools = [(f"tools[{index}]", spec) for index, spec in enumerate(given) if spec.name not in self._added]
        return [tool for tool in (*tools, *self._added.values()) if tool[1].name not in self._removed]

    def _blocks(self, content: wire.Content | None, path: str) -> Iterator[Block]:
        if isinstance(content, str):
            yield Text(content, path)
            return
        for index, block in enumerate(content or ()):
            where = f"{path}[{index}]"
            match block:
                case wire.ToolUseBlockParam():
                    yield ToolCall(block.id, block.name, block.input or {}, where)
                case wire.ToolResultBlockParam():
                    result = tuple(self._texts(block.content, f"{where}.content"))
                    yield ToolResult(block.tool_use_id, result, bool(block.is_error), path=where)
                case wire.ToolChangeBlock():
                    self._change(block, where)
                case wire.DocumentBlock() if block.source.type not in ("text", "content"):
                    yield Media("document", where)
                case wire.OtherBlock(type="image"):
                    yield Media("image", where)
                case _:
                    yield from (Text(text.text, where) for text in self._texts([block], where, own=True))

    def _texts(self, content: wire.Content | None, path: str, *, own: bool = False) -> Iterator[Text]:
        """What the content of a result or a document says to a model that reads text. `own`: `path` is that of the only block."""
        if isinstance(content, str):
            yield Text(content, path)
            return
        for index, block in enumerate(content or ()):
            where = path if own else f"{path}[{index}]"
            match block:
                case wire.TextBlockParam() | wire.CompactionBlock():
                    yield Text(block.content or "" if isinstance(block, wire.CompactionBlock) else block.text, where)
                case wire.SearchResultBlock():
                    yield Text("\n".join([block.title, block.source, *(text.text for text in block.content)]), where)
                case wire.DocumentBlock() if block.source.type in ("text", "content"):
                    source = block.source
                    inner = source.data if source.type == "text" else source.content
                    texts = [text.text for text in self._texts(inner, f"{where}.source.content")]
                    yield Text("\n".join([*filter(None, (block.title, block.context)), *texts]), where)
                case wire.ToolReferenceBlock():
                    self.loaded.add(block.tool_name)
                    yield Text(f"Tool loaded: {block.tool_name}", where)
                case wire.OtherBlock(type="thinking" | "redacted_thinking"):
                    pass
                case wire.DocumentBlock() | wire.OtherBlock(type="image"):
                    self.adjusted[f"messages: {block.type} within a result was replaced by a note"] = None
                    yield Text(f"[{block.type} left out: this model reads text only]", where)
                case wire.OtherBlock(type=kind) if _SERVER_BLOCK.fullmatch(kind):
                    self.adjusted["messages: what a server's tools did was replaced by a note"] = None
                    yield Text(f"[{kind} left out: it belongs to a tool that ran elsewhere]", where)
                case _:
                    raise invalid(f"{where}.type", f"content of type {block.type[:40]!r} is not supported here")

    def _change(self, block: wire.ToolChangeBlock, path: str) -> None:
        spec = block.tool.definition
        name = (spec and spec.name) or block.tool.name
        if name is None:
            raise invalid(f"{path}.tool.name", "the field is required")
        if block.type == "tool_removal":
            self._removed.add(name)
            return
        self._removed.discard(name)
        self.loaded.add(name)
        if spec is not None:
            self._added[name] = (f"{path}.tool.definition", spec)
