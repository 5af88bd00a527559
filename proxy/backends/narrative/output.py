"""The output schema that a model must fill for one request, and the reader of the structured output that comes back.

Narrative's only output is JSON that matches `output_format_schema`. What an answer may consist of is therefore spelled as an object:

    asked for                     the schema's properties, in this order
    text                          content
    structured output             none: the client's schema is the root where it is an object, else `answer`
    tools                         content, tool_calls
    tools and structured output   answer (the final one, so optional), tool_calls
    thinking                      reasoning, before all others

The order is the order of generation: thinking first, then text, then calls. Source: contract `narrative.md`, section
"What output_format_schema may use".
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from proxy.backends.narrative.failures import Cause, cause_of, error_for
from proxy.backends.narrative.tools import ANSWER, ParsedOutput, Part, Toolset, parsed
from proxy.backends.narrative.types import Job, JobState, JobUsage, JsonObject
from proxy.errors import PaidFailure
from proxy.inference.jsontext import dump_json
from proxy.inference.result import Choice, FinishReason, Usage
from proxy.schemas import Budget, validate

MAX_ERRORS: Final = 5
"""Validation errors of one output that a model, a client or a log is shown."""
_NO_USAGE: Final = Usage()


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What an answer may consist of, and how it is delivered.

    Attributes:
        answer: the structured output asked for; None for free text.
        tools: the tools that may be called; None for none.
        reasoning_budget: tokens of thinking asked for; None for no thinking.
        reasoning_shown: the trace is delivered.
        stop: strings at which free text ends.
        max_words: most words of free text, since a word takes a token at least; None where that does not apply.
    """

    answer: Part | None = None
    tools: Toolset | None = None
    reasoning_budget: int | None = None
    reasoning_shown: bool = False
    stop: tuple[str, ...] = ()
    max_words: int | None = None

    @property
    def is_bare(self) -> bool:
        """The client's schema is the root: nothing else is asked for, and it accepts objects only."""
        if self.answer is None or self.tools is not None or self.reasoning_budget is not None:
            return False
        return self.answer.compiled.is_object and not self.answer.simple

    @property
    def is_text(self) -> bool:
        """Free text is asked for and nothing else, thinking aside."""
        return self.answer is None and self.tools is None

    @property
    def parts(self) -> dict[str, JsonObject]:
        """The clients' schemas as they are sent in full, by name."""
        parts = {tool.upstream_name: tool.compiled.schema for tool in self.tools.tools} if self.tools else {}
        return parts | {ANSWER: self.answer.compiled.schema} if self.answer else parts

    def schema(self) -> JsonObject:
        """The `output_format_schema`; documented keywords only, unless the model's card allows more."""
        if self.answer is not None and self.is_bare:
            return self.answer.compiled.schema
        properties: dict[str, JsonObject] = {}
        if self.reasoning_budget is not None:
            properties["reasoning"] = {"type": "string", "description": _THINKING.format(self.reasoning_budget)}
        if self.answer is not None:
            properties["answer"] = _ANSWER_TEXT if self.answer.simple else self.answer.compiled.schema
        else:
            properties["content"] = {"type": "string", "description": _BESIDE_CALLS if self.tools else _WHOLE_REPLY}
        required = [*properties]
        if self.tools is not None:
            properties["tool_calls"] = self.tools.schema()
            # The answer may come after the calls' results, and no text is needed beside calls that must be made.
            last_optional = self.answer is not None or self.tools.required
            required = [*(required[:-1] if last_optional else required), "tool_calls"]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def instructions(self) -> str:
        """What the system text must add so that the schema is filled as meant; empty for plain text."""
        parts = [self.tools.instructions()] if self.tools else []
        if self.tools and self.answer:
            parts.append("Give `answer` only when no further tool is needed; leave it out while you call tools.")
        if self.answer and self.answer.simple:
            schema = dump_json(self.answer.compiled.schema)
            parts.append(f"Write your answer as the text of a JSON value that matches this JSON Schema: {schema}")
        return "\n".join(parts)

    def parse(self, output: Any, budget: Budget | None = None) -> ParsedOutput:
        """Read a job's `structured_output`, which may be a bare string or JSON text, lack fields or be wrapped one level too many."""
        match output:
            case {"content": str(said)} if self.is_text and len(output) == 1:  # the usual case
                return ParsedOutput(text=said if said.strip() else "")
        fields = self._fields(output, budget)
        if fields is None:
            wrong = "the output does not have the form that the schema asks for"
            return ParsedOutput(errors=(wrong,), undeliverable=True)
        calls = self.tools.read(fields.get("tool_calls") or [], budget) if self.tools else ParsedOutput()
        answer = self._answer(fields, budget, called=bool(calls.calls))
        text = answer.text
        reasoning = _text(fields.get("reasoning")) if self.reasoning_budget is not None else None
        if self.answer is None and not text and not calls.calls and reasoning:
            text, reasoning = reasoning, None  # an answer in the wrong place is still the answer
        # Calls of tools that were not offered are dropped; what is then empty is no answer.
        empty = bool(calls.errors) and not calls.calls and not text
        return ParsedOutput(
            text=text,
            calls=calls.calls,
            reasoning=reasoning,
            errors=(*calls.errors, *answer.errors)[:MAX_ERRORS],
            undeliverable=calls.undeliverable or answer.undeliverable or empty,
            notes=(*calls.notes, *answer.notes)[:MAX_ERRORS],
        )

    def _answer(self, fields: Mapping[str, Any], budget: Budget | None, *, called: bool) -> ParsedOutput:
        """What the output says beside its calls."""
        if self.answer is None:
            text = _text(fields.get("content"))
            return ParsedOutput(text=text if self.tools else text or "")
        value = fields.get("answer")
        if "answer" not in fields or (value is None and called):
            return ParsedOutput() if called else ParsedOutput(errors=("`answer` is missing",), undeliverable=True)
        value, errors, notes = self.answer.read(value, budget)
        if errors and called:
            return ParsedOutput()  # the schema applies to the final answer only, and this is not it
        prose = isinstance(value, str)
        undeliverable = bool(errors) and (self.answer.strict or prose)
        return ParsedOutput(dump_json(value), errors=errors, undeliverable=undeliverable, notes=notes)

    def _fields(self, output: Any, budget: Budget | None) -> dict[str, Any] | None:
        """The schema's properties, wherever the model put them; None when no sense can be made of the output."""
        if self.is_bare:
            return {"answer": output}
        main = "content" if self.answer is None else "answer"
        own = {main, "reasoning" if self.reasoning_budget is not None else main, "tool_calls" if self.tools else main}
        value, is_text = parsed(output), isinstance(output, str)
        only = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else None

        def _fits(found: dict[str, Any]) -> bool:
            # Text with other fields as well is a reply that consists of JSON.
            return bool(found) and own.issuperset(found) if is_text else not own.isdisjoint(found)

        if isinstance(value, dict) and (_fits(value) or (self.tools and output == {})):
            return value
        if self.tools and self.tools.recognizes(value):
            return {"tool_calls": value}
        wrapped = only if isinstance(only, dict) and _fits(only) else None
        if wrapped is not None and (self.answer is None or validate(self.answer.compiled, value, budget).errors):
            return wrapped  # one level of wrapping too many
        if is_text or self.answer is not None:
            return {main: output}
        if isinstance(only, str):
            return {"content": only}
        return {"content": dump_json(output)} if isinstance(output, int | float) else None


_WHOLE_REPLY = "Your whole reply to the user."
_BESIDE_CALLS = "What you say to the user; an empty string when you only call tools."
_ANSWER_TEXT = {"type": "string", "description": "The answer: the text of a JSON value matching the schema given."}
_THINKING = "Think here, step by step, before you answer: at most about {} tokens. The user's answer does not go here."


def _text(value: Any) -> str | None:
    """Text, None where there is none: models fill an unused string with blanks."""
    if isinstance(value, dict) and value.keys() == {"content"}:
        value = value["content"]
    if value is None:
        return None
    text = value if isinstance(value, str) else dump_json(value)
    return text if text.strip() else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the jobs of one choice: the last of them, what it says, and the finish reason as far as the job tells."""

    job: Job
    parsed: ParsedOutput
    finish_reason: FinishReason


def read_job(expected: OutputFormat, job: Job, failures: str, budget: Budget | None = None) -> Outcome:
    """Read an ended job; `failures` are the causes of its failure as one text, free of secrets.

    Raises ProxyError: the job failed or was cancelled, in a way that is not an answer, or it has no result.
    """
    if job.state == JobState.CANCELLED:
        raise PaidFailure(f"Narrative job {job.id} was cancelled.", code="narrative_job_cancelled", job_id=job.id)
    if job.state == JobState.FAILED:
        match cause_of(failures):
            case Cause.TOKEN_LIMIT:
                # Unfinished calls are dropped: their arguments may be cut.
                cut = expected.parse(job.result.structured_output, budget) if job.result else ParsedOutput()
                return Outcome(job, ParsedOutput(text=cut.text or "", reasoning=cut.reasoning), "length")
            case Cause.CONTENT_FILTER:
                return Outcome(job, ParsedOutput(text=""), "content_filter")
        raise error_for(failures, code="narrative_job_failed", job_id=job.id)
    if job.result is None:
        message = f"Narrative job {job.id} is completed, but its record holds no result."
        raise PaidFailure(message, code="narrative_invalid_output", job_id=job.id)
    return Outcome(job, expected.parse(job.result.structured_output, budget), "stop")


def usage_of(reported: JobUsage, before: Usage = _NO_USAGE) -> Usage:
    """Usage as a job reports it, where a missing total is the sum; added to that of earlier jobs."""
    used, produced = reported.prompt_tokens, reported.completion_tokens
    total = before.total_tokens + (reported.total_tokens or used + produced)
    return Usage(before.input_tokens + used, before.output_tokens + produced, total)


def invalid_output(outcome: Outcome) -> PaidFailure:
    """The error for output that must not be delivered; names the first validation errors."""
    errors = "; ".join(outcome.parsed.errors)
    return PaidFailure(
        f"The output of Narrative job {outcome.job.id} does not match what was asked for: {errors}",
        code="narrative_invalid_output",
        job_id=outcome.job.id,
    )


def choice_of(expected: OutputFormat, outcome: Outcome) -> Choice:
    """The choice that an outcome amounts to."""
    parsed = outcome.parsed
    text, finish, matched = parsed.text, outcome.finish_reason, None
    if text is not None and expected.answer is None:
        end = len(text)
        for stop in expected.stop:
            if 0 <= (position := text.find(stop)) < end:
                end, matched = position, stop
        text = text[:end]
        most = expected.max_words
        if most is not None and len(text) >= 2 * most:
            ends = [word.end() for word in islice(re.finditer(r"\S+", text), most + 1)]
            if len(ends) > most:
                text, finish, matched = text[: ends[most - 1]], "length", None
    calls = []
    for index, call in enumerate(parsed.calls):
        # 24 characters: some clients allow ids of 40 at most, and APIs add a prefix. Unique for good, since job ids are.
        digest = hashlib.sha256(f"{outcome.job.id}/{index}".encode()).hexdigest()[:24]
        calls.append(replace(call, id=digest))
    if calls:
        text, finish = (text if text and text.strip() else None), "tool_calls"
    return Choice(
        text=text if calls else text or "",
        tool_calls=tuple(calls),
        reasoning=parsed.reasoning if expected.reasoning_shown and parsed.reasoning else None,
        finish_reason=finish,
        stop_sequence=matched,
    )
