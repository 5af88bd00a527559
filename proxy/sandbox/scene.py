"""What a conversation looks like to the persona: the question, what tools have answered, what was said around it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.sandbox.bodies import Turn
from proxy.sandbox.script import without_directives


@dataclass(frozen=True)
class ToolAnswer:
    """One result: the tool's name (empty when its call is unknown), its text, whether it failed."""

    name: str
    text: str
    failed: bool


@dataclass(frozen=True)
class Scene:
    """The point at which the conversation stands.

    Attributes:
        question: what the user last said in words.
        answers: results in the last turn, and those that came since the question.
        fresh: whether the last turn holds results.
        spoken_before: the text of the assistant turn before the last one.
        background: system texts.
    """

    question: str
    answers: tuple[ToolAnswer, ...]
    fresh: bool
    spoken_before: str
    background: tuple[str, ...]

    @property
    def answered(self) -> frozenset[str]:
        """Tools that need not be called again."""
        return frozenset(answer.name for answer in self.answers)

    def was_called_in_words(self, name: str) -> bool:
        """Whether the turn before writes a call of this tool as text: its name, then arguments."""
        return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])[^\n{{(]{{0,40}}[{{(]", self.spoken_before) is not None

    @property
    def facts(self) -> Mapping[str, Any]:
        """Fields of the results that are JSON objects."""
        known: dict[str, Any] = {}
        for answer in self.answers:
            value = _json_or_none(answer.text)
            if isinstance(value, dict):
                known.update(value)
        return known


def read_scene(turns: Sequence[Turn]) -> Scene:
    """Reads the turns of a checked conversation.

    Args:
        turns: system turns, then user and assistant turns, the last one the user's.
    """
    names = {call.tool_use_id: call.name for turn in turns for call in turn.calls}
    asked = _last_question(turns)
    answers = [
        ToolAnswer(names.get(result.tool_use_id, ""), without_directives(result.text), result.is_error)
        for turn in turns[asked:]
        for result in turn.results
    ]
    before = next((turn.text for turn in reversed(turns[:-1]) if turn.role == "assistant"), "")
    return Scene(
        question=without_directives(turns[asked].text).strip(),
        answers=tuple(answers),
        fresh=bool(turns[-1].results),
        spoken_before=before,
        background=tuple(turn.text for turn in turns if turn.role == "system"),
    )


def _last_question(turns: Sequence[Turn]) -> int:
    """The last user turn of words alone; where there is none, the last one."""
    for at in range(len(turns) - 1, -1, -1):
        if turns[at].role == "user" and not turns[at].results:
            return at
    return len(turns) - 1


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def pleasant(text: str) -> str:
    """A result as one reads it aloud: the fields of a JSON object by name, any other text as it is."""
    value = _json_or_none(text)
    if isinstance(value, dict) and value:
        return ", ".join(
            f"{name}: {item if isinstance(item, str) else json.dumps(item)}" for name, item in value.items()
        )
    return text.strip()
