"""The Narrative contract as assertions, written from the contract alone and sharing no code with the sandbox or the proxy."""

import re
from uuid import UUID

DOCUMENTED_KEYWORDS = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "minLength", "maxLength", "pattern", "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems", "description", "title",
}  # fmt: skip
MODELS = {
    "anthropic.claude-haiku-4.5", "anthropic.claude-sonnet-4.5", "anthropic.claude-sonnet-4.6", "anthropic.claude-opus-4.5",
    "anthropic.claude-opus-4.6", "openai.gpt-oss-120b", "openai.gpt-4.1", "openai.o4-mini",
}  # fmt: skip
TYPES = {"string", "number", "integer", "boolean", "null", "object", "array"}
SAFE = re.compile(r"\A[A-Za-z0-9_-]{1,64}\Z")


def assert_submission_keeps_the_contract(body: dict) -> None:
    """The whole body of one `POST /model-inference/run`."""
    assert body.keys() <= {"data_plane_id", "model", "messages", "inference_config", "tags"}
    UUID(body["data_plane_id"])
    assert body["model"] in MODELS
    system, turns = body["messages"][:1], body["messages"]
    if system[0]["role"] == "system":
        assert_blocks_are_text(system[0])
        turns = turns[1:]
    assert_turns_are_strict(turns)
    config = body["inference_config"]
    assert config.keys() <= {"output_format_schema", "max_tokens", "temperature", "top_p", "stop_sequences"}
    assert config["output_format_schema"]["type"] == "object"
    assert_schema_is_documented(config["output_format_schema"])
    assert isinstance(config["max_tokens"], int)
    assert config["max_tokens"] > 0
    assert 0 <= config.get("temperature", 0) <= 1
    assert 0 <= config.get("top_p", 0) <= 1
    rids = [tag for tag in body["tags"] if tag.startswith("rid:")]
    assert len(rids) == 1
    UUID(rids[0].removeprefix("rid:"))


def assert_turns_are_strict(turns: list[dict]) -> None:
    """Turns after the system text, as the strict models behind Narrative want them."""
    assert turns
    assert turns[0]["role"] == "user"
    assert turns[-1]["role"] == "user"
    seen: set[str] = set()
    waiting: list[str] = []
    for previous, turn in zip([None, *turns], turns, strict=False):
        assert previous is None or previous["role"] != turn["role"], "turns alternate"
        assert turn["content"], "no empty turn"
        results = [block["tool_use_id"] for block in turn["content"] if block["type"] == "tool_result"]
        assert results == waiting, "every call is answered in the very next turn, in order"
        kinds = [block["type"] for block in turn["content"]]
        assert kinds[: len(results)] == ["tool_result"] * len(results), "results first"
        waiting = []
        for block in turn["content"]:
            if block["type"] == "text":
                assert block.keys() == {"type", "text"}
                assert block["text"].strip(), "text is never blank"
            elif block["type"] == "tool_use":
                assert turn["role"] == "assistant"
                assert block.keys() == {"type", "tool_use_id", "name", "input"}
                assert isinstance(block["input"], dict)
                assert SAFE.match(block["tool_use_id"])
                assert SAFE.match(block["name"])
                assert block["tool_use_id"] not in seen, "ids are unique"
                seen.add(block["tool_use_id"])
                waiting.append(block["tool_use_id"])
            else:
                assert turn["role"] == "user"
                assert block.keys() <= {"type", "tool_use_id", "content", "is_error"}
                assert_blocks_are_text(block)
    assert not waiting


def assert_blocks_are_text(holder: dict) -> None:
    assert holder["content"]
    assert all(block["type"] == "text" and block["text"].strip() for block in holder["content"])


def assert_schema_is_documented(schema: dict) -> None:
    """Only keywords that Narrative documents, all the way down."""
    assert isinstance(schema, dict), schema
    assert schema.keys() <= DOCUMENTED_KEYWORDS, schema.keys() - DOCUMENTED_KEYWORDS
    kinds = schema.get("type", [])
    assert set([kinds] if isinstance(kinds, str) else kinds) <= TYPES
    for child in schema.get("properties", {}).values():
        assert_schema_is_documented(child)
    if "items" in schema:
        assert_schema_is_documented(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        assert_schema_is_documented(schema["additionalProperties"])
