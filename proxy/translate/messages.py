"""Chat messages → Narrative turns that the strict models behind it take.

Turns alternate and begin with the user's; each call of an assistant turn is answered first thing in the very next user turn; ids
are unique; no text is blank. A history that is not so is repaired, and each repair is named, or refused. Sources: contracts
`heroku-chat.md` (Request) and `narrative.md` (Messages).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from proxy.backends.narrative import types as upstream
from proxy.errors import InvalidRequest
from proxy.translate.jsontext import NotJson, dump_json, parse_json
from proxy.translate.names import unique_safe
from proxy.wire import openai as chat

CONTINUE = "Please continue."
"""Stands in where a user turn is due and the client has none."""
NO_RESULT = "Result not available."
EMPTY_RESULT = "(empty result)"

_Role = Literal["user", "assistant"]
_Answer = chat.ToolMessage | chat.FunctionMessage | chat.ToolResultItem | chat.ToolResultPart
_THOUGHTS = re.compile(r"\A\s*<(think|thinking|thought)>.*?</\1>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class HistoryRules:
    """How to treat what the models behind would refuse.

    Attributes:
        strict: refuse instead of repair.
        media_placeholder: replace images and the like in earlier turns and tool results by a visible note instead of refusing them.
        tool_blocks: False writes past calls and results as text, for models that take no tool blocks.
    """

    strict: bool = False
    media_placeholder: bool = False
    tool_blocks: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """What `messages` became: the leading system text (may be empty), the turns after it, and the repairs made, in words."""

    system: str
    turns: tuple[upstream.Message, ...]
    repairs: tuple[str, ...]


@dataclass(slots=True)
class _Call:
    client_id: str
    path: str
    block: upstream.ToolUseBlock
    result: upstream.ToolResultBlock | None = None


@dataclass(slots=True)
class _Turn:
    """A turn under construction: an assistant's with its calls, or a user's."""

    role: _Role
    texts: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        return any(call.result is not None for call in self.calls)


def translate_messages(
    messages: Sequence[chat.Message], names: Mapping[str, str], rules: HistoryRules = HistoryRules()
) -> Conversation:
    """Translate a whole history.

    Args:
        messages: the request's, in order.
        names: tool name → its name upstream, for every name in the history.
        rules: see HistoryRules.

    Raises:
        InvalidRequest: a part cannot be expressed, or the history needs a repair and `rules.strict`; `param` is its path.
    """
    system: list[str] = []
    history = _History(names, rules, last_user=_last_user(messages))
    leading = True
    for index, message in enumerate(messages):
        leading = leading and isinstance(message, chat.SystemMessage)
        if leading and isinstance(message, chat.SystemMessage):
            system += _texts(message.content, f"messages[{index}].content")
        else:
            history.add(message, f"messages[{index}]")
    turns = history.turns_upstream(end=f"messages[{len(messages) - 1}]")
    if not rules.tool_blocks:
        turns = [_without_tool_blocks(turn) for turn in turns]
    return Conversation("\n\n".join(system), tuple(turns), tuple(dict.fromkeys(history.repairs)))


def called_names(messages: Sequence[chat.Message]) -> Iterator[str]:
    """Every tool name that a history mentions as called."""
    for message in messages:
        if not isinstance(message, chat.AssistantMessage):
            continue
        yield from (call.function.name for call in message.tool_calls or ())
        if message.function_call:
            yield message.function_call.name
        if isinstance(message.content, list):
            yield from (part.name for part in message.content if isinstance(part, chat.ToolUsePart))


def _last_user(messages: Sequence[chat.Message]) -> str:
    last = max((i for i, message in enumerate(messages) if isinstance(message, chat.UserMessage)), default=-1)
    return f"messages[{last}]"


class _History:
    """Collects turns, pairing each result with its call wherever the client put it."""

    def __init__(self, names: Mapping[str, str], rules: HistoryRules, last_user: str) -> None:
        self.names = names
        self.rules = rules
        self.last_user = last_user
        self.turns: list[_Turn] = []
        self.repairs: list[str] = []
        self.client_ids: set[str] = set()
        self.ids: set[str] = set()

    def add(self, message: chat.Message, path: str) -> None:
        placeholder = self.rules.media_placeholder and path != self.last_user
        match message:
            case chat.SystemMessage():
                texts = _texts(message.content, f"{path}.content", placeholder)
                self._turn("user").texts += [f"[{message.role} message]\n{text}" for text in texts]
            case chat.UserMessage():
                answered = self._add_anthropic_results(message, f"{path}.content")
                texts = _texts(message.content, f"{path}.content", placeholder)
                if not texts and not answered:
                    self._repair("an empty turn was left out", f"{path}.content", "the message is empty")
                self._turn("user").texts += texts
            case chat.AssistantMessage():
                self._add_assistant(message, path, placeholder)
            case chat.ToolMessage(content=[chat.ToolResultItem(), *_] as items):
                for index, item in enumerate(items):
                    if isinstance(item, chat.ToolResultItem):
                        self._add_result(self._call_of_id(item.tool_call_id), item, f"{path}.content[{index}]")
            case chat.ToolMessage(tool_call_id=None):
                self._repair(
                    "a result without an id was given to the first call that had none", path, "tool_call_id is missing"
                )
                self._add_result(self._waiting_call(lambda call: True), message, path)
            case chat.ToolMessage(tool_call_id=str(client_id)):
                self._add_result(self._call_of_id(client_id), message, path)
            case chat.FunctionMessage():
                safe = self.names.get(message.name)
                self._add_result(self._waiting_call(lambda call: call.block.name == safe), message, path)
            case _:
                raise InvalidRequest(f"`{path}.role` is unknown.", param=f"{path}.role")

    def turns_upstream(self, end: str) -> list[upstream.Message]:
        turns: list[upstream.Message] = []
        for turn in self.turns:
            blocks: list[upstream.Block] = [upstream.TextBlock(text=text) for text in turn.texts]
            _append(turns, turn.role, [*blocks, *(call.block for call in turn.calls)])
            _append(turns, "user", [self._result(call) for call in turn.calls])
        stand_in = upstream.TextBlock(text=CONTINUE)
        if not turns or turns[0].role == "assistant":
            self._repair("the conversation was opened with a user turn", "messages", "the first turn is not the user's")
            turns.insert(0, upstream.Message(role="user", content=(stand_in,)))
        if turns[-1].role == "assistant":
            self._repair("a user turn was added at the end", f"{end}.role", "the last turn is the assistant's")
            turns.append(upstream.Message(role="user", content=(stand_in,)))
        return turns

    def _turn(self, role: _Role) -> _Turn:
        """The turn to add to: the last one if it is that role's and, being the assistant's, still waits for all its results."""
        if not self.turns or self.turns[-1].role != role or self.turns[-1].answered:
            self.turns.append(_Turn(role))
        return self.turns[-1]

    def _add_assistant(self, message: chat.AssistantMessage, path: str, placeholder: bool) -> None:
        turn = self._turn("assistant")
        before = len(turn.texts) + len(turn.calls)
        turn.texts += _assistant_texts(message, path, placeholder)
        for index, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if isinstance(part, chat.ToolUsePart):
                function = chat.CalledFunction(name=part.name, arguments=part.input)
                self._add_call(turn, part.id, function, f"{path}.content[{index}]")
        for index, call in enumerate(message.tool_calls or ()):
            self._add_call(turn, call.id or "", call.function, f"{path}.tool_calls[{index}]")
        if message.function_call:
            self._add_call(turn, "", message.function_call, f"{path}.function_call")
        if len(turn.texts) + len(turn.calls) == before:
            self._repair("an empty turn was left out", path, "the message has neither text nor calls")

    def _add_call(self, turn: _Turn, client_id: str, function: chat.CalledFunction, path: str) -> None:
        if client_id and client_id in self.client_ids:
            self._repair("a call with an id that was used before got another one", path, "its id was used before")
        self.client_ids.add(client_id)
        past = _arguments(function.arguments)
        if past is None:
            self._repair(
                "past arguments that are no JSON object were wrapped", path, "its arguments are no JSON object"
            )
        block = upstream.ToolUseBlock(
            tool_use_id=unique_safe(client_id or "call", self.ids),
            name=self.names[function.name],
            input={"raw_arguments": function.arguments} if past is None else past,
        )
        self.ids.add(block.tool_use_id)
        turn.calls.append(_Call(client_id, path, block))

    def _add_anthropic_results(self, message: chat.UserMessage, path: str) -> bool:
        """Returns whether there were any."""
        results = [
            (index, part)
            for index, part in enumerate(message.content if isinstance(message.content, list) else ())
            if isinstance(part, chat.ToolResultPart)
        ]
        for index, part in results:
            self._add_result(self._call_of_id(part.tool_use_id), part, f"{path}[{index}]", is_error=part.is_error)
        return bool(results)

    def _add_result(self, call: _Call | None, answer: _Answer, path: str, is_error: bool | None = None) -> None:
        texts = _result_texts(answer.content, f"{path}.content", self.rules.media_placeholder) or [EMPTY_RESULT]
        if call is None:
            self._repair(
                "a tool result without its call was kept as text", path, "no earlier call waits for this result"
            )
            self._turn("user").texts.append("[Result of an earlier tool call]\n" + "\n".join(texts))
            return
        if all(call is not each for each in self.turns[-1].calls):
            self._repair("a tool result was moved to its call", path, "it does not follow its call")
        call.result = upstream.ToolResultBlock(
            tool_use_id=call.block.tool_use_id,
            content=tuple(upstream.TextBlock(text=text) for text in texts),
            is_error=is_error or None,
        )

    def _call_of_id(self, client_id: str) -> _Call | None:
        return self._waiting_call(lambda call: call.client_id == client_id)

    def _waiting_call(self, matches: Callable[[_Call], bool]) -> _Call | None:
        """The newest turn's first unanswered call that matches: clients reuse ids from turn to turn."""
        for turn in reversed(self.turns):
            for call in turn.calls:
                if call.result is None and matches(call):
                    return call
        return None

    def _result(self, call: _Call) -> upstream.ToolResultBlock:
        if call.result is not None:
            return call.result
        self._repair("a call without a result was given a neutral one", call.path, "no tool message answers this call")
        return upstream.ToolResultBlock(
            tool_use_id=call.block.tool_use_id, content=(upstream.TextBlock(text=NO_RESULT),)
        )

    def _repair(self, what: str, path: str, fault: str) -> None:
        if self.rules.strict:
            raise InvalidRequest(f"Invalid history at `{path}`: {fault}.", param=path, code="invalid_history")
        self.repairs.append(f"messages: {what}")


def _append(turns: list[upstream.Message], role: _Role, blocks: Sequence[upstream.Block]) -> None:
    """Add blocks as a turn, or to the last one where that is the same role's."""
    if not blocks:
        return
    if turns and turns[-1].role == role:
        turns[-1] = upstream.Message(role=role, content=(*turns[-1].content, *blocks))
    else:
        turns.append(upstream.Message(role=role, content=tuple(blocks)))


def _assistant_texts(message: chat.AssistantMessage, path: str, placeholder: bool) -> list[str]:
    """The assistant's text, without the reasoning that clients send back with it."""
    texts = _texts(message.content, f"{path}.content", placeholder)
    if isinstance(message.refusal, str) and message.refusal.strip():
        texts.append(message.refusal)
    return [text for text in (_THOUGHTS.sub("", text).rstrip() for text in texts) if text]


def _texts(content: chat.Content | None, path: str, placeholder: bool = False) -> list[str]:
    """The texts of a message's content, blank ones left out."""
    if content is None or isinstance(content, str):
        return [content] if content and content.strip() else []
    texts: list[str] = []
    for index, part in enumerate(content):
        match part:
            case chat.TextPart():
                texts.append(part.text)
            case chat.RefusalPart():
                texts.append(part.refusal)
            case chat.MediaPart() if placeholder:
                texts.append(f"[{part.type} left out: this model reads text only]")
            case chat.MediaPart():
                raise InvalidRequest(
                    f"`{path}[{index}].type`: content of type {part.type[:40]!r} is not supported; expected 'text'.",
                    param=f"{path}[{index}].type",
                    code="unsupported_content",
                )
            case _:
                pass  # calls and results have a place of their own; reasoning is kept out of the prompt
    return [text for text in texts if text.strip()]


def _result_texts(content: chat.ToolContent | None, path: str, placeholder: bool) -> list[str]:
    match content:
        case dict():
            return [dump_json(content)]
        case list():
            parts = [part for part in content if not isinstance(part, chat.ToolResultItem)]
            if len(parts) < len(content):
                raise InvalidRequest(f"`{path}`: a tool result cannot hold further results.", param=path)
            return _texts(parts, path, placeholder)
        case _:
            return _texts(content, path, placeholder)


def _arguments(arguments: str | upstream.JsonObject | None) -> upstream.JsonObject | None:
    """Past arguments as an object; None for what is not one. It is what the model wrote, and must not get lost."""
    if isinstance(arguments, dict):
        return arguments
    if arguments is None or not arguments.strip():
        return {}
    try:
        value = parse_json(arguments)
    except NotJson:
        return None
    return value if isinstance(value, dict) else None


def _without_tool_blocks(turn: upstream.Message) -> upstream.Message:
    return upstream.Message(role=turn.role, content=tuple(_as_text(block) for block in turn.content))


def _as_text(block: upstream.Block) -> upstream.TextBlock:
    match block:
        case upstream.ToolUseBlock():
            return upstream.TextBlock(text=f"[Called {block.name} ({block.tool_use_id}) with {dump_json(block.input)}]")
        case upstream.ToolResultBlock():
            result = "\n".join(text.text for text in block.content)
            return upstream.TextBlock(text=f"[Result of {block.tool_use_id}]\n{result}")
        case _:
            return block
