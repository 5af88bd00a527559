"""What the persona says in words."""

import re

from proxy.sandbox.scene import Scene, pleasant
from proxy.sandbox.words import HEARD, words_of

_ECHO_LIMIT = 400

_GREETING = re.compile(
    r"^\W*(?:hi|hello|hey|hiya|howdy|greetings|good (?:morning|afternoon|evening|day)|bonjour|hola|hallo|ciao|salut)\b",
    re.I,
)
_THANKS = re.compile(r"^\W*(?:thanks|thank you|thx|cheers)\b", re.I)
_PARTING = re.compile(r"^\W*(?:bye|goodbye|see you|good night)\b", re.I)
_WHO = re.compile(r"\b(?:who|what) are you\b|\bwhat(?:'s| is) your name\b|\bwhat can you do\b", re.I)
_SAY = re.compile(
    r"^\W*(?:please\s+|can you\s+|could you\s+)?(?:just\s+|only\s+|simply\s+)?"
    r"(?:say|repeat|echo|(?:reply|respond|answer)(?:\s+only)?\s+with)"
    r"(?:\s+(?:exactly|only|just|after me|the following|(?:the|this|a single) words?|this))*\s*:?\s+(?P<words>.+?)\s*$",
    re.I | re.S,
)
_COUNT = re.compile(r"\bcount\b(?:\s+\w+){0,3}?\s+(?:from\s+(-?\d{1,6})\s+)?(?:up\s+)?to\s+(-?\d{1,6})", re.I)
_SUM = re.compile(r"(?<![\w.])(-?\d{1,15}(?:\.\d{1,10})?)\s*([-+*/x×÷])\s*(-?\d{1,15}(?:\.\d{1,10})?)(?![\w.])")
_QUOTES = "\"'“”`"


def speak(scene: Scene, *, reporting: bool = False) -> str:
    """The free text of an answer: from the results of tools when there are any, else to the question.

    Args:
        scene: the conversation.
        reporting: the question is a tool's result written as text.
    """
    if scene.fresh:
        return "\n".join(_report(answer.name, answer.text, failed=answer.failed) for answer in scene.answers)
    if reporting:
        return f"Here is what came back: {scene.question[:_ECHO_LIMIT]}"
    return _reply(scene.question)


def thought(scene: Scene, *, calling: bool) -> str:
    """A sentence of reasoning."""
    if calling:
        return "The question needs a tool, so I call it before I answer."
    if scene.fresh:
        return "The tools have answered, so I can answer too."
    return "The question is simple, so I answer it directly."


def _report(name: str, text: str, *, failed: bool) -> str:
    said = pleasant(text)
    who = " ".join(words_of(name)).capitalize() or "The tool"
    if failed:
        return f"{who} failed: {said}" if said else f"{who} failed."
    return f"{who} says: {said}" if said else f"{who} is done."


def _reply(question: str) -> str:
    if not question:
        return "I am listening."
    if said := _SAY.match(question):
        return _unquoted(said["words"])
    if counted := _COUNT.search(question[:HEARD]):
        return _count(int(counted[1] or 1), int(counted[2]))
    if len(question) < 60:
        short = _short_reply(question)
        if short is not None:
            return short
    if task := _SUM.search(question[:HEARD]):
        result = _calculated(float(task[1]), task[2], float(task[3]))
        return f"{task[0]} = {result}"
    if len(question) > _ECHO_LIMIT:
        return f"You said {len(question)} characters, beginning with: {question[:_ECHO_LIMIT]}…"
    return f"You said: {question}"


def _short_reply(question: str) -> str | None:
    if _WHO.search(question):
        return "I am the sandbox: a small stand-in for the models behind Narrative. I can chat a little and call tools."
    if _GREETING.match(question):
        return "Hello! How can I help you today?"
    if _THANKS.match(question):
        return "You are welcome!"
    if _PARTING.match(question):
        return "Goodbye!"
    return None


def _unquoted(words: str) -> str:
    if len(words) > 1 and words[0] in _QUOTES:
        end = max(words.rfind(quote) for quote in _QUOTES)
        return words[1:end] if end > 0 else words[1:]
    return words


def _count(first: int, last: int) -> str:
    step = 1 if last >= first else -1
    shown = range(first, last + step, step)[:1_000]
    return ", ".join(map(str, shown))


def _calculated(left: float, operator: str, right: float) -> str:
    match operator:
        case "+":
            result = left + right
        case "-":
            result = left - right
        case "/" | "÷":
            if right == 0:
                return "undefined"
            result = left / right
        case _:
            result = left * right
    return str(int(result)) if result.is_integer() else f"{result:.10g}"
