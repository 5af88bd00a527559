"""A small deterministic model: it greets, adds, calls tools that the user names, reports their results, echoes everything
else, and fills any output schema; docs/sandbox.md says how.
"""

import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from proxy.sandbox.http import SandboxError
from proxy.sandbox.submission import SandboxTurn, ScriptedCall, TextContent, ToolResultContent, without_directives
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


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _find(name: str, text: str, then: str = "") -> "re.Match[str] | None":
    """A tool's name as it is written, followed by the pattern `then`."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-]){then}", text)


@dataclass(frozen=True)
class ToolOffer:
    """The tools of one schema, by name with the schemas of their arguments where it has them, and how many calls there may be. A call
    is `{"<tool>": {…}}` (keyed), or `{"name": "<tool>", "arguments": …}` with arguments as an object (tagged) or as JSON text (text).
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

    def choose(
        self, question: str, turns: Sequence[SandboxTurn], done: Set[str], *, wanted: bool
    ) -> list[dict[str, Any]]:
        """The items of `tool_calls`: calls of the tools that the question names and that are not done, and as many as the schema
        demands. With `wanted=False` only the latter.
        """
        question = question[:READ_CHARACTERS]
        # Where the history is written as text, a past call is the tool's name and then its arguments.
        answer = next((turn.text for turn in reversed(turns) if turn.role == "assistant"), "")[:READ_CHARACTERS]
        done = done | {name for name in self.tools if _find(name, answer, then=r"[^\n{]{0,40}\{")}
        said = frozenset(map(_singular, words_of(question)))
        words = {}
        for name in self.tools:
            all_words = frozenset(words_of(name))
            words[name] = frozenset(map(_singular, all_words - _INSIGNIFICANT or all_words))
        named = [name for name in self.tools if (words[name] and words[name] <= said) or _find(name, question)]
        # "weather forecast" means get_weather_forecast, not get_weather.
        named = [name for name in named if not any(words[name] < words[other] for other in named)]
        chosen = [name for name in named if wanted and name not in done][: self.at_most]
        fresh = [name for name in self.tools if name not in done] or self.tools
        nearest = max(fresh, key=lambda name: len(words[name] & said) / (len(words[name]) or 1))
        system = "\n".join(turn.text for turn in turns if turn.role == "system")
        calls = []
        for name in chosen + [nearest] * (self.at_least - len(chosen)):
            parameters = self.tools[name] or _described_parameters(name, system)
            maker = ValueMaker(question, optional=False, ignored=words_of(name))
            calls.append(self.encode(name, maker.make({"type": "object", **parameters})))
        return calls


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


def _is_added(text: str) -> bool:
    text = text.strip()
    if _OPENING_TAG.match(text):
        return _CLOSING_TAG.search(text[-100:]) is not None
    return _OTHER_ROLE.match(text) is not None


def _answer(question: str, results: Sequence[tuple[str, ToolResultContent]]) -> str:
    """What is said where no tool is called, given the results of tools by name where they came last."""
    if results:
        return "\n".join(
            f"{name} {'failed' if each.is_error else 'returned'}: {without_directives(each.text).strip() or 'nothing'}"
            for name, each in results
        )
    if _GREETING.fullmatch(question):
        return _HELLO
    if len(question) > _MAX_ECHO:
        return f"You said {len(question)} characters, beginning with: {question[:_MAX_ECHO]}…"
    if found := _SUM.search(question):
        left, right = int(found[1]), int(found[3])
        result = {"+": left + right, "-": left - right}.get(found[2], left * right)
        return f"{found[0]} = {result}"
    return f"You said: {question}" if question else "Your message is empty."


def reply(
    schema: Mapping[str, Any],
    turns: Sequence[SandboxTurn],
    *,
    text: str | None = None,
    calls: Sequence[ScriptedCall] | None = None,
) -> Any:
    """An output that matches a schema, which has an object at its root, or has the scripted text and calls, which need not match it.
    Raises Unsatisfiable: nothing matches the schema. SandboxError: 400, there are scripted calls and it offers no tools.
    """
    properties: Mapping[str, Any] = schema.get("properties", {})
    offer = read_offer(schema)
    if calls is not None and offer is None:
        raise SandboxError(400, "Malformed sandbox directive: calls: the schema offers no tool_calls")
    # The question is what the user wrote in the last user turn without tool results, without what an agent added.
    user_turns = [at for at, turn in enumerate(turns) if turn.role == "user"]
    asked = next((at for at in reversed(user_turns) if not turns[at].results), user_turns[-1])
    texts = [block.text for block in turns[asked].content if isinstance(block, TextContent)]
    question = without_directives("\n".join([each for each in texts if not _is_added(each)] or texts)).strip()
    names = {call.tool_use_id: call.name for turn in turns for call in turn.calls}
    results = [(names.get(each.tool_use_id, "The tool"), each) for turn in turns[asked:] for each in turn.results]
    chosen: list[dict[str, Any]] = []
    if offer is not None and calls is not None:
        chosen = [offer.encode(call.name, call.arguments) for call in calls]
    elif offer is not None:
        chosen = offer.choose(question, turns, {name for name, _ in results}, wanted=text is None)
    answer = _answer(question, results if turns[-1].results else ())
    said = text if text is not None else "" if chosen else answer
    given = ({} if offer is None else {"tool_calls": chosen}) | _texts(
        properties, said, chosen, scripted=text is not None
    )
    rest = {
        **schema,
        "properties": {name: part for name, part in properties.items() if name not in given},
        "required": [name for name in schema.get("required", ()) if name not in given],
    }
    made: dict[str, Any] = {}
    if rest["properties"] or rest["required"]:
        made = ValueMaker(question, optional=True).make(rest)
    if not given and not made and schema.get("additionalProperties", True) is True:
        return {"message": said}
    made |= given
    # In the order of the schema, as models write it.
    return {name: made[name] for name in dict.fromkeys([*properties, *made]) if name in made}


def _texts(properties: Mapping[str, Any], said: str, chosen: Sequence[Any], *, scripted: bool) -> dict[str, Any]:
    """Root properties whose value is not made from the schema: the reasoning and the text."""
    given: dict[str, Any] = {}
    plain = {"type", "title", "description"}
    texts = [name for name, part in properties.items() if "string" in part.get("type", ()) and plain.issuperset(part)]
    if "reasoning" in texts:
        given["reasoning"] = "A tool can answer this." if chosen else "I can answer this without calling a tool."
        texts.remove("reasoning")
    answer = properties.get("answer")
    if isinstance(answer, Mapping):
        if chosen and "null" in answer.get("type", ()):
            return given | {"answer": None}
        if answer.get("type") == "object" and not answer.get("properties"):
            return given | {"answer": {"message": said}}
    name = next((name for name in _TEXT_PROPERTIES if name in texts), None)
    if name is None and texts and (scripted or len(properties) == 1):
        name = texts[0]
    return given if name is None else given | {name: said}
