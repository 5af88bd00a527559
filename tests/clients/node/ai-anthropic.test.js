// Vercel's `ai` with `@ai-sdk/anthropic`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
import { generateText, streamText } from "ai";
import { assertObjects, connect, testProvider } from "./ai.js";
import { BLANKS, startProxy } from "./proxy.js";
import * as scenes from "./scenes.js";

const connection = connect(createAnthropic);
testProvider(connection, { isTooLong: (error) => error.message.includes("prompt is too long") });

// Of models that it knows it asks for JSON; of others, as above, for a call of a tool.
test("generateObject and streamObject of a model that it knows", () => {
  return assertObjects(connection.provider({})("claude-haiku-4-5"));
});

test("thinking", async () => {
  const thinking = { type: "enabled", budgetTokens: 1024 };
  const options = { model: connection.model, prompt: "Think!", providerOptions: { anthropic: { thinking } } };
  const plain = await generateText(options);
  assert.ok(plain.reasoningText);
  assert.ok(plain.text);
  const streamed = streamText(options);
  assert.equal(await streamed.reasoningText, plain.reasoningText);
  assert.ok(await streamed.text);
});

test("a failure after the stream began is reported", { timeout: 60_000 + 1_000 * scenes.SILENCE_S }, async (context) => {
  const { baseURL, stop } = await startProxy(BLANKS);
  context.after(stop);
  const errors = [];
  const late = scenes.script({ delay: scenes.SILENCE_S, fail: "The GPU melted" });
  const model = connection.provider({ baseURL })(scenes.MODEL);
  await streamText({ model, prompt: late, onError: ({ error }) => errors.push(error) }).consumeStream();
  assert.match(JSON.stringify(errors.map((error) => error.message ?? error)), /The GPU melted/);
});
