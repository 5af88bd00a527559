"""Makes jobs of submissions: checks them, decides how the job ends, and enqueues it."""

import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import orjson

from proxy.backends.narrative.types import ENDED, JobState
from proxy.sandbox.http import INVALID_SCHEMA, ModelRejection, SandboxError, SandboxOptions, dumps
from proxy.sandbox.jobs import NEVER, JobStore, SandboxJob
from proxy.sandbox.model import reply
from proxy.sandbox.submission import Directive, RunBody, ToolUseContent, check_turns, find_directive, parse_submission
from proxy.sandbox.values import Unsatisfiable, check_schema

_MAX_SCHEMAS = 512
_MAX_KEYS = 100_000
"""Keys of directives whose submissions are counted; beyond it, those used longest ago are forgotten."""


class JobFactory:
    """Turns the bodies of `POST /model-inference/run` into jobs of a store."""

    def __init__(self, options: SandboxOptions, store: JobStore) -> None:
        self._options = options
        self._store = store
        # A check takes some 20 µs for each subschema, and requests repeat their schemas.
        self._checked: OrderedDict[bytes, ModelRejection | None] = OrderedDict()
        self._attempts: OrderedDict[str, int] = OrderedDict()

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
        characters = sum(
            len(block.name) + len(dumps(block.input)) if isinstance(block, ToolUseContent) else len(block.text)
            for turn in run.messages
            for block in turn.content
        )
        prompt_tokens = _tokens(len(schema) + characters)
        rejection = self._rejection(run, schema, prompt_tokens)
        if rejection is not None and self._options.refusals == "reject":
            raise SandboxError(400, str(rejection), error=rejection.cause)
        directive, calls_made = Directive(), False
        if (found := find_directive(run.messages)) is not None:
            directive = self._attempt(found[0])
            # Calls are made once, in the turn that asks for them: later turns still contain the directive and continue
            # from it. A list of attempts says itself what comes next.
            calls_made = found[1] < len(run.messages) - 1 and found[0].attempts is None
        if (reject := directive.reject) is not None:
            raise SandboxError(reject.status, "The directive asks for this", body=reject.body, headers=reject.headers)
        result, failures = None, list[Any]()
        if rejection is None:
            try:
                result = self._result(run, directive, prompt_tokens, calls_made=calls_made)
            except ModelRejection as fault:
                rejection = fault
        if isinstance(directive.fail, list):
            failures = directive.fail or [{}]
        elif rejection is not None:
            failures = [{"cause": rejection.cause, "message": rejection.message}]
        job = self._job(run, echo, directive, result, failures)
        self._store.add(job)
        return job

    def _attempt(self, directive: Directive) -> Directive:
        """The directive that holds for this submission with its `key`: `attempts`, `outputs` and `reject.times` are worked in.
        Raises SandboxError: 400, one of them is given without `key`.
        """
        attempts, outputs, reject = directive.attempts, directive.outputs, directive.reject
        times = reject.times if reject else None
        if not (attempts or outputs or times):
            return directive
        if directive.key is None:
            raise SandboxError(400, "Malformed sandbox directive: key: needed to tell attempts apart")
        number = self._attempts.pop(directive.key, 0)
        self._attempts[directive.key] = number + 1
        if len(self._attempts) > _MAX_KEYS:
            self._attempts.popitem(last=False)
        if attempts:
            return attempts[min(number, len(attempts) - 1)]
        changes: dict[str, Any] = {"reject": None if times and number >= times else reject}
        if outputs:
            changes["output"] = outputs[min(number, len(outputs) - 1)]
        return directive.model_copy(update=changes)

    def _rejection(self, run: RunBody, schema: bytes, tokens: int) -> ModelRejection | None:
        """What the model does not accept: the schema, the history or the length."""
        key = hashlib.blake2b(schema, digest_size=16).digest()
        if key not in self._checked:
            self._checked[key] = None
            try:
                check_schema(run.inference_config.output_format_schema, len(schema), self._options)
            except ModelRejection as rejection:
                self._checked[key] = rejection
            if len(self._checked) > _MAX_SCHEMAS:
                self._checked.popitem(last=False)
        if self._checked[key] is not None:
            return self._checked[key]
        if not self._options.tool_blocks and any(turn.calls or turn.results for turn in run.messages):
            return ModelRejection("Tool blocks not supported", f"{run.model} takes no tool_use and tool_result blocks")
        most = self._options.context_tokens
        if most is not None and tokens > most:
            return ModelRejection("Prompt too long", f"The prompt is too long: {tokens} tokens of at most {most}")
        return None

    def _result(self, run: RunBody, directive: Directive, prompt_tokens: int, *, calls_made: bool) -> bytes:
        """The job's result as JSON. Raises ModelRejection: the job fails."""
        if run.model in self._options.unavailable_models:
            raise ModelRejection("Model unavailable")
        if directive.fail is not None:
            raise ModelRejection(str(directive.fail))
        try:
            calls = None if calls_made else directive.calls
            text = "" if calls is not None and directive.text is None else directive.text
            output = dumps(
                directive.output
                if "output" in directive.model_fields_set
                else reply(run.inference_config.output_format_schema, run.messages, text=text, calls=calls)
            )
        except (Unsatisfiable, RecursionError) as fault:
            raise ModelRejection(INVALID_SCHEMA, f"No output can be made for this schema: {fault}") from fault
        written, most = output.decode(), run.inference_config.max_tokens
        tokens = _tokens(len(written))
        if most is not None and tokens > most:
            message = f"The response would exceed max_tokens ({tokens} of {most})"
            raise ModelRejection("Token limit exceeded", message)
        # The model writes JSON, so a stop sequence inside it ends it in the middle.
        for stop in run.inference_config.stop_sequences or ():
            if stop and stop in written:
                message = f"Generation ended at the stop sequence {stop!r}, before the output was complete"
                raise ModelRejection("Invalid output", message)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
        result: dict[str, Any] = {"structured_output": orjson.Fragment(output)}
        if directive.usage != "absent":
            result["usage"] = orjson.Fragment(dumps({**usage, **(directive.usage or {})}))
        return orjson.dumps(result)

    def _job(
        self, run: RunBody, echo: bytes, directive: Directive, result: bytes | None, failures: Sequence[Any]
    ) -> SandboxJob:
        created = self._store.clock()
        running_at = created + self._options.pending_s
        job = SandboxJob(
            id=str(uuid.uuid4()),
            data_plane_id=run.data_plane_id,
            input_json=echo,
            created_at=created,
            running_at=running_at,
            ended_at=running_at + (self._options.running_s if directive.delay is None else directive.delay),
            outcome=JobState.FAILED if failures else JobState.COMPLETED,
            result_json=result,
            failures=failures,
            withheld_reads=directive.withhold,
            id_name=self._options.id_name,
        )
        if (state := directive.state) is None:
            return job
        ended = {"canceled": "cancelled"}.get(state.lower(), state.lower())
        if ended in ENDED:
            job.spelling = state
            job.outcome = job.outcome if ended == JobState.COMPLETED else ended
        else:  # the job stays in this state for ever
            job.meanwhile, job.ended_at = state, NEVER
            job.running_at = NEVER if state == JobState.PENDING else running_at
        return job


def _tokens(characters: int) -> int:
    """Four characters a token, at least one token, so that tests can predict the count."""
    return max(1, -(-characters // 4))
