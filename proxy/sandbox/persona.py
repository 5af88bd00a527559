"""A small deterministic model: fills any output schema, answers in words, calls tools that the words ask for."""

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.sandbox.bodies import Turn
from proxy.sandbox.choosing import Chooser
from proxy.sandbox.fill import Filler
from proxy.sandbox.scene import Scene, read_scene
from proxy.sandbox.script import ScriptedCall
from proxy.sandbox.tools import CALLS, Offer, descriptions, read_offer
from proxy.sandbox.wit import speak, thought
from proxy.sandbox.words import Words

_SPOKEN = ("content", "answer", "message", "reply", "response", "text", "output", "result")
"""Properties at the root that are for free text, the likeliest first."""

_LOOSE = frozenset({"type", "title", "description", "additionalProperties", "properties"})


class Persona:
    """The model for one output schema; it keeps nothing from one reply to the next.

    Args:
        schema: an `output_format_schema` with an object at its root.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._offer = read_offer(schema)
        self._chooser = Chooser(schema, self._offer, list(descriptions(schema))) if self._offer else None
        self._only_content = _is_only_content(schema)

    @property
    def offer(self) -> Offer | None:
        """The tools that the schema offers."""
        return self._offer

    def reply(
        self, turns: Sequence[Turn], *, text: str | None = None, calls: Sequence[ScriptedCall] | None = None
    ) -> Any:
        """An output that matches the schema.

        Args:
            turns: the conversation, ending with the user's turn.
            text: scripted free text.
            calls: scripted tool calls, which need not match the schema.

        Raises:
            Unfillable: nothing matches the schema.
        """
        scene = read_scene(turns)
        if self._only_content:
            return {"content": speak(scene) if text is None else text}
        chosen = self._calls(scene, calls, wanted=text is None)
        voice = _Voice(self._schema, scene, text, chosen, self._offer)
        output = Filler(self._schema, hint=voice.hint, plain=voice.plain).fill(self._schema)
        if calls is not None and self._offer is not None:
            # Scripted calls may be wrong on purpose, so the filler may have put better ones in their place.
            output[CALLS] = chosen
        if output == {} and _is_loose(self._schema):
            return {"message": voice.text}
        return output

    def _calls(self, scene: Scene, scripted: Sequence[ScriptedCall] | None, *, wanted: bool) -> list[dict[str, Any]]:
        if self._offer is None or self._chooser is None:
            return []
        if scripted is not None:
            return [self._offer.encode(call.name, call.arguments) for call in scripted]
        return self._chooser.calls(scene, wanted=wanted)


class _Voice:
    """Hints for a reply: at the root what is said, thought and called; deeper down what the words offer."""

    def __init__(
        self,
        schema: Mapping[str, Any],
        scene: Scene,
        text: str | None,
        chosen: list[dict[str, Any]],
        offer: Offer | None,
    ) -> None:
        self._root: Mapping[str, Any] = schema.get("properties", {})
        self._scripted = text is not None
        self._chosen = chosen
        self._offers = offer is not None
        self._words = Words("\n".join([scene.question, *(answer.text for answer in scene.answers)]), scene.facts)
        self._thought = thought(scene, calling=bool(chosen))
        past_calls = offer is not None and any(scene.was_called_in_words(tool.name) for tool in offer.tools)
        self.text = text if text is not None else "" if chosen else speak(scene, reporting=past_calls)
        self.plain = " ".join(self.text.split())[:200] or "sample"

    def hint(self, name: str, schema: Mapping[str, Any]) -> Any:
        """See `fill.Hint`."""
        if self._root.get(name) is not schema:
            return self._words.hint(name, schema)
        if name == CALLS and self._offers:
            return self._chosen
        if name == "reasoning":
            return self._thought
        if name == "answer" and self._chosen and "null" in schema.get("type", ()):
            return None
        if name == self._spoken():
            return self.text
        if name == "answer" and _is_loose(schema) and not schema.get("properties"):
            return {"message": self.text}
        return self._words.hint(name, schema)

    def _spoken(self) -> str | None:
        """The property for the free text: one that is named so; for scripted text else the first string."""
        texts = [name for name in self._root if name != "reasoning" and _is_text(self._root[name])]
        named = next((name for name in _SPOKEN if name in texts), None)
        if named is None and (self._scripted or len(self._root) == 1):
            return next(iter(texts), None)
        return named


def _is_text(schema: Any) -> bool:
    return isinstance(schema, Mapping) and "string" in schema.get("type", ()) and "enum" not in schema


def _is_loose(schema: Mapping[str, Any]) -> bool:
    """Whether an object may hold what it likes."""
    return (
        schema.get("type") == "object"
        and _LOOSE.issuperset(schema)
        and schema.get("additionalProperties", True) is True
    )


def _is_only_content(schema: Mapping[str, Any]) -> bool:
    """Whether the schema is one plain string and nothing else, the common case."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or list(properties) != ["content"] or not _is_text(properties["content"]):
        return False
    if not {"type", "title", "description"}.issuperset(properties["content"]):
        return False
    return {*_LOOSE, "required"}.issuperset(schema) and set(schema.get("required", ())) <= {"content"}
