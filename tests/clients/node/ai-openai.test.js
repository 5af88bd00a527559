// Vercel's `ai` with `@ai-sdk/openai` as it is by default: on the Responses API, with references to stored items.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, Output, generateObject, generateText, isStepCount, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { BLANKS, startProxy } from "./proxy.js";
import * as scenes from "./scenes.js";

globalThis.AI_SDK_LOG_WARNINGS = false; // of models that it does not know

const City = z.object({ name: z.string(), population: z.number(), climate: z.enum(["mild", "harsh"]) });
const get_weather = tool({
  description: "The current weather in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async () => scenes.WEATHER,
});
const STEPS = [
  { text: "Let me see.", calls: [{ name: "get_weather", arguments: { city: "Rome" } }] },
  { text: "And further.", calls: ["Oslo", "Ulm"].map((city) => ({ name: "get_weather", arguments: { city } })) },
  { text: "Sunny everywhere." },
];

let proxy;
let model;
const sent = [];
before(async () => {
  proxy = await startProxy();
  model = provider({})(scenes.MODEL);
});
after(() => proxy.stop());

const recording = (url, options) => {
  sent.push(JSON.parse(options.body));
  return fetch(url, options);
};
const provider = (options) =>
  createOpenAI({ baseURL: proxy.baseURL, apiKey: proxy.key, fetch: recording, ...options });
const severalSteps = () => ({
  model,
  prompt: scenes.script({ key: scenes.requestId(), attempts: STEPS }),
  tools: { get_weather },
  stopWhen: isStepCount(5),
});
const citiesOf = (steps) => steps.map((step) => step.toolCalls.map((call) => call.input.city));

test("generateText", async () => {
  const { text, usage, finishReason } = await generateText({ model, prompt: scenes.SAYS_MARKDOWN });
  assert.equal(text, scenes.MARKDOWN);
  assert.equal(finishReason, "stop");
  assert.ok(usage.totalTokens > 0);
});

test("streamText", async () => {
  const result = streamText({ model, prompt: scenes.SAYS_MARKDOWN });
  assert.equal((await Array.fromAsync(result.textStream)).join(""), scenes.MARKDOWN);
  assert.ok((await result.usage).totalTokens > 0);
});

for (const [how, ask] of [["plain", generateText], ["streamed", streamText]]) {
  test(`several steps with tools, ${how}`, async () => {
    const before = await proxy.jobs();
    sent.length = 0;
    const result = await ask(severalSteps());
    assert.equal(await result.text, "Sunny everywhere.");
    assert.deepEqual(citiesOf(await result.steps), [["Rome"], ["Oslo", "Ulm"], []]);
    assert.equal(sent.length, 3);
    assert.ok(sent.at(-1).input.filter(({ type }) => type === "item_reference").length >= 2);
    assert.equal(await proxy.jobs(), before + 3);
  });
}

test("several steps without a store", async () => {
  const result = await generateText({ ...severalSteps(), providerOptions: { openai: { store: false } } });
  assert.equal(result.text, "Sunny everywhere.");
});

test("generateObject and streamObject", async () => {
  assert.ok(City.parse((await generateObject({ model, schema: City, prompt: "Describe Paris" })).object));
  const streamed = streamObject({ model, schema: City, prompt: "Describe Paris" });
  assert.ok(City.parse((await Array.fromAsync(streamed.partialObjectStream)).at(-1)));
});

test("structured output of generateText, after tools", async () => {
  const result = await generateText({
    model, prompt: scenes.ASKS_FOR_WEATHER, tools: { get_weather }, stopWhen: isStepCount(4),
    output: Output.object({ schema: City }),
  });
  assert.ok(City.parse(result.output));
});

test("reasoning", async () => {
  const openai = { forceReasoning: true, reasoningEffort: "low", reasoningSummary: "auto" };
  const options = { model, prompt: "Think!", providerOptions: { openai } };
  const plain = await generateText(options);
  assert.ok(plain.reasoningText);
  assert.ok(plain.text);
  assert.equal(await streamText(options).reasoningText, plain.reasoningText);
});

test("errors", async () => {
  const refused = (status) => (error) => APICallError.isInstance(error) && error.statusCode === status;
  await assert.rejects(generateText({ model: provider({})("gpt-99"), prompt: "hi" }), refused(404));
  await assert.rejects(generateText({ model: provider({ apiKey: "wrong" })(scenes.MODEL), prompt: "hi" }), refused(401));
  await assert.rejects(generateText({ model, prompt: scenes.TOO_LONG }), (error) => {
    return refused(400)(error) && error.data.error.code === "context_length_exceeded";
  });
});

test("a job that fails costs no second one", async () => {
  const before = await proxy.jobs();
  await assert.rejects(generateText({ model, prompt: scenes.failsOnce() }), /The GPU melted/);
  const errors = [];
  const result = streamText({ model, prompt: scenes.failsOnce(), onError: ({ error }) => errors.push(error) });
  await result.consumeStream();
  assert.match(JSON.stringify(errors.map((error) => [error.message, error])), /The GPU melted/);
  assert.equal(await proxy.jobs(), before + 2);
});

test("cancellation", async () => {
  for (const ask of [generateText, (options) => streamText({ ...options, onError: () => {} }).consumeStream()]) {
    const id = scenes.requestId();
    const options = { model, prompt: scenes.ENDLESS, abortSignal: AbortSignal.timeout(300), headers: { "x-request-id": id } };
    await ask(options).catch((error) => assert.equal(error.name, "TimeoutError"));
    await proxy.ended(id);
  }
});

test("a silent job is waited for", { timeout: 60_000 + 3_000 * scenes.SILENCE_S }, async (context) => {
  const blank = await startProxy(BLANKS);
  context.after(() => blank.stop());
  for (const { baseURL } of [proxy, blank]) {
    const { text } = await generateText({ model: provider({ baseURL })(scenes.MODEL), prompt: scenes.ENDS_LATE });
    assert.equal(text, scenes.MARKDOWN);
  }
  assert.equal(await streamText({ model, prompt: scenes.ENDS_LATE }).text, scenes.MARKDOWN);
});
