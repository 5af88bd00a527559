// Vercel's `ai` with `@ai-sdk/openai-compatible`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import { connect, testProvider } from "./ai.js";
import * as scenes from "./scenes.js";

const connection = connect((options) =>
  createOpenAICompatible({ name: "narrative", includeUsage: true, supportsStructuredOutputs: true, ...options }),
);
testProvider(connection, { isTooLong: (error) => error.data.error.code === "context_length_exceeded" });

test("reasoning", async () => {
  const providerOptions = { narrative: { reasoningEffort: "low" } };
  const options = { model: connection.model, prompt: "Think!", providerOptions };
  const plain = await generateText(options);
  assert.ok(plain.reasoningText);
  assert.ok(plain.text);
  const streamed = streamText(options);
  assert.ok(await streamed.reasoningText);
  assert.ok(await streamed.text);
});

test("a failure after the stream began is reported", async () => {
  const errors = [];
  const result = streamText({ model: connection.model, prompt: scenes.BREAKS, onError: ({ error }) => errors.push(error) });
  for await (const _ of result.textStream);
  assert.match(JSON.stringify(errors.map((error) => error.message ?? error)), /The GPU melted/);
});

test("nothing is repeated that was paid for", async () => {
  await assert.rejects(generateText({ model: connection.model, prompt: scenes.failsOnce() }), { statusCode: 424 });
});
