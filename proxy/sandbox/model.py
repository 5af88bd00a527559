"""A small deterministic model: it greets, adds, calls tools that the user names, reports their results, echoes everything
else, and fills any output schema.

A schema offers tools by an array `tool_calls` whose items have one of three forms, recognised by their shape alone:

    keyed     {"<tool>": {…arguments}}                      one property per tool
    tagged    {"name": "<tool>", "arguments": {…}}          one alternative per tool
    text      {"name": "<tool>", "arguments": "{…}"}        arguments as JSON text
"""

import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from proxy.sandbox.submission import SandboxTurn, ScriptedCall, TextContent, without_directives
from proxy.sandbox.values import READ_CHARACTERS, ValueMaker, words_of

_MAX_ECHO = 400
_MAX_CALLS = 100
_TEXT_PROPERTIES = ("content", "answer", "message", "reply", "response", "text", "output", "result")
"""Root properties that hold free text, the most likely first."""

_GREETING = re.compile(r"\W*(?:hi|hello|hey|good (?:morning|afternoon|evening))\b[^.?!]{0,30}[.?!]*", re.IGNORECASE)
_SUM = re.compile(r"(?<![\w.-])(-?\d{1,15}) *([-+*×]) *(-?\d{1,15})(?![\w.-])")
_HELLO = (
    "Hello! This is the sandbox, a stand-in for a real model. I call the tools you ask for and repeat everything else."
)
_OTHER_ROLE = re.compile(r"\[(?:system|developer) message\]\n")
_OPENING_TAG, _CLOSING_TAG = re.compile(r"<[a-z]+[-_][a-z_-]+>"), re.compile(r"</[a-z]+[-_][a-z_-]+>\Z")
"""Around a text block of a user turn that an agent wrote, such as `<system-reminder>`."""
_INSIGNIFICANT = frozenset(
    ("a", "an", "the", "and", "or", "by", "do", "for", "from", "get", "in", "is", "my", "of", "on", "to", "your")
)


def _significant(name: str) -> frozenset[str]:
    """The words of a tool's name, in the singular; without articles, prepositions and the like, unless there is nothing else."""
    words = frozenset(words_of(name))
    return frozenset(map(_singular, words - _INSIGNIFICANT or words))


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _find(name: str, text: str, then: str = "") -> "re.Match[str] | None":
    """A tool's name as it is written, followed by the pattern `then`."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-]){then}", text)


@dataclass(frozen=True)
class ToolOffer:
    """The tools of one schema, by name with the schemas of their arguments where it has them; how a call is written; and how
    many calls there may be.
    """

    form: Literal["keyed", "tagged", "text"]
    tools: Mapping[str, Mapping[str, Any]]
    at_least: int
    at_most: int | None

    def encode(self, name: str, arguments: Any) -> dict[str, Any]:
        """One item of `tool_calls`. Arguments given as a string stay unchanged."""
        if self.form == "keyed":
            return {name: arguments}
        if self.form == "text" and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {"name": name, "arguments": arguments}

    def choose(self, question: str, done: Set[str], *, wanted: bool) -> list[str]:
        """The tools to call: those that the question names and that are not done, and as many as the schema demands.
        With `wanted=False` only the latter.
        """
        said = frozenset(map(_singular, words_of(question)))
        words = {name: _significant(name) for name in self.tools}
        named = [name for name in self.tools if (words[name] and words[name] <= said) or _find(name, question)]
        # "weather forecast" means get_weather_forecast, not get_weather.
        named = [name for name in named if not any(words[name] < words[other] for other in named)]
        chosen = [name for name in named if wanted and name not in done][: self.at_most]
        fresh = [name for name in self.tools if name not in done] or self.tools
        nearest = max(fresh, key=lambda name: len(words[name] & said) / (len(words[name]) or 1))
        return chosen + [nearest] * (self.at_least - len(chosen))


def read_offer(schema: Mapping[str, Any]) -> ToolOffer | None:
    """The tools that a root schema offers, None when it offers none."""
    calls = _part(schema, "tool_calls")
    items, least, most = calls.get("items"), int(calls.get("minItems", 0)), calls.get("maxItems")
    if not isinstance(items, Mapping) or least > _MAX_CALLS:
        return None
    tagged = {
        name: _part(branch, "arguments")
        for branch in items.get("anyOf") or items.get("oneOf") or [items]
        for name in _part(branch, "name").get("enum", [_part(branch, "name").get("const")])
        if isinstance(name, str) and {"name", "arguments"} == branch["properties"].keys()
    }
    if tagged and all(parameters.get("type") == "string" for parameters in tagged.values()):
        return ToolOffer("text", {name: {} for name in tagged}, least, most)
    tools = tagged or {name: _part(items, name) for name in items.get("properties", {})}
    return ToolOffer("tagged" if tagged else "keyed", tools, least, most) if tools else None


def _part(schema: Any, name: str) -> Mapping[str, Any]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    part = properties.get(name) if isinstance(properties, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _described_parameters(name: str, text: str) -> Mapping[str, Any]:
    """The JSON Schema that a text gives after the tool's name, for arguments that are JSON text."""
    found = _find(name, text, then=r"[^{]{0,2000}(?=\{)")
    try:
        value = json.JSONDecoder().raw_decode(text, found.end())[0] if found else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) and value.get("type") == "object" else {}


class ConversationState:
    """What the model knows of a conversation, given as checked turns: `question` is what the user wrote in the last user turn
    without tool results, `done` the tools whose results came since, and `answer` what it says when it calls no tool.
    """

    def __init__(self, turns: Sequence[SandboxTurn]) -> None:
        names = {call.tool_use_id: call.name for turn in turns for call in turn.calls}
        user_turns = [at for at, turn in enumerate(turns) if turn.role == "user"]
        asked = next((at for at in reversed(user_turns) if not turns[at].results), user_turns[-1])
        results = [(names.get(each.tool_use_id, "The tool"), each) for turn in turns[asked:] for each in turn.results]
        self.question = without_directives(_users_text(turns[asked])).strip()
        self.done = {name for name, _ in results}
        self.last_answer = next((turn.text for turn in reversed(turns) if turn.role == "assistant"), "")
        self.system = "\n".join(turn.text for turn in turns if turn.role == "system")
        self.answer = _answer(self.question)
        if turns[-1].results:
            self.answer = "\n".join(
                f"{name} {'failed' if each.is_error else 'returned'}: {without_directives(each.text).strip() or 'nothing'}"
                for name, each in results
            )


def _users_text(turn: SandboxTurn) -> str:
    """The text of a user turn without the blocks that an agent added; all of it if there is nothing else."""
    texts = [block.text for block in turn.content if isinstance(block, TextContent)]
    return "\n".join([text for text in texts if not _is_added(text)] or texts)


def _is_added(text: str) -> bool:
    text = text.strip()
    if _OPENING_TAG.match(text):
        return _CLOSING_TAG.search(text[-100:]) is not None
    return _OTHER_ROLE.match(text) is not None


def _answer(question: str) -> str:
    if _GREETING.fullmatch(question):
        return _HELLO
    if len(question) > _MAX_ECHO:
        return f"You said {len(question)} characters, beginning with: {question[:_MAX_ECHO]}…"
    if found := _SUM.search(question):
        left, right = int(found[1]), int(found[3])
        result = {"+": left + right, "-": left - right}.get(found[2], left * right)
        return f"{found[0]} = {result}"
    return f"You said: {question}" if question else "Your message is empty."


class SchemaModel:
    """The model for one output schema, which has an object at its root."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._properties: Mapping[str, Any] = schema.get("properties", {})
        self.offer = read_offer(schema)

    def reply(
        self, turns: Sequence[SandboxTurn], *, text: str | None = None, calls: Sequence[ScriptedCall] | None = None
    ) -> Any:
        """An output that matches the schema, or has the scripted text and calls, which need not match it.
        Raises Unsatisfiable: nothing matches the schema.
        """
        conversation = ConversationState(turns)
        chosen = self._calls(conversation, calls, wanted=text is None)
        said = text if text is not None else "" if chosen else conversation.answer
        given = self._given(said, chosen, scripted=text is not None)
        rest = {
            **self._schema,
            "properties": {name: part for name, part in self._properties.items() if name not in given},
            "required": [name for name in self._schema.get("required", ()) if name not in given],
        }
        made: dict[str, Any] = {}
        if rest["properties"] or rest["required"]:
            made = ValueMaker(conversation.question, optional=True).make(rest)
        if not given and not made and self._schema.get("additionalProperties", True) is True:
            return {"message": said}
        made |= given
        # In the order of the schema, as models write it.
        return {name: made[name] for name in dict.fromkeys([*self._properties, *made]) if name in made}

    def _given(self, said: str, chosen: list[dict[str, Any]], *, scripted: bool) -> dict[str, Any]:
        """Root properties whose value is not made from the schema: the calls, the reasoning, the text."""
        given: dict[str, Any] = {} if self.offer is None else {"tool_calls": chosen}
        texts = [name for name, part in self._properties.items() if _is_free_text(part)]
        if "reasoning" in texts:
            given["reasoning"] = "A tool can answer this." if chosen else "I can answer this without calling a tool."
            texts.remove("reasoning")
        answer = self._properties.get("answer")
        if isinstance(answer, Mapping):
            if chosen and "null" in answer.get("type", ()):
                return given | {"answer": None}
            if answer.get("type") == "object" and not answer.get("properties"):
                return given | {"answer": {"message": said}}
        name = next((name for name in _TEXT_PROPERTIES if name in texts), None)
        if name is None and texts and (scripted or len(self._properties) == 1):
            name = texts[0]
        return given if name is None else given | {name: said}

    def _calls(
        self, conversation: ConversationState, scripted: Sequence[ScriptedCall] | None, *, wanted: bool
    ) -> list[dict[str, Any]]:
        offer = self.offer
        if offer is None:
            return []
        if scripted is not None:
            return [offer.encode(call.name, call.arguments) for call in scripted]
        question = conversation.question[:READ_CHARACTERS]
        # Where the history is written as text, a past call is the tool's name and then its arguments.
        last_answer = conversation.last_answer[:READ_CHARACTERS]
        done = conversation.done | {name for name in offer.tools if _find(name, last_answer, then=r"[^\n{]{0,40}\{")}
        calls = []
        for name in offer.choose(question, done, wanted=wanted):
            parameters = offer.tools[name] or _described_parameters(name, conversation.system)
            maker = ValueMaker(question, optional=False, ignored=words_of(name))
            calls.append(offer.encode(name, maker.make({"type": "object", **parameters})))
        return calls


def _is_free_text(schema: Mapping[str, Any]) -> bool:
    """Whether a property may hold any text."""
    return "string" in schema.get("type", ()) and {"type", "title", "description"}.issuperset(schema)
