// What every provider of Vercel's `ai` is put through.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { APICallError, Output, generateObject, generateText, isStepCount, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { BLANKS, startProxy } from "./proxy.js";
import * as scenes from "./scenes.js";

globalThis.AI_SDK_LOG_WARNINGS = false; // of models that it does not know

const get_weather = tool({
  description: "The current weather in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async () => scenes.WEATHER,
});
const STEPS = [
  { text: "Let me see.", calls: [{ name: "get_weather", arguments: { city: "Rome" } }] },
  { calls: ["Oslo", "Ulm"].map((city) => ({ name: "get_weather", arguments: { city } })) },
  { text: "And further.", calls: ["Lima", "Bonn"].map((city) => ({ name: "get_weather", arguments: { city } })) },
  { text: "Sunny everywhere." },
];

/** Start a proxy ahead of the tests of a file: once they run, it, a model on it, and what makes a provider by `create`. */
export function connect(create) {
  const connection = {
    provider: (options) => create({ baseURL: connection.proxy.baseURL, apiKey: connection.proxy.key, ...options }),
  };
  before(async () => {
    connection.proxy = await startProxy();
    connection.model = connection.provider({})(scenes.MODEL);
  });
  after(() => connection.proxy.stop());
  return connection;
}

/** Options that make a model call tools in three steps, with text and without, before its answer in a fourth. */
export const severalSteps = (model) => ({
  model,
  prompt: scenes.script({ key: scenes.requestId(), attempts: STEPS }),
  tools: { get_weather },
  stopWhen: isStepCount(5),
});

/** Assert that a result is what `severalSteps` asks for. */
export async function assertSeveralSteps(result) {
  assert.equal(await result.text, "Sunny everywhere.");
  const cities = (await result.steps).map((step) => step.toolCalls.map((call) => call.input.city));
  assert.deepEqual(cities, [["Rome"], ["Oslo", "Ulm"], ["Lima", "Bonn"], []]);
}

/** Objects, plain and streamed, of this model. */
export async function assertObjects(model) {
  const asked = { model, schema: scenes.City, prompt: "Describe Paris" };
  assert.ok(scenes.City.parse((await generateObject(asked)).object));
  assert.ok(scenes.City.parse((await Array.fromAsync(streamObject(asked).partialObjectStream)).at(-1)));
}

/**
 * Register the tests that are the same for all providers.
 *
 * `isTooLong` recognises the error of a prompt that is too long; `textOf` returns the text of an error that a stream reports.
 */
export function testProvider(connection, { isTooLong, textOf = (error) => error.message }) {
  test("generateText", async () => {
    const { model } = connection;
    const { text, usage, finishReason } = await generateText({ model, prompt: scenes.SAYS_MARKDOWN });
    assert.equal(text, scenes.MARKDOWN);
    assert.equal(finishReason, "stop");
    assert.ok(usage.totalTokens > 0);
  });

  test("streamText", async () => {
    const result = streamText({ model: connection.model, prompt: scenes.SAYS_MARKDOWN });
    assert.equal((await Array.fromAsync(result.textStream)).join(""), scenes.MARKDOWN);
    assert.ok((await result.usage).totalTokens > 0);
  });

  for (const [how, ask] of [["plain", generateText], ["streamed", streamText]]) {
    test(`tool loop, ${how}`, async () => {
      const { model } = connection;
      const result = await ask({ model, prompt: scenes.ASKS_FOR_WEATHER, tools: { get_weather }, stopWhen: isStepCount(4) });
      assert.ok((await result.text).includes(scenes.WEATHER));
      assert.deepEqual((await result.steps)[0].toolCalls.map((call) => call.input), [{ city: "Paris" }]);
    });

    test(`several steps with tools, ${how}`, async () => {
      const before = await connection.proxy.jobs();
      await assertSeveralSteps(await ask(severalSteps(connection.model)));
      assert.equal(await connection.proxy.jobs(), before + STEPS.length);
    });
  }

  test("parallel calls of a stream stay apart", async () => {
    const result = streamText({ model: connection.model, prompt: scenes.CALLS_TWICE, tools: { get_weather } });
    assert.deepEqual((await result.toolCalls).map((call) => call.input.city), ["Rome", "Oslo"]);
  });

  test("generateObject and streamObject", () => assertObjects(connection.model));

  test("structured output of generateText, after tools", async () => {
    const result = await generateText({
      model: connection.model, prompt: scenes.ASKS_FOR_WEATHER, tools: { get_weather }, stopWhen: isStepCount(4),
      output: Output.object({ schema: scenes.City }),
    });
    assert.ok(scenes.City.parse(result.output));
  });

  test("errors", async () => {
    const { model, provider } = connection;
    const refused = (status) => (error) => APICallError.isInstance(error) && error.statusCode === status;
    await assert.rejects(generateText({ model: provider({})("gpt-99"), prompt: "hi" }), refused(404));
    await assert.rejects(generateText({ model: provider({ apiKey: "wrong" })(scenes.MODEL), prompt: "hi" }), refused(401));
    await assert.rejects(generateText({ model, prompt: scenes.TOO_LONG }), (error) => refused(400)(error) && isTooLong(error));
  });

  test("a job that fails costs no second one", async () => {
    const { model, proxy } = connection;
    const before = await proxy.jobs();
    await assert.rejects(generateText({ model, prompt: scenes.failsOnce() }), /The GPU melted/);
    const errors = [];
    const result = streamText({ model, prompt: scenes.failsOnce(), onError: ({ error }) => errors.push(error) });
    await result.consumeStream();
    assert.match(textOf(errors[0]), /The GPU melted/);
    assert.equal(await proxy.jobs(), before + 2);
  });

  const cancelling = (id) => ({
    model: connection.model,
    prompt: scenes.ENDLESS,
    abortSignal: AbortSignal.timeout(300),
    headers: { "x-request-id": id },
  });

  test("cancellation", async () => {
    const id = scenes.requestId();
    await assert.rejects(generateText(cancelling(id)), { name: "TimeoutError" });
    await connection.proxy.ended(id);
  });

  test("cancellation of a stream", async () => {
    const id = scenes.requestId();
    await streamText({ ...cancelling(id), onError: () => {} }).consumeStream();
    await connection.proxy.ended(id);
  });

  test("a silent job is waited for", { timeout: 60_000 + 4_000 * scenes.SILENCE_S }, async (context) => {
    const blank = await startProxy(BLANKS);
    context.after(() => blank.stop());
    for (const { baseURL } of [connection.proxy, blank]) {
      const model = connection.provider({ baseURL })(scenes.MODEL);
      assert.equal((await generateText({ model, prompt: scenes.ENDS_LATE })).text, scenes.MARKDOWN);
      assert.equal(await streamText({ model, prompt: scenes.ENDS_LATE }).text, scenes.MARKDOWN);
    }
  });
}
