// Vercel's `ai` with `@ai-sdk/openai-compatible`.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateObject, generateText, isStepCount, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { BLANKS, startProxy } from "./proxy.js";
import * as scenes from "./scenes.js";

const City = z.object({ name: z.string(), population: z.number(), climate: z.enum(["mild", "harsh"]) });
const get_weather = tool({
  description: "The current weather in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async () => scenes.WEATHER,
});

let proxy;
let model;
before(async () => {
  proxy = await startProxy();
  model = provider({})(scenes.MODEL);
});
after(() => proxy.stop());

const provider = (options) =>
  createOpenAICompatible({
    name: "narrative",
    baseURL: proxy.baseURL,
    apiKey: proxy.key,
    includeUsage: true,
    supportsStructuredOutputs: true,
    ...options,
  });

const quiet = { onError: () => {} };

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

test("tool loop", async () => {
  const result = await generateText({
    model, prompt: scenes.ASKS_FOR_WEATHER, tools: { get_weather }, stopWhen: isStepCount(4),
  });
  assert.ok(result.text.includes(scenes.WEATHER));
  assert.deepEqual(result.steps[0].toolCalls.map((call) => call.input), [{ city: "Paris" }]);
});

test("tool loop, streamed", async () => {
  const result = streamText({
    model, prompt: scenes.ASKS_FOR_WEATHER, tools: { get_weather }, stopWhen: isStepCount(4),
  });
  assert.ok((await result.text).includes(scenes.WEATHER));
});

test("parallel calls of a stream stay apart", async () => {
  const result = streamText({ model, prompt: scenes.CALLS_TWICE, tools: { get_weather } });
  assert.deepEqual((await result.toolCalls).map((call) => call.input.city), ["Rome", "Oslo"]);
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
  const options = { model, prompt: "Think!", providerOptions: { narrative: { reasoningEffort: "low" } } };
  const plain = await generateText(options);
  assert.ok(plain.reasoningText);
  assert.ok(plain.text);
  const streamed = streamText(options);
  assert.ok(await streamed.reasoningText);
  assert.ok(await streamed.text);
});

test("errors", async () => {
  const refused = (status) => (error) => APICallError.isInstance(error) && error.statusCode === status;
  await assert.rejects(generateText({ model: provider({})("gpt-99"), prompt: "hi" }), refused(404));
  await assert.rejects(generateText({ model: provider({ apiKey: "wrong" })(scenes.MODEL), prompt: "hi" }), refused(401));
  await assert.rejects(generateText({ model, prompt: scenes.TOO_LONG }), (error) => {
    return refused(400)(error) && error.data.error.code === "context_length_exceeded";
  });
});

test("a failure after the stream began is reported", async () => {
  const errors = [];
  const result = streamText({ model, prompt: scenes.BREAKS, onError: ({ error }) => errors.push(error) });
  for await (const _ of result.textStream);
  assert.match(JSON.stringify(errors.map((error) => error.message ?? error)), /The GPU melted/);
});

test("nothing is repeated that was paid for", async () => {
  await assert.rejects(generateText({ model, prompt: scenes.failsOnce() }), { statusCode: 424 });
});

test("cancellation", async () => {
  const id = scenes.requestId();
  const options = { model, prompt: scenes.ENDLESS, abortSignal: AbortSignal.timeout(300), headers: { "x-request-id": id } };
  await assert.rejects(generateText(options), { name: "TimeoutError" });
  await proxy.ended(id);
});

test("cancellation of a stream", async () => {
  const id = scenes.requestId();
  const options = { model, prompt: scenes.ENDLESS, abortSignal: AbortSignal.timeout(300), headers: { "x-request-id": id } };
  await streamText({ ...options, ...quiet }).consumeStream();
  await proxy.ended(id);
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
