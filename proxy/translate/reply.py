"""Ended jobs → the chat completion. One answer path: the completion is built whole, and chunks are cut from it.

Source: contract `heroku-chat.md`, sections Response and Errors; `narrative.md`, documented causes of failure.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from proxy.backends.narrative import types as upstream
from proxy.errors import ProxyError, UpstreamError
from proxy.failures import Cause, cause_of, error_for
from proxy.translate.envelope import Envelope
from proxy.translate.jsontext import dump_json
from proxy.translate.plan import Plan
from proxy.translate.reading import Call, Reading
from proxy.wire import openai as chat


@dataclass(frozen=True, slots=True)
class Ending:
    """How one choice ended.

    Attributes:
        job: the job that ended it.
        reading: what the model said.
        finish: why it stopped, as far as the job tells.
        usage: tokens of all jobs it took.
    """

    job: upstream.Job
    reading: Reading
    finish: chat.FinishReason
    usage: upstream.Usage


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the completion and all its chunks share.

    Attributes:
        id: `chatcmpl-` and the hexadecimal id of the first job.
        created: when that job was created, in seconds since 1970 (UTC).
        fingerprint: stable per upstream.
    """

    id: str
    created: int
    model: str
    fingerprint: str


def stamp_of(plan: Plan, job_id: str, *, created: int, upstream_url: str) -> Stamp:
    """The stamp of an answer whose first job is `job_id`."""
    return Stamp(f"chatcmpl-{job_id.replace('-', '')}", created, plan.model, f"fp_{_digest(upstream_url, 10)}")


def read_ending(envelope: Envelope, job: upstream.Job) -> Ending:
    """Read an ended job.

    Raises:
        ProxyError: the job failed or was cancelled, in a way that is not an answer.
    """
    usage = job.result.usage if job.result else upstream.Usage()
    if job.state == upstream.JobState.CANCELLED:
        raise UpstreamError(f"Narrative job {job.id} was cancelled.", code="narrative_job_cancelled", job_id=job.id)
    if job.state == upstream.JobState.FAILED:
        words = "; ".join(job.failures)
        match cause_of(words):
            case Cause.TOKEN_LIMIT:
                return Ending(job, _partial(envelope, job), "length", usage)
            case Cause.CONTENT_FILTER:
                return Ending(job, Reading(text=""), "content_filter", usage)
            case _:
                raise error_for(words, code="narrative_job_failed", job_id=job.id)
    output = job.result.structured_output if job.result else None
    return Ending(job, envelope.read(output), "stop", usage)


def invalid_output(ending: Ending) -> ProxyError:
    """The error for output that must not be handed out; names the first faults."""
    faults = "; ".join(ending.reading.faults)
    return UpstreamError(
        f"The output of Narrative job {ending.job.id} does not match what was asked for: {faults}",
        code="narrative_invalid_output",
        job_id=ending.job.id,
    )


def completion(plan: Plan, stamp: Stamp, endings: Sequence[Ending]) -> chat.ChatCompletion:
    """The chat completion of a plan whose choices ended as given, in order."""
    return {
        "id": stamp.id,
        "object": "chat.completion",
        "created": stamp.created,
        "model": stamp.model,
        "system_fingerprint": stamp.fingerprint,
        "choices": [_choice(plan, index, ending) for index, ending in enumerate(endings)],
        "usage": {
            "prompt_tokens": sum(ending.usage.prompt_tokens for ending in endings),
            "completion_tokens": sum(ending.usage.completion_tokens for ending in endings),
            "total_tokens": sum(ending.usage.total_tokens or _total(ending.usage) for ending in endings),
        },
    }


def add_usage(one: upstream.Usage, other: upstream.Usage) -> upstream.Usage:
    """The tokens of two jobs together."""
    return upstream.Usage(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        total_tokens=(one.total_tokens or _total(one)) + (other.total_tokens or _total(other)),
    )


def _total(usage: upstream.Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens


def _partial(envelope: Envelope, job: upstream.Job) -> Reading:
    """Whatever text a reply had that ran out of tokens. Unfinished calls are dropped: their arguments may be cut."""
    output = job.result.structured_output if job.result else None
    reading = Reading() if output is None else envelope.read(output)
    return Reading(text=reading.text or "", reasoning=reading.reasoning)


def _choice(plan: Plan, index: int, ending: Ending) -> chat.Choice:
    reading = ending.reading
    text, finish = reading.text, ending.finish
    if text is not None and plan.envelope.answer is None:
        text = _until_stop(text, plan.stop)
        text, cut = _at_most_words(text, plan.max_words)
        finish = "length" if cut else finish
    message: chat.MessageOut = {"role": "assistant", "content": text, "refusal": None}
    if reading.calls:
        message["content"] = text if text and text.strip() else None
        finish = _add_calls(message, plan, ending)
    elif text is None:
        message["content"] = ""
    if plan.show_reasoning and reading.reasoning:
        message["reasoning_content"] = reading.reasoning
        if plan.reasoning_object:
            message["reasoning"] = {"thinking": reading.reasoning}
    return {"index": index, "message": message, "finish_reason": finish, "logprobs": None}


def _add_calls(message: chat.MessageOut, plan: Plan, ending: Ending) -> chat.FinishReason:
    calls = [_function(call) for call in ending.reading.calls]
    if plan.function_call:
        message["function_call"] = calls[0]
        return "function_call"
    message["tool_calls"] = [
        {"id": _call_id(ending.job.id, index), "type": "function", "function": function}
        for index, function in enumerate(calls)
    ]
    return "tool_calls"


def _function(call: Call) -> chat.FunctionOut:
    return {"name": call.name, "arguments": dump_json(call.arguments)}


def _call_id(job_id: str, index: int) -> str:
    """Unique for ever, since job ids are; the same job always gives the same id. Short, as some clients allow 40 characters at most."""
    return f"call_{_digest(f'{job_id}/{index}', 24)}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _until_stop(text: str, stop: Sequence[str]) -> str:
    ends = [position for string in stop if (position := text.find(string)) >= 0]
    return text[: min(ends)] if ends else text


def _at_most_words(text: str, most: int | None) -> tuple[str, bool]:
    """The text, cut after so many words; and whether anything was cut."""
    if most is None or len(text) < 2 * most:
        return text, False
    ends = [word.end() for word in islice(re.finditer(r"\S+", text), most + 1)]
    return (text[: ends[most - 1]], True) if len(ends) > most else (text, False)
