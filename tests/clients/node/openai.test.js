// The official `openai` library for Node.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { BLANKS, startProxy } from "./proxy.js";
import * as scenes from "./scenes.js";

const GetWeather = z.object({ city: z.string() });
const TOOL = zodFunction({ name: "get_weather", description: "The current weather in a city.", parameters: GetWeather });

let proxy;
let client;
before(async () => {
  proxy = await startProxy();
  client = new OpenAI({ baseURL: proxy.baseURL, apiKey: proxy.key });
});
after(() => proxy.stop());

const ask = (content, options = {}) => ({ model: scenes.MODEL, messages: [{ role: "user", content }], ...options });

test("plain", async () => {
  const completion = await client.chat.completions.create(ask(scenes.SAYS_MARKDOWN));
  assert.equal(completion.choices[0].message.content, scenes.MARKDOWN);
  assert.ok(completion.usage.total_tokens > 0);
});

test("stream", async () => {
  const stream = await client.chat.completions.create(
    ask(scenes.SAYS_MARKDOWN, { stream: true, stream_options: { include_usage: true } }),
  );
  const chunks = await Array.fromAsync(stream);
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), scenes.MARKDOWN);
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
});

test("stream helper", async () => {
  const pieces = [];
  const stream = client.chat.completions.stream(ask(scenes.SAYS_MARKDOWN)).on("content", (piece) => pieces.push(piece));
  assert.equal(await stream.finalContent(), scenes.MARKDOWN);
  assert.equal(pieces.join(""), scenes.MARKDOWN);
  assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, "stop");
});

test("stream helper with parallel calls and a tool without parameters", async () => {
  const now = { type: "function", function: { name: "what_time" } };
  const calls = [{ name: "get_weather", arguments: { city: "Rome" } }, { name: "what_time" }];
  const stream = client.chat.completions.stream(ask(scenes.script({ calls }), { tools: [TOOL, now] }));
  const { message, finish_reason } = (await stream.finalChatCompletion()).choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.deepEqual(
    message.tool_calls.map((call) => [call.function.name, call.function.arguments]),
    [["get_weather", '{"city":"Rome"}'], ["what_time", "{}"]],
  );
});

test("zod parsing", async () => {
  const response_format = zodResponseFormat(scenes.City, "city");
  const completion = await client.chat.completions.parse(ask("Describe Paris", { response_format }));
  assert.ok(scenes.City.parse(completion.choices[0].message.parsed));
});

test("zod parsing of a stream", async () => {
  const response_format = zodResponseFormat(scenes.City, "city");
  const stream = client.chat.completions.stream(ask("Describe Paris", { response_format }));
  assert.ok(scenes.City.parse((await stream.finalChatCompletion()).choices[0].message.parsed));
});

for (const stream of [false, true]) {
  test(`tool runner, ${stream ? "streamed" : "plain"}`, async () => {
    const asked = [];
    const get_weather = {
      name: "get_weather",
      description: "The current weather in a city.",
      parameters: z.toJSONSchema(GetWeather),
      parse: JSON.parse,
      function: ({ city }) => {
        asked.push(city);
        return scenes.WEATHER;
      },
    };
    const tools = [{ type: "function", function: get_weather }];
    const runner = client.chat.completions.runTools(ask(scenes.ASKS_FOR_WEATHER, { tools, stream }));
    assert.ok((await runner.finalContent()).includes(scenes.WEATHER));
    assert.deepEqual(asked, ["Paris"]);
  });
}

test("errors", async () => {
  await assert.rejects(client.chat.completions.create({ ...ask("hi"), model: "gpt-99" }), OpenAI.NotFoundError);
  const stranger = new OpenAI({ baseURL: proxy.baseURL, apiKey: "wrong" });
  await assert.rejects(stranger.chat.completions.create(ask("hi")), OpenAI.AuthenticationError);
  await assert.rejects(client.chat.completions.create(ask(scenes.TOO_LONG)), { code: "context_length_exceeded" });
});

test("a failure after the stream began is thrown", async () => {
  const stream = await client.chat.completions.create(ask(scenes.BREAKS, { stream: true }));
  await assert.rejects(Array.fromAsync(stream), /The GPU melted/);
  await assert.rejects(client.chat.completions.stream(ask(scenes.BREAKS)).finalContent(), /The GPU melted/);
});

test("nothing is repeated that was paid for", async () => {
  await assert.rejects(client.chat.completions.create(ask(scenes.failsOnce())), { status: 424 });
});

for (const stream of [false, true]) {
  test(`cancellation, ${stream ? "streamed" : "plain"}`, async () => {
    const { id, options } = scenes.cancelling();
    const call = client.chat.completions.create(ask(scenes.ENDLESS, { stream }), options);
    if (stream) await Array.fromAsync(await call);
    else await assert.rejects(call, OpenAI.APIUserAbortError);
    await proxy.ended(id);
  });
}

test("a silent job is waited for", { timeout: 60_000 + 3_000 * scenes.SILENCE_S }, async (context) => {
  const blank = await startProxy(BLANKS);
  context.after(() => blank.stop());
  for (const { baseURL, key } of [proxy, blank]) {
    const plain = await new OpenAI({ baseURL, apiKey: key }).chat.completions.create(ask(scenes.ENDS_LATE));
    assert.equal(plain.choices[0].message.content, scenes.MARKDOWN);
  }
  assert.equal(await client.chat.completions.stream(ask(scenes.ENDS_LATE)).finalContent(), scenes.MARKDOWN);
});
