// The official `@anthropic-ai/sdk` for Node.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { BLANKS, startProxy } from "./proxy.js";
import * as scenes from "./scenes.js";

const TOOL = {
  name: "get_weather",
  description: "The current weather in a city.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const THINKING = { type: "enabled", budget_tokens: 1024 };

let proxy;
let client;
before(async () => {
  proxy = await startProxy();
  client = connect();
});
after(() => proxy.stop());

const connect = (options) => new Anthropic({ baseURL: proxy.url, apiKey: proxy.key, ...options });
const ask = (content, options = {}) => ({
  model: scenes.MODEL, max_tokens: 2000, messages: [{ role: "user", content }], ...options,
});
const cities = (message) => message.content.filter(({ type }) => type === "tool_use").map(({ input }) => input.city);

test("plain", async () => {
  const message = await client.messages.create(ask(scenes.SAYS_MARKDOWN, { system: "Be brief." }));
  assert.deepEqual(message.content.map((block) => block.text), [scenes.MARKDOWN]);
  assert.equal(message.stop_reason, "end_turn");
  assert.ok(message.usage.input_tokens > 0);
  assert.ok(message._request_id);
});

test("stream", async () => {
  const events = await Array.fromAsync(await client.messages.create(ask(scenes.SAYS_MARKDOWN, { stream: true })));
  assert.equal(events[0].type, "message_start");
  assert.equal(events.at(-1).type, "message_stop");
  assert.equal(events.map((event) => event.delta?.text ?? "").join(""), scenes.MARKDOWN);
});

test("stream helper", async () => {
  const pieces = [];
  const stream = client.messages.stream(ask(scenes.SAYS_MARKDOWN)).on("text", (piece) => pieces.push(piece));
  assert.equal(await stream.finalText(), scenes.MARKDOWN);
  assert.ok(pieces.length > 1);
  assert.equal(pieces.join(""), scenes.MARKDOWN);
});

test("stream helper with parallel calls", async () => {
  const stream = client.messages.stream(ask(scenes.CALLS_TWICE, { tools: [TOOL] }));
  const message = await stream.finalMessage();
  assert.equal(message.stop_reason, "tool_use");
  assert.deepEqual(cities(message), ["Rome", "Oslo"]);
});

for (const stream of [false, true]) {
  test(`tool runner, ${stream ? "streamed" : "plain"}`, async () => {
    const asked = [];
    const get_weather = betaZodTool({
      name: "get_weather",
      description: "The current weather in a city.",
      inputSchema: z.object({ city: z.string() }),
      run: ({ city }) => {
        asked.push(city);
        return scenes.WEATHER;
      },
    });
    const runner = client.beta.messages.toolRunner({ ...ask(scenes.ASKS_FOR_WEATHER), tools: [get_weather], stream });
    const last = await runner.runUntilDone();
    assert.ok(last.content[0].text.includes(scenes.WEATHER));
    assert.deepEqual(asked, ["Paris"]);
  });
}

test("zod parsing", async () => {
  const output_config = { format: zodOutputFormat(scenes.City) };
  const message = await client.messages.parse(ask("Describe Paris", { output_config }));
  assert.ok(scenes.City.parse(message.parsed_output));
  const stream = client.messages.stream(ask("Describe Paris", { output_config }));
  assert.ok(scenes.City.parse((await stream.finalMessage()).parsed_output));
});

test("thinking", async () => {
  const message = await client.messages.create(ask("Think!", { thinking: THINKING }));
  assert.deepEqual(message.content.map(({ type }) => type), ["thinking", "text"]);
  const pieces = [];
  const stream = client.messages.stream(ask("Think!", { thinking: THINKING })).on("thinking", (piece) => pieces.push(piece));
  assert.equal((await stream.finalMessage()).content[0].thinking, pieces.join(""));
  assert.equal(pieces.join(""), message.content[0].thinking);
});

test("counting and models cost no job", async () => {
  const before = await proxy.jobs();
  const { input_tokens } = await client.messages.countTokens({ model: scenes.MODEL, messages: ask("word ".repeat(100)).messages });
  assert.ok(input_tokens > 50);
  const ids = (await Array.fromAsync(client.models.list({ limit: 5 }))).map(({ id }) => id);
  assert.ok(ids.length > 5);
  assert.ok(ids.includes(scenes.MODEL));
  assert.equal((await client.models.retrieve(scenes.MODEL)).display_name, scenes.MODEL);
  assert.equal(await proxy.jobs(), before);
});

test("errors", async () => {
  await assert.rejects(client.messages.create({ ...ask("hi"), model: "gpt-99" }), (error) => {
    return error instanceof Anthropic.NotFoundError && error.type === "not_found_error" && Boolean(error.requestID);
  });
  await assert.rejects(connect({ apiKey: "wrong" }).messages.create(ask("hi")), Anthropic.AuthenticationError);
  await assert.rejects(client.messages.create(ask(scenes.TOO_LONG)), /prompt is too long/);
});

for (const stream of [false, true]) {
  test(`nothing is repeated that was paid for, ${stream ? "streamed" : "plain"}`, async () => {
    const before = await proxy.jobs();
    await assert.rejects(client.messages.create(ask(scenes.failsOnce(), { stream })), Anthropic.InternalServerError);
    assert.equal(await proxy.jobs(), before + 1);
  });

  test(`cancellation, ${stream ? "streamed" : "plain"}`, async () => {
    const { id, options } = scenes.cancelling();
    await assert.rejects(client.messages.create(ask(scenes.ENDLESS, { stream }), options), Anthropic.APIUserAbortError);
    await proxy.ended(id);
  });
}

test("a silent job is waited for, and a failure after the stream began is thrown", {
  timeout: 60_000 + 4_000 * scenes.SILENCE_S,
}, async (context) => {
  const blank = await startProxy(BLANKS);
  context.after(() => blank.stop());
  for (const { url } of [proxy, blank]) {
    const patient = connect({ baseURL: url });
    assert.equal((await patient.messages.create(ask(scenes.ENDS_LATE))).content[0].text, scenes.MARKDOWN);
    assert.equal(await patient.messages.stream(ask(scenes.ENDS_LATE)).finalText(), scenes.MARKDOWN);
  }
  const late = ask(scenes.script({ delay: scenes.SILENCE_S, fail: "The GPU melted" }), { stream: true });
  const stream = await connect({ baseURL: blank.url }).messages.create(late);
  await assert.rejects(Array.fromAsync(stream), /The GPU melted/);
});
