// Vercel's `ai` with `@ai-sdk/anthropic`.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
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
  { calls: ["Oslo", "Ulm"].map((city) => ({ name: "get_weather", arguments: { city } })) },
  { text: "Sunny everywhere." },
];

let proxy;
let model;
before(async () => {
  proxy = await startProxy();
  model = provider({})(scenes.MODEL);
});
after(() => proxy.stop());

const provider = (options) => createAnthropic({ baseURL: proxy.baseURL, apiKey: proxy.key, ...options });
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

test("several steps with tools", async () => {
  const before = await proxy.jobs();
  const result = await generateText(severalSteps());
  assert.equal(result.text, "Sunny everywhere.");
  assert.deepEqual(citiesOf(result.steps), [["Rome"], ["Oslo", "Ulm"], []]);
  assert.equal(await proxy.jobs(), before + 3);
});

test("several steps with tools, streamed", async () => {
  const before = await proxy.jobs();
  const result = streamText(severalSteps());
  assert.equal(await result.text, "Sunny everywhere.");
  assert.deepEqual(citiesOf(await result.steps), [["Rome"], ["Oslo", "Ulm"], []]);
  assert.equal(await proxy.jobs(), before + 3);
});

// Of models that it knows it asks for JSON; of others for a call of a tool.
for (const name of ["claude-haiku-4-5", scenes.MODEL]) {
  test(`generateObject and streamObject of ${name}`, async () => {
    const asked = { model: provider({})(name), schema: City, prompt: "Describe Paris" };
    assert.ok(City.parse((await generateObject(asked)).object));
    assert.ok(City.parse((await Array.fromAsync(streamObject(asked).partialObjectStream)).at(-1)));
  });
}

test("structured output of generateText, after tools", async () => {
  const result = await generateText({
    model, prompt: scenes.ASKS_FOR_WEATHER, tools: { get_weather }, stopWhen: isStepCount(4),
    output: Output.object({ schema: City }),
  });
  assert.ok(City.parse(result.output));
});

test("thinking", async () => {
  const thinking = { type: "enabled", budgetTokens: 1024 };
  const options = { model, prompt: "Think!", providerOptions: { anthropic: { thinking } } };
  const plain = await generateText(options);
  assert.ok(plain.reasoningText);
  assert.ok(plain.text);
  const streamed = streamText(options);
  assert.equal(await streamed.reasoningText, plain.reasoningText);
  assert.ok(await streamed.text);
});

test("errors", async () => {
  const refused = (status) => (error) => APICallError.isInstance(error) && error.statusCode === status;
  await assert.rejects(generateText({ model: provider({})("gpt-99"), prompt: "hi" }), refused(404));
  await assert.rejects(generateText({ model: provider({ apiKey: "wrong" })(scenes.MODEL), prompt: "hi" }), refused(401));
  await assert.rejects(generateText({ model, prompt: scenes.TOO_LONG }), (error) => {
    return refused(400)(error) && error.message.includes("prompt is too long");
  });
});

test("the retries of a failed job are free", async () => {
  const before = await proxy.jobs();
  await assert.rejects(generateText({ model, prompt: scenes.failsOnce() }), /The GPU melted/);
  const errors = [];
  const result = streamText({ model, prompt: scenes.failsOnce(), onError: ({ error }) => errors.push(error) });
  await result.consumeStream();
  assert.match(errors[0].message, /The GPU melted/);
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

test("a silent job is waited for, and a failure after the stream began is reported", {
  timeout: 60_000 + 4_000 * scenes.SILENCE_S,
}, async (context) => {
  const blank = await startProxy(BLANKS);
  context.after(() => blank.stop());
  for (const { baseURL } of [proxy, blank]) {
    const patient = provider({ baseURL })(scenes.MODEL);
    assert.equal((await generateText({ model: patient, prompt: scenes.ENDS_LATE })).text, scenes.MARKDOWN);
    assert.equal(await streamText({ model: patient, prompt: scenes.ENDS_LATE }).text, scenes.MARKDOWN);
  }
  const errors = [];
  const late = scenes.script({ delay: scenes.SILENCE_S, fail: "The GPU melted" });
  const began = provider({ baseURL: blank.baseURL })(scenes.MODEL);
  await streamText({ model: began, prompt: late, onError: ({ error }) => errors.push(error) }).consumeStream();
  assert.match(JSON.stringify(errors.map((error) => error.message ?? error)), /The GPU melted/);
});
