// Vercel's `ai` with `@ai-sdk/openai` as it is by default: on the Responses API, with references to stored items.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText } from "ai";
import { assertSeveralSteps, connect, severalSteps, testProvider } from "./ai.js";

const sent = [];
const recording = (url, options) => {
  sent.push(JSON.parse(options.body));
  return fetch(url, options);
};
const connection = connect((options) => createOpenAI({ fetch: recording, ...options }));
testProvider(connection, {
  isTooLong: (error) => error.data.error.code === "context_length_exceeded",
  textOf: (error) => JSON.stringify([error.message, error]),
});

for (const [how, ask] of [["plain", generateText], ["streamed", streamText]]) {
  test(`several steps refer to stored items, ${how}`, async () => {
    sent.length = 0;
    await assertSeveralSteps(await ask(severalSteps(connection.model)));
    assert.equal(sent.length, 4);
    assert.ok(sent.at(-1).input.filter(({ type }) => type === "item_reference").length >= 2);
  });
}

test("several steps without a store", async () => {
  const providerOptions = { openai: { store: false } };
  const result = await generateText({ ...severalSteps(connection.model), providerOptions });
  assert.equal(result.text, "Sunny everywhere.");
});

test("reasoning", async () => {
  const openai = { forceReasoning: true, reasoningEffort: "low", reasoningSummary: "auto" };
  const options = { model: connection.model, prompt: "Think!", providerOptions: { openai } };
  const plain = await generateText(options);
  assert.ok(plain.reasoningText);
  assert.ok(plain.text);
  assert.equal(await streamText(options).reasoningText, plain.reasoningText);
});
