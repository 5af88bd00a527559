"""A small deterministic model: it greets, adds, calls tools that the user names, reports their results, echoes everything
else, and fills any output schema.

A schema offers tools by an array `tool_calls` whose items have one of three forms, recognised by their shape alone:

    keyed     {"<tool>": {…arguments}}                      one property per tool
    tagged    {"name": "<tool>", "arguments": {…}}          one alternative per tool
    text      {"name": "<tool>", "arguments": "{…}"}        arguments as JSON text
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from proxy.sandbox.submission import SandboxTurn, ScriptedCall, without_directives
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
_INSIGNIFICANT = frozenset(
    ("a", "an", "the", "and", "or", "by", "do", "for", "from", "get", "in", "is", "my", "of", "on", "to", "your")
)


@dataclass(frozen=True)
class SchemaTool:
    """One tool; `parameters` is the schema of its arguments, empty when the output schema does not have it."""

    name: str
    parameters: Mapping[str, Any]

    @property
    def words(self) -> frozenset[str]:
        """The significant words of its name: all but articles, prepositions and the like."""
        words = frozenset(words_of(self.name))
        return frozenset(map(_singular, words - _INSIGNIFICANT or words))

    def find(self, text: str, then: str = "") -> "re.Match[str] | None":
        """Its name as it is written, followed by the pattern `then`."""
        return re.search(rf"(?<![\w-]){re.escape(self.name)}(?![\w-]){then}", text)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


@dataclass(frozen=True)
class ToolOffer:
    """The tools of one schema, how a call is written, and how many calls there may be."""

    form: Literal["keyed", "tagged", "text"]
    tools: tuple[SchemaTool, ...]
    at_least: int
    at_most: int | None

    def encode(self, name: str, arguments: Any) -> dict[str, Any]:
        """One item of `tool_calls`. Arguments given as a string stay unchanged."""
        if self.form == "keyed":
            return {name: arguments}
        if self.form == "text" and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {"name": name, "arguments": arguments}

    def choose(self, question: str, done: frozenset[str], *, wanted: bool) -> list[SchemaTool]:
        """The tools to call: those that the question names and that are not done, and as many as the schema demands.
        With `wanted=False` only the latter.
        """
        said = frozenset(map(_singular, words_of(question)))
        named = [tool for tool in self.tools if (tool.words and tool.words <= said) or tool.find(question)]
        # "weather forecast" means get_weather_forecast, not get_weather.
        named = [tool for tool in named if not any(tool.words < other.words for other in named)]
        chosen = [tool for tool in named if wanted and tool.name not in done][: self.at_most]
        if self.tools and len(chosen) < self.at_least:
            fresh = [tool for tool in self.tools if tool.name not in done] or self.tools
            default = max(fresh, key=lambda tool: len(tool.words & said) / (len(tool.words) or 1))
            chosen += [default] * (self.at_least - len(chosen))
        return chosen


def read_offer(schema: Mapping[str, Any]) -> ToolOffer | None:
    """The tools that a root schema offers, None when it offers none."""
    calls = _part(schema, "tool_calls")
    items, least, most = calls.get("items"), int(calls.get("minItems", 0)), calls.get("maxItems")
    if not isinstance(items, Mapping) or least > _MAX_CALLS:
        return None
    branches = items.get("anyOf") or items.get("oneOf") or [items]
    tagged = [
        SchemaTool(name, _part(branch, "arguments"))
        for branch in branches
        for name in _part(branch, "name").get("enum", [_part(branch, "name").get("const")])
        if isinstance(name, str) and {"name", "arguments"} == branch["properties"].keys()
    ]
    if tagged and all(tool.parameters.get("type") == "string" for tool in tagged):
        return ToolOffer("text", tuple(SchemaTool(tool.name, {}) for tool in tagged), least, most)
    if tagged:
        return ToolOffer("tagged", tuple(tagged), least, most)
    keyed = tuple(SchemaTool(name, _part(items, name)) for name in items.get("properties", {}))
    return ToolOffer("keyed", keyed, least, most) if keyed else None


def _part(schema: Any, name: str) -> Mapping[str, Any]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    part = properties.get(name) if isinstance(properties, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _described_parameters(tool: SchemaTool, text: str) -> Mapping[str, Any]:
    """The JSON Schema that a text gives after the tool's name, for arguments that are JSON text."""
    found = tool.find(text, then=r"[^{]{0,2000}(?=\{)")
    try:
        value = json.JSONDecoder().raw_decode(text, found.end())[0] if found else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) and value.get("type") == "object" else {}


@dataclass(frozen=True)
class ConversationState:
    """What the model knows of a conversation: `question` is the text of the last user turn without tool results, `done` the
    tools whose results came since, and `report` those results as text, None when the last turn has none.
    """

    question: str
    done: frozenset[str]
    report: str | None
    last_answer: str
    system: str

    @classmethod
    def read(cls, turns: Sequence[SandboxTurn]) -> "ConversationState":
        """From checked turns, the last of which is the user's."""
        names = {call.tool_use_id: call.name for turn in turns for call in turn.calls}
        user_turns = [at for at, turn in enumerate(turns) if turn.role == "user"]
        asked = next((at for at in reversed(user_turns) if not turns[at].results), user_turns[-1])
        results = [
            (names.get(each.tool_use_id, "The tool"), "failed" if each.is_error else "returned", each.text)
            for turn in turns[asked:]
            for each in turn.results
        ]
        lines = [f"{name} {verb}: {without_directives(text).strip() or 'nothing'}" for name, verb, text in results]
        return cls(
            question=without_directives(turns[asked].text).strip(),
            done=frozenset(name for name, _, _ in results),
            report="\n".join(lines) if turns[-1].results else None,
            last_answer=next((turn.text for turn in reversed(turns) if turn.role == "assistant"), ""),
            system="\n".join(turn.text for turn in turns if turn.role == "system"),
        )

    def answer(self) -> str:
        """The text of the answer, when no tool is called."""
        if self.report is not None:
            return self.report
        if _GREETING.fullmatch(self.question):
            return _HELLO
        if len(self.question) > _MAX_ECHO:
            return f"You said {len(self.question)} characters, beginning with: {self.question[:_MAX_ECHO]}…"
        if found := _SUM.search(self.question):
            left, right = int(found[1]), int(found[3])
            result = {"+": left + right, "-": left - right}.get(found[2], left * right)
            return f"{found[0]} = {result}"
        return f"You said: {self.question}" if self.question else "Your message is empty."


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
        conversation = ConversationState.read(turns)
        chosen = self._calls(conversation, calls, wanted=text is None)
        said = text if text is not None else "" if chosen else conversation.answer()
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
        done = conversation.done | {tool.name for tool in offer.tools if tool.find(last_answer, then=r"[^\n{]{0,40}\{")}
        calls = []
        for tool in offer.choose(question, done, wanted=wanted):
            parameters = tool.parameters or _described_parameters(tool, conversation.system)
            maker = ValueMaker(question, optional=False, ignored=words_of(tool.name))
            arguments = maker.make({"type": "object", **parameters})
            calls.append(offer.encode(tool.name, arguments))
        return calls


def _is_free_text(schema: Mapping[str, Any]) -> bool:
    """Whether a property may hold any text."""
    return "string" in schema.get("type", ()) and {"type", "title", "description"}.issuperset(schema)
