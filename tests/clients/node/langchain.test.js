// `@langchain/openai`: ChatOpenAI.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { HumanMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";
import { BLANKS, startProxy } from "./proxy.js";
import * as scenes from "./scenes.js";

const City = z.object({ name: z.string(), population: z.number(), climate: z.enum(["mild", "harsh"]) });
const getWeather = tool(async () => scenes.WEATHER, {
  name: "get_weather",
  description: "The current weather in a city.",
  schema: z.object({ city: z.string() }),
});

let proxy;
let model;
before(async () => {
  proxy = await startProxy();
  model = chat();
});
after(() => proxy.stop());

const chat = ({ defaultHeaders, ...options } = {}) =>
  new ChatOpenAI({
    model: scenes.MODEL,
    apiKey: proxy.key,
    maxRetries: 0,
    configuration: { baseURL: proxy.baseURL, defaultHeaders },
    ...options,
  });

const concat = (chunks) => chunks.reduce((whole, chunk) => whole.concat(chunk));

test("plain", async () => {
  const message = await model.invoke(scenes.SAYS_MARKDOWN);
  assert.equal(message.content, scenes.MARKDOWN);
  assert.ok(message.usage_metadata.total_tokens > 0);
});

test("stream", async () => {
  const chunks = await Array.fromAsync(await model.stream(scenes.SAYS_MARKDOWN));
  assert.equal(concat(chunks).content, scenes.MARKDOWN);
  assert.ok(concat(chunks).usage_metadata.total_tokens > 0);
});

for (const streaming of [false, true]) {
  test(`tool loop, ${streaming ? "streamed" : "plain"}`, async () => {
    const helper = model.bindTools([getWeather]);
    const invoke = async (messages) =>
      streaming ? concat(await Array.fromAsync(await helper.stream(messages))) : helper.invoke(messages);
    const messages = [new HumanMessage(scenes.ASKS_FOR_WEATHER)];
    const first = await invoke(messages);
    assert.deepEqual(first.tool_calls.map((call) => call.args), [{ city: "Paris" }]);
    messages.push(first);
    for (const call of first.tool_calls) messages.push(await getWeather.invoke(call));
    assert.ok((await invoke(messages)).content.includes(scenes.WEATHER));
  });
}

test("parallel calls of a stream stay apart", async () => {
  const stream = await model.bindTools([getWeather]).stream(scenes.CALLS_TWICE);
  const { tool_calls } = concat(await Array.fromAsync(stream));
  assert.deepEqual(tool_calls.map((call) => call.args.city), ["Rome", "Oslo"]);
});

for (const method of ["jsonSchema", "functionCalling"]) {
  test(`structured output by ${method}`, async () => {
    assert.ok(City.parse(await model.withStructuredOutput(City, { method }).invoke("Describe Paris")));
  });
}

test("errors", async () => {
  await assert.rejects(chat({ model: "gpt-99" }).invoke("hi"), { status: 404 });
  await assert.rejects(chat({ apiKey: "wrong" }).invoke("hi"), { status: 401 });
  await assert.rejects(model.invoke(scenes.TOO_LONG), { code: "context_length_exceeded" });
  await assert.rejects(async () => Array.fromAsync(await model.stream(scenes.BREAKS)), /The GPU melted/);
});

test("its first retries get the failure again, without another job", async () => {
  await assert.rejects(chat({ maxRetries: 1 }).invoke(scenes.failsOnce()), { status: 424 });
});

test("nothing is repeated that was paid for, once its own retries are off", async () => {
  await assert.rejects(model.invoke(scenes.failsOnce()), { status: 424 });
});

test("cancellation", async () => {
  const id = scenes.requestId();
  const call = chat({ defaultHeaders: { "x-request-id": id } }).invoke(scenes.ENDLESS, { signal: AbortSignal.timeout(300) });
  await assert.rejects(call);
  await proxy.ended(id);
});

test("cancellation of a stream", async () => {
  const id = scenes.requestId();
  const options = { signal: AbortSignal.timeout(300) };
  const stream = chat({ defaultHeaders: { "x-request-id": id } }).stream(scenes.ENDLESS, options);
  await assert.rejects(async () => Array.fromAsync(await stream));
  await proxy.ended(id);
});

test("a silent job is waited for", { timeout: 60_000 + 3_000 * scenes.SILENCE_S }, async (context) => {
  const blank = await startProxy(BLANKS);
  context.after(() => blank.stop());
  for (const { baseURL } of [proxy, blank]) {
    const message = await chat({ configuration: { baseURL } }).invoke(scenes.ENDS_LATE);
    assert.equal(message.content, scenes.MARKDOWN);
  }
  const chunks = await Array.fromAsync(await model.stream(scenes.ENDS_LATE));
  assert.equal(concat(chunks).content, scenes.MARKDOWN);
});
