"""Histories as clients keep them → turns that strict models take.

Turns alternate and begin and end with the user's; each call of an assistant turn is answered first in the very next user turn; ids
and tool names are safe and unique; no text is blank. A history that is not so is repaired, and each repair is reported, or refused.
The work is linear in the number of blocks. Sources: contracts `heroku-chat.md` (Request) and `narrative.md` (Messages).
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Literal

from proxy.errors import InvalidRequest
from proxy.inference.jsontext import dump_json
from proxy.inference.request import Block, Media, Message, Rules, Text, Tool, ToolCall, ToolResult

CONTINUE = "Please continue."
"""Stands in where a user turn is due and the client has none."""
NO_RESULT = "Result not available."
EMPTY_RESULT = "(empty result)"

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 64
_REASONING = re.compile(r"\s*<(think|thinking|thought)>.*?</\1>\s*", re.DOTALL)

TurnRole = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn, never empty.

    Attributes:
        content: of the user's, results before texts; of the assistant's, texts before calls. Calls carry safe names and ids and a JSON
            object as arguments; results consist of texts that are not blank.
    """

    role: TurnRole
    content: tuple[Text | ToolCall | ToolResult, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A repaired history, the text of its leading system and developer messages, and what was changed, as sentences, each once."""

    system: str
    turns: tuple[Turn, ...]
    repairs: tuple[str, ...]


def repair(
    messages: Sequence[Message], names: Mapping[str, str], rules: Rules, *, tool_blocks: bool = True
) -> Conversation:
    """Repair a whole history.

    Args:
        messages: the request's, in order; not empty.
        names: tool name → its safe name, for every name that is called; see `upstream_names`.
        rules: `strict_history` and `media_placeholder` count here.
        tool_blocks: False writes calls and results as text, for models that take no tool blocks.

    Raises:
        InvalidRequest: a block cannot be expressed, or the history needs a repair and `rules.strict_history`; `param` is its path.
    """
    leading = 0
    instructions: list[str] = []
    while leading < len(messages) and messages[leading].role in ("system", "developer"):
        instructions += [text.text for text in _texts(messages[leading].content)]
        leading += 1
    system = "\n\n".join(instructions)
    if leading == len(messages) - 1 and (texts := _question(messages[leading])):
        return Conversation(system, (Turn("user", texts),), ())
    history = _History(names, rules, messages)
    for message in messages[leading:]:
        history.add(message)
    turns = history.finish()
    if not tool_blocks:
        turns = [Turn(turn.role, tuple(_as_text(block) for block in turn.content)) for turn in turns]
    return Conversation(system, tuple(turns), tuple(history.repairs))


def upstream_names(tools: Iterable[Tool], messages: Iterable[Message]) -> Mapping[str, str]:
    """The name of each tool, and of each one that a history mentions as called → a unique one of 1 to 64 letters, digits, `_` and `-`.
    Names that are safe already keep themselves."""
    distinct = dict.fromkeys(map(attrgetter("name"), tools))
    for message in messages:
        for block in message.content:
            if isinstance(block, ToolCall):
                distinct[block.name] = None
    if not distinct:
        return {}
    chosen = {name: name for name in distinct if name and _safe(name) == name}
    safe_names = _SafeNames(chosen)
    return chosen | {name: safe_names.claim(name) for name in distinct if name not in chosen}


class _SafeNames:
    """Gives out safe names, each once; linear in the number of names even when all are alike."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._counts: dict[str, int] = {}

    def claim(self, wanted: str) -> str:
        """`wanted` itself where that will do, else one like it."""
        stem = _safe(wanted) or "_"
        name, count = stem, self._counts.get(stem, 1)
        while name in self._taken:
            count += 1
            suffix = f"_{count}"
            name = stem[: _LONGEST_NAME - len(suffix)] + suffix
        self._counts[stem] = count
        self._taken.add(name)
        return name


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name[:_LONGEST_NAME])


@dataclass(slots=True, eq=False)
class _Call:
    """A past call, as it will be sent.

    Attributes:
        turn: number of the turn it was made in.
        repeats: another call of its turn has the same id, name and arguments: clients write one call in two spellings.
    """

    block: ToolCall
    turn: int
    repeats: bool = False
    result: ToolResult | None = None


@dataclass(slots=True, eq=False)
class _OpenTurn:
    """A turn under construction: an assistant's with its calls, or a user's. `answered`: one of its calls has its result."""

    role: TurnRole
    texts: list[Text] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    answered: bool = False


class _History:
    """Collects turns, pairing each result with its call wherever the client put it."""

    def __init__(self, names: Mapping[str, str], rules: Rules, messages: Sequence[Message]) -> None:
        self.repairs: dict[str, None] = {}
        self._names = names
        self._rules = rules
        self._last_user = next((message for message in reversed(messages) if _is_users(message)), None)
        self._end = messages[-1].path if messages else ""
        self._root = self._end.rpartition("[")[0] or "messages"
        self._turns: list[_OpenTurn] = []
        self._ids = _SafeNames()
        self._known_ids: set[str] = set()
        self._calls_of_turn: set[tuple[str, str, str]] = set()
        # Calls without results by a key, those of each turn apart.
        self._waiting: dict[tuple[str, ...], list[deque[_Call]]] = {}
        self._unpaired: list[tuple[ToolResult, list[Text]]] = []

    def add(self, message: Message) -> None:
        """Add the next message, as far as it can be placed before those that follow are known."""
        results = [block for block in message.content if isinstance(block, ToolResult)]
        if message.role == "user":
            for result in results:
                self._add_result(result)
            if results and len(results) == len(message.content):
                return
        self._pair_the_rest()
        placeholder = self._rules.media_placeholder and message is not self._last_user
        match message.role:
            case "assistant":
                turn = self._turn("assistant")
                before = len(turn.texts) + len(turn.calls)
                for text in _texts(message.content, placeholder):  # without the reasoning that clients send back in it
                    reasoning = _REASONING.match(text.text)
                    if kept := text.text[reasoning.end() if reasoning else 0 :].rstrip():
                        turn.texts.append(Text(kept, text.path))
                for block in message.content:
                    if isinstance(block, ToolCall):
                        self._add_call(turn, block)
                if len(turn.texts) + len(turn.calls) == before:
                    self._repair("an empty turn was left out", message.path, "the message has neither text nor calls")
            case "user":
                texts = list(_texts(message.content, placeholder))
                if not texts and not results:
                    self._repair("an empty turn was left out", f"{message.path}.content", "the message is empty")
                self._turn("user").texts += texts
            case role:
                self._turn("user").texts += [
                    Text(f"[{role} message]\n{text.text}", text.path) for text in _texts(message.content, placeholder)
                ]

    def finish(self) -> list[Turn]:
        """All turns, opened and closed by the user's."""
        self._pair_the_rest()
        blocks: list[tuple[TurnRole, Text | ToolCall | ToolResult]] = []
        for turn in self._turns:
            calls = [call for call in turn.calls if self._counts(call)]
            blocks += [(turn.role, text) for text in turn.texts]
            blocks += [(turn.role, call.block) for call in calls]
            blocks += [("user", self._result(call)) for call in calls]
        if not blocks or blocks[0][0] == "assistant":
            self._repair("the conversation was opened with a user turn", self._root, "the first turn is not the user's")
            blocks.insert(0, ("user", Text(CONTINUE)))
        if blocks[-1][0] == "assistant":
            self._repair("a user turn was added at the end", f"{self._end}.role", "the last turn is the assistant's")
            blocks.append(("user", Text(CONTINUE)))
        return [Turn(role, tuple(block for _, block in group)) for role, group in groupby(blocks, key=itemgetter(0))]

    def _turn(self, role: TurnRole) -> _OpenTurn:
        """The turn to add to: the last one if it is that role's and, being the assistant's, still waits for all its results."""
        if not self._turns or self._turns[-1].role != role or self._turns[-1].answered:
            self._turns.append(_OpenTurn(role))
            self._calls_of_turn.clear()
        return self._turns[-1]

    # ------------------------------------------------------------ calls

    def _add_call(self, turn: _OpenTurn, source: ToolCall) -> None:
        arguments = source.arguments
        if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
            arguments = {}
        elif not isinstance(arguments, dict):  # it is what the model wrote, and must not get lost
            what = "past arguments that are no JSON object were wrapped"
            self._repair(what, source.path, "its arguments are no JSON object")
            arguments = {"raw_arguments": arguments}
        same = (source.id, source.name, repr(arguments)) if source.id else None
        repeats = same in self._calls_of_turn
        if source.id in self._known_ids and (self._rules.strict_history or not repeats):
            self._reused_id(source.path)
        if same is not None:
            self._known_ids.add(source.id)
            self._calls_of_turn.add(same)
        block = ToolCall(self._ids.claim(source.id or "call"), self._names[source.name], arguments, source.path)
        call = _Call(block, len(self._turns), repeats)
        turn.calls.append(call)
        for key in (("id", source.id), ("name", source.name), ("any",)):
            stack = self._waiting.setdefault(key, [])
            if not stack or stack[-1][0].turn != call.turn:
                stack.append(deque())
            stack[-1].append(call)

    def _reused_id(self, path: str) -> None:
        self._repair("a call with an id that was used before got another one", path, "its id was used before")

    def _counts(self, call: _Call) -> bool:
        """Whether a call is one of its own: one that repeats another is when it has a result of its own."""
        if not call.repeats:
            return True
        if call.result is None:
            self._repair("a call that was made twice counts once", call.block.path, "its id was used before")
            return False
        self._reused_id(call.block.path)
        return True

    # ------------------------------------------------------------ results

    def _first_waiting(self, *key: str) -> _Call | None:
        """The call that a result of this key belongs to: the newest turn's first one, since clients reuse ids from turn to turn."""
        stack = self._waiting.get(key, [])
        while stack:
            # Every call is removed at most once from each list it is in.
            while stack[-1] and stack[-1][0].result is not None:
                stack[-1].popleft()
            if stack[-1]:
                return stack[-1][0]
            stack.pop()
        return None

    def _add_result(self, result: ToolResult) -> None:
        texts = list(_texts(result.content, self._rules.media_placeholder)) or [Text(EMPTY_RESULT)]
        call = None
        if result.call_id:
            call = self._first_waiting("id", result.call_id)
        elif result.name is not None:
            call = self._first_waiting("name", result.name)
        if call is None:
            self._unpaired.append((result, texts))
        else:
            self._pair(call, result, texts)

    def _pair_the_rest(self) -> None:
        """Pair results that name no call with the calls that have no id, now that all results of the turn are known."""
        unpaired, self._unpaired = self._unpaired, []
        for result, texts in unpaired:
            call = None
            if result.call_id:
                call = self._first_waiting("id", "")
                if call is not None and call.turn == len(self._turns):
                    what = "a result with an unknown id was given to the call that had none"
                    self._repair(what, result.path, "no earlier call has its id")
                else:
                    call = None
            elif result.name is None:
                what = "a result without an id was given to the first call that had none"
                self._repair(what, result.path, "it does not name its call")
                call = self._first_waiting("id", "") or self._first_waiting("any")
            if call is not None:
                self._pair(call, result, texts)
                continue
            what = "a tool result without its call was kept as text"
            self._repair(what, result.path, "no earlier call waits for this result")
            note = "\n".join(("[Result of an earlier tool call]", *(text.text for text in texts)))
            self._turn("user").texts.append(Text(note, result.path))

    def _pair(self, call: _Call, result: ToolResult, texts: list[Text]) -> None:
        if call.turn != len(self._turns):
            self._repair("a tool result was moved to its call", result.path, "it does not follow its call")
        call.result = ToolResult(call.block.id, tuple(texts), result.is_error, path=result.path)
        self._turns[call.turn - 1].answered = True

    def _result(self, call: _Call) -> ToolResult:
        if call.result is not None:
            return call.result
        what = "a call without a result was given a neutral one"
        self._repair(what, call.block.path, "no tool message answers this call")
        return ToolResult(call.block.id, (Text(NO_RESULT),))

    def _repair(self, what: str, path: str, fault: str) -> None:
        if self._rules.strict_history:
            raise InvalidRequest(f"Invalid history at `{path}`: {fault}.", param=path, code="invalid_history")
        self.repairs[f"{self._root}: {what}"] = None


def _question(message: Message) -> tuple[Text, ...]:
    """The texts of a user's message that needs no repair if it is the only one: text that is not blank, and nothing else."""
    texts = []
    for block in message.content:
        if not isinstance(block, Text):
            return ()
        if block.text.strip():
            texts.append(block)
    return tuple(texts) if message.role == "user" else ()


def _is_users(message: Message) -> bool:
    """Whether the user wrote it; results of tools are in user messages too."""
    blocks = message.content
    return message.role == "user" and not (blocks and all(isinstance(block, ToolResult) for block in blocks))


def _texts(content: Iterable[Block], placeholder: bool = False) -> Iterator[Text]:
    """The texts of a message or result, blank ones left out; calls and results have a place of their own."""
    for block in content:
        match block:
            case Text():
                if block.text.strip():
                    yield block
            case Media() if placeholder:
                yield Text(f"[{block.kind} left out: this model reads text only]", block.path)
            case Media():
                raise InvalidRequest(
                    f"`{block.path}.type`: content of type {block.kind[:40]!r} is not supported; expected 'text'.",
                    param=f"{block.path}.type",
                    code="unsupported_content",
                )


def _as_text(block: Text | ToolCall | ToolResult) -> Text:
    match block:
        case ToolCall():
            return Text(f"[Called {block.name} ({block.id}) with {dump_json(block.arguments)}]")
        case ToolResult():
            return Text("\n".join((f"[Result of {block.call_id}]", *(text.text for text in _texts(block.content)))))
        case _:
            return block
