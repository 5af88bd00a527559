// `@langchain/openai`: ChatOpenAI.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ChatOpenAI } from "@langchain/openai";
import { concat, testTools } from "./langchain.js";
import { BLANKS, startProxy } from "./proxy.js";
import * as scenes from "./scenes.js";

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

testTools(chat);

for (const method of ["jsonSchema", "functionCalling"]) {
  test(`structured output by ${method}`, async () => {
    assert.ok(scenes.City.parse(await model.withStructuredOutput(scenes.City, { method }).invoke("Describe Paris")));
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
