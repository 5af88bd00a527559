"""The Responses API over real sockets: its paths, its streams, what is stored, and what is refused."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from proxy.sandbox import Fault
from tests.conftest import Deployment
from tests.responses_folding import assert_response_is_openais, fold_items, response_events
from tests.scripts import script
from tests.waiting import until

URL = "/v1/responses"
RECORDED = sorted((Path(__file__).parents[1] / "data" / "codex").glob("*.json"))
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "parameters": CITY}
CALL = [{"name": "weather", "arguments": {"city": "Rome"}}]
ENCRYPTED = "reasoning.encrypted_content"


def body(given: Any = "Hello!", **fields: Any) -> dict[str, Any]:
    return {"model": "claude-4-5-haiku", "input": given, **fields}


def ask(deployment: Deployment, given: Any = "Hello!", *, status: int = 200, **fields: Any) -> dict[str, Any]:
    """The response to a request, judged by OpenAI's types; an error where another status is expected."""
    answer = deployment.http.post(URL, json=body(given, **fields))
    assert answer.status_code == status, answer.text
    if status != 200:
        error: dict[str, Any] = answer.json()["error"]
        return error
    assert_response_is_openais(answer.json())
    response: dict[str, Any] = answer.json()
    return response


def stream(deployment: Deployment, given: Any = "Hello!", **fields: Any) -> list[dict[str, Any]]:
    answer = deployment.http.post(URL, json=body(given, stream=True, **fields))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "[DONE]" not in answer.text
    return response_events(answer.content)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def prompt(deployment: Deployment) -> list[tuple[str, list[str]]]:
    """The texts of the latest job's messages."""
    messages = deployment.submissions()[-1]["messages"]
    return [
        (message["role"], [block.get("text", block["type"]) for block in message["content"]]) for message in messages
    ]


@pytest.fixture
def client(deployment: Deployment) -> OpenAI:
    return OpenAI(base_url=f"{deployment.url}/v1", api_key="test-key", max_retries=0)


# ---------------------------------------------------------------- create


@pytest.mark.parametrize("path", [URL, "/responses", f"{URL}/", "/responses/"])
def test_a_response_whole(deployment: Deployment, path: str) -> None:
    answer = deployment.http.post(path, json=body(script(text="Hi.")))
    assert answer.status_code == 200
    response = answer.json()
    assert_response_is_openais(response)
    assert response["output"][0]["content"][0]["text"] == "Hi."
    assert (response["status"], response["model"], response["store"]) == ("completed", "claude-4-5-haiku", True)
    assert response["usage"]["total_tokens"] > 0
    assert answer.headers["x-proxy-model"] == "anthropic.claude-haiku-4.5"
    assert answer.headers["x-narrative-job-id"]


def test_a_stream_folds_to_the_response_that_is_stored(deployment: Deployment) -> None:
    given = [user(script(text="One two three. " * 9, calls=CALL))]
    events = stream(deployment, given, tools=[WEATHER], reasoning={"effort": "low", "summary": "auto"})
    last = events[-1]["response"]
    assert (kinds(events)[:2], kinds(events)[-1]) == (["created", "in_progress"], "completed")
    assert [item["type"] for item in last["output"]] == ["reasoning", "message", "function_call"]
    assert fold_items(events) == last["output"]
    assert deployment.http.get(f"{URL}/{last['id']}").json() == last


def test_openais_helper_reads_a_stream(client: OpenAI) -> None:
    with client.responses.stream(model="claude-4-5-haiku", input=script(text="Hi there.")) as events:
        seen = [event.type for event in events]
        final = events.get_final_response()
    assert final.output_text == "Hi there."
    assert seen[0] == "response.created"


def test_structured_output(client: OpenAI) -> None:
    wanted = {"format": {"type": "json_schema", "name": "n", "schema": CITY, "strict": True}}
    response = client.responses.create(
        model="claude-4-5-haiku",
        input=script(output={"city": "Rome"}),
        text=wanted,  # type: ignore[arg-type]
    )
    assert json.loads(response.output_text) == {"city": "Rome"}


def test_a_tool_loop_in_a_namespace_and_with_a_custom_tool(deployment: Deployment) -> None:
    tools = [{"type": "namespace", "name": "ns", "tools": [WEATHER]}, {"type": "custom", "name": "patch"}]
    calls = [{"name": "ns__weather", "arguments": {"city": "Rome"}}, {"name": "patch", "arguments": {"input": "*** x"}}]
    first = ask(deployment, [user(script(calls=calls))], tools=tools)
    function, custom = first["output"]
    assert (function["name"], function["namespace"]) == ("weather", "ns")
    assert json.loads(function["arguments"]) == {"city": "Rome"}
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "patch", "*** x")
    outputs = [
        {"type": "function_call_output", "call_id": function["call_id"], "output": "sunny"},
        {
            "type": "custom_tool_call_output",
            "call_id": custom["call_id"],
            "output": [{"type": "input_text", "text": "ok"}],
        },
    ]
    ask(deployment, [user("Go."), function, custom, *outputs, user("And?")], tools=tools)
    sent = [message for message in deployment.submissions()[-1]["messages"] if message["role"] != "system"]
    assert [block["name"] for block in sent[1]["content"]] == ["ns__weather", "patch"]
    assert [block["type"] for block in sent[2]["content"]] == ["tool_result", "tool_result", "text"]


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_recorded_requests_of_codex_are_answered(deployment: Deployment, file: Path) -> None:
    for recorded in json.loads(file.read_text("utf-8"))["requests"]:
        # The proxy has none of OpenAI's newest models, nor the directives of the recording's own stand-in.
        text = json.dumps({**recorded["body"], "model": "claude-4-5-sonnet"}).replace(
            recorded["body"]["client_metadata"]["turn_id"], file.stem
        )
        answer = deployment.http.post(URL, content=text)
        assert answer.status_code == 200, answer.text
        events = response_events(answer.content)
        assert kinds(events)[-1] == "completed"
        response = events[-1]["response"]
        assert response["store"] is False
        assert fold_items(events) == response["output"]
        assert isinstance(response["usage"]["total_tokens"], int)


@pytest.mark.parametrize("streamed", [False, True])
def test_integers_of_any_size_are_echoed_and_stored(deployment: Deployment, streamed: bool) -> None:
    large = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**70}}}
    tools = [{"type": "function", "name": "f", "parameters": large}]
    response = stream(deployment, tools=tools)[-1]["response"] if streamed else ask(deployment, tools=tools)
    assert response["tools"][0]["parameters"] == large
    assert deployment.http.get(f"{URL}/{response['id']}").status_code == 200


def test_a_key_that_is_sent_as_the_models_name_is_neither_repeated_nor_stored(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_CHAT__DEFAULT_MODEL": "claude-4-5-haiku"})
    answer = deployment.http.post(URL, json={"model": "sk-proj-0123456789", "input": "Hi."})
    kept = deployment.http.get(f"{URL}/{answer.json()['id']}")
    events = response_events(
        deployment.http.post(URL, json={"model": "sk-proj-0123456789", "input": "Hi.", "stream": True}).content
    )
    for response in (answer.json(), kept.json(), *(event["response"] for event in events if "response" in event)):
        assert response["model"] == "[redacted]"


# ---------------------------------------------------------------- refusals, and when a stream begins


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": "no-such-model"}, 404, "model", "model_not_found"),
        ({"model": "no-such-model", "input": 3}, 404, "model", "model_not_found"),  # before the body is decoded
        ({"conversation": "conv_1"}, 400, "conversation", "unsupported_parameter"),
        ({"input": None}, 400, "input", None),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "input[0].content[0].type", "unsupported_content"),
        ({"input": [{"type": "item_reference", "id": "msg_x"}]}, 404, "input[0].id", None),
        ({"previous_response_id": "resp_x"}, 400, "previous_response_id", "previous_response_not_found"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"type": 3}}]}, 400, "tools[0].parameters", "invalid_json_schema"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": 3}}}}, 400, "text.format.schema", "invalid_json_schema"),
    ],
)  # fmt: skip
def test_what_can_be_refused_is_refused_with_a_status_and_without_a_job(  # noqa: PLR0917
    deployment: Deployment, fields: dict[str, Any], status: int, param: str, code: str | None, streamed: bool
) -> None:
    before = deployment.jobs_submitted()
    answer = deployment.http.post(URL, json=body(given="Hi.", stream=streamed) | fields)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["param"].startswith(param)
    assert answer.headers["x-should-retry"] == "false"
    assert deployment.jobs_submitted() == before


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_of_narratives_has_a_status(deployment: Deployment, streamed: bool) -> None:
    given = script(reject={"status": 403, "body": {"error": "x", "error_description": "no"}})
    answer = deployment.http.post(URL, json=body(given, stream=streamed))
    assert answer.status_code in (403, 502)
    assert answer.json()["error"]["message"]


async def test_a_stream_begins_while_the_submission_is_slow(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_CHAT__HEARTBEAT_S": "0.2"})
    deployment.sandbox.state.faults.add(Fault(kind="stuck", operation="run", for_s=30))
    data, key = b"", {"authorization": "Bearer test-key"}
    async with (
        httpx.AsyncClient(base_url=deployment.url, headers=key) as client,
        client.stream("POST", URL, json=body(stream=True), timeout=30) as answer,
    ):
        async for received in answer.aiter_bytes():
            data += received
            if data.count(b"event: response.in_progress") == 3 and deployment.sandbox.state.faults.active():
                deployment.sandbox.state.faults.clear()
    events = response_events(data)
    assert kinds(events)[:4] == ["created", "in_progress", "in_progress", "in_progress"]
    assert kinds(events)[-1] == "completed"


async def test_a_refusal_after_the_first_byte_is_the_last_event(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    reject = script(reject={"status": 403, "body": {"error": "x", "error_description": "no"}})
    deployment.sandbox.state.faults.add(Fault(kind="slow", operation="run", delay_s=1.0))
    answer = deployment.http.post(URL, json=body(reject, stream=True))
    assert answer.status_code == 200
    events = response_events(answer.content)
    assert kinds(events) == ["created", "in_progress", "failed"]
    assert events[-1]["response"]["error"]["code"] == "server_error"


def test_heartbeats_are_events(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_CHAT__HEARTBEAT_S": "0.05"}, running_s=0.4)
    events = stream(deployment, instructions="Be kind.", tools=[WEATHER])
    slim = [event["response"] for event in events if event["type"] == "response.in_progress"][1:]
    assert slim
    assert all((response["instructions"], response["tools"]) == (None, []) for response in slim)
    assert (events[0]["response"]["instructions"], events[-1]["response"]["instructions"]) == ("Be kind.", "Be kind.")


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        ("A cause nobody knows", "server_error"),
        ("prompt is too long: 250000 tokens > 200000 maximum", "context_length_exceeded"),
    ],
)
def test_a_failed_job_ends_a_stream_and_is_a_status_otherwise(make_deployment: Any, cause: str, code: str) -> None:
    deployment: Deployment = make_deployment(running_s=0.2)
    answer = deployment.http.post(URL, json=body(script(fail=cause), stream=True))
    assert answer.status_code == 200
    events = response_events(answer.content, judged=False)
    assert kinds(events) == ["created", "in_progress", "failed"]
    failed = events[-1]["response"]
    assert (failed["status"], failed["output"], failed["error"]["code"]) == ("failed", [], code)
    whole = deployment.http.post(URL, json=body(script(fail=f"{cause}!")))
    assert whole.status_code == (400 if code == "context_length_exceeded" else 424)
    assert deployment.http.get(f"{URL}/{failed['id']}").status_code == 404


def test_an_answer_that_is_cut_is_incomplete(deployment: Deployment) -> None:
    events = stream(deployment, script(text="one two three four five " * 40), max_output_tokens=16)
    response = events[-1]["response"]
    assert kinds(events)[-1] == "incomplete"
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    again = ask(deployment, "Go on.", previous_response_id=response["id"])
    assert again["previous_response_id"] == response["id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{URL}/compact"),
        ("POST", "/responses/compact/"),
        ("GET", "/v1/conversations/conv_1"),
        ("POST", "/v1/conversations"),
        ("POST", "/conversations/conv_1/items"),
    ],
)
def test_what_is_not_served_says_so(deployment: Deployment, method: str, path: str) -> None:
    answer = deployment.http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    assert URL in answer.json()["error"]["message"]


def test_a_web_socket_is_refused(deployment: Deployment) -> None:
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "x"}
    answer = deployment.http.get(URL, headers=upgrade)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


def test_tokens_are_estimated(deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    few = deployment.http.post(f"{URL}/input_tokens", json=body("Hi.")).json()
    many = deployment.http.post(f"{URL}/input_tokens", json=body("Hi. " * 1000)).json()
    assert few["object"] == "response.input_tokens"
    assert 900 < many["input_tokens"] < 2000
    assert few["input_tokens"] < 50
    for model in ({}, {"model": None}):
        assert deployment.http.post(f"{URL}/input_tokens", json={"input": "Hi.", **model}).status_code == 200
    assert deployment.http.post(f"{URL}/input_tokens", json={"model": "none", "input": "Hi."}).status_code == 404
    assert deployment.jobs_submitted() == before


def test_what_was_ignored_and_adjusted_is_named(deployment: Deployment) -> None:
    fields = {"tools": [{"type": "web_search"}], "text": {"verbosity": "low"}, "temperature": 1.5, "unknown": 1}
    answer = deployment.http.post(URL, json=body(**fields))
    assert answer.headers["x-proxy-ignored"] == "unknown, text.verbosity, tools.web_search"
    assert answer.headers["x-proxy-adjusted"] == "temperature: lowered to 1"


@pytest.mark.parametrize("path", ["", "/resp_1", "/resp_1/cancel", "/resp_1/input_items", "/input_tokens"])
def test_without_a_key_every_path_is_a_401(deployment: Deployment, path: str) -> None:
    for method in ("POST",) if path in ("", "/resp_1/cancel", "/input_tokens") else ("GET",):
        answer = deployment.http.request(method, f"{URL}{path}", headers={"authorization": ""}, json=body())
        assert answer.status_code == 401


# ---------------------------------------------------------------- what is stored


def test_a_response_is_continued_without_its_instructions(deployment: Deployment) -> None:
    first = ask(deployment, script(text="Blue."), instructions="Be kind.")
    second = ask(deployment, "Why?", previous_response_id=first["id"], instructions="Be brief.")
    ask(deployment, "Really?", previous_response_id=second["id"])
    texts = [text for _, texts in prompt(deployment) for text in texts]
    assert "Blue." in texts
    assert texts[-1] == "Really?"
    assert "Be kind." not in texts
    assert "Be brief." not in texts


def test_an_input_is_not_needed_to_go_on(deployment: Deployment) -> None:
    first = ask(deployment, [user(script(calls=CALL))], tools=[WEATHER])
    call = first["output"][0]
    output = [{"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}]
    second = ask(deployment, output, previous_response_id=first["id"], tools=[WEATHER])
    assert [item["type"] for item in second["output"]] == ["message"]
    assert ask(deployment, None, previous_response_id=second["id"])["status"] == "completed"


def test_steps_that_refer_to_items_as_the_ai_sdk_does(deployment: Deployment) -> None:
    first = ask(deployment, [user(script(text="Let me see.", calls=CALL))], tools=[WEATHER])
    message, call = first["output"]
    items = [
        user("What is the weather?"),
        {"type": "item_reference", "id": message["id"]},
        {**call, "id": None},
        {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"},
    ]
    ask(deployment, items, tools=[WEATHER])
    assert prompt(deployment)[-2:] == [("assistant", ["Let me see.", "tool_use"]), ("user", ["tool_result"])]


def test_reasoning_travels_with_the_client(deployment: Deployment) -> None:
    asked = {"reasoning": {"effort": "low"}, "include": [ENCRYPTED], "store": False, "tools": [WEATHER]}
    directive = script(calls=CALL)
    thought, *calls = ask(deployment, [user(directive)], **asked)["output"]
    assert (thought["type"], thought["summary"]) == ("reasoning", [])
    assert thought["encrypted_content"]
    outputs = [{"type": "function_call_output", "call_id": call["call_id"], "output": "x"} for call in calls]
    ask(deployment, [user(directive), {**thought, "content": None}, *calls, *outputs], **asked)
    assert any("What you thought" in text for _, texts in prompt(deployment) for text in texts)
    ask(deployment, [user(directive), {**thought, "encrypted_content": "x"}, *calls, *outputs], **asked)
    assert not any("What you thought" in text for _, texts in prompt(deployment) for text in texts)


def test_items_are_listed_in_pages(client: OpenAI, deployment: Deployment) -> None:
    given = [user(f"Message {number}") for number in range(5)]
    response = ask(deployment, given)
    listed = client.responses.input_items.list(response["id"], order="asc", limit=2)
    assert [item.content[0].text for item in listed] == [f"Message {number}" for number in range(5)]  # type: ignore[union-attr]
    page = deployment.http.get(f"{URL}/{response['id']}/input_items", params={"limit": 2}).json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["Message 4", "Message 3"]
    assert (page["object"], page["has_more"], page["last_id"]) == ("list", True, page["data"][1]["id"])
    after = {"limit": 100, "after": page["last_id"]}
    rest = deployment.http.get(f"{URL}/{response['id']}/input_items", params=after).json()
    assert (len(rest["data"]), rest["has_more"]) == (3, False)
    for wrong in ({"order": "up"}, {"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"after": "msg_x"}):
        answer = deployment.http.get(f"{URL}/{response['id']}/input_items", params=wrong)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(wrong)))


def test_a_response_is_deleted(deployment: Deployment) -> None:
    id_ = ask(deployment)["id"]
    assert deployment.http.get(f"{URL}/{id_}/").json()["id"] == id_
    deleted = deployment.http.delete(f"{URL}/{id_}")
    assert deleted.json() == {"id": id_, "object": "response", "deleted": True}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        answer = deployment.http.request(method, f"{URL}/{id_}{path}")
        assert answer.status_code == 404
        assert (answer.json()["error"]["type"], answer.json()["error"]["param"]) == (
            "invalid_request_error",
            "response_id",
        )
    assert ask(deployment, previous_response_id=id_, status=400)["code"] == "previous_response_not_found"


def test_what_is_not_to_be_stored_is_not(deployment: Deployment) -> None:
    response = ask(deployment, store=False)
    assert response["store"] is False
    assert deployment.http.get(f"{URL}/{response['id']}").status_code == 404


def test_another_key_sees_nothing(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "test-key,other-key"})
    response = ask(deployment)
    other = {"authorization": "Bearer other-key"}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        assert deployment.http.request(method, f"{URL}/{response['id']}{path}", headers=other).status_code == 404
    continued = deployment.http.post(URL, json=body(previous_response_id=response["id"]), headers=other)
    assert continued.json()["error"]["code"] == "previous_response_not_found"
    reference = [user("Hi."), {"type": "item_reference", "id": response["output"][0]["id"]}]
    assert deployment.http.post(URL, json=body(reference), headers=other).status_code == 404


@pytest.mark.parametrize("background", [False, True])
def test_an_idempotency_key_is_one_callers(make_deployment: Any, background: bool) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "test-key,other-key"})
    sent, key = body("Once.", background=background), {"idempotency-key": "order-1"}
    mine = [deployment.http.post(URL, json=sent, headers=key).json()["id"] for _ in range(2)]
    theirs = deployment.http.post(URL, json=sent, headers={**key, "authorization": "Bearer other-key"}).json()["id"]
    assert mine[0] == mine[1] != theirs
    for id_, name, status in ((theirs, "test-key", 404), (theirs, "other-key", 200), (mine[0], "other-key", 404)):
        for query in ("", "?stream=true"):
            found = deployment.http.get(f"{URL}/{id_}{query}", headers={"authorization": f"Bearer {name}"})
            assert found.status_code == status


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_neighbours_have_every_form_of_a_path(deployment: Deployment, prefix: str, slash: str) -> None:
    id_ = ask(deployment)["id"]
    http, path = deployment.http, f"{prefix}/responses/{id_}"
    for query in ("", "?include[]=reasoning.encrypted_content&new=1"):
        assert http.get(f"{path}{slash}{query}").json()["id"] == id_
    assert http.get(f"{path}/input_items{slash}").json()["object"] == "list"
    assert http.post(f"{path}/cancel{slash}").json()["error"]["param"] == "response_id"
    assert http.post(f"{prefix}/responses/input_tokens{slash}", json=body()).json()["object"] == "response.input_tokens"
    assert http.delete(f"{path}{slash}").json() == {"id": id_, "object": "response", "deleted": True}
    assert http.get(f"{path}{slash}").json()["error"]["param"] == "response_id"


def test_a_life_of_zero_seconds_turns_storing_off_and_says_so(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_RESPONSES__STORE_TTL_S": "0"})
    answer = deployment.http.post(URL, json=body())
    assert answer.json()["store"] is False
    assert "store: false" in answer.headers["x-proxy-adjusted"]
    assert deployment.http.get(f"{URL}/{answer.json()['id']}").status_code == 404
    assert "x-proxy-adjusted" not in deployment.http.post(URL, json=body(store=False)).headers
    assert ask(deployment, background=True, status=400)["param"] == "background"


def test_a_stored_response_is_streamed_again_from_any_event(client: OpenAI, deployment: Deployment) -> None:
    response = ask(deployment, script(text="One two three four."))
    events = response_events(deployment.http.get(f"{URL}/{response['id']}", params={"stream": "true"}).content)
    assert events[-1]["response"] == response
    assert fold_items(events) == response["output"]
    for after in (0, 3, len(events) - 2):
        rest = client.responses.retrieve(response["id"], stream=True, starting_after=after)
        assert [event.sequence_number for event in rest] == list(range(after + 1, len(events)))
    wrong = deployment.http.get(f"{URL}/{response['id']}", params={"stream": "true", "starting_after": "x"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "starting_after")


def test_large_requests_are_stored_and_continued(deployment: Deployment) -> None:
    first = ask(deployment, [user("word " * 30_000), user("Go.")])
    second = ask(deployment, "And?", previous_response_id=first["id"])
    assert second["usage"]["input_tokens"] > 30_000


async def test_many_responses_at_a_time_are_each_their_own(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.2)
    async with AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="test-key") as client:
        made = await asyncio.gather(
            *(client.responses.create(model="claude-4-5-haiku", input=script(text=f"Answer {n}.")) for n in range(30))
        )
    assert [response.output_text for response in made] == [f"Answer {number}." for number in range(30)]
    assert len({response.id for response in made}) == 30
    await until(lambda: deployment.in_flight() == 0)
