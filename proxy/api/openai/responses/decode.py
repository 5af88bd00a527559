"""A Responses request → the neutral request, and what its reply must look like. Source: contract `openai-responses.md`.

Its items are decoded by `items.py`, its tools by `tools.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from proxy.api.http.requests import MAX_REPORTED, reportable
from proxy.api.openai.decode import reasoning_of_effort, tags_of
from proxy.api.openai.responses.items import NOTHING, ItemMessages, Known, Unseal, items_of, stored_input
from proxy.api.openai.responses.tools import CalledTool, Tools, echoed_tool
from proxy.api.openai.responses.types import JsonText, ResponsesRequest, SchemaText, ToolsItem
from proxy.errors import InvalidRequest
from proxy.inference.request import JsonObject, JsonOutput, Reasoning, Request, Rules, Sampling, Text

ENCRYPTED: Final = "reasoning.encrypted_content"
_LOGPROBS: Final = "message.output_text.logprobs"


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
    unseal: Unseal = lambda _: None
    stores: bool = True


def decode(
    body: ResponsesRequest, raw: JsonObject, body_bytes: int, using: Decoding, known: Known = NOTHING
) -> tuple[Request, ResponseReply]:
    """Decode a request. Raises InvalidRequest: something in it cannot be expressed; `param` is its path.

    Args:
        raw: the JSON object that `body` was read from.
        body_bytes: its size.
    """
    _check(body, using)
    items = list(items_of(body, known))
    tools = Tools()
    tools.add_all(body.tools or (), "tools", unique=True)
    for path, item in items:
        if isinstance(item, ToolsItem) and item.tools:
            tools.add_all(item.tools, f"{path}.tools", unique=False)
    conversation = ItemMessages(using.unseal, tools)
    if body.instructions:
        conversation.add("system", (Text(body.instructions, "instructions"),), "instructions")
    conversation.add_items(items)
    if isinstance(body.input, str):
        conversation.add("user", (Text(body.input, "input"),), "input[0]")
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
    safety = (f"safety_identifier:{body.safety_identifier}",) if body.safety_identifier else ()
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
        tags=(*safety, *tags_of(body.user, body.metadata)),
        body_bytes=body_bytes + known.bytes,
        ignored=_ignored(body, tools.hosted),
        adjusted=tuple(adjusted)[:MAX_REPORTED],
    )
    reply = ResponseReply(
        echo=_echo(body, raw, store),
        input=tuple(stored_input(raw.get("input"), known)) if store else (),
        tools=tools.called,
        stream=bool(body.stream),
        background=bool(body.background),
        store=store,
        summary=reasoning is not None and _summary(body) is not None,
        encrypted=reasoning is not None and ENCRYPTED in (body.include or ()),
    )
    return request, reply


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
    return reportable(names)


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
