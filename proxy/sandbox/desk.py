"""Takes submissions: checks them, decides what becomes of the job, and enqueues it."""

import hashlib
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.backends.narrative.types import ENDED, JobState
from proxy.sandbox.bodies import RunBody, Turn, parse
from proxy.sandbox.fill import Unfillable
from proxy.sandbox.jobs import NEVER, Job
from proxy.sandbox.jsontext import dumps
from proxy.sandbox.options import SandboxOptions
from proxy.sandbox.persona import Persona
from proxy.sandbox.refusal import ModelRefusal, Refusal
from proxy.sandbox.schemas import INVALID_SCHEMA, check_schema
from proxy.sandbox.script import Attempts, Directive, attempt_of, find_directive
from proxy.sandbox.store import JobStore
from proxy.sandbox.turns import check_turns
from proxy.sandbox.usage import prompt_tokens, tokens_of

_SCHEMAS_KEPT = 512

_SENTENCES: Mapping[str, str] = {
    INVALID_SCHEMA: "The output_format_schema is malformed",
    "Model unavailable": "The model is not available in this data plane",
    "Token limit exceeded": "The response would exceed max_tokens",
    "Invalid data plane": "The data plane was not found, or there is no access to it",
}
"""Documented cause of failure → what goes with it."""


@dataclass(frozen=True)
class _Outcome:
    """How a job ends: with a result, or with causes."""

    result_json: bytes | None = None
    failures: Sequence[dict[str, str]] = ()


@dataclass(frozen=True)
class _Model:
    """What is known of one output schema; `refusal` when it is not taken."""

    size: int
    persona: Persona
    refusal: ModelRefusal | None


class Desk:
    """Turns the bodies of `POST /model-inference/run` into jobs.

    Args:
        options: how strict to be, and how long jobs take.
        store: where jobs go.
    """

    def __init__(self, options: SandboxOptions, store: JobStore) -> None:
        self._options = options
        self._store = store
        self._models: OrderedDict[bytes, _Model] = OrderedDict()
        self._attempts = Attempts()
        self._random = random.Random(options.seed)  # noqa: S311 - durations, no secrets

    def submit(self, body: bytes) -> Job:
        """Checks a submission and enqueues its job.

        Raises:
            Refusal: what is wrong with it, or what its directive asks for.
        """
        run, raw = parse(body)
        self._check_names(run)
        turns = run.turns
        check_turns(turns)
        model = self._model(run.inference_config.output_format_schema)
        directive, spent = self._directive(turns)
        if directive.reject is not None:
            reject = directive.reject
            words = "Refused as the directive asks"
            raise Refusal(reject.status, words, body=reject.body, headers=reject.headers)
        outcome = self._outcome(run, turns, model, directive, calls_spent=spent)
        # Without legacy messages the body is its own echo.
        job = self._job(run, dumps(raw) if _has_legacy(run) else body, outcome, directive)
        self._store.add(job)
        return job

    # ------------------------------------------------------------ checking

    def _check_names(self, run: RunBody) -> None:
        planes = self._options.data_planes
        if planes is not None and run.data_plane_id not in {plane.lower() for plane in planes}:
            raise Refusal(404, f"Data plane {run.data_plane_id} was not found, or there is no access to it")
        if run.model not in self._options.models:
            raise Refusal(400, f"model: unknown model {run.model!r}")

    def _model(self, schema: Mapping[str, Any]) -> _Model:
        text = dumps(schema)
        key = hashlib.blake2b(text, digest_size=16).digest()
        model = self._models.get(key)
        if model is None:
            model = _Model(len(text), Persona(schema), self._schema_refusal(schema, len(text)))
            self._models[key] = model
            if len(self._models) > _SCHEMAS_KEPT:
                self._models.popitem(last=False)
        else:
            self._models.move_to_end(key)
        if model.refusal is not None and self._options.refusals == "reject":
            raise _rejected(model.refusal)
        return model

    def _schema_refusal(self, schema: Mapping[str, Any], size: int) -> ModelRefusal | None:
        try:
            check_schema(schema, size, self._options)
        except ModelRefusal as refusal:
            return refusal
        return None

    def _check_prompt(self, run: RunBody, turns: Sequence[Turn], tokens: int) -> None:
        if not self._options.tool_blocks and any(turn.calls or turn.results for turn in turns):
            raise ModelRefusal("Tool blocks not supported", f"{run.model} takes no tool_use and tool_result blocks")
        most = self._options.context_tokens
        if most is not None and tokens > most:
            raise ModelRefusal("Prompt too long", f"The prompt is too long: {tokens} tokens of at most {most}")

    def _directive(self, turns: Sequence[Turn]) -> tuple[Directive, bool]:
        """The directive for this submission, and whether its calls were made before.

        Calls are made in the turn they are asked for: later turns find the directive still there, and go on from it.
        A list of attempts says itself what comes next.
        """
        found = find_directive(turns)
        if found is None:
            return Directive(), False
        directive, at = found
        return attempt_of(directive, self._attempts), at < len(turns) - 1 and directive.attempts is None

    # ------------------------------------------------------------ deciding

    def _outcome(
        self, run: RunBody, turns: Sequence[Turn], model: _Model, directive: Directive, *, calls_spent: bool
    ) -> _Outcome:
        tokens = prompt_tokens(turns, model.size)
        try:
            if model.refusal is not None:
                raise model.refusal
            self._check_prompt(run, turns, tokens)
        except ModelRefusal as refusal:
            if self._options.refusals == "reject":
                raise _rejected(refusal) from refusal
            return _failed(refusal.cause, refusal.message)
        if run.model in self._options.unavailable_models:
            return _failed("Model unavailable")
        if directive.fail is not None:
            return _failed(directive.fail)
        try:
            output = dumps(self._output(turns, model.persona, directive, calls_spent=calls_spent))
        except Unfillable as fault:
            return _failed(INVALID_SCHEMA, f"No output can be made for this schema: {fault}")
        return _finished(run, output, tokens, directive)

    def _output(self, turns: Sequence[Turn], persona: Persona, directive: Directive, *, calls_spent: bool) -> Any:
        if directive.has_output:
            return directive.output
        calls = None if calls_spent else directive.calls
        if calls is not None and persona.offer is None:
            raise Refusal(400, "Malformed sandbox directive: calls: the schema offers no tool_calls")
        text = directive.text
        if calls is not None and text is None:
            text = ""
        return persona.reply(turns, text=text, calls=calls)

    # ------------------------------------------------------------ timing

    def _job(self, run: RunBody, echo: bytes, outcome: _Outcome, directive: Directive) -> Job:
        job_id, number = self._store.new_id()
        created = self._store.clock()
        pending, running = self._durations()
        if directive.delay is not None:
            running = directive.delay
        job = Job(
            id=job_id,
            number=number,
            data_plane_id=run.data_plane_id,
            input_json=echo,
            created_at=created,
            running_at=created + pending,
            ended_at=created + pending + running,
            outcome=JobState.FAILED if outcome.failures else JobState.COMPLETED,
            result_json=outcome.result_json,
            failures=outcome.failures,
        )
        _set_state(job, directive.state)
        return job

    def _durations(self) -> tuple[float, float]:
        options = self._options
        if options.median_s is None:
            return options.pending_s, options.running_s
        whole = options.median_s * self._random.lognormvariate(0.0, options.sigma)
        pending = min(options.pending_s, whole)
        return pending, whole - pending


def _has_legacy(run: RunBody) -> bool:
    return any(not isinstance(message, Turn) for message in run.messages)


def _rejected(refusal: ModelRefusal) -> Refusal:
    return Refusal(400, f"{refusal.cause}: {refusal.message}", error=refusal.cause)


def _failed(cause: str, message: str | None = None) -> _Outcome:
    return _Outcome(failures=({"cause": cause, "message": message or _SENTENCES.get(cause, cause)},))


def _finished(run: RunBody, output: bytes, tokens: int, directive: Directive) -> _Outcome:
    config = run.inference_config
    text = output.decode()
    made = tokens_of(len(text))
    if config.max_tokens is not None and made > config.max_tokens:
        return _failed("Token limit exceeded", f"The response would exceed max_tokens ({made} of {config.max_tokens})")
    # The model writes JSON, so a stop sequence inside it ends it in the middle.
    stop = next((stop for stop in config.stop_sequences or () if stop and stop in text), None)
    if stop is not None:
        return _failed(
            "Invalid output", f"Generation ended at the stop sequence {stop!r} before the output was complete"
        )
    usage = {"prompt_tokens": tokens, "completion_tokens": made, "total_tokens": tokens + made}
    parts = {"usage": dumps({**usage, **(directive.usage or {})}), "structured_output": output}
    return _Outcome(orjson.dumps({name: orjson.Fragment(part) for name, part in parts.items()}))


def _set_state(job: Job, state: str | None) -> None:
    """Works a scripted state in: one that ends the job, or one in which it stays for ever."""
    if state is None or state == JobState.COMPLETED:
        return
    if state in ENDED:
        job.outcome = state
        return
    job.ended_at = NEVER
    job.meanwhile = state
    if state == JobState.PENDING:
        job.running_at = NEVER
