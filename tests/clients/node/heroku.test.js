// `heroku-langchain`: the client that Heroku's users have, pointed here by Heroku's own variables.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ChatHeroku, HerokuApiError } from "heroku-langchain";
import { concat, testTools } from "./langchain.js";
import { BLANKS, startProxy } from "./proxy.js";
import * as scenes from "./scenes.js";

let proxy;
before(async () => {
  proxy = await startProxy();
  process.env.INFERENCE_URL = proxy.url;
  process.env.INFERENCE_KEY = proxy.key;
  process.env.INFERENCE_MODEL_ID = scenes.MODEL;
});
after(() => proxy.stop());

const chat = (options = {}) => new ChatHeroku({ maxRetries: 0, ...options });

test("plain", async () => {
  assert.equal((await chat().invoke(scenes.SAYS_MARKDOWN)).content, scenes.MARKDOWN);
});

test("stream, which ends at the event named done", async () => {
  const chunks = await Array.fromAsync(await chat().stream(scenes.SAYS_MARKDOWN));
  assert.equal(concat(chunks).content, scenes.MARKDOWN);
  assert.ok(chunks.length > 2);
});

testTools(chat);

test("structured output", async () => {
  assert.ok(scenes.City.parse(await chat().withStructuredOutput(scenes.City).invoke("Describe Paris")));
});

test("extended thinking", async () => {
  const extended_thinking = { enabled: true, budget_tokens: 1024, include_reasoning: true };
  const message = await chat({ additionalKwargs: { extended_thinking } }).invoke("Think!");
  assert.ok(message.content);
});

test("errors", async () => {
  const refused = (status) => (error) => error instanceof HerokuApiError && error.status === status;
  await assert.rejects(chat({ model: "gpt-99" }).invoke("hi"), refused(404));
  await assert.rejects(chat({ apiKey: "wrong" }).invoke("hi"), refused(401));
  await assert.rejects(chat().invoke(scenes.TOO_LONG), refused(400));
});

test("a failure after the stream began ends the answer without a word", async () => {
  assert.equal(concat(await Array.fromAsync(await chat().stream(scenes.BREAKS))).content, "");
});

test("its retries get the failure again, without another job", async () => {
  await assert.rejects(chat({ maxRetries: undefined }).invoke(scenes.failsOnce()));
});

test("a silent job is waited for", { timeout: 60_000 + 3_000 * scenes.SILENCE_S }, async (context) => {
  const blank = await startProxy(BLANKS);
  context.after(() => blank.stop());
  for (const { url } of [proxy, blank]) {
    assert.equal((await chat({ apiUrl: url }).invoke(scenes.ENDS_LATE)).content, scenes.MARKDOWN);
  }
  const chunks = await Array.fromAsync(await chat().stream(scenes.ENDS_LATE));
  assert.equal(concat(chunks).content, scenes.MARKDOWN);
});
