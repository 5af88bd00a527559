"""Which tools the persona calls, and with what arguments."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.sandbox.fill import Filler
from proxy.sandbox.scene import Scene
from proxy.sandbox.tools import Offer, Tool, told_parameters
from proxy.sandbox.words import HEARD, Words, listed, words_of

_MOST_CALLS = 8
_IDLE = listed(
    "a an and are as at be by call can do does fetch for from function get give given have how in into is it "
    "its make me my of on or please run set tell that the this to tool use used user using want what when "
    "where which will with you your"
)


def _stems(text: str) -> frozenset[str]:
    """The beginnings of the words that carry meaning, so that `calculate` meets `calculator`."""
    return frozenset(word[:6].rstrip("s") for word in words_of(text) if len(word) > 2 and word not in _IDLE)


class Chooser:
    """Chooses calls from one offer.

    Args:
        schema: the root schema that the offer was read from.
        offer: its tools.
        described: texts that may tell the parameters of tools whose schema does not.
    """

    def __init__(self, schema: Mapping[str, Any], offer: Offer, described: Sequence[str]) -> None:
        self._schema = schema
        self._offer = offer
        self._described = tuple(described)
        self._stems = {tool.name: (_stems(tool.name), _stems(tool.description)) for tool in offer.tools}

    def calls(self, scene: Scene, *, wanted: bool = True) -> list[dict[str, Any]]:
        """The calls to make, encoded: those that the words ask for, and as many as the schema insists on.

        Args:
            scene: the conversation.
            wanted: False makes only those that the schema insists on.

        Raises:
            Unfillable: a tool's parameters admit no arguments.
        """
        offer = self._offer
        scores = self._scores(scene)
        most = _MOST_CALLS if offer.at_most is None else offer.at_most
        tools = self._relevant(scene, scores) if wanted else []
        calls = [call for tool in tools for call in self._calls_of(tool, scene)][:most]
        if len(calls) < offer.at_least and offer.tools:
            # A tool that has not answered yet, so that loops which always insist on a call come to an end.
            best = max(offer.tools, key=lambda tool: (tool.name not in scene.answered, scores[tool.name]))
            calls += [self._call(best, scene, {}) for _ in range(offer.at_least - len(calls))]
        return calls

    def _scores(self, scene: Scene) -> dict[str, tuple[int, int]]:
        """For each tool, how much of its name and of its description the question speaks of."""
        said = _stems(scene.question[:HEARD])
        scores = {}
        for tool in self._offer.tools:
            name, description = self._stems[tool.name]
            scores[tool.name] = (len(name & said), len(description & said))
            if re.search(rf"(?<![\w-]){re.escape(tool.name)}(?![\w-])", scene.question):
                scores[tool.name] = (len(name) + 1, 0)
        return scores

    def _relevant(self, scene: Scene, scores: Mapping[str, tuple[int, int]]) -> list[Tool]:
        open_tools = [
            tool
            for tool in self._offer.tools
            if tool.name not in scene.answered and not scene.was_called_in_words(tool.name)
        ]
        best = max(scores.values(), default=(0, 0))
        if best[0] > 0:
            return [tool for tool in open_tools if scores[tool.name][0] == best[0]]
        if best[1] > 1 and not scene.fresh:
            return [tool for tool in open_tools if scores[tool.name] == best][:1]
        return []

    def _calls_of(self, tool: Tool, scene: Scene) -> list[dict[str, Any]]:
        """One call; or one for each of several names, where the tool takes just one of them at a time."""
        parameters = self._parameters(tool, scene)
        words = _words(tool, parameters, scene, {})
        field = _single_name_field(parameters, words)
        if len(words.names) > 1 and field is not None:
            return [self._call(tool, scene, {field: name}) for name in words.names]
        return [self._call(tool, scene, {})]

    def _parameters(self, tool: Tool, scene: Scene) -> Mapping[str, Any]:
        return tool.parameters or told_parameters(tool.name, (*scene.background, *self._described))

    def _call(self, tool: Tool, scene: Scene, given: Mapping[str, Any]) -> dict[str, Any]:
        # Parameters that were told in words are a schema of their own; the others may refer to the root.
        parameters = self._parameters(tool, scene) or {"type": "object"}
        root = self._schema if tool.parameters else parameters
        words = _words(tool, parameters, scene, given)
        plain = next(iter([*words.names, *words.places]), " ".join(scene.question.split())[:200] or "sample")
        filler = Filler(root, hint=words.hint, generous=False, plain=plain)
        return self._offer.encode(tool.name, filler.fill(parameters))


def _words(tool: Tool, parameters: Mapping[str, Any], scene: Scene, given: Mapping[str, Any]) -> Words:
    """What was asked. Neither choices nor what the tool itself is called are somebody's name."""
    return Words(scene.question, given, no_names=_choices(parameters) | frozenset(words_of(tool.name)))


def _single_name_field(parameters: Mapping[str, Any], words: Words) -> str | None:
    """The one required string, if the first name in the text would go there."""
    properties = parameters.get("properties", {})
    required = [name for name in parameters.get("required", ()) if isinstance(properties.get(name), Mapping)]
    texts: list[str] = [
        name for name in required if properties[name].get("type") == "string" and "enum" not in properties[name]
    ]
    if len(texts) == 1 and words.hint(texts[0], properties[texts[0]]) in words.names[:1]:
        return texts[0]
    return None


def _choices(parameters: Mapping[str, Any]) -> frozenset[str]:
    properties = parameters.get("properties", {}).values()
    return frozenset(
        str(choice).lower() for each in properties if isinstance(each, Mapping) for choice in each.get("enum", ())
    )
