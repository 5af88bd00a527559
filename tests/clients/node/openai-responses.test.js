// The official `openai` library for Node on the Responses API.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { BLANKS, startProxy } from "./proxy.js";
import * as scenes from "./scenes.js";

const TOOL = zodResponsesFunction({
  name: "get_weather", description: "The current weather in a city.", parameters: z.object({ city: z.string() }),
});

let proxy;
let client;
before(async () => {
  proxy = await startProxy();
  client = new OpenAI({ baseURL: proxy.baseURL, apiKey: proxy.key });
});
after(() => proxy.stop());

const ask = (input, options = {}) => ({ model: scenes.MODEL, input, ...options });
const callsOf = (response) => response.output.filter(({ type }) => type === "function_call");
const outputOf = ({ call_id }) => ({ type: "function_call_output", call_id, output: scenes.WEATHER });

test("create", async () => {
  const response = await client.responses.create(ask(scenes.SAYS_MARKDOWN, { instructions: "Be brief." }));
  assert.equal(response.output_text, scenes.MARKDOWN);
  assert.equal(response.status, "completed");
  assert.ok(response.usage.total_tokens > 0);
});

test("stream", async () => {
  const events = await Array.fromAsync(await client.responses.create(ask(scenes.SAYS_MARKDOWN, { stream: true })));
  assert.deepEqual(events.slice(0, 2).map(({ type }) => type), ["response.created", "response.in_progress"]);
  assert.equal(events.at(-1).response.output[0].content[0].text, scenes.MARKDOWN);
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
});

test("stream helper", async () => {
  const pieces = [];
  const stream = client.responses.stream(ask(scenes.SAYS_MARKDOWN));
  stream.on("response.output_text.delta", ({ delta }) => pieces.push(delta));
  assert.equal((await stream.finalResponse()).output_text, scenes.MARKDOWN);
  assert.ok(pieces.length > 1);
  assert.equal(pieces.join(""), scenes.MARKDOWN);
});

test("zod parsing", async () => {
  const text = { format: zodTextFormat(scenes.City, "city") };
  assert.ok(scenes.City.parse((await client.responses.parse(ask("Describe Paris", { text }))).output_parsed));
  const stream = client.responses.stream(ask("Describe Paris", { text }));
  assert.ok(scenes.City.parse((await stream.finalResponse()).output_parsed));
});

test("tool loop by the previous response", async () => {
  const called = await client.responses.parse(ask(scenes.ASKS_FOR_WEATHER, { tools: [TOOL] }));
  assert.deepEqual(callsOf(called).map((call) => call.parsed_arguments), [{ city: "Paris" }]);
  const said = await client.responses.create(
    ask(callsOf(called).map(outputOf), { tools: [TOOL], previous_response_id: called.id }),
  );
  assert.ok(said.output_text.includes(scenes.WEATHER));
});

test("tool loop by the whole history, streamed", async () => {
  const input = [{ role: "user", content: scenes.CALLS_TWICE }];
  const options = { tools: [TOOL], store: false, include: ["reasoning.encrypted_content"] };
  const called = await client.responses.stream(ask(input, options)).finalResponse();
  assert.deepEqual(callsOf(called).map((call) => call.arguments), ['{"city":"Rome"}', '{"city":"Oslo"}']);
  input.push(...called.output, ...callsOf(called).map(outputOf));
  assert.ok((await client.responses.create(ask(input, options))).output_text.includes(scenes.WEATHER));
});

test("stored responses", async () => {
  const { id } = await client.responses.create(ask(scenes.SAYS_MARKDOWN));
  assert.equal((await client.responses.retrieve(id)).output_text, scenes.MARKDOWN);
  const items = await Array.fromAsync(client.responses.inputItems.list(id));
  assert.equal(items[0].content[0].text, scenes.SAYS_MARKDOWN);
  await client.responses.delete(id);
  await assert.rejects(client.responses.retrieve(id), OpenAI.NotFoundError);
});

test("background", async () => {
  const first = await client.responses.create(ask(scenes.ENDS_LATE, { background: true }));
  assert.ok(["queued", "in_progress"].includes(first.status));
  const events = await Array.fromAsync(await client.responses.retrieve(first.id, { stream: true, starting_after: 0 }));
  assert.equal(events[0].sequence_number, 1);
  assert.equal(events.at(-1).type, "response.completed");
  assert.equal((await client.responses.retrieve(first.id)).output_text, scenes.MARKDOWN);
  const endless = await client.responses.create(ask(scenes.ENDLESS, { background: true }));
  assert.equal((await client.responses.cancel(endless.id)).status, "cancelled");
});

test("errors", async () => {
  await assert.rejects(client.responses.create({ ...ask("hi"), model: "gpt-99" }), OpenAI.NotFoundError);
  const stranger = new OpenAI({ baseURL: proxy.baseURL, apiKey: "wrong" });
  await assert.rejects(stranger.responses.create(ask("hi")), OpenAI.AuthenticationError);
  await assert.rejects(client.responses.create(ask(scenes.TOO_LONG)), { code: "context_length_exceeded" });
});

test("nothing is repeated that was paid for", async () => {
  const before = await proxy.jobs();
  await assert.rejects(client.responses.create(ask(scenes.failsOnce())), /The GPU melted/);
  const events = await Array.fromAsync(await client.responses.create(ask(scenes.failsOnce(), { stream: true })));
  assert.equal(events.at(-1).type, "response.failed");
  assert.match(events.at(-1).response.error.message, /The GPU melted/);
  assert.equal(await proxy.jobs(), before + 2);
});

for (const stream of [false, true]) {
  test(`cancellation, ${stream ? "streamed" : "plain"}`, async () => {
    const { id, options } = scenes.cancelling();
    const call = client.responses.create(ask(scenes.ENDLESS, { stream }), options);
    if (stream) await Array.fromAsync(await call);
    else await assert.rejects(call, OpenAI.APIUserAbortError);
    await proxy.ended(id);
  });
}

test("a silent job is waited for", { timeout: 60_000 + 3_000 * scenes.SILENCE_S }, async (context) => {
  const blank = await startProxy(BLANKS);
  context.after(() => blank.stop());
  for (const { baseURL, key } of [proxy, blank]) {
    const plain = await new OpenAI({ baseURL, apiKey: key }).responses.create(ask(scenes.ENDS_LATE));
    assert.equal(plain.output_text, scenes.MARKDOWN);
  }
  assert.equal((await client.responses.stream(ask(scenes.ENDS_LATE)).finalResponse()).output_text, scenes.MARKDOWN);
});
