// What is the same with every chat model of LangChain.
import assert from "node:assert/strict";
import { test } from "node:test";
import { HumanMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { z } from "zod";
import * as scenes from "./scenes.js";

const getWeather = tool(async () => scenes.WEATHER, {
  name: "get_weather",
  description: "The current weather in a city.",
  schema: z.object({ city: z.string() }),
});

export const concat = (chunks) => chunks.reduce((whole, chunk) => whole.concat(chunk));

/** Register the tests of a tool loop and of parallel calls, with the model that `chat` makes. */
export function testTools(chat) {
  for (const streaming of [false, true]) {
    test(`tool loop, ${streaming ? "streamed" : "plain"}`, async () => {
      const helper = chat().bindTools([getWeather]);
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
    const stream = await chat().bindTools([getWeather]).stream(scenes.CALLS_TWICE);
    const { tool_calls } = concat(await Array.fromAsync(stream));
    assert.deepEqual(tool_calls.map((call) => call.args.city), ["Rome", "Oslo"]);
  });
}
