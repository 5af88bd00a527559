"""A request for inference as every API decodes it and every backend takes it.

APIs differ in spelling, backends in what they can express; this is the part they share. Values are frozen. Whatever can be wrong in
a value carries the `path` at which the client wrote it, in the spelling of the client's API (`messages[2].content[0]`), so that an
error found later still names the field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from proxy.errors import ProxyError
from proxy.schemas import SchemaLimits, is_heavy

JsonObject = dict[str, Any]
MAX_STOPS: Final = 64
"""Stop strings of a request: an answer is searched for each of them, which takes up to a millisecond."""
_LARGE_BODY: Final = 65_536
"""Bytes of a request body from which preparing the request takes long even without schemas."""
Role = Literal["system", "developer", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Text:
    """Text as the client wrote it; it may be blank."""

    text: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Media:
    """Content that is not text, by the client's name for its type, such as `image_url`, which stands at `<path>.type`."""

    kind: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, in a past assistant turn or in a result.

    Attributes:
        id: pairs the call with its result; empty where the client gave none. In a result it is unique for good and has no prefix
            unless the backend gave it one.
        name: the client's name of the tool.
        arguments: a JSON value; in a past turn also the raw text of arguments that are not a JSON object.
    """

    id: str
    name: str
    arguments: Any
    path: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a call, in a user turn: of the call of that id, or of one of the named tool where the client gave no id."""

    call_id: str | None
    content: tuple[Text | Media, ...]
    is_error: bool = False
    name: str | None = None
    path: str = ""


Block = Text | Media | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the client sent it; `proxy.inference.history` makes turns of messages that strict models take."""

    role: Role
    content: tuple[Block, ...]
    path: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call.

    Attributes:
        name: unique among the request's tools.
        parameters: the JSON Schema of the arguments as the client wrote it; None takes no arguments.
        strict: arguments that do not match `parameters` must not be delivered.
        path: of the tool's definition; its name stands at `<path>.name`.
        schema_path: of `parameters`.
    """

    name: str
    description: str = ""
    parameters: Any = None
    strict: bool = False
    path: str = ""
    schema_path: str = ""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools may be called, and how many calls there may be.

    Attributes:
        names: the tools that may be called; None is all of them, an empty set none.
        required, single: at least one call must be made, at most one may be.
    """

    names: frozenset[str] | None = None
    required: bool = False
    single: bool = False


@dataclass(frozen=True, slots=True)
class JsonOutput:
    """Structured output: the JSON Schema of the answer as the client wrote it; None is any JSON object.

    `strict`: an answer that does not match must not be delivered.
    """

    schema: Any = None
    strict: bool = False
    path: str = ""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Thinking before the answer, with so many tokens in addition to the reply's limit. `shown`: the trace is wanted in the answer."""

    budget_tokens: int
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; None leaves it to the model. `stop` strings end free text, and are not part of it."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Native:
    """A request as its client wrote it, for a backend whose upstream has the same wire format: it loses nothing.

    Attributes:
        wire: the name of the format.
        body: the request body, whose model the backend replaces.
        headers: those that belong to it, by their names in lower case.
    """

    wire: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate, and by which model.

    Attributes:
        model: the name the client asked for; the router replaces it by the name of the target that serves it.
        output: the structured output wanted; None is free text.
        reasoning: None is no thinking.
        max_tokens: most tokens of the reply, thinking apart; None is the model's usual limit.
        choices: how many answers are wanted.
        user: the client's name for its end user.
        tags: `key:value` texts for organizing jobs.
        body_bytes: size of the request body, by which work and tokens are estimated.
        ignored: request fields that were accepted and have no effect.
        adjusted: what was changed in the request while it was decoded, as sentences for the caller.
        needs_reply: an answer with neither text nor calls is a failure.
        native: the same as its client wrote it, where there is a backend that can send it as it is.
        refusal: why a backend that does not send `native` cannot serve the request.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    output: JsonOutput | None = None
    reasoning: Reasoning | None = None
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    choices: int = 1
    user: str | None = None
    tags: tuple[str, ...] = ()
    body_bytes: int = 0
    ignored: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    needs_reply: bool = False
    native: Native | None = None
    refusal: ProxyError | None = None

    @property
    def is_heavy(self) -> bool:
        """Whether preparing it can hold an event loop for more than 50 ms, so that backends do it in a worker thread."""
        has_schemas = bool(self.tools) or self.output is not None
        return self.body_bytes >= _LARGE_BODY or (has_schemas and is_heavy(self.body_bytes))


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decides about requests, whichever API they come through.

    Attributes:
        efforts: named reasoning effort → budget in tokens; `medium` is the budget where none is named.
        headroom_tokens: added to the reply's limit for the JSON around the reply.
        strict_history: refuse histories that would need a repair.
        media_placeholder: replace media in earlier turns and tool results by a visible note instead of refusing them.
        drop_hosted_tools: leave out tools that an upstream would run by itself, such as web search, instead of refusing them.
        schema_limits: bounds on each JSON Schema of a request.
    """

    efforts: Mapping[str, int] = field(default_factory=dict)
    headroom_tokens: int = 64
    max_choices: int = 8
    max_tools: int = 512
    strict_history: bool = False
    media_placeholder: bool = False
    drop_hosted_tools: bool = False
    schema_limits: SchemaLimits = SchemaLimits()
