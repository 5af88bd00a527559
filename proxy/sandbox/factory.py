"""Makes jobs of submissions: checks them, decides how the job ends, and enqueues it."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from proxy.backends.narrative.types import JobState
from proxy.sandbox.http import ModelRejection, SandboxError, SandboxOptions, dumps
from proxy.sandbox.jobs import NEVER, JobStore, SandboxJob, ended_state
from proxy.sandbox.model import SchemaModel
from proxy.sandbox.submission import (
    AttemptCounter,
    Directive,
    RunBody,
    SandboxTurn,
    ToolUseContent,
    check_turns,
    find_directive,
    parse_submission,
)
from proxy.sandbox.values import INVALID_SCHEMA, Unsatisfiable, check_schema

_MESSAGES: Mapping[str, str] = {
    INVALID_SCHEMA: "The output_format_schema is malformed",
    "Model unavailable": "The model is not available in this data plane",
    "Token limit exceeded": "The response would exceed max_tokens",
    "Invalid data plane": "The data plane was not found, or there is no access to it",
}
"""Documented cause of failure → the message that goes with it."""


class JobOutcome(NamedTuple):
    """How a job ends: with a result as JSON, or with failures."""

    result_json: bytes | None = None
    failures: Sequence[Any] = ()


class JobFactory:
    """Turns the bodies of `POST /model-inference/run` into jobs of a store."""

    def __init__(self, options: SandboxOptions, store: JobStore) -> None:
        self._options = options
        self._store = store
        self._rejections: OrderedDict[bytes, ModelRejection | None] = OrderedDict()
        self._attempts = AttemptCounter()

    def submit(self, body: bytes) -> SandboxJob:
        """Checks a submission and enqueues its job.
        Raises SandboxError: what is wrong with it, or what its directive asks for.
        """
        run, echo = parse_submission(body)
        planes = self._options.data_planes
        if planes is not None and run.data_plane_id not in {plane.lower() for plane in planes}:
            raise SandboxError(404, f"Data plane {run.data_plane_id} was not found, or there is no access to it")
        if run.model not in self._options.models:
            raise SandboxError(400, f"model: unknown model {run.model!r}")
        check_turns(run.messages)
        schema = dumps(run.inference_config.output_format_schema)
        prompt_tokens = _tokens(len(schema) + sum(map(_turn_size, run.messages)))
        rejection = self._schema_rejection(run, schema) or self._prompt_rejection(run, prompt_tokens)
        if rejection is not None and self._options.refusals == "reject":
            raise SandboxError(400, f"{rejection.cause}: {rejection.message}", error=rejection.cause)
        directive, calls_made = self._directive(run.messages)
        if directive.reject is not None:
            reject = directive.reject
            raise SandboxError(reject.status, "The directive asks for this", body=reject.body, headers=reject.headers)
        if rejection is not None:
            outcome = _failed(rejection.cause, rejection.message)
        elif run.model in self._options.unavailable_models:
            outcome = _failed("Model unavailable")
        elif directive.fail is not None:
            outcome = _failed(directive.fail)
        else:
            outcome = _outcome(run, directive, prompt_tokens, calls_made=calls_made)
        job = self._job(run, echo, outcome, directive)
        self._store.add(job)
        return job

    def _schema_rejection(self, run: RunBody, schema: bytes) -> ModelRejection | None:
        key = hashlib.blake2b(schema, digest_size=16).digest()
        if key not in self._rejections:
            self._rejections[key] = None
            try:
                check_schema(run.inference_config.output_format_schema, len(schema), self._options)
            except ModelRejection as rejection:
                self._rejections[key] = rejection
            if len(self._rejections) > 512:
                self._rejections.popitem(last=False)
        return self._rejections[key]

    def _prompt_rejection(self, run: RunBody, tokens: int) -> ModelRejection | None:
        if not self._options.tool_blocks and any(turn.calls or turn.results for turn in run.messages):
            return ModelRejection("Tool blocks not supported", f"{run.model} takes no tool_use and tool_result blocks")
        most = self._options.context_tokens
        if most is not None and tokens > most:
            return ModelRejection("Prompt too long", f"The prompt is too long: {tokens} tokens of at most {most}")
        return None

    def _directive(self, turns: Sequence[SandboxTurn]) -> tuple[Directive, bool]:
        """The directive for this submission, and whether its calls were made before.

        Calls are made once, in the turn that asks for them; later turns still contain the directive and continue from
        it. A list of attempts says itself what comes next.
        """
        found = find_directive(turns)
        if found is None:
            return Directive(), False
        directive, at = found
        return self._attempts.resolve(directive), at < len(turns) - 1 and directive.attempts is None

    def _job(self, run: RunBody, echo: bytes, outcome: JobOutcome, directive: Directive) -> SandboxJob:
        job_id, number = self._store.new_id()
        created = self._store.clock()
        running_at = created + self._options.pending_s
        job = SandboxJob(
            id=job_id,
            number=number,
            data_plane_id=run.data_plane_id,
            input_json=echo,
            created_at=created,
            running_at=running_at,
            ended_at=running_at + (self._options.running_s if directive.delay is None else directive.delay),
            outcome=JobState.FAILED if outcome.failures else JobState.COMPLETED,
            result_json=outcome.result_json,
            failures=outcome.failures,
            withheld_reads=directive.withhold,
            id_name=self._options.id_name,
        )
        state = directive.state
        if state is not None and (ended := ended_state(state)) is not None:
            job.spelling = state
            job.outcome = job.outcome if ended == JobState.COMPLETED else ended
        elif state is not None:
            # The job stays in this state for ever.
            job.meanwhile, job.ended_at = state, NEVER
            job.running_at = NEVER if state == JobState.PENDING else running_at
        return job


def _failed(cause: str | list[Any], message: str | None = None) -> JobOutcome:
    if isinstance(cause, list):
        return JobOutcome(failures=cause or [{}])
    return JobOutcome(failures=[{"cause": cause, "message": message or _MESSAGES.get(cause, cause)}])


def _outcome(run: RunBody, directive: Directive, prompt_tokens: int, *, calls_made: bool) -> JobOutcome:
    try:
        output = dumps(_output(run, directive, calls_made=calls_made))
    except (Unsatisfiable, RecursionError) as fault:
        return _failed(INVALID_SCHEMA, f"No output can be made for this schema: {fault}")
    config = run.inference_config
    text = output.decode()
    tokens = _tokens(len(text))
    if config.max_tokens is not None and tokens > config.max_tokens:
        return _failed(
            "Token limit exceeded", f"The response would exceed max_tokens ({tokens} of {config.max_tokens})"
        )
    # The model writes JSON, so a stop sequence inside it ends it in the middle.
    stop = next((stop for stop in config.stop_sequences or () if stop and stop in text), None)
    if stop is not None:
        return _failed(
            "Invalid output", f"Generation ended at the stop sequence {stop!r}, before the output was complete"
        )
    result: dict[str, Any] = {"structured_output": orjson.Fragment(output)}
    if directive.usage != "absent":
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
        result["usage"] = orjson.Fragment(dumps({**usage, **(directive.usage or {})}))
    return JobOutcome(orjson.dumps(result))


def _output(run: RunBody, directive: Directive, *, calls_made: bool) -> Any:
    if "output" in directive.model_fields_set:
        return directive.output
    model = SchemaModel(run.inference_config.output_format_schema)
    calls = None if calls_made else directive.calls
    if calls is not None and model.offer is None:
        raise SandboxError(400, "Malformed sandbox directive: calls: the schema offers no tool_calls")
    text = "" if calls is not None and directive.text is None else directive.text
    return model.reply(run.messages, text=text, calls=calls)


def _tokens(characters: int) -> int:
    """Four characters a token, at least one token, so that tests can predict the count."""
    return max(1, -(-characters // 4))


def _turn_size(turn: SandboxTurn) -> int:
    """Characters of a turn's content."""
    size = 0
    for block in turn.content:
        size += len(block.name) + len(dumps(block.input)) if isinstance(block, ToolUseContent) else len(block.text)
    return size
