"""What a submission must look like (contract narrative.md, POST /model-inference/run)."""

from typing import Any

import orjson
import pytest

from proxy.sandbox.http import SandboxError
from proxy.sandbox.submission import check_turns, parse_submission
from tests.unit.sandbox.building import StoppedSandbox, body, calls, results, says, turns


def refusal_of(raw: Any) -> str:
    with pytest.raises(SandboxError) as caught:
        parse_submission(raw if isinstance(raw, bytes) else orjson.dumps(raw))
    assert caught.value.status == 400
    return caught.value.description


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"{", "body is not valid JSON"),
        (b'{"a": NaN}', "body is not valid JSON"),
        (b'{"a": "\\ud83d"}', "body is not valid JSON"),
        (b"[" * 5000, "body is not valid JSON"),
        (b"[]", "must be a JSON object"),
        ({}, "data_plane_id: Field required"),
        (body(data_plane_id="here"), "data_plane_id: "),
        (body(model=3), "model: "),
        (body(stream=True), "stream: "),
        (body(tools=[]), "inference_config.tools: "),
        (body(max_tokens="16"), "inference_config.max_tokens: "),
        (body(max_tokens=0), "inference_config.max_tokens: "),
        (body(max_tokens=True), "inference_config.max_tokens: "),
        (body(max_tokens=None), "inference_config.max_tokens: must not be null"),
        (body(temperature=1.01), "inference_config.temperature: "),
        (body(top_p=-0.1), "inference_config.top_p: "),
        (body(stop_sequences="END"), "inference_config.stop_sequences: "),
        (body(schema=[]), "inference_config.output_format_schema: "),  # type: ignore[arg-type]
        (body(tags=["a", 1]), "tags[1]: "),
        (body() | {"messages": []}, "messages: "),
        (body(says("tool", "x")), "messages[0].role: "),
        (body({"role": "user", "content": "Hi"}), "messages[0].content: "),
        (body({"role": "user", "content": []}), "messages[0].content: "),
        (body({"role": "user", "text": " "}), "messages[0].content[0].text: "),
        (body({"role": "user", "text": "Hi", "content": []}), "messages[0].content: "),
        (body(says("user", " \n")), "messages[0].content[0].text: "),
        (body({"role": "user", "content": [{"type": "image_url"}]}), "messages[0].content[0]: "),
        (body({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text: "),
        (
            body({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "plain"}]}),
            "messages[0].content[0].content: ",
        ),
        (
            body(
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text"}]}],
                }
            ),
            "messages[0].content[0].content[0].text: Field required",
        ),
        (
            body({"role": "user", "content": [{"type": "tool_use", "tool_use_id": "a", "name": "f", "input": "{}"}]}),
            "messages[0].content[0].input: ",
        ),
    ],
)
def test_a_malformed_submission_is_refused_by_path(raw: Any, path: str) -> None:
    assert path in refusal_of(raw)


def test_legacy_messages_are_echoed_as_blocks() -> None:
    _, echo = parse_submission(orjson.dumps(body({"role": "system", "text": "Be brief"}, says("user", "Hi"))))
    assert orjson.loads(echo)["messages"] == [says("system", "Be brief"), says("user", "Hi")]


@pytest.mark.parametrize(
    "conversation",
    [
        [says("user", "Hi")],
        [says("system", "a"), says("system", "b"), says("user", "Hi")],
        [says("user", "a"), says("assistant", "b"), says("user", "c")],
        [says("user", "a"), calls("f", "g"), results(f="1", g="2")],
        [says("user", "a"), calls("f", "g", text="well"), results("and?", g="2", f="1")],
        [
            says("user", "a"),
            calls("f"),
            results(f="1"),
            calls("g"),
            results(g="2"),
            says("assistant", "b"),
            says("user", "c"),
        ],
    ],
)
def test_a_conversation_in_order_is_taken(conversation: list[dict[str, Any]]) -> None:
    check_turns(turns(*conversation))


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        ([says("system", "a")], "must be a user turn"),
        ([says("assistant", "a"), says("user", "b")], "messages[0].role"),
        ([says("user", "a"), says("user", "b")], "messages[1].role"),
        ([says("user", "a"), says("system", "b"), says("user", "c")], "messages[1].role"),
        ([says("user", "a"), says("assistant", "b"), says("assistant", "c")], "messages[2].role"),
        ([says("user", "a"), says("assistant", "b")], "must end with a user turn"),
        ([says("user", "a"), calls("f"), says("user", "b")], "'id-f' of the turn before is not answered"),
        ([says("user", "a"), calls("f", "g"), results(f="1")], "'id-g' of the turn before is not answered"),
        ([says("user", "a"), calls("f"), results(g="1")], "answers no open call"),
        ([results(f="1")], "answers no open call"),
        ([says("user", "a"), calls("f", "f"), results(f="1")], "is not unique"),
        ([says("user", "a"), calls("f"), results(f="1"), calls("f"), results(f="1")], "is not unique"),
        ([{**calls("f"), "role": "user"}], "calls belong in an assistant turn"),
        (
            [says("user", "a"), {**results(f="1"), "role": "assistant"}, says("user", "b")],
            "results belong in a user turn",
        ),
        ([{**calls("f"), "role": "system"}, says("user", "b")], "calls belong in an assistant turn"),
    ],
)
def test_a_conversation_out_of_order_is_refused(conversation: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(SandboxError, match="messages") as caught:
        check_turns(turns(*conversation))
    assert words in caught.value.description


def test_results_after_text_are_refused() -> None:
    late = results("first this", f="1")
    late["content"].reverse()
    with pytest.raises(SandboxError, match="results come before text"):
        check_turns(turns(says("user", "a"), calls("f"), late))


def test_an_answer_given_twice_is_refused() -> None:
    twice = results(f="1")
    twice["content"] *= 2
    with pytest.raises(SandboxError, match="answers no open call"):
        check_turns(turns(says("user", "a"), calls("f"), twice))


def test_unknown_models_and_data_planes_are_refused() -> None:
    sandbox = StoppedSandbox(data_planes=frozenset({"FEF9904E-d263-4930-85f7-1e28cce40f89"}))
    assert sandbox.submit(data_plane_id="fef9904e-d263-4930-85f7-1e28cce40f89")
    with pytest.raises(SandboxError) as plane:
        sandbox.submit()
    assert plane.value.status == 404
    with pytest.raises(SandboxError) as model:
        StoppedSandbox().submit(model="gpt-4o")
    assert (model.value.status, model.value.description) == (400, "model: unknown model 'gpt-4o'")


def test_a_model_that_the_plane_lacks_fails_the_job() -> None:
    record = StoppedSandbox(unavailable_models=frozenset({"openai.o4-mini"})).ended(model="openai.o4-mini")
    assert (record["state"], record["failures"][0]["cause"]) == ("failed", "Model unavailable")
